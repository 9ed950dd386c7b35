//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2).
//!
//! `registers` is what the driver sees; `persist` is what a snapshot keeps.

mod mmio;
mod persist;
mod registers;
#[cfg(test)]
mod tests;

pub use mmio::MmioTransport;
pub use persist::{QueueRegistersState, RestoreTransportError, RingState, TransportState};
