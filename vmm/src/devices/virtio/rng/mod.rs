//! virtio-rng: random bytes of the host's kernel for the guest's.

mod device;
mod persist;
#[cfg(test)]
mod tests;

pub use device::Rng;
pub use persist::RngState;
