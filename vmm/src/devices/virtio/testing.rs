//! A guest driver for tests: guest memory between canaries, registers, rings and chains.

use std::sync::Arc;

use virtio_bindings::virtio_mmio as mmio;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::VirtioDevice;
use super::transport::{MmioTransport, TransportState};

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// Bytes of guest memory, in two regions with a hole between them.
pub(super) const LOW_LEN: u64 = 1 << 20;
pub(super) const HIGH_BASE: u64 = 1 << 30;
pub(super) const HIGH_LEN: u64 = 256 << 10;
/// Rings of queue `i` start here.
pub(super) const RINGS: u64 = 0x1000;
pub(super) const RING_STEP: u64 = 0x3000;
/// Free for buffers: from here to [`LOW_LEN`].
pub(super) const BUFFERS: u64 = 0x1_0000;
/// Size that [`Guest::start`] gives its queues.
pub(super) const QUEUE_SIZE: u16 = 64;

const CANARY_LEN: usize = 64 << 10;
static CANARY: [u8; CANARY_LEN] = [0xa5; CANARY_LEN];

/// Two regions of guest memory, each between two canaries in the same mapping, so that an access
/// beyond the end lands in bytes that are looked at and not in a fault that the kernel swallows.
#[derive(Debug)]
pub(super) struct GuardedMemory {
    pub(super) memory: GuestMemoryMmap,
    whole: Vec<Arc<MmapRegion>>,
}

impl GuardedMemory {
    pub(super) fn new() -> Self {
        let mut whole = Vec::new();
        let mut regions = Vec::new();
        for (base, len) in [(0, LOW_LEN), (HIGH_BASE, HIGH_LEN)] {
            let mapping: MmapRegion = MmapRegion::new(2 * CANARY_LEN + len as usize).unwrap();
            for at in [0, CANARY_LEN + len as usize] {
                // SAFETY: a canary lies in the mapping, which nobody else uses yet.
                unsafe {
                    mapping
                        .as_ptr()
                        .add(at)
                        .copy_from_nonoverlapping(CANARY.as_ptr(), CANARY_LEN);
                }
            }
            let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
            // SAFETY: the range lies in `mapping`, which lives in `whole` as long as the memory.
            let inner = unsafe {
                MmapRegion::build_raw(mapping.as_ptr().add(CANARY_LEN), len as usize, prot, flags)
            };
            regions.push(GuestRegionMmap::new(inner.unwrap(), GuestAddress(base)).unwrap());
            whole.push(Arc::new(mapping));
        }
        Self {
            memory: GuestMemoryMmap::from_regions(regions).unwrap(),
            whole,
        }
    }

    /// Nothing was written next to guest memory.
    pub(super) fn canaries_intact(&self) -> bool {
        self.whole.iter().all(|mapping| {
            let len = mapping.size() - 2 * CANARY_LEN;
            [0, CANARY_LEN + len].iter().all(|&at| {
                // SAFETY: a canary lies in the mapping, and no test thread writes it meanwhile.
                let canary =
                    unsafe { std::slice::from_raw_parts(mapping.as_ptr().add(at), CANARY_LEN) };
                canary == CANARY
            })
        })
    }
}

/// A guest with one device.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) guarded: GuardedMemory,
    pub(super) transport: MmioTransport,
    pub(super) irq: EventFd,
    available: Vec<u16>,
    used: Vec<u16>,
    free: u64,
}

impl Guest {
    /// A device after power-on.
    pub(super) fn power_on(device: Box<dyn VirtioDevice>) -> Self {
        let guarded = GuardedMemory::new();
        let irq = EventFd::new(EFD_NONBLOCK).unwrap();
        let memory = guarded.memory.clone();
        let transport = MmioTransport::new(memory, device, irq.try_clone().unwrap()).unwrap();
        let queues = transport.queue_events().len();
        Self {
            guarded,
            transport,
            irq,
            available: vec![0; queues],
            used: vec![0; queues],
            free: BUFFERS,
        }
    }

