//! The process of a worker: started, signalled, waited for.

use std::{
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use jiff::Timestamp;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    sync::oneshot,
    time::timeout,
};

use super::{cgroup, record::ProcessId};
use crate::config::Pool;

/// How long a worker may take to read its configuration; it does so before anything else.
const HANDOVER: Duration = Duration::from_secs(30);
/// Most bytes that a worker says when it has made a snapshot.
const MAX_PREPARED: u64 = 64;
/// What is the supervisor's own in its environment.
const OWN_VARIABLES: [&str; 7] = [
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "GITHUB_TOKEN",
];

/// The program that workers are.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its executable.
    pub path: PathBuf,
    /// What comes before a worker's own arguments.
    pub arguments: Vec<OsString>,
    /// Variables that it gets beside the supervisor's own.
    pub variables: Vec<(OsString, OsString)>,
}

/// A handle of a process, which never means another one.
#[derive(Debug)]
pub struct Handle {
    /// The process.
    pub process: ProcessId,
    fd: OwnedFd,
    /// Its cgroup, if it has one.
    pub cgroup: Option<PathBuf>,
}

/// A worker that was started.
#[derive(Debug)]
pub struct Launched {
    /// Its handle.
    pub handle: Handle,
    child: Child,
}

/// What a worker is to be.
#[derive(Debug)]
pub struct Order<'a> {
    /// Its pool.
    pub pool: &'a Pool,
    /// The pipe of its notices.
    pub pipe: &'a Path,
    /// The version that it reports, if it is known.
    pub version: Option<&'a str>,
    /// Its cgroup.
    pub cgroup: Option<PathBuf>,
}

impl Program {
    /// A command of the program for a pool.
    fn command(&self, pool: &Pool) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .args(["--image", &pool.image])
            .args(["--cpus", &pool.cpus.to_string()])
            .args(["--memory", &format!("{}M", pool.memory_mib)])
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            // A terminal's interrupt, meant for the supervisor, does not reach it.
            .process_group(0)
            .kill_on_drop(false);
        if let Some(pins) = pool.pins {
            command.env("MAYFLY_PINS", pins.to_string());
        }
        for name in OWN_VARIABLES {
            command.env_remove(name);
        }
        command
    }

    /// Makes the snapshot of a pool's sandboxes where it is not there yet; when it was made.
    ///
    /// # Errors
    /// If it cannot be started, or says with its exit code that it could not.
    pub async fn prepare(&self, pool: &Pool) -> io::Result<Option<Timestamp>> {
        let mut command = self.command(pool);
        command.arg("--prepare").kill_on_drop(true);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut created = String::new();
        if let Some(stdout) = child.stdout.take() {
            stdout
                .take(MAX_PREPARED)
                .read_to_string(&mut created)
                .await?;
        }
        let status = child.wait().await?;
        if status.success() {
            let created = created.trim().parse().ok();
            return Ok(created.and_then(|seconds| Timestamp::from_second(seconds).ok()));
        }
        let said = end(status);
        Err(io::Error::other(format!(
            "the snapshot of image `{}` could not be made ({said}); the lines before this one say why",
            pool.image
        )))
    }

    /// Starts a worker, which waits for its configuration.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn launch(&self, order: Order<'_>) -> io::Result<Launched> {
        let mut command = self.command(order.pool);
        command.arg("--notices").arg(order.pipe);
        if let Some(version) = order.version {
            command.args(["--runner-version", version]);
        }
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
        // Not reaped yet, so the number is its own.
        let handle = Handle::new(ProcessId::of(pid)?, order.cgroup);
        let handle = handle.inspect_err(|_| drop(child.start_kill()))?;
        if let Some(group) = &handle.cgroup
            && let Err(error) = cgroup::place(group, pid)
        {
            tracing::warn!(%error, group = %group.display(), "a worker cannot be put into its cgroup");
        }
        Ok(Launched { handle, child })
    }
}

impl Launched {
    /// Hands the configuration over.
    ///
    /// # Errors
    /// If the worker does not take it.
    pub async fn configure(&mut self, config: &SecretString) -> io::Result<()> {
        let mut stdin = self.child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let write = stdin.write_all(config.expose_secret().as_bytes());
        timeout(HANDOVER, write).await?
    }

    /// The handle, and what waits for the end.
    #[must_use]
    pub fn split(self) -> (Handle, Child) {
        (self.handle, self.child)
    }
}

impl Handle {
    /// A handle of a process that lives.
    ///
    /// # Errors
    /// If it is gone.
    pub fn new(process: ProcessId, cgroup: Option<PathBuf>) -> io::Result<Self> {
        let number = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        let number = number.ok_or(io::ErrorKind::NotFound)?;
        let fd = pidfd_open(number, PidfdFlags::empty())?;
        // The handle was taken by number: is it still the same?
        if !process.lives() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self {
            process,
            fd,
            cgroup,
        })
    }

    /// Sends a signal; a process that is gone does not mind.
    pub fn signal(&self, signal: Signal) {
        let sent = pidfd_send_signal(&self.fd, signal);
        if let Err(error) = sent
            && error != Errno::SRCH
        {
            tracing::warn!(%error, pid = self.process.pid, "cannot signal a worker");
        }
    }

    /// Ends it and its sandbox at once.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        if let Some(group) = &self.cgroup {
            cgroup::kill(group);
        }
    }

    /// Waits until it is gone. Only for one that is no child of ours: a thread waits with it.
    pub async fn gone(&self) {
        let Ok(fd) = self.fd.try_clone() else { return };
        let (sender, gone) = oneshot::channel();
        std::thread::spawn(move || {
            // A handle of a process is readable once the process is gone.
            while let Err(Errno::INTR) = poll(&mut [PollFd::new(&fd, PollFlags::IN)], None) {}
            let _ = sender.send(());
        });
        let _ = gone.await;
    }
}

/// How a process ended, in words.
#[must_use]
pub fn end(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}
