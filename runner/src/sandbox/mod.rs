//! Host side of a sandbox: what the executor asks of the machine in which a job's steps run.

pub mod agent;
#[cfg(test)]
pub mod fake;
mod forward;
pub mod identity;
mod link;
pub mod machine;
pub mod microvm;
pub mod network;
mod process;
pub mod template;

use std::{future::Future, io};

use tokio::{io::AsyncRead, sync::mpsc};

use crate::egress::proxy::Egress;

/// The machine in which the steps of one job run: a microVM, or a recording fake in unit tests.
pub trait Sandbox: Send + Sync + 'static {
    /// Starts a process in a process group of its own.
    ///
    /// # Errors
    /// [`SandboxError::Refused`] when the guest could not start it (no such program, user or
    /// directory), [`SandboxError::Lost`] when the sandbox is gone.
    fn exec(&self, request: ExecRequest)
    -> impl Future<Output = Result<Exec, SandboxError>> + Send;

    /// Writes one file, whole, creating its parent directories (mode 0755).
    fn write_file(
        &self,
        path: &str,
        mode: u32,
        content: &[u8],
    ) -> impl Future<Output = Result<(), SandboxError>> + Send;

    /// Reads one regular file of at most `limit` bytes; `None` when there is none.
    ///
    /// # Errors
    /// [`SandboxError::TooLarge`] above `limit`.
    fn read_file(
        &self,
        path: &str,
        limit: u64,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, SandboxError>> + Send;

    /// Unpacks a tar stream below `directory`, which is created; entries may not leave it.
    fn copy_in(
        &self,
        directory: &str,
        tar: impl AsyncRead + Send + Unpin,
    ) -> impl Future<Output = Result<(), SandboxError>> + Send;

    /// Packs `path` as a tar stream into `sink`: a file under its own name, a directory as `./` and
    /// what is in it under names relative to it.
    fn copy_out(
        &self,
        path: &str,
        sink: impl tokio::io::AsyncWrite + Send + Unpin,
    ) -> impl Future<Output = Result<(), SandboxError>> + Send;

    /// Removes a file or a directory tree; one that is not there is no error.
    fn remove(&self, path: &str) -> impl Future<Output = Result<(), SandboxError>> + Send;

    /// The sandbox's network, if it has one.
    fn egress(&self) -> Option<&Egress> {
        None
    }
}

/// A process to start in a sandbox.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// Program (looked up in `PATH` of `env` if it has no slash) and its arguments.
    pub argv: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: String,
    /// User name or number; `None` is root.
    pub user: Option<String>,
    /// Whether standard input comes from [`Exec::input`]; otherwise the process reads end of file.
    pub stdin: bool,
}

impl std::fmt::Debug for ExecRequest {
    /// Leaves out values of the environment and arguments: they may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecRequest")
            .field("program", &self.argv.first())
            .field("env", &self.env.iter().map(|(k, _)| k).collect::<Vec<_>>())
            .field("cwd", &self.cwd)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A running process in a sandbox. Dropping it kills the process group.
#[derive(Debug)]
pub struct Exec {
    /// Output in the order in which the guest saw it; ends with [`ExecEvent::Exited`], or closes
    /// without it when the sandbox is lost. Bounded: a slow reader slows the process down.
    pub events: mpsc::Receiver<ExecEvent>,
    /// Signals for the whole process group, and bytes for stdin.
    pub input: mpsc::Sender<ExecInput>,
    /// Signals that overtake bytes in `input` which the process does not read.
    pub signals: mpsc::Sender<i32>,
}

/// What a running process does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// Bytes written to standard output.
    Stdout(Vec<u8>),
    /// Bytes written to standard error.
    Stderr(Vec<u8>),
    /// The process itself ended (its descendants may hold the streams open and live on).
    Exited(ExecStatus),
}

/// What can be sent to a running process.
#[derive(Clone, PartialEq, Eq)]
pub enum ExecInput {
    /// Bytes for standard input.
    Stdin(Vec<u8>),
    /// End of standard input.
    StdinEnd,
    /// A signal number for the process group.
    Signal(i32),
}

impl std::fmt::Debug for ExecInput {
    /// Leaves out bytes for standard input: they may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdin(bytes) => write!(f, "Stdin({} bytes)", bytes.len()),
            Self::StdinEnd => f.write_str("StdinEnd"),
            Self::Signal(number) => write!(f, "Signal({number})"),
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecStatus {
    /// Exit code 0 to 255.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
}

impl ExecStatus {
    /// The shell's single number: the exit code, or 128 + signal.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Why a sandbox did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The guest answered with an error of its own.
    #[error("the sandbox refused {what}: {why}")]
    Refused {
        /// What was asked, with its path or program.
        what: String,
        /// The guest's words.
        why: String,
    },
    /// A file is larger than the caller accepts.
    #[error("{path} in the sandbox is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The guest broke the protocol.
    #[error("the sandbox's guest agent broke the protocol: {0}")]
    Protocol(String),
    /// The machine ended or no longer answers.
    #[error("the sandbox is gone: {0}")]
    Lost(String),
    /// A restored sandbox did not become who it was told to be: it must be destroyed.
    #[error("the sandbox did not prove its identity: {0}")]
    Identity(String),
    /// Reading the host's side of a copy failed.
    #[error("copying to or from the sandbox: {0}")]
    Io(#[from] io::Error),
}
