//! The transport itself: registers on one side, a device on the other, eventfds between.

use std::io;
use std::os::fd::RawFd;

use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueState, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::device::{Raise, VirtioDevice};
use super::registers::{Effect, NEEDS_RESET, QueueRegisters, Registers};

/// One virtio device as the guest sees it: 4 KiB of registers and an interrupt.
///
/// vCPU threads call [`Self::read`] and [`Self::write`]; the device thread calls the rest. Whoever
/// owns it puts a lock around it.
#[derive(Debug)]
pub struct MmioTransport {
    pub(super) memory: GuestMemoryMmap,
    pub(super) device: Box<dyn VirtioDevice>,
    pub(super) registers: Registers,
    irq: EventFd,
    queue_events: Vec<EventFd>,
    /// The machine was restored, and its driver is to be interrupted once.
    pub(super) interrupt_due: bool,
}

impl MmioTransport {
    /// A device after power-on. `irq` is the device's interrupt as an irqfd.
    ///
    /// # Errors
    /// The error of `eventfd(2)`, of which one per queue is made.
    pub fn new(
        memory: GuestMemoryMmap,
        device: Box<dyn VirtioDevice>,
        irq: EventFd,
    ) -> io::Result<Self> {
        let registers = Registers::new(
            device.device_type(),
            device.offered_features(),
            device.queue_max_sizes(),
        );
        let queue_events = (0..registers.queues.len())
            .map(|_| EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            memory,
            device,
            registers,
            irq,
            queue_events,
            interrupt_due: false,
        })
    }

    /// The device behind the registers.
    #[must_use]
    pub fn device(&self) -> &dyn VirtioDevice {
        self.device.as_ref()
    }

    /// The guest reads at `offset` of the register page; what is not there reads as zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(at) = offset.checked_sub(VIRTIO_MMIO_CONFIG.into()) {
            self.device.read_config(at, data);
        } else if let (Ok(data), 0) = (<&mut [u8; 4]>::try_from(data), offset % 4) {
            // Below 0x100, so it fits.
            *data = self.registers.read(offset as u32).to_le_bytes();
        }
    }

    /// The guest writes at `offset` of the register page; what has no meaning is ignored.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(at) = offset.checked_sub(VIRTIO_MMIO_CONFIG.into()) {
            self.device.write_config(at, data);
            return;
        }
        let (Ok(value), 0) = (<[u8; 4]>::try_from(data), offset % 4) else {
            return;
        };
        match self
            .registers
            .write(offset as u32, u32::from_le_bytes(value))
        {
            Effect::None => {}
            Effect::Reset => {
                self.device.reset();
                self.registers.reset();
            }
            Effect::Activate => self.activate(),
            // Handled where ioeventfd notifications are, on the device thread.
            Effect::Notify(index) => {
                if let Some(event) = self.queue_events.get(index as usize) {
                    signal(event);
                }
            }
        }
    }

    /// One eventfd per queue, for an ioeventfd at register 0x50 with the queue's index as datum.
    #[must_use]
    pub fn queue_events(&self) -> &[EventFd] {
        &self.queue_events
    }

    /// The eventfd of queue `index` is readable: clears it and lets the device work.
    pub fn queue_event_ready(&mut self, index: usize) {
        let Some(event) = self.queue_events.get(index) else {
            return;
        };
        // Nothing to read is a spurious wake-up; working on the queue then does no harm.
        let _ = event.read();
        if self.registers.running() {
            let mut raise = self.device.queue_notified(index);
            raise.used |= std::mem::take(&mut self.interrupt_due);
            self.raise(raise);
        }
    }

    /// Descriptors of the device to be watched for input, level-triggered; fixed for its life.
    #[must_use]
    pub fn event_fds(&self) -> Vec<RawFd> {
        self.device.event_fds()
    }

    /// One of [`Self::event_fds`] is readable.
    pub fn event_ready(&mut self, fd: RawFd) {
        let raise = self.device.event_ready(fd);
        if self.registers.running() {
            self.raise(raise);
        }
    }

    fn activate(&mut self) {
        let event_idx = self.registers.accepted & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        let queues: Option<Vec<Queue>> = self
            .registers
            .queues
            .iter()
            .zip(&self.registers.max_sizes)
            .map(|(registers, &max)| build_queue(&self.memory, registers, max, event_idx))
            .collect();
        match queues {
            Some(queues) => {
                self.device
                    .activate(self.registers.accepted, self.memory.clone(), queues);
            }
            None => self.raise(Raise {
                broken: true,
                ..Raise::default()
            }),
        }
    }

    /// Interrupt status first, interrupt second: a driver that sees the interrupt sees the reason.
    pub(super) fn raise(&mut self, raise: Raise) {
        let mut status = 0;
        if raise.broken {
            self.registers.status |= NEEDS_RESET;
        }
        if raise.used {
            status |= VIRTIO_MMIO_INT_VRING;
        }
        if raise.config || raise.broken {
            status |= VIRTIO_MMIO_INT_CONFIG;
            self.registers.config_generation = self.registers.config_generation.wrapping_add(1);
        }
        if status != 0 {
            self.registers.interrupt_status |= status;
            signal(&self.irq);
        }
        if raise.again && !raise.broken {
            self.notify_all_queues();
        }
    }

    pub(super) fn notify_all_queues(&self) {
        self.queue_events.iter().for_each(signal);
    }
}

/// Adds one to an eventfd. It fails only when the counter is full, and then it is readable anyway.
fn signal(event: &EventFd) {
    let _ = event.write(1);
}

/// A queue as the driver set it up, or `None` if it cannot be: a size that is no power of two or
/// above the maximum, rings misaligned or not wholly inside guest memory.
fn build_queue(
    memory: &GuestMemoryMmap,
    registers: &QueueRegisters,
    max_size: u16,
    event_idx: bool,
) -> Option<Queue> {
    if !registers.ready {
        return Queue::new(max_size).ok();
    }
    let state = QueueState {
        max_size,
        next_avail: 0,
        next_used: 0,
        event_idx_enabled: event_idx,
        size: u16::try_from(registers.size).ok()?,
        ready: true,
        desc_table: registers.descriptors,
        avail_ring: registers.available,
        used_ring: registers.used,
    };
    checked_queue(memory, state)
}

/// A queue from its state, or `None` as for [`build_queue`].
pub(super) fn checked_queue(memory: &GuestMemoryMmap, state: QueueState) -> Option<Queue> {
    let addresses = [state.desc_table, state.avail_ring, state.used_ring];
    // No ring is longer than 1 MiB; an address near the end of the 64-bit space is never one.
    if addresses
        .iter()
        .any(|&address| address == 0 || address > u64::MAX >> 1)
    {
        return None;
    }
    let queue = Queue::try_from(state).ok()?;
    queue.is_valid(memory).then_some(queue)
}
