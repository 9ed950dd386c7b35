//! The parent's side of a VMM process: starting it, commanding it, learning how it ended.

use std::{
    fmt,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command as Program, ExitStatus, Stdio},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    config::VmmConfig,
    control::{self, Command, ControlError, ControlSocket, Message, Outcome, Request},
    exit::ExitReason,
    statistics,
};

/// First descriptor number in the child; lower ones are its standard streams.
const FIRST_FD: RawFd = 3;
/// Environment variable with the instant of the spawn, nanoseconds of `CLOCK_MONOTONIC`.
pub const SPAWNED_AT: &str = "MAYFLY_SPAWNED_AT";
/// Most bytes of the child's standard error that are kept.
const STDERR_LIMIT: u64 = 16 * 1024;

/// Descriptors that a VMM inherits, and the numbers that its configuration calls them by.
#[derive(Debug, Default)]
pub struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    /// Takes a descriptor and tells its number in the VMM.
    pub fn pass(&mut self, descriptor: impl Into<OwnedFd>) -> RawFd {
        self.0.push(descriptor.into());
        FIRST_FD
            + RawFd::try_from(self.0.len() - 1).expect("a process has fewer than 2^31 descriptors")
    }
}

/// A running VMM. Dropped, it is killed and reaped.
#[derive(Debug)]
pub struct VmmProcess {
    child: Child,
    control: ControlSocket,
    next_id: u64,
    exited: Option<ExitReason>,
}

/// Why a VMM could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnVmmError {
    /// Sockets or pipes could not be made.
    #[error("cannot prepare a VMM process: {0}; is there a free descriptor (ulimit -n)?")]
    Prepare(#[source] io::Error),
    /// The program did not start.
    #[error("cannot start {program}: {cause}")]
    Start {
        /// The VMM's executable.
        program: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
}

/// Why a command to a VMM failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandVmmError {
    /// The VMM refused.
    #[error("the VMM refused {command:?}: {message}")]
    Refused {
        /// The command.
        command: Command,
        /// The VMM's words.
        message: String,
    },
    /// The VMM ended before it answered.
    #[error("the VMM ended before it answered {command:?}")]
    Ended {
        /// The command.
        command: Command,
    },
    /// No answer in time.
    #[error("the VMM did not answer {command:?} within {limit:?}")]
    TimedOut {
        /// The command.
        command: Command,
        /// How long it was given.
        limit: Duration,
    },
    /// The control socket failed.
    #[error(transparent)]
    Socket(#[from] ControlError),
    /// Waiting for the answer failed.
    #[error("waiting for the VMM: {0}")]
    Wait(#[from] io::Error),
}

/// How a VMM ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The VMM's own words, unless it was killed before it could say any.
    pub reason: Option<ExitReason>,
    /// What the kernel says.
    pub status: ExitStatus,
    /// The beginning of what it wrote to standard error.
    pub stderr: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.reason, self.status.signal()) {
            (Some(reason), _) => f.write_str(&printable(&reason.to_string())),
            (None, Some(libc::SIGSYS)) => {
                f.write_str("the VMM made a forbidden system call and was killed")
            }
            (None, Some(signal)) => write!(f, "the VMM was killed by signal {signal}"),
            (None, None) => write!(
                f,
                "the VMM ended with code {}",
                self.status.code().unwrap_or(-1)
            ),
        }?;
        match self.stderr.trim() {
            "" => Ok(()),
            said => write!(f, " ({})", printable(said)),
        }
    }
}