    /// A device that a well-behaved driver set up, with all features but event indexes.
    pub(super) fn start(device: Box<dyn VirtioDevice>) -> Self {
        let mut guest = Self::power_on(device);
        guest.negotiate(!(1 << 29));
        assert_ne!(
            guest.register(mmio::VIRTIO_MMIO_STATUS) & 8,
            0,
            "features refused"
        );
        guest.set_up_queues();
        guest.set(mmio::VIRTIO_MMIO_STATUS, 15);
        assert_eq!(guest.register(mmio::VIRTIO_MMIO_STATUS), 15);
        guest
    }

    /// Continues with another device from the state of this one, memory kept.
    pub(super) fn restore(self, device: Box<dyn VirtioDevice>, state: &TransportState) -> Self {
        let irq = EventFd::new(EFD_NONBLOCK).unwrap();
        let memory = self.guarded.memory.clone();
        let transport =
            MmioTransport::restore(memory, device, irq.try_clone().unwrap(), state).unwrap();
        Self {
            transport,
            irq,
            ..self
        }
    }

    pub(super) fn negotiate(&mut self, wanted: u64) {
        self.set(mmio::VIRTIO_MMIO_STATUS, 1);
        self.set(mmio::VIRTIO_MMIO_STATUS, 3);
        for select in 0..2 {
            self.set(mmio::VIRTIO_MMIO_DEVICE_FEATURES_SEL, select);
            let offered = self.register(mmio::VIRTIO_MMIO_DEVICE_FEATURES);
            self.set(mmio::VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            let accepted = offered & (wanted >> (32 * select)) as u32;
            self.set(mmio::VIRTIO_MMIO_DRIVER_FEATURES, accepted);
        }
        self.set(mmio::VIRTIO_MMIO_STATUS, 11);
    }

    pub(super) fn set_up_queues(&mut self) {
        for index in 0..self.available.len() {
            let base = RINGS + index as u64 * RING_STEP;
            self.set(mmio::VIRTIO_MMIO_QUEUE_SEL, index as u32);
            self.set(mmio::VIRTIO_MMIO_QUEUE_NUM, QUEUE_SIZE.into());
            self.set(mmio::VIRTIO_MMIO_QUEUE_DESC_LOW, base as u32);
            self.set(mmio::VIRTIO_MMIO_QUEUE_AVAIL_LOW, (base + 0x1000) as u32);
            self.set(mmio::VIRTIO_MMIO_QUEUE_USED_LOW, (base + 0x2000) as u32);
            self.set(mmio::VIRTIO_MMIO_QUEUE_READY, 1);
        }
    }

    pub(super) fn memory(&self) -> &GuestMemoryMmap {
        &self.guarded.memory
    }

    pub(super) fn register(&self, offset: u32) -> u32 {
        let mut value = [0; 4];
        self.transport.read(offset.into(), &mut value);
        u32::from_le_bytes(value)
    }

    pub(super) fn set(&mut self, offset: u32, value: u32) {
        self.transport.write(offset.into(), &value.to_le_bytes());
    }

    pub(super) fn config(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0xee; len];
        self.transport.read(0x100 + offset, &mut data);
        data
    }

    /// Takes memory for a buffer; [`Self::recycle`] gives all back.
    pub(super) fn allocate(&mut self, len: u64) -> u64 {
        let at = self.free;
        self.free += len.next_multiple_of(16);
        assert!(self.free <= LOW_LEN, "test buffers are full");
        at
    }

    pub(super) fn recycle(&mut self) {
        self.free = BUFFERS;
    }

