//! A UDP flow of the guest: datagrams in a bounded queue.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::mpsc;

use super::craft;
use super::limits::Counters;
use super::shared::{Shared, lock};
use super::table::{Entry, Key};

/// Datagrams of one flow that wait for who accepted it; more are lost, as UDP may.
const WAITING: usize = 64;

/// Where datagrams come out.
pub(super) type Queue = mpsc::Receiver<Vec<u8>>;

/// Where the engine puts them in.
#[derive(Debug)]
pub(super) struct Feed {
    sender: mpsc::Sender<Vec<u8>>,
    active: Mutex<Instant>,
}

impl Feed {
    pub(super) fn new() -> (Arc<Self>, Queue) {
        let (sender, queue) = mpsc::channel(WAITING);
        let active = Mutex::new(Instant::now());
        (Arc::new(Self { sender, active }), queue)
    }

    pub(super) fn push(&self, content: &[u8], counters: &Counters) {
        self.touch();
        if self.sender.try_send(content.to_vec()).is_err() {
            Counters::one(&counters.lost);
        }
    }

    pub(super) fn touch(&self) {
        *lock(&self.active) = Instant::now();
    }

    pub(super) fn active(&self) -> Instant {
        *lock(&self.active)
    }
}

/// The way back to the guest, of a UDP flow.
#[derive(Clone, Debug)]
pub struct DatagramSender {
    shared: Arc<Shared>,
    key: Key,
}

impl DatagramSender {
    /// Sends a datagram to the guest. One that finds no room is lost, as UDP may.
    ///
    /// # Errors
    /// It is larger than the link takes.
    pub fn send(&self, content: &[u8]) -> io::Result<()> {
        if let Some(Entry::Datagrams(feed)) = self.shared.table.find(&self.key) {
            feed.touch();
        }
        let (from, to) = (self.key.outside, self.key.guest);
        let frame = craft::datagram(&self.shared.addresses, from, to, content)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.shared.send_or_lose(&frame);
        Ok(())
    }
}

/// A UDP flow of the guest. It ends when nothing was carried for a while, or when this is dropped.
#[derive(Debug)]
pub struct GuestDatagrams {
    sender: DatagramSender,
    id: u64,
    queue: Queue,
}

impl GuestDatagrams {
    pub(super) fn new(shared: Arc<Shared>, key: Key, id: u64, queue: Queue) -> Self {
        let sender = DatagramSender { shared, key };
        Self { sender, id, queue }
    }

    /// The guest's next datagram; `None` when the flow is over.
    pub async fn recv(&mut self) -> Option<Vec<u8>> {
        self.queue.recv().await
    }

    /// Sends a datagram to the guest. One that finds no room is lost, as UDP may.
    ///
    /// # Errors
    /// It is larger than the link takes.
    pub fn send(&self, content: &[u8]) -> io::Result<()> {
        self.sender.send(content)
    }

    /// The way back, for answers that are made meanwhile.
    #[must_use]
    pub fn sender(&self) -> DatagramSender {
        self.sender.clone()
    }

    /// Where the guest sends them.
    #[must_use]
    pub fn outside(&self) -> SocketAddr {
        self.sender.key.outside
    }
}

impl Drop for GuestDatagrams {
    fn drop(&mut self) {
        let DatagramSender { shared, key } = &self.sender;
        shared.table.remove(*key, self.id);
    }
}
