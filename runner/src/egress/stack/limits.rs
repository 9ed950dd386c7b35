//! Bounds of one sandbox's network, and what was counted of it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::table::Levels;

/// What one sandbox may have at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections, those that wait for a verdict included. More are reset.
    pub connections: usize,
    /// Connections that wait for a verdict or for the guest's last word of the handshake. More are
    /// not answered, and the guest asks again.
    pub half_open: usize,
    /// UDP flows. More are not answered.
    pub datagram_flows: usize,
    /// New flows in a second, and as many at once. More are not answered, and the guest asks again.
    pub new_flows_per_second: u32,
    /// Bytes that buffers of connections may take together.
    pub buffer_bytes: usize,
    /// How long the guest may take to end a handshake.
    pub handshake: Duration,
    /// How long a connection may carry nothing.
    pub idle: Duration,
    /// How long a UDP flow may carry nothing.
    pub datagram_idle: Duration,
    /// How long a connection that nobody holds any more may take to send its rest.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            half_open: 1024,
            datagram_flows: 1024,
            new_flows_per_second: 5000,
            buffer_bytes: 128 << 20,
            handshake: Duration::from_secs(15),
            idle: Duration::from_secs(2 * 60 * 60),
            datagram_idle: Duration::from_secs(60),
            linger: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// Bytes of each of the two buffers of a connection, when `used` are given out already: the
    /// fuller it gets, the smaller they are, so that all connections find room.
    pub(super) fn buffer(&self, used: usize) -> usize {
        const LARGEST: usize = 256 << 10;
        const SMALLEST: usize = 16 << 10;
        let left = self.buffer_bytes.saturating_sub(used);
        (left / 256).next_power_of_two().clamp(SMALLEST, LARGEST)
    }
}

/// Counters, shared by all parts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) frames_in: AtomicU64,
    pub(super) frames_out: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) spoofed: AtomicU64,
    pub(super) other_protocols: AtomicU64,
    pub(super) over_limit: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) buffer_bytes: AtomicUsize,
}

impl Counters {
    pub(super) fn one(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, levels: Levels) -> Statistics {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            frames_in: get(&self.frames_in),
            frames_out: get(&self.frames_out),
            bytes_in: get(&self.bytes_in),
            bytes_out: get(&self.bytes_out),
            malformed: get(&self.malformed),
            spoofed: get(&self.spoofed),
            other_protocols: get(&self.other_protocols),
            over_limit: get(&self.over_limit),
            lost: get(&self.lost),
            connections: levels.streams as u64,
            half_open: levels.half_open as u64,
            datagram_flows: levels.datagrams as u64,
            buffer_bytes: self.buffer_bytes.load(Ordering::Relaxed) as u64,
        }
    }
}

/// What was counted of a sandbox's network so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Frames from the guest.
    pub frames_in: u64,
    /// Frames to the guest.
    pub frames_out: u64,
    /// Bytes in frames from the guest.
    pub bytes_in: u64,
    /// Bytes in frames to the guest.
    pub bytes_out: u64,
    /// Frames that are none, or whose packet is broken.
    pub malformed: u64,
    /// Packets from addresses that are not the guest's.
    pub spoofed: u64,
    /// Packets of other protocols than TCP, UDP and ICMP, which are refused.
    pub other_protocols: u64,
    /// Flows beyond a limit.
    pub over_limit: u64,
    /// Datagrams that found a full queue.
    pub lost: u64,
    /// TCP connections now.
    pub connections: u64,
    /// Connections now whose handshake is not over.
    pub half_open: u64,
    /// UDP flows now.
    pub datagram_flows: u64,
    /// Bytes of buffers that connections may fill now.
    pub buffer_bytes: u64,
}
