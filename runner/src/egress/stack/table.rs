//! The flows of a sandbox, by their two ends. Each entry is one number, so that what is late (a
//! verdict, a timer) never touches a newer flow between the same ends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection::Connection;
use super::datagrams::Feed;
use super::limits::Limits;
use crate::egress::Transport;

/// The two ends of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) transport: Transport,
    pub(super) guest: SocketAddr,
    pub(super) outside: SocketAddr,
}

/// What there is between two ends.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// A connection that waits for a verdict.
    Asked,
    /// A connection.
    Open(Arc<Connection>),
    /// A UDP flow, with or without a verdict.
    Datagrams(Arc<Feed>),
}

#[derive(Debug)]
struct Row {
    id: u64,
    half_open: bool,
    entry: Entry,
}

#[derive(Debug, Default)]
struct Rows {
    rows: HashMap<Key, Row>,
    levels: Levels,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Levels {
    pub(super) streams: usize,
    pub(super) half_open: usize,
    pub(super) datagrams: usize,
}

/// All flows.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Mutex<Rows>,
}

/// Why a flow is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// There are as many as may be.
    Flows,
    /// Too many wait.
    HalfOpen,
}

impl Table {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn find(&self, key: &Key) -> Option<Entry> {
        self.rows().rows.get(key).map(|row| row.entry.clone())
    }

    pub(super) fn levels(&self) -> Levels {
        self.rows().levels
    }

    /// Whether one more may be inserted.
    pub(super) fn room(&self, key: &Key, limits: &Limits) -> Result<(), Full> {
        let levels = self.levels();
        match key.transport {
            Transport::Tcp if levels.half_open >= limits.half_open => Err(Full::HalfOpen),
            Transport::Tcp if levels.streams >= limits.connections => Err(Full::Flows),
            Transport::Udp if levels.datagrams >= limits.datagram_flows => Err(Full::Flows),
            Transport::Tcp | Transport::Udp => Ok(()),
        }
    }

    /// Inserts a flow that is not there yet.
    pub(super) fn insert(&self, key: Key, id: u64, entry: Entry) {
        let mut rows = self.rows();
        let half_open = key.transport == Transport::Tcp;
        let row = Row {
            id,
            half_open,
            entry,
        };
        if let Some(old) = rows.rows.insert(key, row) {
            rows.levels.less(key, &old);
        }
        match key.transport {
            Transport::Tcp => rows.levels.streams += 1,
            Transport::Udp => rows.levels.datagrams += 1,
        }
        rows.levels.half_open += usize::from(half_open);
    }

    /// Turns a question into its connection; `false` when the question is gone.
    pub(super) fn open(&self, key: Key, id: u64, connection: Arc<Connection>) -> bool {
        match self.rows().rows.get_mut(&key) {
            Some(row) if row.id == id => {
                row.entry = Entry::Open(connection);
                true
            }
            _ => false,
        }
    }

    /// Notes that a handshake is over.
    pub(super) fn established(&self, key: Key, id: u64) {
        let rows = &mut *self.rows();
        if let Some(row) = rows.rows.get_mut(&key)
            && row.id == id
            && std::mem::take(&mut row.half_open)
        {
            rows.levels.half_open -= 1;
        }
    }

    /// Removes a flow; `false` when it is not there any more.
    pub(super) fn remove(&self, key: Key, id: u64) -> bool {
        let rows = &mut *self.rows();
        if rows.rows.get(&key).is_none_or(|row| row.id != id) {
            return false;
        }
        if let Some(row) = rows.rows.remove(&key) {
            rows.levels.less(key, &row);
        }
        true
    }

    /// Removes whatever is between two ends.
    pub(super) fn forget(&self, key: Key) {
        let rows = &mut *self.rows();
        if let Some(row) = rows.rows.remove(&key) {
            rows.levels.less(key, &row);
        }
    }

    /// Removes the UDP flows that `stale` names.
    pub(super) fn sweep(&self, stale: impl Fn(&Feed) -> bool) {
        let rows = &mut *self.rows();
        let levels = &mut rows.levels;
        rows.rows.retain(|key, row| {
            let goes = matches!(&row.entry, Entry::Datagrams(feed) if stale(feed));
            if goes {
                levels.less(*key, row);
            }
            !goes
        });
    }

    /// Removes all and gives the connections, which are still to be told.
    pub(super) fn clear(&self) -> Vec<Arc<Connection>> {
        let mut rows = self.rows();
        rows.levels = Levels::default();
        let open = rows.rows.drain().filter_map(|(_, row)| match row.entry {
            Entry::Open(connection) => Some(connection),
            Entry::Asked | Entry::Datagrams(_) => None,
        });
        open.collect()
    }
}

impl Levels {
    fn less(&mut self, key: Key, row: &Row) {
        match key.transport {
            Transport::Tcp => self.streams -= 1,
            Transport::Udp => self.datagrams -= 1,
        }
        self.half_open -= usize::from(row.half_open);
    }
}
