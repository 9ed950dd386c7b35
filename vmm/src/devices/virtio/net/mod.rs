//! virtio-net over an inherited message socket: each message is one Ethernet frame.
//!
//! Without a socket, or once its peer is gone, the link is down and what the guest sends is
//! dropped. `link` is the socket, `device` the virtio side, `persist` what a snapshot keeps.

mod device;
mod link;
mod persist;
#[cfg(test)]
mod tests;

pub use device::{Net, OpenNetError};
pub use persist::NetState;
