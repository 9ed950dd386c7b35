//! The border between the virtio-mmio transport and a device behind it.

use std::ops::BitOrAssign;
use std::os::fd::RawFd;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

use super::block::Block;
use super::persist::VirtioDeviceState;

/// A virtio device (virtio 1.2) behind the MMIO transport.
///
/// The transport owns registers, feature negotiation and queue set-up; the device owns meaning.
/// After `DRIVER_OK` the device works on the queues it was given. Everything it reads from them is
/// written by a hostile guest: a broken chain is answered with an error status or dropped, never
/// followed outside guest memory, and never a panic.
pub trait VirtioDevice: Send + std::fmt::Debug {
    /// Device type of virtio 1.2, section 5 (2 is block).
    fn device_type(&self) -> u32;

    /// Features that the device offers, `VIRTIO_F_VERSION_1` included.
    fn offered_features(&self) -> u64;

    /// Largest size of each queue; their number is the number of queues.
    fn queue_max_sizes(&self) -> &[u16];

    /// Reads the device configuration space; bytes past its end are zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the device configuration space; a device without writable fields ignores it.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Takes negotiated features, guest memory and ready queues at `DRIVER_OK` (or at restore).
    fn activate(&mut self, features: u64, memory: GuestMemoryMmap, queues: Vec<Queue>);

    /// Gives the queues back, as they are now, for saving; `None` before activation.
    fn queues(&self) -> Option<&[Queue]>;

    /// Drops queues and all state that the driver gave (a status write of 0).
    fn reset(&mut self);

    /// The guest notified queue `index`. Returns what the driver must be told.
    fn queue_notified(&mut self, index: usize) -> Raise;

    /// Descriptors that the event loop watches from activation on, level-triggered for input; the
    /// set does not change (a device with many peers gives one epoll descriptor).
    fn event_fds(&self) -> Vec<RawFd> {
        Vec::new()
    }

    /// One of [`Self::event_fds`] is readable.
    fn event_ready(&mut self, _fd: RawFd) -> Raise {
        Raise::default()
    }

    /// State to be written into a snapshot; the machine is paused.
    fn save(&self) -> VirtioDeviceState;

    /// The block device behind this trait, for copying its disk into a snapshot.
    fn as_block(&self) -> Option<&Block> {
        None
    }
}

/// Interrupts that a device asks its transport to raise.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Raise {
    /// A used ring changed (interrupt status bit 0).
    pub used: bool,
    /// The configuration space changed (interrupt status bit 1).
    pub config: bool,
    /// A ring is unusable: the transport sets `DEVICE_NEEDS_RESET` and the device rests until then.
    pub broken: bool,
    /// The bound of one call was reached with work left: the transport notifies all queues again.
    pub again: bool,
}

impl BitOrAssign for Raise {
    fn bitor_assign(&mut self, other: Self) {
        self.used |= other.used;
        self.config |= other.config;
        self.broken |= other.broken;
        self.again |= other.again;
    }
}
