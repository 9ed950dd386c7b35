//! How long to wait before the next try: growing, bounded, and never the same for two runners.

use std::{ops::RangeInclusive, time::Duration};

/// A random time in a range, so that runners that failed together do not return together.
#[must_use]
pub fn between(range: RangeInclusive<Duration>) -> Duration {
    let (low, high) = range.into_inner();
    let span = u64::try_from(high.saturating_sub(low).as_millis()).unwrap_or(u64::MAX);
    let random = uuid::Uuid::new_v4().as_u64_pair().1;
    low + Duration::from_millis(random % span.saturating_add(1))
}

/// Waits between tries that each fail: twice as long after each, up to a limit, and at random between
/// the half and the whole of it.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    failures: u32,
}

impl Backoff {
    /// The first wait, and the longest.
    #[must_use]
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self {
            first,
            limit,
            failures: 0,
        }
    }

    /// Failures in a row so far.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// After a failure: how long to wait.
    pub fn after_failure(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures.min(20)).unwrap_or(u32::MAX);
        let whole = self.first.saturating_mul(factor).min(self.limit);
        self.failures = self.failures.saturating_add(1);
        between(whole / 2..=whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_begin_anew_after_a_success() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 60 * second);
        let waits: Vec<Duration> = (0..40).map(|_| backoff.after_failure()).collect();
        for (index, wait) in waits.iter().enumerate() {
            let whole = second * 60.min(1_u32 << index.min(10));
            assert!(*wait >= whole / 2 && *wait <= whole, "{index}: {wait:?}");
        }
        assert_eq!(backoff.failures(), 40);
        backoff.reset();
        assert!(backoff.after_failure() <= second);
    }

    #[test]
    fn two_runners_do_not_wait_alike() {
        let range = Duration::ZERO..=Duration::from_secs(3600);
        let waits: std::collections::BTreeSet<_> =
            (0..20).map(|_| between(range.clone())).collect();
        assert!(waits.len() > 10, "{waits:?}");
    }
}
