//! Mayfly's virtual machine monitor: KVM, devices, snapshots; one process per sandbox.

pub mod arch;
pub mod config;
pub mod control;
pub mod devices;
pub mod exit;
pub mod jail;
pub mod machine;
pub mod memory;
pub mod probe;
pub mod process;
pub mod server;
pub mod snapshot;
pub mod softkvm;
pub mod statistics;
pub mod vcpu;
pub mod vm;
