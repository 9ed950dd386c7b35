//! Mayfly's virtual machine monitor: KVM, devices, snapshots; one process per sandbox.

pub mod config;
pub mod jail;
pub mod devices;
pub mod softkvm;
