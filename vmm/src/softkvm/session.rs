//! The host side of one command: starts the machine, passes streams and signals, returns its end.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::folders::{Sources, real_folders};
use super::machine::{Machine, Shape, Tools};
use super::terminal::{self, RawMode};
use super::wire::{self, FromInside, MAX_CHUNK, Start, ToInside};
use super::{INSIDE_VARIABLE, Request, SoftkvmError, kernel, say};

/// The machine starts within seconds; one that takes this long never will.
const START_LIMIT: Duration = Duration::from_secs(300);
/// CPUs of the machine. With two, guests or the whole machine hang within minutes (QEMU 7.2: see
/// `PERIODIC_TICK` in `machine.rs` for the one race that is known); with one none was seen to, and
/// the end-to-end tests take no longer.
const DEFAULT_CPUS: u32 = 1;
/// Signals that are passed on to the command.
const PASSED: [i32; 6] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// What the main thread waits for.
enum Event {
    Signal(i32),
    Inside(FromInside),
    ControlClosed,
    ReaderGone(usize),
}

/// See [`super::run`].
pub(super) fn run(request: &Request, supervisor: &Path) -> Result<u8, SoftkvmError> {
    let tools = Tools::find()?;
    let kernel = kernel::ensure(&tools.busybox, false, &say)?;
    let shape = shape(request);
    let start = start_message(request)?;
    let (events, inbox) = channel();
    // Before any thread starts, so that all of them have the signals blocked.
    let watched = watch_signals(events.clone())?;
    if request.verbose {
        say(&format!(
            "{} CPUs, {} MiB, supervisor {}",
            shape.cpus,
            shape.memory_mib,
            supervisor.display()
        ));
    }
    let mut machine = Machine::start(&tools, &kernel, &shape, supervisor, request.verbose)?;
    let session = Session::connect(&mut machine, &events, start, watched)?;
    let end = session.until_end(&inbox, &mut machine);
    if let Err(SoftkvmError::Died { how, .. }) = end {
        let words = machine.last_words();
        return Err(SoftkvmError::Died { how, words });
    }
    end
}

fn process_error(what: &'static str) -> impl Fn(io::Error) -> SoftkvmError {
    move |cause| SoftkvmError::Process { what, cause }
}

/// Half of the memory that is available, within what the machine can use.
fn shape(request: &Request) -> Shape {
    let default_memory = || {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"));
        let kib = line.and_then(|rest| {
            rest.trim()
                .trim_end_matches("kB")
                .trim()
                .parse::<u64>()
                .ok()
        });
        (kib.unwrap_or(0) / 2048).clamp(2048, 8192)
    };
    Shape {
        memory_mib: request.memory_mib.unwrap_or_else(default_memory),
        cpus: request.cpus.unwrap_or(DEFAULT_CPUS),
        network: !request.no_network,
    }
}

fn start_message(request: &Request) -> Result<Start, SoftkvmError> {
    let cwd = std::env::current_dir().map_err(process_error("read the working directory"))?;
    let folder = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let state = folder("MAYFLY_STATE");
    let home = folder("HOME");
    let sources = Sources {
        cwd: &cwd,
        home,
        state,
        named: &request.write,
    };
    let real_folders = real_folders(&sources)?;
    let guard = (INSIDE_VARIABLE.into(), "1".into());
    let env = std::env::vars_os()
        .filter(|(name, _)| *name != *INSIDE_VARIABLE)
        .chain([guard]);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Ok(Start {
        argv: request
            .command
            .iter()
            .cloned()
            .map(OsStringExt::into_vec)
            .collect(),
        env: env
            .map(|(name, value)| (name.into_vec(), value.into_vec()))
            .collect(),
        cwd: cwd.into_os_string().into_vec(),
        real_folders: real_folders
            .into_iter()
            .map(|path| path.into_os_string().into_vec())
            .collect(),
        in_user_namespace: !rustix::process::geteuid().is_root(),
        hostname: rustix::system::uname().nodename().to_bytes().to_vec(),
        umask: current_umask(),
        open_files: (
            limit.current.unwrap_or(u64::MAX),
            limit.maximum.unwrap_or(u64::MAX),
        ),
        terminals: terminal::terminals(),
        window: terminal::window(),
        network: !request.no_network,
        clock: (0, 0),
    })
}

