//! The supervisor: PID 1 of the emulated machine, started by its init.
//!
//! It makes the real folders real, runs the one command, and tells the host how it ended once
//! all output is sent and all writes are done.

mod command;
mod ports;
mod root;
mod settings;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::process::{Pid, WaitOptions, WaitStatus};

use self::command::{Running, StartError};
use super::wire::{self, FromInside, MAX_CHUNK, STREAMS, ToInside};

/// Why the supervisor gave up; it goes to the console, which the host shows.
#[derive(Debug, thiserror::Error)]
enum InsideError {
    #[error("this is for PID 1 of the emulated machine only")]
    NotInside,
    #[error("port {name}: {cause}")]
    Port {
        name: &'static str,
        cause: io::Error,
    },
    #[error("the host sent something other than the command first")]
    Protocol,
    #[error("cannot prepare {what}: {cause}")]
    Prepare { what: String, cause: io::Error },
}

fn prepare_error(what: impl ToString) -> impl FnOnce(io::Error) -> InsideError {
    move |cause| InsideError::Prepare {
        what: what.to_string(),
        cause,
    }
}

/// Runs as PID 1 of the emulated machine; comes back only when it is not.
pub fn main() -> u8 {
    if !rustix::process::getpid().is_init() {
        eprintln!("softkvm --inside: {}", InsideError::NotInside);
        return super::args::EXIT_MACHINE_FAILED;
    }
    if let Err(error) = serve() {
        eprintln!("softkvm --inside: {error}");
    }
    rustix::fs::sync();
    // The host ends the machine; this is for the case that something went wrong.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    super::args::EXIT_MACHINE_FAILED
}

fn serve() -> Result<(), InsideError> {
    let [mut control, stdin, stdout, stderr] = ports::open()?;
    let port = |cause| InsideError::Port {
        name: wire::PORT_NAMES[0],
        cause,
    };
    let mut answers = control.try_clone().map_err(port)?;
    wire::send(&mut answers, &FromInside::Ready).map_err(port)?;
    let ToInside::Start(start) = wire::receive(&mut control).map_err(port)? else {
        return Err(InsideError::Protocol);
    };
    let real_folders: Vec<PathBuf> = start
        .real_folders
        .iter()
        .map(|path| OsStr::from_bytes(path).into())
        .collect();
    root::enter(&real_folders, start.in_user_namespace)?;
    settings::apply(&start, &real_folders)?;
    let running = match Running::start(&start) {
        Ok(running) => running,
        Err(StartError { message, code }) => {
            for mut stream in [stdout, stderr] {
                wire::send_chunk(&mut stream, &[]).map_err(port)?;
            }
            wire::send(&mut answers, &FromInside::NotStarted(message, code)).map_err(port)?;
            return wait_for_the_end(control);
        }
    };
    drop(start);
    wire::send(&mut answers, &FromInside::Started).map_err(port)?;
    let Running {
        leader,
        input,
        outputs,
        terminal,
    } = running;
    let gone: [Arc<AtomicBool>; STREAMS] = Default::default();
    let pumps = pump_streams((stdin, input), [stdout, stderr], outputs, &gone);
    std::thread::spawn(move || obey(control, leader, terminal.as_ref(), &gone));
    let code = reap_until(leader);
    end_all_processes();
    for pump in pumps {
        // A pump that panicked has closed its pipe; the exit code still stands.
        let _ = pump.join();
    }
    rustix::fs::sync();
    wire::send(&mut answers, &FromInside::Exited(code)).map_err(port)?;
    std::thread::sleep(std::time::Duration::from_secs(10));
    Ok(())
}

/// Leaves the host the time to read the last message.
fn wait_for_the_end(mut control: File) -> Result<(), InsideError> {
    while wire::receive::<ToInside>(&mut control).is_ok() {}
    Ok(())
}

/// Does what the host says while the command runs.
fn obey(
    mut control: File,
    leader: Pid,
    terminal: Option<&File>,
    gone: &[Arc<AtomicBool>; STREAMS],
) {
    while let Ok(message) = wire::receive(&mut control) {
        match message {
            ToInside::Signal(number) => {
                if let Some(signal) = rustix::process::Signal::from_named_raw(number) {
                    // The group is gone when the command has just ended.
                    let _ = rustix::process::kill_process_group(leader, signal);
                }
            }
            ToInside::Window(rows, columns) => {
                if let Some(terminal) = terminal {
                    command::set_window(terminal, rows, columns);
                }
            }
            ToInside::ReaderGone(stream) if stream < STREAMS => {
                gone[stream].store(true, Ordering::Relaxed);
            }
            ToInside::ReaderGone(_) | ToInside::Start(_) => {}
        }
    }
}

/// Starts the threads that carry the streams; returns those that carry output.
fn pump_streams(
    (mut stdin, input): (File, Option<File>),
    ports: [File; 2],
    outputs: [Option<File>; 2],
    gone: &[Arc<AtomicBool>; STREAMS],
) -> Vec<JoinHandle<()>> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; MAX_CHUNK];
        let Some(mut input) = input else { return };
        while let Ok(Some(chunk)) = wire::receive_chunk(&mut stdin, &mut buffer) {
            // A command that closed its stdin is not an error; it just gets no more.
            if io::Write::write_all(&mut input, chunk).is_err() {
                return;
            }
        }
    });
    let pairs = ports
        .into_iter()
        .zip(outputs)
        .zip(gone[1..].iter().cloned());
    pairs
        .map(|((port, output), gone)| std::thread::spawn(move || pump_output(port, output, &gone)))
        .collect()
}

fn pump_output(mut port: File, output: Option<File>, gone: &AtomicBool) {
    let mut buffer = vec![0; MAX_CHUNK];
    if let Some(mut output) = output {
        loop {
            match io::Read::read(&mut output, &mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A terminal without a process gives EIO where a pipe gives end-of-file.
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    let sent = wire::send_chunk(&mut port, &buffer[..length]);
                    if sent.is_err() || gone.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
        }
    }
    // Without a host nobody is left to be told.
    let _ = wire::send_chunk(&mut port, &[]);
}

/// Reaps what ends until the command does; 128 + n for signal n.
fn reap_until(leader: Pid) -> u8 {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == leader => return exit_code(status),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // No child at all: it cannot happen while the command runs.
            Err(_) => return super::args::EXIT_MACHINE_FAILED,
        }
    }
}

fn exit_code(status: WaitStatus) -> u8 {
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    status
        .exit_status()
        .or(signal)
        .map_or(super::args::EXIT_MACHINE_FAILED, |code| code as u8)
}

/// Ends what the command left behind, so that its output ends too.
fn end_all_processes() {
    // SAFETY: takes no pointers; from PID 1, -1 means every process but this one.
    unsafe { libc::kill(-1, libc::SIGKILL) };
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
