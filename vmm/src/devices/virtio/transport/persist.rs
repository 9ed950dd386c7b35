//! Saved state of the transport, and a transport made from it.

use std::io;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_queue::{Queue, QueueState, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::super::device::VirtioDevice;
use super::super::persist::VirtioDeviceState;
use super::mmio::{MmioTransport, checked_queue};
use super::registers::QueueRegisters;

/// A transport, its queues and its device as a snapshot keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportState {
    /// Device type of virtio 1.2, section 5.
    pub device_type: u32,
    /// Device status register.
    pub status: u32,
    /// `DeviceFeaturesSel`.
    pub device_features_select: u32,
    /// `DriverFeaturesSel`.
    pub driver_features_select: u32,
    /// Features that the driver accepted.
    pub driver_features: u64,
    /// `QueueSel`.
    pub queue_select: u32,
    /// `InterruptStatus`.
    pub interrupt_status: u32,
    /// `ConfigGeneration`.
    pub config_generation: u32,
    /// Queue registers, one per queue.
    pub queues: Vec<QueueRegistersState>,
    /// Positions in the rings, one per queue; `None` before `DRIVER_OK`.
    pub rings: Option<Vec<RingState>>,
    /// The device's own state.
    pub device: VirtioDeviceState,
}

/// Registers of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueRegistersState {
    /// `QueueNum`.
    pub size: u32,
    /// `QueueReady`.
    pub ready: bool,
    /// `QueueDesc`, a guest physical address.
    pub descriptors: u64,
    /// `QueueDriver`, a guest physical address.
    pub available: u64,
    /// `QueueDevice`, a guest physical address.
    pub used: u64,
}

/// A queue in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingState {
    /// Number of descriptors.
    pub size: u16,
    /// The driver uses it.
    pub ready: bool,
    /// `VIRTIO_F_EVENT_IDX` was negotiated.
    pub event_idx: bool,
    /// Next entry of the available ring.
    pub next_available: u16,
    /// Next entry of the used ring.
    pub next_used: u16,
    /// Descriptor table, a guest physical address.
    pub descriptors: u64,
    /// Available ring, a guest physical address.
    pub available: u64,
    /// Used ring, a guest physical address.
    pub used: u64,
}

/// Why a saved transport cannot be restored.
#[derive(Debug, Error)]
pub enum RestoreTransportError {
    /// The configuration has another device in this place.
    #[error(
        "the snapshot has virtio device type {saved} where the configuration has {configured}; \
         restore with the devices that the snapshot was made with"
    )]
    DeviceType {
        /// Type in the snapshot.
        saved: u32,
        /// Type that the configuration gives.
        configured: u32,
    },
    /// The driver uses features that this device does not offer.
    #[error(
        "the driver in the snapshot uses features {saved:#x}, this device offers {offered:#x}; \
         make the snapshot anew"
    )]
    Features {
        /// Features in the snapshot.
        saved: u64,
        /// Features of this device.
        offered: u64,
    },
    /// The device has another number of queues.
    #[error("the snapshot has {saved} queues, this device {expected}; make the snapshot anew")]
    QueueCount {
        /// Number in the snapshot.
        saved: usize,
        /// Number of this device.
        expected: usize,
    },
    /// A ring does not lie in guest memory.
    #[error(
        "queue {index} of the snapshot's virtio device type {device_type} is not a valid ring in \
         guest memory; the snapshot is damaged, make it anew"
    )]
    Ring {
        /// Device type.
        device_type: u32,
        /// Queue.
        index: usize,
    },
    /// No eventfd could be made.
    #[error("cannot make the eventfds of a virtio device: {0}")]
    EventFd(#[from] io::Error),
}

impl MmioTransport {
    /// The state for a snapshot; the machine is paused.
    #[must_use]
    pub fn save(&self) -> TransportState {
        let registers = &self.registers;
        TransportState {
            device_type: registers.device_type,
            status: registers.status,
            device_features_select: registers.offered_select,
            driver_features_select: registers.accepted_select,
            driver_features: registers.accepted,
            queue_select: registers.queue_select,
            interrupt_status: registers.interrupt_status,
            config_generation: registers.config_generation,
            queues: registers.queues.iter().copied().map(Into::into).collect(),
            rings: self
                .device
                .queues()
                .map(|queues| queues.iter().map(save_ring).collect()),
            device: self.device.save(),
        }
    }

