//! Runs the ordinary tools that a build leans on.

use std::{
    collections::VecDeque,
    env,
    ffi::OsString,
    io::{self, BufRead as _, BufReader, Read},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Sender},
    thread,
};

use crate::progress::Progress;

/// How much of what a tool said is kept for its error.
const TAIL: usize = 20;

/// How much may follow what a consumer of a tool's output needed.
const PADDING: u64 = 64 << 20;

/// A program and the Debian package that brings it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
}

pub(crate) const MMDEBSTRAP: Tool = Tool {
    program: "mmdebstrap",
    package: "mmdebstrap",
};
pub(crate) const DPKG_DEB: Tool = Tool {
    program: "dpkg-deb",
    package: "dpkg",
};
pub(crate) const MKE2FS: Tool = Tool {
    program: "mke2fs",
    package: "e2fsprogs",
};
pub(crate) const NPM: Tool = Tool {
    program: "npm",
    package: "npm",
};

pub(crate) const NEWUIDMAP: Tool = Tool {
    program: "newuidmap",
    package: "uidmap",
};
pub(crate) const NEWGIDMAP: Tool = Tool {
    program: "newgidmap",
    package: "uidmap",
};
pub(crate) const UNSHARE: Tool = Tool {
    program: "unshare",
    package: "util-linux",
};
pub(crate) const ID: Tool = Tool {
    program: "id",
    package: "coreutils",
};

/// Runs `$0 "$@"` as long as standard input is open at its other end, which only this process has.
/// However it ends, also by SIGKILL, the tool and all that it started get a SIGTERM then. That takes
/// a process group of its own, so a Ctrl-C reaches them by this way too. Each tool has a folder for
/// temporary files that goes with it: mmdebstrap does not always clear away after a signal.
const LIFELINE: &str = r#"
exec 3<&0 0</dev/null
TMPDIR=$(mktemp -d) || exit
export TMPDIR
chmod 755 "$TMPDIR"
clear() { rm -rf --one-file-system "$TMPDIR" 2>/dev/null; }
trap : TERM
trap 'clear; trap - HUP; kill -s HUP $$' HUP
{ trap - TERM HUP; read -r _ <&3; kill -s TERM 0; } >/dev/null 2>&1 &
"$0" "$@" 3<&-
status=$?
kill "$!" 2>/dev/null
clear
exit "$status"
"#;

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not installed.
    #[error("{program} is not installed: run `apt-get install {package}`")]
    Missing {
        /// The program.
        program: &'static str,
        /// The Debian package that brings it.
        package: &'static str,
    },
    /// It cannot be started, or talked to.
    #[error("cannot run {program}: {error}")]
    Run {
        /// The program.
        program: &'static str,
        /// The cause.
        error: io::Error,
    },
    /// It failed.
    #[error("{program} failed ({status}){}", said(tail))]
    Failed {
        /// The program.
        program: &'static str,
        /// Exit code or signal.
        status: ExitStatus,
        /// The last lines that it wrote.
        tail: Vec<String>,
    },
}

fn said(tail: &[String]) -> String {
    if tail.is_empty() {
        String::new()
    } else {
        format!("; it said:\n  {}", tail.join("\n  "))
    }
}

/// What comes out of a running tool.
enum Sound {
    Line(String),
    Bytes(u64),
}

