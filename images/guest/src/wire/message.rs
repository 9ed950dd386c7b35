//! Requests and answers, their limits, and their form as JSON in control frames.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroize;

use super::frame::{FrameKind, MAX_PAYLOAD, encode};

/// Largest request document in bytes: the environment, escaped, and room for arguments.
pub const MAX_REQUEST: usize = 16 << 20;
/// Most arguments of a process.
pub const MAX_ARGS: usize = 65_536;
/// Most bytes in the names and values of an environment, each with its two separators.
pub const MAX_ENV_BYTES: usize = 4 << 20;
/// Longest path in bytes.
pub const MAX_PATH: usize = 4096;
/// Bytes of standard input that may be under way before the agent consumed any.
pub const STDIN_WINDOW: usize = 256 << 10;

/// What the worker asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Is the agent there, and does it have its identity?
    Ping,
    /// Become this very sandbox; once, and before anything below.
    Identity(IdentityRequest),
    /// Write back the disk and power off.
    Shutdown,
    /// Start a process.
    Exec(ExecSpec),
    /// Write a file whole, creating its parent directories; its content follows.
    WriteFile {
        /// Absolute path.
        path: String,
        /// Permission bits.
        mode: u32,
        /// User name or number that shall own it; `None` is root.
        owner: Option<String>,
    },
    /// Read a regular file.
    ReadFile {
        /// Absolute path.
        path: String,
        /// Largest size that the worker takes.
        limit: u64,
    },
    /// Unpack a tar stream, which follows.
    CopyIn {
        /// Absolute path of the directory below which all entries land; created if missing.
        directory: String,
        /// User name or number that shall own everything; `None` is root.
        owner: Option<String>,
    },
    /// Pack a file or a directory as a tar stream.
    CopyOut {
        /// Absolute path.
        path: String,
    },
    /// Remove a file or a directory tree, if it is there.
    Remove {
        /// Absolute path.
        path: String,
    },
    /// Wait for a connection to [`crate::FORWARD_PORT`] and carry it.
    Accept,
}

/// A process to start.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    /// Program (looked up in `PATH` of `env` if it has no slash) and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: String,
    /// User name or number; `None` is root.
    pub user: Option<String>,
    /// Whether standard input follows; otherwise the process reads end of file.
    pub stdin: bool,
}

impl std::fmt::Debug for ExecSpec {
    /// Leaves out arguments and values: they may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecSpec")
            .field("program", &self.argv.first())
            .field("cwd", &self.cwd)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Who a restored sandbox shall be (design: uniqueness).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityRequest {
    /// Random bytes for the kernel's pool, 64 to 512.
    pub entropy: Vec<u8>,
    /// Nanoseconds since the epoch, taken as late as possible.
    pub clock_ns: u64,
    /// Host name: 1 to 63 of `a-z`, `0-9` and `-`.
    pub hostname: String,
    /// 32 lower-case hexadecimal digits.
    pub machine_id: String,
    /// UUID in its 36-byte form, lower case.
    pub boot_id: String,
    /// Ethernet address as `02:00:00:00:00:01`; `None` leaves the interface alone.
    pub mac: Option<String>,
    /// Addresses on the network; `None` leaves the interface down.
    pub network: Option<NetworkRequest>,
    /// Random hexadecimal digits that the proof repeats.
    pub nonce: String,
}

/// Who a sandbox is on its network, on which there is nobody else but the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRequest {
    /// IPv4 address.
    pub address_v4: Ipv4Addr,
    /// Length of its network's prefix.
    pub prefix_v4: u8,
    /// Router and name server.
    pub gateway_v4: Ipv4Addr,
    /// IPv6 address.
    pub address_v6: Ipv6Addr,
    /// Length of its network's prefix.
    pub prefix_v6: u8,
    /// Router.
    pub gateway_v6: Ipv6Addr,
    /// Largest IP packet.
    pub mtu: u32,
}

impl std::fmt::Debug for IdentityRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityRequest")
            .field("hostname", &self.hostname)
            .field("machine_id", &self.machine_id)
            .field("boot_id", &self.boot_id)
            .field("mac", &self.mac)
            .finish_non_exhaustive()
    }
}

impl Drop for IdentityRequest {
    fn drop(&mut self) {
        self.entropy.zeroize();
    }
}

/// What the agent read back from its system after it took an identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityProof {
    /// The request's nonce.
    pub nonce: String,
    /// Nanoseconds since the epoch on the guest's clock when it answered.
    pub clock_ns: u64,
    /// As `uname` tells it.
    pub hostname: String,
    /// As `/etc/machine-id` tells it.
    pub machine_id: String,
    /// As `/proc/sys/kernel/random/boot_id` tells it.
    pub boot_id: String,
    /// As the network interface tells it, if one was asked for.
    pub mac: Option<String>,
    /// Whether the kernel took the entropy and reseeded from it.
    pub reseeded: bool,
}