    pub(super) fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory()
            .read_slice(&mut data, GuestAddress(address))
            .unwrap();
        data
    }

    pub(super) fn place(&mut self, data: &[u8]) -> u64 {
        let at = self.allocate(data.len() as u64);
        self.memory().write_slice(data, GuestAddress(at)).unwrap();
        at
    }

    pub(super) fn descriptor(&self, queue: usize, index: u16, raw: (u64, u32, u16, u16)) {
        let table = RINGS + queue as u64 * RING_STEP;
        self.write_descriptor(table + 16 * u64::from(index), raw);
    }

    pub(super) fn write_descriptor(
        &self,
        at: u64,
        (address, len, flags, next): (u64, u32, u16, u16),
    ) {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&address.to_le_bytes());
        raw[8..12].copy_from_slice(&len.to_le_bytes());
        raw[12..14].copy_from_slice(&flags.to_le_bytes());
        raw[14..].copy_from_slice(&next.to_le_bytes());
        self.memory().write_slice(&raw, GuestAddress(at)).unwrap();
    }

    /// Sets the index of the available ring to whatever a driver might write.
    pub(super) fn set_available_index(&mut self, queue: usize, index: u16) {
        let ring = RINGS + queue as u64 * RING_STEP + 0x1000;
        self.available[queue] = index;
        self.memory()
            .write_obj(index, GuestAddress(ring + 2))
            .unwrap();
    }

    /// Resets the device and sets it up anew, as a driver does after `DEVICE_NEEDS_RESET`.
    pub(super) fn start_over(&mut self) {
        self.set(mmio::VIRTIO_MMIO_STATUS, 0);
        self.forget_rings();
        self.recycle();
        self.negotiate(!(1 << 29));
        self.set_up_queues();
        self.set(mmio::VIRTIO_MMIO_STATUS, 15);
        assert_eq!(self.register(mmio::VIRTIO_MMIO_STATUS), 15);
        self.interrupt();
    }

    /// Makes the chain that starts at descriptor `head` available.
    pub(super) fn offer(&mut self, queue: usize, head: u16) {
        let ring = RINGS + queue as u64 * RING_STEP + 0x1000;
        let slot = ring + 4 + 2 * u64::from(self.available[queue] % QUEUE_SIZE);
        self.memory().write_obj(head, GuestAddress(slot)).unwrap();
        self.available[queue] = self.available[queue].wrapping_add(1);
        self.memory()
            .write_obj(self.available[queue], GuestAddress(ring + 2))
            .unwrap();
    }

    /// Writes a chain of (address, length, device writes) from descriptor `first` on and offers it.
    pub(super) fn chain(&mut self, queue: usize, first: u16, parts: &[(u64, u32, bool)]) {
        for (position, &(address, len, writes)) in (0..).zip(parts) {
            let last = usize::from(position) + 1 == parts.len();
            let flags = if writes { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.descriptor(
                queue,
                first + position,
                (address, len, flags, first + position + 1),
            );
        }
        self.offer(queue, first);
    }

    pub(super) fn notify(&mut self, queue: usize) {
        self.set(mmio::VIRTIO_MMIO_QUEUE_NOTIFY, queue as u32);
        self.transport.queue_event_ready(queue);
    }

    /// The next used element as (head, length), if there is a new one.
    pub(super) fn take_used(&mut self, queue: usize) -> Option<(u32, u32)> {
        let ring = RINGS + queue as u64 * RING_STEP + 0x2000;
        let index: u16 = self.memory().read_obj(GuestAddress(ring + 2)).unwrap();
        if index == self.used[queue] {
            return None;
        }
        let slot = ring + 4 + 8 * u64::from(self.used[queue] % QUEUE_SIZE);
        self.used[queue] = self.used[queue].wrapping_add(1);
        let element: u64 = self.memory().read_obj(GuestAddress(slot)).unwrap();
        Some((element as u32, (element >> 32) as u32))
    }

    /// After a reset: rings are zero and all positions start again.
    pub(super) fn forget_rings(&mut self) {
        let rings = vec![0; (BUFFERS - RINGS) as usize];
        self.memory()
            .write_slice(&rings, GuestAddress(RINGS))
            .unwrap();
        self.available.fill(0);
        self.used.fill(0);
    }

    /// Asks to be interrupted once the used ring passes `index` (event indexes negotiated).
    pub(super) fn set_used_event(&self, queue: usize, index: u16) {
        let ring = RINGS + queue as u64 * RING_STEP + 0x1000;
        let at = GuestAddress(ring + 4 + 2 * u64::from(QUEUE_SIZE));
        self.memory().write_obj(index, at).unwrap();
    }

    /// Reads and acknowledges the interrupt: its status bits, 0 if there was none.
    pub(super) fn interrupt(&mut self) -> u32 {
        if self.irq.read().is_err() {
            return 0;
        }
        let status = self.register(mmio::VIRTIO_MMIO_INTERRUPT_STATUS);
        self.set(mmio::VIRTIO_MMIO_INTERRUPT_ACK, status);
        status
    }
}
