//! What the guest asks for, before anything was answered.

use std::io;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::mpsc;

use super::connection::Connection;
use super::craft;
use super::datagrams::{GuestDatagrams, Queue};
use super::shared::Shared;
use super::stream::GuestStream;
use super::table::Key;
use crate::egress::Flow;

/// Flows in the order in which the guest asked; `None` when the machine is gone.
pub type IncomingReceiver = mpsc::Receiver<Incoming>;

/// A flow and the right to answer it.
#[derive(Debug)]
pub struct Incoming {
    /// Who asks for what.
    pub flow: Flow,
    /// The answer that is still to be given.
    pub pending: Pending,
}

/// A flow without an answer. Dropped, it is refused by a reset.
#[derive(Debug)]
pub enum Pending {
    /// A TCP connection.
    Stream(PendingStream),
    /// A UDP flow.
    Datagrams(PendingDatagrams),
}

impl Pending {
    /// Answers that there will be no flow.
    pub fn refuse(self, refusal: Refusal) {
        match self {
            Self::Stream(pending) => pending.refuse(refusal),
            Self::Datagrams(pending) => pending.refuse(refusal),
        }
    }
}

/// How a flow is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As a host does that does not listen there: a reset, or for UDP "port unreachable".
    Reset,
    /// As a router does that may not: "administratively prohibited".
    Unreachable,
}

/// Why there is no stream.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// The guest does not want it any more.
    #[error("the sandbox gave the connection up before it was open")]
    GivenUp,
    /// The guest did not end the handshake in time.
    #[error("the sandbox did not end the handshake of the connection in time")]
    TimedOut,
    /// The machine is gone.
    #[error("the sandbox's network is gone")]
    Gone,
}

impl From<AcceptError> for io::Error {
    fn from(error: AcceptError) -> Self {
        let kind = match error {
            AcceptError::GivenUp => io::ErrorKind::ConnectionReset,
            AcceptError::TimedOut => io::ErrorKind::TimedOut,
            AcceptError::Gone => io::ErrorKind::ConnectionAborted,
        };
        Self::new(kind, error)
    }
}

/// A TCP connection of which the guest sent the first segment and got no answer yet.
#[derive(Debug)]
pub struct PendingStream {
    ask: Option<Ask>,
}

#[derive(Debug)]
struct Ask {
    shared: Arc<Shared>,
    key: Key,
    /// Number of the flow.
    id: u64,
    /// The IP packet that asked.
    packet: Vec<u8>,
}

impl Ask {
    /// Answers that there will be nothing, unless the flow is gone.
    fn refuse(self, refusal: Refusal) {
        if self.shared.table.remove(self.key, self.id) {
            craft::refuse(&self.shared, &self.packet, refusal);
        }
    }
}

impl PendingStream {
    pub(super) fn new(shared: Arc<Shared>, key: Key, id: u64, packet: Vec<u8>) -> Self {
        let ask = Ask {
            shared,
            key,
            id,
            packet,
        };
        Self { ask: Some(ask) }
    }

    /// Ends the handshake with the guest.
    ///
    /// # Errors
    /// [`AcceptError`] when the guest does not end it; then there is nothing left to answer.
    pub async fn accept(mut self) -> Result<GuestStream, AcceptError> {
        let Some(ask) = self.ask.take() else {
            return Err(AcceptError::Gone);
        };
        let connection = Connection::open(&ask.shared, ask.key, ask.id, &ask.packet)?;
        let stream = GuestStream::new(connection);
        stream.established().await?;
        Ok(stream)
    }

    /// Answers that there will be no connection.
    pub fn refuse(mut self, refusal: Refusal) {
        self.answer(refusal);
    }

    fn answer(&mut self, refusal: Refusal) {
        if let Some(ask) = self.ask.take() {
            ask.refuse(refusal);
        }
    }
}

impl Drop for PendingStream {
    fn drop(&mut self) {
        self.answer(Refusal::Reset);
    }
}

/// A UDP flow whose first datagram waits.
#[derive(Debug)]
pub struct PendingDatagrams {
    ask: Option<Ask>,
    queue: Option<Queue>,
}

impl PendingDatagrams {
    pub(super) fn new(
        shared: Arc<Shared>,
        key: Key,
        id: u64,
        packet: Vec<u8>,
        queue: Queue,
    ) -> Self {
        let ask = Ask {
            shared,
            key,
            id,
            packet,
        };
        Self {
            ask: Some(ask),
            queue: Some(queue),
        }
    }

    /// Gives the flow's datagrams, the first included.
    ///
    /// # Errors
    /// [`AcceptError::Gone`] when there is nothing left to accept.
    pub fn accept(mut self) -> Result<GuestDatagrams, AcceptError> {
        match (self.ask.take(), self.queue.take()) {
            (Some(ask), Some(queue)) => Ok(GuestDatagrams::new(ask.shared, ask.key, ask.id, queue)),
            _ => Err(AcceptError::Gone),
        }
    }

    /// Answers that nobody listens.
    pub fn refuse(mut self, refusal: Refusal) {
        self.answer(refusal);
    }

    fn answer(&mut self, refusal: Refusal) {
        if let Some(ask) = self.ask.take() {
            ask.refuse(refusal);
        }
    }
}

impl Drop for PendingDatagrams {
    fn drop(&mut self) {
        self.answer(Refusal::Reset);
    }
}