impl VmmProcess {
    /// Starts `program` with a configuration whose descriptors were numbered by `descriptors`;
    /// its control socket is set here.
    ///
    /// The child has no environment, its own process group (a Ctrl-C of the terminal is for the
    /// parent to handle) and no descriptors but these.
    ///
    /// # Errors
    /// [`SpawnVmmError`].
    pub fn spawn(
        program: &Path,
        mut config: VmmConfig,
        mut descriptors: Descriptors,
    ) -> Result<Self, SpawnVmmError> {
        let (ours, theirs) = control::pair().map_err(SpawnVmmError::Prepare)?;
        config.control_fd = descriptors.pass(theirs);
        let (reader, mut writer) = io::pipe().map_err(SpawnVmmError::Prepare)?;
        let config_fd = descriptors.pass(reader);
        // A configuration is a few kilobytes, a pipe holds 64: this does not block.
        serde_json::to_vec(&config)
            .map_err(io::Error::other)
            .and_then(|json| writer.write_all(&json))
            .map_err(SpawnVmmError::Prepare)?;
        drop(writer);

        let mut command = Program::new(program);
        command
            .arg("--config-fd")
            .arg(config_fd.to_string())
            .env_clear()
            .env(SPAWNED_AT, statistics::now().to_string())
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mappings = (FIRST_FD..).zip(descriptors.0);
        command
            .fd_mappings(
                mappings
                    .map(|(child_fd, parent_fd)| FdMapping {
                        parent_fd,
                        child_fd,
                    })
                    .collect(),
            )
            .map_err(|error| SpawnVmmError::Prepare(io::Error::other(error)))?;
        let child = command.spawn().map_err(|cause| SpawnVmmError::Start {
            program: program.to_owned(),
            cause,
        })?;
        Ok(Self {
            child,
            control: ControlSocket::new(ours),
            next_id: 1,
            exited: None,
        })
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a command with descriptors and waits for its answer.
    ///
    /// # Errors
    /// [`CommandVmmError`].
    pub fn command(
        &mut self,
        command: Command,
        descriptors: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<Outcome, CommandVmmError> {
        let id = self.next_id;
        self.next_id += 1;
        let request = Request {
            id,
            command: command.clone(),
        };
        match self.control.send(&request, descriptors) {
            Err(ControlError::Closed) => return Err(CommandVmmError::Ended { command }),
            other => other?,
        }
        loop {
            if !readable(self.control.as_fd(), limit)? {
                return Err(CommandVmmError::TimedOut { command, limit });
            }
            match self.receive()? {
                Some(Message::Reply {
                    id: answered,
                    outcome,
                }) if answered == id => {
                    return match outcome {
                        Outcome::Failed { message } => Err(CommandVmmError::Refused {
                            command,
                            message: printable(&message),
                        }),
                        outcome => Ok(outcome),
                    };
                }
                // The answer to a command that was given up before.
                Some(Message::Reply { .. }) => {}
                Some(Message::Exited { .. }) | None => {
                    return Err(CommandVmmError::Ended { command });
                }
            }
        }
    }

    /// The next message; `None` when the VMM closed the socket.
    fn receive(&mut self) -> Result<Option<Message>, ControlError> {
        let message = match self.control.receive::<Message>() {
            Ok((message, _)) => message,
            Err(ControlError::Closed) => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Message::Exited { reason } = &message {
            self.exited = Some(reason.clone());
        }
        Ok(Some(message))
    }

    /// Whether the VMM still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits at most `limit` for the VMM to end by itself, kills it then, and tells how it ended.
    ///
    /// # Errors
    /// Passes on what waiting said.
    pub fn wait(mut self, limit: Duration) -> io::Result<Ended> {
        // The socket closes when the process ends; what it said last is still in it.
        let deadline = std::time::Instant::now() + limit;
        while self.exited.is_none() {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if !readable(self.control.as_fd(), left)? || !matches!(self.receive(), Ok(Some(_))) {
                break;
            }
        }
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let mut status = self.child.try_wait()?;
        let step = Duration::from_millis(1);
        let mut waited = Duration::ZERO;
        while status.is_none() && waited < left.max(Duration::from_millis(200)) {
            std::thread::sleep(step);
            waited += step;
            status = self.child.try_wait()?;
        }
        let status = match status {
            Some(status) => status,
            None => {
                self.child.kill()?;
                self.child.wait()?
            }
        };
        let mut stderr = Vec::new();
        if let Some(stream) = self.child.stderr.take() {
            let _ = stream.take(STDERR_LIMIT).read_to_end(&mut stderr);
        }
        Ok(Ended {
            reason: self.exited.take(),
            status,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        })
    }

    /// Kills the VMM at once and tells how it ended.
    ///
    /// # Errors
    /// Passes on what killing or waiting said.
    pub fn kill(mut self) -> io::Result<Ended> {
        self.child.kill()?;
        self.wait(Duration::ZERO)
    }
}

impl Drop for VmmProcess {
    fn drop(&mut self) {
        // Both fail only when the process is gone and reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Words of the VMM as they may be shown: a guest may have taken it over, and a person's terminal
/// obeys control characters.
fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    text.chars().map(shown).collect()
}

fn readable(socket: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    let mut polled = [PollFd::new(&socket, PollFlags::IN)];
    loop {
        match poll(&mut polled, Some(&limit)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use super::{Descriptors, Ended, FIRST_FD};
    use crate::exit::ExitReason;

    #[test]
    fn descriptors_are_numbered_in_the_order_in_which_they_are_passed() {
        let mut descriptors = Descriptors::default();
        assert_eq!(descriptors.pass(tempfile::tempfile().unwrap()), FIRST_FD);
        assert_eq!(
            descriptors.pass(tempfile::tempfile().unwrap()),
            FIRST_FD + 1
        );
    }

    #[test]
    fn the_vmms_own_words_win_over_the_kernels_and_signals_are_named() {
        let ended = |reason, status, stderr: &str| {
            Ended {
                reason,
                status: ExitStatus::from_raw(status),
                stderr: stderr.into(),
            }
            .to_string()
        };
        assert_eq!(
            ended(Some(ExitReason::GuestShutDown), 0, ""),
            "the guest shut down"
        );
        assert_eq!(
            ended(None, 9, "boom\n"),
            "the VMM was killed by signal 9 (boom)"
        );
        assert!(ended(None, libc::SIGSYS, "").contains("forbidden system call"));
        let hostile = ExitReason::internal("\x1b]0;owned\x07");
        assert!(!ended(Some(hostile), 12 << 8, "\x1b[2J").contains('\x1b'));
        assert_eq!(ended(None, 12 << 8, ""), "the VMM ended with code 12");
    }
}
