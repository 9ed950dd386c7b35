//! When which connection must be looked at without a frame: at most one time for each.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::Notify;

use super::connection::Connection;

/// A time and the number of a connection, which tells equal times apart.
type When = (Instant, u64);

/// Times of all connections.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: Mutex<BTreeMap<When, Weak<Connection>>>,
    /// The first time is another one than before.
    pub(super) earlier: Notify,
}

impl Timers {
    fn queue(&self) -> MutexGuard<'_, BTreeMap<When, Weak<Connection>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a connection's time in place of `old`.
    pub(super) fn set(
        &self,
        old: Option<Instant>,
        new: Instant,
        id: u64,
        connection: Weak<Connection>,
    ) {
        let mut queue = self.queue();
        if let Some(old) = old {
            queue.remove(&(old, id));
        }
        let first = queue.first_key_value().is_none_or(|((at, _), _)| new < *at);
        queue.insert((new, id), connection);
        drop(queue);
        if first {
            self.earlier.notify_one();
        }
    }

    pub(super) fn unset(&self, old: Instant, id: u64) {
        self.queue().remove(&(old, id));
    }

    pub(super) fn first(&self) -> Option<Instant> {
        self.queue().first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the next one that is due.
    pub(super) fn due(&self, now: Instant) -> Option<Weak<Connection>> {
        let mut queue = self.queue();
        let entry = queue.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }
}