/// Where in its life a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// Booted, and to be snapshotted; only `Ping`, `Identity` and `Shutdown` are answered.
    Template,
    /// Has its identity.
    Ready,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// Exit code 0 to 255.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// To `Ping`.
    Pong {
        /// Where the sandbox is in its life.
        state: AgentState,
    },
    /// To `Identity`.
    Identified(IdentityProof),
    /// The process runs.
    Started {
        /// Its number, which is its process group's too.
        pid: u32,
    },
    /// The process ended; nothing follows.
    Exited(ExitStatus),
    /// `Data` and `End` follow.
    Content,
    /// A connection came; `Data` and `End` follow in both directions.
    Accepted,
    /// There is no such file.
    Missing,
    /// The file is larger than the request's limit.
    TooLarge,
    /// It is done.
    Done,
    /// It was not done, or not in whole.
    Refused {
        /// What was tried, on what, and the cause.
        why: String,
    },
}

/// A control message that cannot be read or is out of bounds.
#[derive(Debug, Error)]
pub enum MessageError {
    /// Not the JSON of a message.
    #[error("a control frame does not hold a known message: {0}")]
    Json(serde_json::Error),
    /// The request document is too long.
    #[error("the request is longer than {MAX_REQUEST} bytes")]
    TooLong,
    /// A frame that is not part of a request came first.
    #[error("a {0:?} frame came before the request")]
    Early(FrameKind),
    /// No program was named.
    #[error("the command line is empty")]
    NoProgram,
    /// More arguments than [`MAX_ARGS`].
    #[error("{0} arguments are more than {MAX_ARGS}")]
    Arguments(usize),
    /// Larger environment than [`MAX_ENV_BYTES`].
    #[error("an environment of {0} bytes is larger than {MAX_ENV_BYTES}")]
    Environment(usize),
    /// A name that cannot be in an environment.
    #[error("{0:?} cannot be the name of an environment variable")]
    EnvironmentName(String),
    /// A path that is relative, too long or holds a NUL byte.
    #[error("{0:?} is not an absolute path of at most {MAX_PATH} bytes")]
    Path(String),
    /// A NUL byte where the kernel takes none.
    #[error("{0} holds a NUL byte")]
    Nul(&'static str),
}

impl Request {
    /// Checks the limits that decoding does not.
    ///
    /// # Errors
    /// One of [`MessageError`] that names the limit.
    pub fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Ping | Self::Identity(_) | Self::Shutdown | Self::Accept => Ok(()),
            Self::Exec(spec) => spec.check(),
            Self::WriteFile { path, .. }
            | Self::ReadFile { path, .. }
            | Self::CopyOut { path }
            | Self::Remove { path }
            | Self::CopyIn {
                directory: path, ..
            } => check_path(path),
        }
    }
}

impl ExecSpec {
    fn check(&self) -> Result<(), MessageError> {
        if self.argv.first().is_none_or(String::is_empty) {
            return Err(MessageError::NoProgram);
        }
        if self.argv.len() > MAX_ARGS {
            return Err(MessageError::Arguments(self.argv.len()));
        }
        if self.argv.iter().any(|argument| argument.contains('\0')) {
            return Err(MessageError::Nul("an argument"));
        }
        let size = self.env.iter().map(|(k, v)| k.len() + v.len() + 2).sum();
        if size > MAX_ENV_BYTES {
            return Err(MessageError::Environment(size));
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(MessageError::EnvironmentName(name.clone()));
            }
            if value.contains('\0') {
                return Err(MessageError::Nul("a value of the environment"));
            }
        }
        check_path(&self.cwd)
    }
}

fn check_path(path: &str) -> Result<(), MessageError> {
    if !path.starts_with('/') || path.len() > MAX_PATH || path.contains('\0') {
        // A message shall not carry megabytes back.
        return Err(MessageError::Path(path.chars().take(200).collect()));
    }
    Ok(())
}

/// Joins the frames of a request.
#[derive(Default)]
pub struct RequestAssembler {
    document: Vec<u8>,
}

impl std::fmt::Debug for RequestAssembler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RequestAssembler({} bytes)", self.document.len())
    }
}

impl RequestAssembler {
    /// Takes one frame; gives the request, checked, after its last one.
    ///
    /// # Errors
    /// One of [`MessageError`].
    pub fn take(
        &mut self,
        kind: FrameKind,
        payload: &[u8],
    ) -> Result<Option<Request>, MessageError> {
        if !matches!(kind, FrameKind::Request | FrameKind::RequestPart) {
            return Err(MessageError::Early(kind));
        }
        if self.document.len() + payload.len() > MAX_REQUEST {
            return Err(MessageError::TooLong);
        }
        self.document.extend_from_slice(payload);
        if kind == FrameKind::RequestPart {
            return Ok(None);
        }
        let request: Request = serde_json::from_slice(&self.document).map_err(json_error)?;
        request.check()?;
        Ok(Some(request))
    }
}

