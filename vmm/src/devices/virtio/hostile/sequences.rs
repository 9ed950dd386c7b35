//! Random sequences of what a guest can do: chains, ring indexes, registers, restored state.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::rng::Rng;
use super::super::testing::{
    BUFFERS, GuardedMemory, HIGH_BASE, HIGH_LEN, LOW_LEN, QUEUE_SIZE, RING_STEP, RINGS,
};
use super::super::transport::MmioTransport;
use super::rig::{Kind, Rig, scribble};

/// One thing that a guest, or the host side of its device, does.
#[derive(Debug, Clone)]
enum Step {
    Descriptor(usize, u16, (u64, u32, u16, u16)),
    Entry(u64, (u64, u32, u16, u16)),
    /// A chain of good shape with a request of this device at its head.
    Request {
        queue: usize,
        header: Vec<u8>,
        op: u16,
        parts: Vec<(u64, u32, bool)>,
    },
    Offer(usize, u16),
    Index(usize, u16),
    Notify(usize),
    Poke(u64, Vec<u8>),
    Peer(usize),
    Write(u64, Vec<u8>),
    Read(u64, usize),
    StartOver,
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        12 => BUFFERS..LOW_LEN,
        3 => HIGH_BASE..HIGH_BASE + HIGH_LEN,
        2 => LOW_LEN - 5000..LOW_LEN + 5000,
        1 => RINGS..RINGS + 3 * RING_STEP,
        1 => HIGH_BASE + HIGH_LEN - 100..HIGH_BASE + HIGH_LEN + 100,
        1 => any::<u64>(),
        1 => Just(u64::MAX),
    ]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 1..5000_u32, 3 => 0..64_u32, 2 => Just(512), 1 => Just(1 << 20), 1 => any::<u32>()]
}

fn index() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 0..QUEUE_SIZE, 1 => any::<u16>()]
}

fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let flags = prop_oneof![8 => 0..8_u16, 1 => any::<u16>()];
    (address(), length(), flags, index())
}

/// The start of a request: a block header, most of a vsock header's meaning is set later.
fn header() -> impl Strategy<Value = Vec<u8>> {
    let sector = prop_oneof![4 => 0..2048_u64, 1 => any::<u64>()];
    let block =
        (0..16_u32, sector, 0..3000_u32, 0..3_u32).prop_map(|(kind, sector, count, flags)| {
            let mut raw = kind.to_le_bytes().to_vec();
            raw.extend([0; 4]);
            raw.extend(sector.to_le_bytes());
            raw.extend((sector / 2).to_le_bytes());
            raw.extend(count.to_le_bytes());
            raw.extend(flags.to_le_bytes());
            raw
        });
    prop_oneof![3 => block, 1 => proptest::collection::vec(any::<u8>(), 0..64)]
}

fn step() -> impl Strategy<Value = Step> {
    let queue = 0..3_usize;
    let parts = proptest::collection::vec((address(), length(), any::<bool>()), 0..6);
    prop_oneof![
        3 => (queue.clone(), index(), descriptor()).prop_map(|(q, i, d)| Step::Descriptor(q, i, d)),
        2 => (address(), descriptor()).prop_map(|(at, d)| Step::Entry(at, d)),
        6 => (queue.clone(), header(), 0..10_u16, parts)
            .prop_map(|(queue, header, op, parts)| Step::Request { queue, header, op, parts }),
        4 => (queue.clone(), index()).prop_map(|(q, head)| Step::Offer(q, head)),
        1 => (queue.clone(), any::<u16>()).prop_map(|(q, i)| Step::Index(q, i)),
        6 => queue.prop_map(Step::Notify),
        1 => (address(), proptest::collection::vec(any::<u8>(), 1..64))
            .prop_map(|(at, bytes)| Step::Poke(at, bytes)),
        2 => (1..20_000_usize).prop_map(Step::Peer),
        1 => Just(Step::StartOver),
    ]
}

/// Accesses to registers, most of them to ones that exist.
fn register_step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![
        12 => (0..64_u64).prop_map(|register| register * 4),
        3 => 0x100..0x180_u64,
        1 => any::<u64>(),
    ];
    let value = prop_oneof![
        4 => 0..16_u32,
        2 => Just(u32::from(QUEUE_SIZE)),
        2 => (0..0x200_u32).prop_map(|page| page << 12),
        1 => any::<u32>(),
    ];
    let data = prop_oneof![
        8 => value.prop_map(|value| value.to_le_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..9),
    ];
    prop_oneof![
        12 => (offset.clone(), data).prop_map(|(offset, data)| Step::Write(offset, data)),
        3 => (offset, 0..9_usize).prop_map(|(offset, len)| Step::Read(offset, len)),
        3 => step(),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    proptest::sample::select(Kind::ALL.to_vec())
}