    /// A transport as it was saved, with a device made for the new machine.
    ///
    /// Notifications and interrupts that were under way when the machine was paused may be lost;
    /// so all queues are notified, and an interrupt is raised with the first of them: by then the
    /// machine runs, and its interrupt controller is not overwritten any more. Both may be spurious.
    ///
    /// # Errors
    /// The state is another device's, or damaged; see [`RestoreTransportError`].
    pub fn restore(
        memory: GuestMemoryMmap,
        device: Box<dyn VirtioDevice>,
        irq: EventFd,
        state: &TransportState,
    ) -> Result<Self, RestoreTransportError> {
        let mut this = Self::new(memory, device, irq)?;
        this.check(state)?;
        let registers = &mut this.registers;
        registers.status = state.status;
        registers.offered_select = state.device_features_select;
        registers.accepted_select = state.driver_features_select;
        registers.accepted = state.driver_features;
        registers.queue_select = state.queue_select;
        registers.interrupt_status = state.interrupt_status;
        registers.config_generation = state.config_generation;
        registers.queues = state.queues.iter().copied().map(Into::into).collect();
        if let Some(rings) = &state.rings {
            let queues = this.restore_rings(rings)?;
            this.device
                .activate(state.driver_features, this.memory.clone(), queues);
            this.interrupt_due = true;
            this.notify_all_queues();
        }
        Ok(this)
    }

    fn check(&self, state: &TransportState) -> Result<(), RestoreTransportError> {
        let (saved, configured) = (state.device_type, self.registers.device_type);
        if saved != configured {
            return Err(RestoreTransportError::DeviceType { saved, configured });
        }
        let (saved, offered) = (state.driver_features, self.registers.offered);
        // Before FEATURES_OK the driver may have written anything.
        if state.rings.is_some() && saved & !offered != 0 {
            return Err(RestoreTransportError::Features { saved, offered });
        }
        let expected = self.registers.queues.len();
        let rings = state.rings.as_ref().map_or(expected, Vec::len);
        for saved in [state.queues.len(), rings] {
            if saved != expected {
                return Err(RestoreTransportError::QueueCount { saved, expected });
            }
        }
        Ok(())
    }

    fn restore_rings(&self, rings: &[RingState]) -> Result<Vec<Queue>, RestoreTransportError> {
        let sizes = &self.registers.max_sizes;
        rings
            .iter()
            .zip(sizes)
            .enumerate()
            .map(|(index, (ring, &max_size))| {
                let queue = if ring.ready {
                    checked_queue(&self.memory, ring_state(ring, max_size))
                } else {
                    Queue::new(max_size).ok()
                };
                let device_type = self.registers.device_type;
                queue.ok_or(RestoreTransportError::Ring { device_type, index })
            })
            .collect()
    }
}

fn save_ring(queue: &Queue) -> RingState {
    RingState {
        size: queue.size(),
        ready: queue.ready(),
        event_idx: queue.event_idx_enabled(),
        next_available: queue.next_avail(),
        next_used: queue.next_used(),
        descriptors: queue.desc_table(),
        available: queue.avail_ring(),
        used: queue.used_ring(),
    }
}

fn ring_state(ring: &RingState, max_size: u16) -> QueueState {
    QueueState {
        max_size,
        next_avail: ring.next_available,
        next_used: ring.next_used,
        event_idx_enabled: ring.event_idx,
        size: ring.size,
        ready: true,
        desc_table: ring.descriptors,
        avail_ring: ring.available,
        used_ring: ring.used,
    }
}

impl From<QueueRegisters> for QueueRegistersState {
    fn from(queue: QueueRegisters) -> Self {
        let QueueRegisters {
            size,
            ready,
            descriptors,
            available,
            used,
        } = queue;
        Self {
            size,
            ready,
            descriptors,
            available,
            used,
        }
    }
}

impl From<QueueRegistersState> for QueueRegisters {
    fn from(queue: QueueRegistersState) -> Self {
        let QueueRegistersState {
            size,
            ready,
            descriptors,
            available,
            used,
        } = queue;
        Self {
            size,
            ready,
            descriptors,
            available,
            used,
        }
    }
}
