//! Devices of a microVM.

mod bus;
pub mod event_loop;
pub mod generation;
pub mod power;
pub mod serial;
pub mod virtio;

pub use bus::Devices;
