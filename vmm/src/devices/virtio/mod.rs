//! virtio 1.2 devices over MMIO: block, network, random numbers and vsock.
//!
//! [`transport::MmioTransport`] owns registers, negotiation and queue set-up; a device behind
//! [`device::VirtioDevice`] owns meaning. `chain` takes descriptor chains apart and is the only way
//! from a ring to guest memory; `guest_io` moves bytes between guest memory and descriptors.
//! Everything in guest memory is written by a hostile guest while it is read here.

pub mod block;
mod chain;
pub mod device;
mod guest_io;
#[cfg(test)]
mod hostile;
pub mod net;
pub mod persist;
pub mod rng;
#[cfg(test)]
mod testing;
pub mod transport;
pub mod vsock;

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

/// Features that every device offers: virtio 1.x, indirect descriptors, event indexes.
const COMMON_FEATURES: u64 =
    (1 << VIRTIO_F_VERSION_1) | (1 << VIRTIO_RING_F_INDIRECT_DESC) | (1 << VIRTIO_RING_F_EVENT_IDX);

/// Takes ownership of a descriptor that the configuration names.
///
/// # Errors
/// `EBADF` if this process has no such descriptor.
fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    crate::config::adopt(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))
}

/// Copies the part of a configuration space that an access covers; bytes past the end are zero.
fn read_config_bytes(space: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let Ok(offset) = usize::try_from(offset) else {
        return;
    };
    if let Some(rest) = space.get(offset..) {
        let n = rest.len().min(data.len());
        data[..n].copy_from_slice(&rest[..n]);
    }
}
