//! User-space TCP/IP behind the sandbox's network card.
//!
//! Frames of the VMM come over a socket. A connection that the guest asks for is given out as an
//! [`Incoming`] and nothing of it is acknowledged before somebody accepts it: the stack carries bytes
//! and knows nothing of policy. `engine` takes frames in and sorts them, `connection` is one TCP
//! connection (a smoltcp interface with one socket, so that a frame costs the same however many there
//! are), `stream` and `datagrams` are what the accepting side holds, `relay` copies to a host socket.

mod address;
mod connection;
mod craft;
mod datagrams;
mod endpoint;
mod engine;
mod fragments;
mod incoming;
mod limits;
mod link;
mod neighbours;
mod packet;
mod relay;
mod shared;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod timers;
mod wire;

pub use address::{Addresses, DEFAULT_MTU};
pub use datagrams::{DatagramSender, GuestDatagrams};
pub use engine::{Stack, StackConfig};
pub use incoming::{
    AcceptError, Incoming, IncomingReceiver, Pending, PendingDatagrams, PendingStream, Refusal,
};
pub use limits::{Limits, Statistics};
pub use relay::{Counts, Relayed, forward, refusal, relay, relay_datagrams, relay_searched};
pub use stream::GuestStream;
