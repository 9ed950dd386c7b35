//! Registers of the virtio-mmio transport: negotiation, queue set-up and the status machine.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio as mmio;

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
/// The only version of the transport since virtio 1.0.
const VERSION: u32 = 2;
/// "MFLY", little-endian; drivers do not look at it.
const VENDOR: u32 = 0x594c_464d;
/// `QueueReset` (virtio 1.2), which this device does not offer.
const QUEUE_RESET: u32 = 0xc0;

pub(super) const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
pub(super) const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
const DRIVER_BITS: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE
    | VIRTIO_CONFIG_S_DRIVER
    | DRIVER_OK
    | FEATURES_OK
    | VIRTIO_CONFIG_S_FAILED;

/// What the driver chose for one queue; checked at `DRIVER_OK`, not before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct QueueRegisters {
    pub(super) size: u32,
    pub(super) ready: bool,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

/// What the transport has to do after a register was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// The driver wrote status 0.
    Reset,
    /// The driver set `DRIVER_OK`.
    Activate,
    /// The driver notified this queue through the register.
    Notify(u32),
}

/// All registers but the device configuration space.
#[derive(Debug)]
pub(super) struct Registers {
    pub(super) device_type: u32,
    pub(super) offered: u64,
    pub(super) max_sizes: Vec<u16>,
    pub(super) status: u32,
    pub(super) offered_select: u32,
    pub(super) accepted_select: u32,
    pub(super) accepted: u64,
    pub(super) queue_select: u32,
    pub(super) queues: Vec<QueueRegisters>,
    pub(super) interrupt_status: u32,
    pub(super) config_generation: u32,
}

impl Registers {
    pub(super) fn new(device_type: u32, offered: u64, max_sizes: &[u16]) -> Self {
        Self {
            device_type,
            offered,
            max_sizes: max_sizes.to_vec(),
            status: 0,
            offered_select: 0,
            accepted_select: 0,
            accepted: 0,
            queue_select: 0,
            queues: vec![QueueRegisters::default(); max_sizes.len()],
            interrupt_status: 0,
            config_generation: 0,
        }
    }

    /// Back to power-on; only the configuration generation goes on counting.
    pub(super) fn reset(&mut self) {
        let generation = self.config_generation;
        *self = Self::new(self.device_type, self.offered, &self.max_sizes);
        self.config_generation = generation;
    }

    /// The device runs: the driver said `DRIVER_OK` and no reset is due.
    pub(super) fn running(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }

    pub(super) fn read(&self, offset: u32) -> u32 {
        let selected = self.queues.get(self.queue_select as usize);
        match offset {
            mmio::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            mmio::VIRTIO_MMIO_VERSION => VERSION,
            mmio::VIRTIO_MMIO_DEVICE_ID => self.device_type,
            mmio::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            mmio::VIRTIO_MMIO_DEVICE_FEATURES => half(self.offered, self.offered_select),
            mmio::VIRTIO_MMIO_QUEUE_NUM_MAX => self
                .max_sizes
                .get(self.queue_select as usize)
                .map_or(0, |&size| size.into()),
            mmio::VIRTIO_MMIO_QUEUE_READY => selected.is_some_and(|queue| queue.ready).into(),
            mmio::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt_status,
            mmio::VIRTIO_MMIO_STATUS => self.status,
            // No shared memory region: its length and address read as all ones.
            mmio::VIRTIO_MMIO_SHM_LEN_LOW..=mmio::VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            mmio::VIRTIO_MMIO_CONFIG_GENERATION => self.config_generation,
            // QUEUE_RESET, and all that is write-only or reserved.
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, offset: u32, value: u32) -> Effect {
        match offset {
            mmio::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.offered_select = value,
            mmio::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.accepted_select = value,
            mmio::VIRTIO_MMIO_DRIVER_FEATURES => self.accept_features(value),
            mmio::VIRTIO_MMIO_QUEUE_SEL => self.queue_select = value,
            mmio::VIRTIO_MMIO_QUEUE_NOTIFY => return Effect::Notify(value),
            mmio::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt_status &= !value,
            mmio::VIRTIO_MMIO_STATUS => return self.write_status(value),
            QUEUE_RESET => {}
            _ => self.write_queue(offset, value),
        }
        Effect::None
    }

    fn accept_features(&mut self, value: u32) {
        if self.status & FEATURES_OK != 0 {
            return;
        }
        match self.accepted_select {
            0 => self.accepted = self.accepted & !0xffff_ffff | u64::from(value),
            1 => self.accepted = self.accepted & 0xffff_ffff | u64::from(value) << 32,
            _ => {}
        }
    }

    /// Queue registers; a running device does not move its rings.
    fn write_queue(&mut self, offset: u32, value: u32) {
        if self.status & (FEATURES_OK | DRIVER_OK) != FEATURES_OK {
            return;
        }
        let Some(queue) = self.queues.get_mut(self.queue_select as usize) else {
            return;
        };
        match offset {
            mmio::VIRTIO_MMIO_QUEUE_NUM => queue.size = value,
            mmio::VIRTIO_MMIO_QUEUE_READY => queue.ready = value & 1 == 1,
            mmio::VIRTIO_MMIO_QUEUE_DESC_LOW => set_low(&mut queue.descriptors, value),
            mmio::VIRTIO_MMIO_QUEUE_DESC_HIGH => set_high(&mut queue.descriptors, value),
            mmio::VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_low(&mut queue.available, value),
            mmio::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_high(&mut queue.available, value),
            mmio::VIRTIO_MMIO_QUEUE_USED_LOW => set_low(&mut queue.used, value),
            mmio::VIRTIO_MMIO_QUEUE_USED_HIGH => set_high(&mut queue.used, value),
            _ => {}
        }
    }

    /// The driver only adds bits, or writes 0 (virtio 1.2, section 2.1.1).
    fn write_status(&mut self, value: u32) -> Effect {
        if value == 0 {
            return Effect::Reset;
        }
        let before = self.status & DRIVER_BITS;
        if value & before != before {
            return Effect::None;
        }
        let mut added = value & DRIVER_BITS & !before;
        if added & FEATURES_OK != 0 && !self.features_acceptable() {
            added &= !FEATURES_OK;
        }
        if (before | added) & FEATURES_OK == 0 {
            added &= !DRIVER_OK;
        }
        self.status |= added;
        if added & DRIVER_OK != 0 {
            Effect::Activate
        } else {
            Effect::None
        }
    }

    fn features_acceptable(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & (1 << VIRTIO_F_VERSION_1) != 0
    }
}

fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !0xffff_ffff | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & 0xffff_ffff | u64::from(value) << 32;
}