impl Tool {
    /// A command of this tool, in the C locale and without input. It only runs by [`Self::stream`]
    /// or [`Self::output`], which hold its lifeline.
    pub(crate) fn command(self) -> Result<Command, ToolError> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", LIFELINE])
            .arg(self.path()?)
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", path())
            // mmdebstrap sends a signal to its whole group when it fails: not to us.
            .process_group(0);
        Ok(command)
    }

    /// A command of this tool whose mounts nobody else sees and which end with it; only root may
    /// have that, and not in every container.
    pub(crate) fn command_with_own_mounts(self) -> Result<Command, ToolError> {
        let own = || {
            let mut command = UNSHARE.command()?;
            command.args(["--mount", "--"]);
            Ok(command)
        };
        let mut attempt: Command = own()?;
        attempt.arg("true");
        if UNSHARE.output(attempt).is_err() {
            return self.command();
        }
        let mut command = own()?;
        command.arg(self.path()?);
        Ok(command)
    }

    /// Where the program is. Tools of root's are looked for even if they are not in `PATH`.
    fn path(self) -> Result<PathBuf, ToolError> {
        env::split_paths(&path())
            .map(|path| path.join(self.program))
            .find(|path| path.is_file())
            .ok_or(ToolError::Missing {
                program: self.program,
                package: self.package,
            })
    }

    /// Runs a command to its end and gives what it wrote to standard output, at most 64 MiB.
    pub(crate) fn output(self, command: Command) -> Result<Vec<u8>, ToolError> {
        let mut silent = |_| ();
        self.stream(command, &mut Progress::new(&mut silent), |stdout, _| {
            let mut bytes = Vec::new();
            stdout.take(64 << 20).read_to_end(&mut bytes).map(|_| bytes)
        })?
        .map_err(|error| ToolError::Run {
            program: self.program,
            error,
        })
    }

    /// Runs a command while `consume` reads its standard output on a thread of its own and calls
    /// the function it is given with the bytes done. What the tool writes to standard error goes
    /// to `progress` line by line.
    ///
    /// A tool that fails only because `consume` stopped reading is no error of the tool: so the
    /// result of `consume` is given back whenever that is one, and the caller looks at it first.
    pub(crate) fn stream<T: Send, E: Send>(
        self,
        mut command: Command,
        progress: &mut Progress<'_>,
        consume: impl FnOnce(&mut ChildStdout, &mut dyn FnMut(u64)) -> Result<T, E> + Send,
    ) -> Result<Result<T, E>, ToolError> {
        let failed = |error| ToolError::Run {
            program: self.program,
            error,
        };
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        // `Child::wait` closes standard input before it waits, and the tool must not see that.
        let lifeline = child.stdin.take();
        let (Some(mut stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failed(io::ErrorKind::BrokenPipe.into()));
        };
        let (sender, receiver) = mpsc::channel();
        let (result, tail) = thread::scope(|scope| {
            let lines = sender.clone();
            scope.spawn(move || forward(stderr, &lines));
            let consumer = scope.spawn(move || {
                let result = consume(&mut stdout, &mut |bytes| {
                    // Nobody listens only if this scope is being left by a panic.
                    let _ = sender.send(Sound::Bytes(bytes));
                });
                // A tar ends before its padding does: a tool that still writes that must not find
                // the pipe closed. Who was not satisfied wants no more of it.
                if result.is_ok() {
                    let _ = io::copy(&mut stdout.by_ref().take(PADDING), &mut io::sink());
                }
                result
            });
            let mut tail = VecDeque::new();
            for sound in receiver {
                match sound {
                    Sound::Bytes(bytes) => progress.done(bytes, None),
                    Sound::Line(line) => {
                        tail.push_back(line.clone());
                        if tail.len() > TAIL {
                            tail.pop_front();
                        }
                        progress.output(line);
                    }
                }
            }
            (consumer.join(), tail)
        });
        let status = child.wait().map_err(failed)?;
        drop(lifeline);
        let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if status.success() || (result.is_err() && !tail_tells(&status)) {
            return Ok(result);
        }
        Err(ToolError::Failed {
            program: self.program,
            status,
            tail: tail.into(),
        })
    }
}

/// Whether a status comes from the tool itself and not from a closed pipe.
fn tail_tells(status: &ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    status.signal().is_none() && status.code() != Some(141)
}

/// Sends each line of a stream; lines that are no UTF-8 or very long are still lines.
fn forward(stream: impl Read, lines: &Sender<Sound>) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(4096).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if !text.is_empty() && lines.send(Sound::Line(text)).is_err() {
                    return;
                }
            }
        }
    }
}

/// `PATH`, and where Debian keeps what only root is expected to run.
fn path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push("/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin");
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Tool = Tool {
        program: "sh",
        package: "dash",
    };

    fn shell(script: &str) -> Result<Vec<u8>, ToolError> {
        let mut command = SHELL.command().unwrap();
        command.args(["-c", script]);
        SHELL.output(command)
    }

    #[test]
    fn output_is_given_back_and_a_failure_says_what_the_tool_said() {
        assert_eq!(shell("echo hello; echo noise >&2").unwrap(), b"hello\n");
        let message = shell("echo no such suite >&2; exit 3")
            .unwrap_err()
            .to_string();
        assert!(message.contains("exit status: 3"), "{message}");
        assert!(message.contains("no such suite"), "{message}");
    }

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        let tool = Tool {
            program: "no-such-tool",
            package: "its-package",
        };
        let message = tool.command().unwrap_err().to_string();
        assert!(message.contains("apt-get install its-package"), "{message}");
    }

    #[test]
    fn a_tool_may_write_more_than_its_reader_needs() {
        let mut command = SHELL.command().unwrap();
        command.args([
            "-c",
            "echo head; sleep 0.2; head -c 1000000 /dev/zero && exit 0",
        ]);
        let result = SHELL.stream(command, &mut Progress::new(&mut |_| ()), |stdout, _| {
            let mut head = [0; 4];
            stdout.read_exact(&mut head).map(|()| head)
        });
        assert_eq!(result.unwrap().unwrap(), *b"head");
    }

    #[test]
    fn a_reader_that_gives_up_ends_the_tool_and_its_own_error_is_told() {
        let mut command = SHELL.command().unwrap();
        command.args(["-c", "exec yes"]);
        let result = SHELL.stream(command, &mut Progress::new(&mut |_| ()), |_, _| {
            Err::<(), _>("enough")
        });
        assert_eq!(result.unwrap(), Err("enough"));
    }

    #[test]
    fn whatever_a_tool_started_ends_when_this_process_does() {
        let mut command = SHELL.command().unwrap();
        command.args(["-c", "sleep 60 & echo $!; wait"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        // As the kernel does with the pipes of a process that it killed.
        drop(child.stdin.take());
        let status = child.wait().unwrap();
        assert!(!status.success());
        let sleep = PathBuf::from("/proc").join(line.trim()).join("stat");
        let gone = || std::fs::read_to_string(&sleep).map_or(true, |stat| stat.contains(") Z "));
        assert!((0..100).any(|_| {
            thread::sleep(std::time::Duration::from_millis(20));
            gone()
        }));
    }
}
