//! virtio-vsock with its host side in user space: streams of a Unix socket become connections.
//!
//! A peer connects to the inherited listening socket, writes `CONNECT <port>\n` and reads
//! `OK <local port>\n` once the guest accepted; from then on the stream carries the connection. The
//! guest cannot open connections: a request of its own is answered with a reset.
//!
//! `packet` is the header on the wire, `connection` one stream with its credit, `mux` all of them
//! with the listener and one epoll descriptor, `device` the queues, `persist` what a snapshot keeps.

mod connection;
mod device;
mod mux;
mod packet;
mod persist;
#[cfg(test)]
mod tests;

pub use device::{OpenVsockError, Vsock};
pub use persist::VsockState;
