//! PID 1 of a sandbox, and the wire protocol that it shares with the worker.
//!
//! # Protocol
//! One stream connection carries one operation, so that each operation has the back-pressure of its
//! own vsock credit and none can hold up another. The worker connects to port [`AGENT_PORT`]; then
//! each side sends, without waiting for the other:
//!
//! 1. a hello of 8 bytes: `MYFL`, then the protocol version as a little-endian `u32`. A side that
//!    reads another version than its own closes, and names both in its error;
//! 2. frames: payload length as a little-endian `u32` (at most [`wire::MAX_PAYLOAD`]), one byte
//!    [`wire::FrameKind`], payload. Control frames hold JSON ([`wire::Request`],
//!    [`wire::Answer`]); data frames hold raw bytes.
//!
//! The worker's first frames are the request: any number of `RequestPart`, then `Request`; their
//! payloads joined are the document, at most [`wire::MAX_REQUEST`] bytes. Then, by request:
//!
//! | request | worker sends | agent answers |
//! |---|---|---|
//! | `Ping`, `Shutdown`, `Remove` | | `Pong` or `Done` |
//! | `Identity` | | `Identified` |
//! | `WriteFile`, `CopyIn` (tar) | `Data`…, `End` | `Done` |
//! | `ReadFile` | | `Content`, `Data`…, `End`; or `Missing`, or `TooLarge` |
//! | `CopyOut` (tar) | | `Content`, `Data`…, `End` |
//! | `Exec` | `Data`… (stdin), `End`, `Signal` | `Started`, (`Stdout` \| `Stderr` \| `Credit`)…, `Exited` |
//! | `Accept` | (after `Accepted`) `Data`…, `End` | `Accepted`, `Data`…, `End` |
//!
//! `Refused` may stand in place of any answer and ends the operation. Standard input has credit of
//! its own ([`wire::STDIN_WINDOW`] bytes to begin with; `Credit` frames return what was consumed),
//! so that a signal is never stuck behind bytes that the process does not read. A closed connection
//! kills a process that has not ended yet, and everything it started.
//!
//! `Accept` waits for a TCP connection to port [`FORWARD_PORT`] of the sandbox, or one at the Unix socket
//! [`SANDBOX_SOCKET`], and carries it, so that steps reach the worker's services without a network. The worker asks once for each connection that
//! it is willing to serve; others wait in the kernel. `End` closes one direction of it.
//!
//! # Agent
//! PID 1 itself never reads a request once it has its identity: each connection is served by a
//! forked process. So the environment of a step is gone from memory with the process that started
//! the step, and a later step that reads all of PID 1 finds nothing of an earlier one; and what
//! crashes or eats memory in a handler does not take the machine with it.

pub mod agent;
pub mod init;
pub mod launch;
pub mod wire;

/// Port of the agent's vsock listener.
pub const AGENT_PORT: u32 = 1024;

/// TCP port in the sandbox whose connections are carried to the worker: below the ephemeral ports,
/// and of no service that is known.
pub const FORWARD_PORT: u16 = 20777;

/// Unix socket in the sandbox whose connections are carried to the worker as well. Its folder tells steps
/// that they are in a sandbox.
pub const SANDBOX_SOCKET: &str = "/run/mayfly/sandbox.sock";