fn current_umask() -> u32 {
    // There is no call that only reads it; no other thread runs yet that could create a file.
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(mask);
    mask.bits()
}

/// Blocks the signals that concern this session and turns them into events.
fn watch_signals(events: Sender<Event>) -> Result<Vec<i32>, SoftkvmError> {
    let mut signals = vec![libc::SIGWINCH, libc::SIGCHLD];
    // What the caller ignores (as `nohup` does) stays ignored.
    signals.extend(PASSED.into_iter().filter(|signal| !is_ignored(*signal)));
    // SAFETY: a zeroed sigset_t is valid storage for sigemptyset, which makes it a proper set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a live sigset_t and all numbers are valid signals; a null old set is allowed.
    let blocked = unsafe {
        libc::sigemptyset(&raw mut set);
        for signal in &signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
    };
    if blocked != 0 {
        return Err(process_error("block signals")(
            io::Error::from_raw_os_error(blocked),
        ));
    }
    std::thread::spawn(move || {
        loop {
            let mut signal = 0;
            // SAFETY: both pointers are to live locals; the signals of the set are blocked.
            let waited = unsafe { libc::sigwait(&raw const set, &raw mut signal) };
            if waited == 0 && events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    });
    Ok(signals)
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: sigaction is a plain structure for which zeros are valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action only asks; `action` is a live structure of the right type.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// The threads and channels of one command.
struct Session {
    control: Sender<ToInside>,
    /// Until the supervisor asks for it.
    start: Option<Box<Start>>,
    outputs: Vec<JoinHandle<()>>,
    signals: Vec<i32>,
    /// Held open: QEMU drops what a port has not delivered yet when its socket closes.
    _stdin: UnixStream,
    /// Held for its effect on the terminal.
    _raw: Option<RawMode>,
}

impl Session {
    /// Connects the ports with the streams of this process and sends the command.
    fn connect(
        machine: &mut Machine,
        events: &Sender<Event>,
        start: Start,
        signals: Vec<i32>,
    ) -> Result<Self, SoftkvmError> {
        let ports = machine
            .ports
            .take()
            .ok_or_else(|| io::Error::other("taken already"));
        let [control, stdin, stdout, stderr] = ports.map_err(process_error("take the ports"))?;
        let raw = start.terminals[0] && (start.terminals[1] || start.terminals[2]);
        let raw = raw.then(RawMode::enter).flatten();
        let to_control = control
            .try_clone()
            .map_err(process_error("share a socket"))?;
        let stdin_kept = stdin.try_clone().map_err(process_error("share a socket"))?;
        let (sender, messages) = channel();
        std::thread::spawn(move || write_control(to_control, &messages));
        let inside = events.clone();
        std::thread::spawn(move || read_control(control, &inside));
        std::thread::spawn(move || pump_stdin(stdin));
        let outputs = [(1, stdout), (2, stderr)].map(|(stream, port)| {
            let events = events.clone();
            std::thread::spawn(move || pump_output(stream, port, &events))
        });
        Ok(Session {
            control: sender,
            start: Some(Box::new(start)),
            outputs: outputs.into(),
            signals,
            _stdin: stdin_kept,
            _raw: raw,
        })
    }

    /// Passes events on until the command has ended.
    fn until_end(
        mut self,
        inbox: &Receiver<Event>,
        machine: &mut Machine,
    ) -> Result<u8, SoftkvmError> {
        let deadline = Instant::now() + START_LIMIT;
        let mut started = false;
        let code = loop {
            let event = if started {
                inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                inbox.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            };
            match event {
                Err(RecvTimeoutError::Timeout) => {
                    return died(format!(
                        "it did not start within {} s",
                        START_LIMIT.as_secs()
                    ));
                }
                Err(RecvTimeoutError::Disconnected) => return died("no thread watches it".into()),
                Ok(Event::Inside(FromInside::Ready)) => self.send_start(),
                Ok(Event::Inside(FromInside::Started)) => started = true,
                Ok(Event::Inside(FromInside::NotStarted(why, code))) => {
                    say(&why);
                    break code;
                }
                Ok(Event::Inside(FromInside::Exited(code))) => break code,
                Ok(Event::Signal(libc::SIGCHLD)) => {
                    if let Some((program, status)) = machine.ended() {
                        return died(format!("{program}: {status}"));
                    }
                }
                Ok(Event::ControlClosed) => return died("it powered off".to_owned()),
                Ok(Event::Signal(signal)) if !started && signal != libc::SIGWINCH => {
                    return Ok(128 + signal as u8);
                }
                Ok(Event::Signal(signal)) => self.pass_signal(signal),
                Ok(Event::ReaderGone(stream)) => self.tell(ToInside::ReaderGone(stream)),
            }
        };
        // The supervisor sends the end of both streams before the end of the command.
        for output in self.outputs {
            let _ = output.join();
        }
        Ok(code)
    }

    /// Sends the command as late as possible: the machine sets its clock by the message.
    fn send_start(&mut self) {
        if let Some(mut start) = self.start.take() {
            let now = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            start.clock = (now.as_secs(), now.subsec_nanos());
            self.tell(ToInside::Start(start));
        }
    }

    fn pass_signal(&self, signal: i32) {
        if signal == libc::SIGWINCH {
            let (rows, columns) = terminal::window();
            self.tell(ToInside::Window(rows, columns));
        } else if self.signals.contains(&signal) {
            self.tell(ToInside::Signal(signal));
        }
    }

    fn tell(&self, message: ToInside) {
        // The writer only ends with the machine, which is reported as an event of its own.
        let _ = self.control.send(message);
    }
}

fn died(how: String) -> Result<u8, SoftkvmError> {
    Err(SoftkvmError::Died {
        how,
        words: String::new(),
    })
}

fn write_control(mut port: UnixStream, messages: &Receiver<ToInside>) {
    while let Ok(message) = messages.recv() {
        if wire::send(&mut port, &message).is_err() {
            return;
        }
    }
}

fn read_control(mut port: UnixStream, events: &Sender<Event>) {
    while let Ok(message) = wire::receive(&mut port) {
        if events.send(Event::Inside(message)).is_err() {
            return;
        }
    }
    let _ = events.send(Event::ControlClosed);
}

fn pump_stdin(mut port: UnixStream) {
    let mut buffer = vec![0; MAX_CHUNK];
    loop {
        let length = match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(length) => length,
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::AGAIN) => {
                wait_for(rustix::stdio::stdin(), rustix::event::PollFlags::IN);
                continue;
            }
            // A closed stdin reads as an empty one.
            Err(_) => 0,
        };
        if wire::send_chunk(&mut port, &buffer[..length]).is_err() || length == 0 {
            return;
        }
    }
}

fn pump_output(stream: usize, mut port: UnixStream, events: &Sender<Event>) {
    let mut buffer = vec![0; MAX_CHUNK];
    let mut gone = false;
    while let Ok(Some(chunk)) = wire::receive_chunk(&mut port, &mut buffer) {
        // What nobody reads is still taken from the port, so that the command is not held up
        // before its next write fails.
        if !gone && write_all(terminal::streams()[stream], chunk).is_err() {
            gone = true;
            let _ = events.send(Event::ReaderGone(stream));
        }
    }
}

fn write_all(out: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&out, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => wait_for(&out, rustix::event::PollFlags::OUT),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits for a descriptor that somebody else made non-blocking.
fn wait_for(fd: impl AsFd, what: rustix::event::PollFlags) {
    let mut fds = [rustix::event::PollFd::new(&fd, what)];
    // A failed poll leads to the same call again, which reports the error itself.
    let _ = rustix::event::poll(&mut fds, None);
}
