//! Starting the one command with its streams: pipes, or a terminal where the host has one.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Pid;
use rustix::termios::{OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use super::super::wire::Start;

/// The command, and our ends of its streams.
pub(super) struct Running {
    /// Leader of the session and process group of the command.
    pub(super) leader: Pid,
    /// Takes what goes to stdin.
    pub(super) input: Option<File>,
    /// Give what comes from stdout and stderr; a terminal's output is in one of them.
    pub(super) outputs: [Option<File>; 2],
    /// The terminal, for changes of its size.
    pub(super) terminal: Option<File>,
}

/// What a shell would say and return.
pub(super) struct StartError {
    pub(super) message: String,
    pub(super) code: u8,
}

impl Running {
    /// Starts the command as the leader of a new session.
    pub(super) fn start(start: &Start) -> Result<Self, StartError> {
        let program = start
            .argv
            .first()
            .map(|name| OsStr::from_bytes(name))
            .unwrap_or_default();
        let fail = |what: String, cause: &io::Error| {
            let code = if cause.kind() == io::ErrorKind::NotFound {
                127
            } else {
                126
            };
            StartError {
                message: format!("{what}: {cause}"),
                code,
            }
        };
        let name = program.to_string_lossy().into_owned();
        let cwd = Path::new(OsStr::from_bytes(&start.cwd));
        std::env::set_current_dir(cwd).map_err(|cause| fail(cwd.display().to_string(), &cause))?;
        let mut command = Command::new(program);
        command.args(
            start
                .argv
                .iter()
                .skip(1)
                .map(|argument| OsStr::from_bytes(argument)),
        );
        command.env_clear();
        let env = start.env.iter();
        command.envs(env.map(|(key, value)| (OsStr::from_bytes(key), OsStr::from_bytes(value))));
        let streams = Streams::connect(&mut command, start)
            .map_err(|cause| fail("cannot make a terminal".into(), &cause))?;
        let leads_terminal = start.terminals[0];
        // SAFETY: the closure makes two async-signal-safe system calls; descriptor 0 is the
        // terminal at that point when `leads_terminal` says so.
        unsafe {
            command.pre_exec(move || {
                if libc::setsid() < 0 {
                    return Err(io::Error::last_os_error());
                }
                if leads_terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().map_err(|cause| fail(name, &cause))?;
        // The command holds our copies of its ends of the pipes; they must be closed here.
        drop(command);
        let Streams {
            input,
            outputs,
            terminal,
        } = streams;
        Ok(Running {
            leader: Pid::from_child(&child),
            input,
            outputs,
            terminal,
        })
    }
}

/// Our ends of the command's streams.
struct Streams {
    input: Option<File>,
    outputs: [Option<File>; 2],
    terminal: Option<File>,
}

impl Streams {
    fn connect(command: &mut Command, start: &Start) -> io::Result<Self> {
        let [stdin, stdout, stderr] = start.terminals;
        let mut ours = Streams {
            input: None,
            outputs: [None, None],
            terminal: None,
        };
        let terminal = if stdin || stdout || stderr {
            Some(open_terminal(start)?)
        } else {
            None
        };
        let end = |wanted: bool| {
            terminal
                .as_ref()
                .filter(|_| wanted)
                .map(|(_, end)| end.try_clone())
        };
        if let Some(end) = end(stdin).transpose()? {
            command.stdin(end);
        } else {
            let (theirs, input) = io::pipe()?;
            command.stdin(theirs);
            ours.input = Some(OwnedFd::from(input).into());
        }
        for (index, wanted) in [stdout, stderr].into_iter().enumerate() {
            let theirs: Stdio = if let Some(end) = end(wanted).transpose()? {
                end.into()
            } else {
                let (output, theirs) = io::pipe()?;
                ours.outputs[index] = Some(OwnedFd::from(output).into());
                theirs.into()
            };
            if index == 0 {
                command.stdout(theirs)
            } else {
                command.stderr(theirs)
            };
        }
        if let Some((master, _)) = terminal {
            if stdin {
                ours.input = Some(master.try_clone()?);
            }
            // What the terminal shows goes to where the host has it.
            let shown = if stdout { 0 } else { 1 };
            ours.outputs[shown].get_or_insert(master.try_clone()?);
            ours.terminal = Some(master);
        }
        Ok(ours)
    }
}

/// A new terminal: our side and the command's.
fn open_terminal(start: &Start) -> io::Result<(File, File)> {
    let (mut master, mut end) = (-1, -1);
    // SAFETY: both pointers are to live integers; name, settings and size may be null.
    let opened = unsafe {
        libc::openpty(
            &raw mut master,
            &raw mut end,
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    if opened != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: openpty has just made these descriptors and nobody else owns them.
    let (master, end) = unsafe { (File::from_raw_fd(master), File::from_raw_fd(end)) };
    for fd in [&master, &end] {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
    }
    let (rows, columns) = start.window;
    set_window(&master, rows, columns);
    if !start.terminals[0] {
        // The host's terminal is not raw then and ends lines itself.
        let mut modes = tcgetattr(&end)?;
        modes.output_modes.remove(OutputModes::OPOST);
        tcsetattr(&end, OptionalActions::Now, &modes)?;
    }
    Ok((master, end))
}

/// Sets the size of a terminal; a size that is not known is left alone.
pub(super) fn set_window(terminal: &File, rows: u16, columns: u16) {
    if rows > 0 && columns > 0 {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // A wrong size only looks bad.
        let _ = tcsetwinsize(terminal, size);
    }
}
