//! When a machine reached which point, and how often its vCPUs left the guest.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::jail::JailReport;

/// Points in the life of a machine, in nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Default)]
pub struct Timeline {
    /// The parent called spawn, by its own account.
    pub spawned: OnceLock<u64>,
    /// `main` began.
    pub process_started: OnceLock<u64>,
    /// The configuration was read and checked.
    pub configured: OnceLock<u64>,
    /// The process was jailed, but for its system call filters.
    pub jailed: OnceLock<u64>,
    /// Guest memory was mapped.
    pub memory_mapped: OnceLock<u64>,
    /// Devices and vCPUs had their state.
    pub state_ready: OnceLock<u64>,
    /// The first vCPU entered the guest.
    pub first_entry: OnceLock<u64>,
    /// What the jail took away.
    pub jail: OnceLock<JailReport>,
}

/// What the `statistics` command answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Points in nanoseconds since the parent called spawn (or since `main` if it did not say).
    pub process_started_ns: Option<u64>,
    /// See [`Timeline::configured`].
    pub configured_ns: Option<u64>,
    /// See [`Timeline::jailed`].
    pub jailed_ns: Option<u64>,
    /// See [`Timeline::memory_mapped`].
    pub memory_mapped_ns: Option<u64>,
    /// See [`Timeline::state_ready`].
    pub state_ready_ns: Option<u64>,
    /// See [`Timeline::first_entry`].
    pub first_entry_ns: Option<u64>,
    /// Exits from guest mode to the VMM, all vCPUs together.
    pub vcpu_exits: u64,
    /// Each layer of the jail, and which of them this host forbids; `None` without a jail.
    pub jail: Option<JailReport>,
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[must_use]
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Notes that a point was reached; only the first time counts.
pub fn mark(point: &OnceLock<u64>) {
    if point.get().is_none() {
        let _ = point.set(now());
    }
}

impl Timeline {
    /// The timeline relative to its beginning, with the number of exits.
    #[must_use]
    pub fn statistics(&self, exits: &AtomicU64) -> Statistics {
        let origin = self.spawned.get().or(self.process_started.get());
        let since = |point: &OnceLock<u64>| Some(point.get()?.saturating_sub(*origin?));
        Statistics {
            process_started_ns: since(&self.process_started),
            configured_ns: since(&self.configured),
            jailed_ns: since(&self.jailed),
            memory_mapped_ns: since(&self.memory_mapped),
            state_ready_ns: since(&self.state_ready),
            first_entry_ns: since(&self.first_entry),
            jail: self.jail.get().cloned(),
            vcpu_exits: exits.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_count_from_the_parents_spawn() {
        let timeline = Timeline::default();
        timeline.spawned.set(1_000).unwrap();
        timeline.process_started.set(1_500).unwrap();
        timeline.first_entry.set(4_000).unwrap();
        let statistics = timeline.statistics(&AtomicU64::new(7));
        assert_eq!(statistics.process_started_ns, Some(500));
        assert_eq!(statistics.first_entry_ns, Some(3_000));
        assert_eq!(statistics.memory_mapped_ns, None);
        assert_eq!(statistics.vcpu_exits, 7);
    }

    #[test]
    fn a_point_is_marked_once() {
        let point = OnceLock::new();
        mark(&point);
        let first = point.get().copied();
        mark(&point);
        assert_eq!(point.get().copied(), first);
    }
}