impl Rig {
    fn take(&mut self, step: &Step) {
        let queues = self.kind.queues();
        match step {
            Step::Descriptor(queue, index, raw) => {
                self.guest
                    .descriptor(queue % queues, index % QUEUE_SIZE, *raw);
            }
            Step::Entry(at, (address, len, flags, next)) => {
                let mut raw = address.to_le_bytes().to_vec();
                raw.extend(len.to_le_bytes());
                raw.extend(flags.to_le_bytes());
                raw.extend(next.to_le_bytes());
                let _ = self.guest.memory().write_slice(&raw, GuestAddress(*at));
            }
            Step::Request {
                queue,
                header,
                op,
                parts,
            } => {
                self.request(queue % queues, header, *op, parts);
                self.guest.notify(queue % queues);
            }
            Step::Offer(queue, head) => self.guest.offer(queue % queues, *head),
            Step::Index(queue, index) => self.guest.set_available_index(queue % queues, *index),
            Step::Notify(queue) => self.guest.notify(queue % queues),
            Step::Poke(at, bytes) => {
                let _ = self.guest.memory().write_slice(bytes, GuestAddress(*at));
            }
            Step::Peer(len) => {
                self.provoke(*len);
                self.events();
            }
            Step::Write(offset, data) => self.guest.transport.write(*offset, data),
            Step::Read(offset, len) => self.guest.transport.read(*offset, &mut vec![0; *len]),
            Step::StartOver => self.guest.start_over(),
        }
    }

    fn request(&mut self, queue: usize, header: &[u8], op: u16, parts: &[(u64, u32, bool)]) {
        let len = parts
            .iter()
            .filter(|part| !part.2)
            .map(|part| part.1)
            .fold(0, u32::wrapping_add);
        let vsock = matches!(self.kind, Kind::Vsock | Kind::RestoredVsock);
        let header = if vsock {
            self.vsock_header(op, len)
        } else {
            header.to_vec()
        };
        self.guest.recycle();
        let mut chain = Vec::new();
        if !header.is_empty() {
            chain.push((self.guest.place(&header), header.len() as u32, false));
        }
        for writes in [false, true] {
            chain.extend(parts.iter().filter(|part| part.2 == writes));
        }
        if !chain.is_empty() {
            self.guest.chain(queue, 0, &chain);
        }
    }
}

proptest! {
    /// Whatever chains a guest offers, devices keep to memory that it gave them, and live.
    #[test]
    fn chains_at_random(
        kind in kind(),
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let mut rig = Rig::started(kind);
        for step in &steps {
            if matches!(step, Step::Notify(_) | Step::Request { .. } | Step::Peer(_)) {
                rig.guarded_take(step);
            } else {
                rig.take(step);
            }
        }
        rig.assert_alive();
    }

    /// Whatever a guest does to the registers, nothing but the device itself suffers.
    #[test]
    fn registers_at_random(
        kind in kind(),
        prepared in any::<bool>(),
        steps in proptest::collection::vec(register_step(), 1..60),
    ) {
        let mut rig = if prepared { Rig::started(kind) } else { Rig::powered_on(kind) };
        for step in &steps {
            rig.take(step);
            for queue in 0..kind.queues() {
                rig.guest.transport.queue_event_ready(queue);
            }
        }
        prop_assert!(rig.guest.guarded.canaries_intact());
        rig.assert_alive();
    }

    /// A state file that is not what was saved restores to an error or to a device that is safe.
    #[test]
    fn restored_rings_at_random(
        size in prop_oneof![Just(QUEUE_SIZE), any::<u16>()],
        positions in any::<(u16, u16)>(),
        addresses in (address(), address(), address()),
        flags in any::<(bool, bool)>(),
    ) {
        let mut state = Rig::started(Kind::Rng).guest.transport.save();
        let ring = &mut state.rings.as_mut().unwrap()[0];
        (ring.next_available, ring.next_used) = positions;
        (ring.descriptors, ring.available, ring.used) = addresses;
        (ring.ready, ring.event_idx) = flags;
        ring.size = size;
        let guarded = GuardedMemory::new();
        let irq = EventFd::new(EFD_NONBLOCK).unwrap();
        let memory = guarded.memory.clone();
        if let Ok(mut transport) =
            MmioTransport::restore(memory, Box::new(Rng::new()), irq, &state)
        {
            transport.queue_event_ready(0);
        }
        prop_assert!(guarded.canaries_intact());
    }
}

impl Rig {
    /// As [`Rig::take`], with guest memory watched while the device works.
    fn guarded_take(&mut self, step: &Step) {
        if let Step::Request {
            queue,
            header,
            op,
            parts,
        } = step
        {
            // What the driver writes goes first, then nothing but the device writes.
            let queue = queue % self.kind.queues();
            self.request(queue, header, *op, parts);
            self.watched(|rig| rig.guest.notify(queue));
        } else {
            self.watched(|rig| rig.take(step));
        }
    }
}

#[test]
fn rings_that_change_while_the_device_works_on_them() {
    for kind in Kind::ALL {
        let mut rig = Rig::started(kind);
        let memory = rig.guest.memory().clone();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut seed = 0x9e37_79b9_7f4a_7c15 ^ kind as u64;
                while !stop.load(Ordering::Relaxed) {
                    scribble(&memory, &mut seed, kind.queues() as u64 * RING_STEP);
                }
            });
            let end = Instant::now() + Duration::from_millis(300);
            while Instant::now() < end {
                rig.provoke(3000);
                rig.events();
                for queue in 0..kind.queues() {
                    rig.guest.notify(queue);
                }
                if rig.guest.register(0x70) & 64 != 0 {
                    rig.guest.set(0x70, 0);
                    rig.guest.negotiate(u64::MAX);
                    rig.guest.set_up_queues();
                    rig.guest.set(0x70, 15);
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(rig.guest.guarded.canaries_intact(), "{kind:?}");
        rig.assert_alive();
    }
}
