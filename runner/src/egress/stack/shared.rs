//! What the engine, the connections and those who hold them share.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::address::Addresses;
use super::endpoint::Endpoint;
use super::limits::{Counters, Limits, Statistics};
use super::link::{Link, Sent};
use super::table::Table;
use super::timers::Timers;

/// Bytes of buffers of ended connections that are kept for new ones: what was used before costs a new
/// connection no fresh memory.
const SPARE_BYTES: usize = 8 << 20;

/// Shared by all parts of one stack.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) link: Link,
    pub(super) addresses: Addresses,
    pub(super) limits: Limits,
    pub(super) table: Table,
    pub(super) timers: Timers,
    pub(super) counters: Counters,
    /// The machine is gone.
    gone: AtomicBool,
    spare: Mutex<Spare>,
    begun: Instant,
    seed: AtomicU64,
}

#[derive(Debug, Default)]
struct Spare {
    endpoints: Vec<Endpoint>,
    bytes: usize,
}

impl Shared {
    pub(super) fn new(link: Link, addresses: Addresses, limits: Limits, seed: u64) -> Self {
        Self {
            link,
            addresses,
            limits,
            table: Table::default(),
            timers: Timers::default(),
            counters: Counters::default(),
            gone: AtomicBool::new(false),
            spare: Mutex::default(),
            begun: Instant::now(),
            seed: AtomicU64::new(seed),
        }
    }

    /// Time as smoltcp counts it.
    pub(super) fn clock(&self, now: Instant) -> smoltcp::time::Instant {
        let micros = now.saturating_duration_since(self.begun).as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// The other way.
    pub(super) fn instant(&self, at: smoltcp::time::Instant) -> Instant {
        let micros = u64::try_from(at.total_micros()).unwrap_or(0);
        self.begun + std::time::Duration::from_micros(micros)
    }

    /// A number from which a connection draws its first sequence number: the next of splitmix64,
    /// whose state started as random bytes of the kernel.
    pub(super) fn draw(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self
            .seed
            .fetch_add(STEP, Ordering::Relaxed)
            .wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// TCP for a new connection.
    pub(super) fn take_endpoint(&self) -> Endpoint {
        let counter = &self.counters.buffer_bytes;
        let length = self.limits.buffer(counter.load(Ordering::Relaxed));
        counter.fetch_add(2 * length, Ordering::Relaxed);
        let mut spare = lock(&self.spare);
        let found = spare.endpoints.iter().rposition(|old| old.buffer == length);
        if let Some(at) = found {
            spare.bytes -= 2 * length;
            return spare.endpoints.swap_remove(at);
        }
        drop(spare);
        Endpoint::new(self, length)
    }

    /// Takes the TCP of an ended connection back.
    pub(super) fn return_endpoint(&self, endpoint: Endpoint) {
        let bytes = 2 * endpoint.buffer;
        self.counters
            .buffer_bytes
            .fetch_sub(bytes, Ordering::Relaxed);
        let mut spare = lock(&self.spare);
        if spare.bytes + bytes <= SPARE_BYTES {
            spare.bytes += bytes;
            spare.endpoints.push(endpoint);
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Notes that the machine is gone, and has all who wait know.
    pub(super) fn end(&self) {
        self.gone.store(true, Ordering::Release);
        for connection in self.table.clear() {
            connection.machine_gone();
        }
    }

    /// Sends a frame that nobody keeps: it is lost when there is no room.
    pub(super) fn send_or_lose(&self, frame: &[u8]) -> bool {
        let sent = self.link.send(frame) == Sent::Done;
        if sent {
            self.count_out(frame.len());
        } else {
            Counters::one(&self.counters.lost);
        }
        sent
    }

    pub(super) fn count_out(&self, length: usize) {
        Counters::one(&self.counters.frames_out);
        self.counters
            .bytes_out
            .fetch_add(length as u64, Ordering::Relaxed);
    }

    pub(super) fn statistics(&self) -> Statistics {
        self.counters.read(self.table.levels())
    }
}

/// Nothing panics while it holds one of the stack's locks but by a mistake of ours, after which the
/// data are still whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