/// serde's words name a field and a place, and never quote more than a short scalar; a long one,
/// which could be a secret, is cut away here.
fn json_error(error: serde_json::Error) -> MessageError {
    MessageError::Json(if error.to_string().len() > 200 {
        serde::de::Error::custom(format!("malformed at byte {}", error.column()))
    } else {
        error
    })
}

impl Drop for RequestAssembler {
    fn drop(&mut self) {
        self.document.zeroize();
    }
}

/// All frames of a request.
///
/// # Errors
/// The request is out of bounds, in itself or in its encoded length.
pub fn encode_request(request: &Request) -> Result<Vec<u8>, MessageError> {
    request.check()?;
    let mut document = serde_json::to_vec(request).map_err(MessageError::Json)?;
    if document.len() > MAX_REQUEST {
        return Err(MessageError::TooLong);
    }
    let mut bytes = Vec::with_capacity(document.len() + 64);
    let mut pieces = document.chunks(MAX_PAYLOAD).peekable();
    while let Some(piece) = pieces.next() {
        let kind = match pieces.peek() {
            Some(_) => FrameKind::RequestPart,
            None => FrameKind::Request,
        };
        bytes.extend(encode(kind, piece));
    }
    document.zeroize();
    Ok(bytes)
}

/// The frame of an answer.
#[must_use]
pub fn encode_answer(answer: &Answer) -> Vec<u8> {
    let document = serde_json::to_vec(answer).ok();
    let document = document.filter(|document| document.len() <= MAX_PAYLOAD);
    // Only a reason of a megabyte could get here; the worker learns that much.
    let document = document.unwrap_or_else(|| br#"{"refused":{"why":"too long to tell"}}"#.into());
    encode(FrameKind::Answer, &document)
}

/// Reads the payload of an `Answer` frame.
///
/// # Errors
/// [`MessageError::Json`].
pub fn decode_answer(payload: &[u8]) -> Result<Answer, MessageError> {
    serde_json::from_slice(payload).map_err(json_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Decoder, hello};

    fn exec(env: Vec<(String, String)>) -> Request {
        Request::Exec(ExecSpec {
            argv: vec!["sh".into()],
            env,
            cwd: "/".into(),
            ..ExecSpec::default()
        })
    }

    fn through_the_wire(request: &Request) -> Result<Request, MessageError> {
        let mut decoder = Decoder::new();
        decoder.push(&hello());
        decoder.push(&encode_request(request)?);
        let mut assembler = RequestAssembler::default();
        loop {
            let frame = decoder.next_frame().expect("valid").expect("whole");
            if let Some(request) = assembler.take(frame.kind, &frame.payload)? {
                return Ok(request);
            }
        }
    }

    #[test]
    fn an_environment_larger_than_a_frame_arrives_whole() {
        let request = exec(vec![("A".into(), "é\"\u{1}".repeat(500_000))]);
        assert_eq!(through_the_wire(&request).expect("fits"), request);
    }

    #[test]
    fn an_environment_over_the_limit_is_refused() {
        let request = exec(vec![("A".into(), "x".repeat(MAX_ENV_BYTES))]);
        let error = through_the_wire(&request).expect_err("too large");
        assert!(matches!(error, MessageError::Environment(_)), "{error}");
    }

    #[test]
    fn names_and_paths_that_the_kernel_would_misread_are_refused() {
        for name in ["", "A=B", "A\0"] {
            let error = exec(vec![(name.into(), String::new())]).check();
            assert!(matches!(error, Err(MessageError::EnvironmentName(_))));
        }
        for path in ["", "etc/passwd", "/a\0b", &"/x".repeat(MAX_PATH)] {
            let path = path.to_owned();
            let error = Request::Remove { path }.check();
            assert!(matches!(error, Err(MessageError::Path(_))));
        }
    }

    #[test]
    fn values_of_the_environment_are_not_in_debug_output() {
        let request = exec(vec![("TOKEN".into(), "s3cr3t".into())]);
        assert!(!format!("{request:?}").contains("s3cr3t"));
    }

    #[test]
    fn an_unknown_field_or_message_is_refused() {
        for document in [
            r#"{"remove":{"path":"/a","force":true}}"#,
            r#""reboot""#,
            "{}",
        ] {
            let taken = RequestAssembler::default().take(FrameKind::Request, document.as_bytes());
            assert!(matches!(taken, Err(MessageError::Json(_))));
        }
    }
}
