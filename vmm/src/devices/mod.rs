//! Devices of a microVM.

pub mod virtio;
