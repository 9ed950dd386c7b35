//! One TCP connection of the guest: what the engine, the timers and its holder do with it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use smoltcp::socket::tcp::{RecvError, State};

use super::endpoint::Endpoint;
use super::incoming::AcceptError;
use super::shared::{Shared, lock};
use super::table::Key;

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    shared: Arc<Shared>,
    key: Key,
    id: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Taken only when the connection is dropped.
    endpoint: Option<Endpoint>,
    phase: Phase,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The time that the timers have for it.
    scheduled: Option<Instant>,
    opened: Instant,
    /// When something was last carried.
    active: Instant,
    /// The holder ended its direction.
    finished: bool,
    /// When the holder left.
    left: Option<Instant>,
    end: Option<End>,
    /// A packet came since the last answer.
    touched: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Handshake,
    Established,
    /// It is out of the table.
    Over,
}

/// Why a connection ended that was not ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Late,
    Idle,
    Gone,
}

/// What may be done with the bytes of a connection.
pub(super) type Step = Poll<io::Result<usize>>;

impl Connection {
    /// Answers the guest's first segment.
    pub(super) fn open(
        shared: &Arc<Shared>,
        key: Key,
        id: u64,
        packet: &[u8],
    ) -> Result<Arc<Self>, AcceptError> {
        if shared.is_gone() {
            return Err(AcceptError::Gone);
        }
        let mut endpoint = shared.take_endpoint();
        let listens = endpoint.listen(key.outside);
        let connection = Arc::new(Self {
            shared: Arc::clone(shared),
            key,
            id,
            inner: Mutex::new(Inner {
                endpoint: Some(endpoint),
                phase: Phase::Handshake,
                reader: None,
                writer: None,
                scheduled: None,
                opened: Instant::now(),
                active: Instant::now(),
                finished: false,
                left: None,
                end: None,
                touched: false,
            }),
        });
        if !listens || !shared.table.open(key, id, Arc::clone(&connection)) {
            return Err(AcceptError::GivenUp);
        }
        connection.input(packet);
        connection.service();
        // It may have ended while this was being opened.
        if shared.is_gone() {
            connection.machine_gone();
        }
        Ok(connection)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Takes a packet; whether it is the first since the last [`Self::service`].
    pub(super) fn input(&self, packet: &[u8]) -> bool {
        let mut inner = self.inner();
        let now = Instant::now();
        if let Some(endpoint) = &mut inner.endpoint {
            endpoint.input(&self.shared, self.shared.clock(now), packet);
        }
        inner.active = now;
        !std::mem::replace(&mut inner.touched, true)
    }

    /// Sends what there is to send, and tells those who wait.
    pub(super) fn service(self: &Arc<Self>) {
        self.serve(&mut self.inner());
    }

    /// As [`Self::service`], when its time has come.
    pub(super) fn timer(self: &Arc<Self>) {
        let mut inner = self.inner();
        inner.scheduled = None;
        self.serve(&mut inner);
    }

    fn serve(self: &Arc<Self>, inner: &mut Inner) {
        inner.touched = false;
        let now = Instant::now();
        self.limit(inner, now);
        let Some(endpoint) = &mut inner.endpoint else {
            return;
        };
        if inner.phase != Phase::Over {
            if !endpoint.output(&self.shared, self.shared.clock(now)) {
                self.shared.link.wait(Arc::downgrade(self));
            }
            self.advance(inner);
        }
        self.wake(inner);
        self.schedule(inner, now);
    }

    /// Ends what took too long.
    fn limit(&self, inner: &mut Inner, now: Instant) {
        let Some((deadline, end)) = self.deadline(inner) else {
            return;
        };
        if deadline <= now && inner.end.is_none() {
            inner.end = Some(end);
            if let Some(endpoint) = &mut inner.endpoint {
                endpoint.socket().abort();
            }
        }
    }

    fn deadline(&self, inner: &Inner) -> Option<(Instant, End)> {
        let limits = &self.shared.limits;
        match (inner.phase, inner.left) {
            (Phase::Over, _) => None,
            (Phase::Handshake, _) => Some((inner.opened + limits.handshake, End::Late)),
            (Phase::Established, Some(left)) => Some((left + limits.linger, End::Late)),
            (Phase::Established, None) => Some((inner.active + limits.idle, End::Idle)),
        }
    }

    fn advance(&self, inner: &mut Inner) {
        let Some(endpoint) = &mut inner.endpoint else {
            return;
        };
        let state = endpoint.state();
        let open = !matches!(state, State::Listen | State::SynReceived | State::Closed);
        if inner.phase == Phase::Handshake && open {
            inner.phase = Phase::Established;
            self.shared.table.established(self.key, self.id);
            // Who accepts it waits for this.
            wake(&mut inner.reader);
        }
        // Nobody will read what comes still.
        if inner.left.is_some() && endpoint.socket().can_recv() {
            endpoint.socket().abort();
            endpoint.output(&self.shared, self.shared.clock(Instant::now()));
        }
        if endpoint.is_over() {
            inner.phase = Phase::Over;
            self.shared.table.remove(self.key, self.id);
        }
    }

    fn wake(&self, inner: &mut Inner) {
        let Some(endpoint) = &mut inner.endpoint else {
            return;
        };
        let over = inner.phase == Phase::Over;
        let waits = inner.phase == Phase::Handshake;
        let socket = endpoint.socket();
        if !waits && (over || socket.can_recv() || !socket.may_recv()) {
            wake(&mut inner.reader);
        }
        if !waits && (over || socket.can_send() || !socket.may_send()) {
            wake(&mut inner.writer);
        }
    }

    fn schedule(self: &Arc<Self>, inner: &mut Inner, now: Instant) {
        if inner.phase == Phase::Over {
            if let Some(at) = inner.scheduled.take() {
                self.shared.timers.unset(at, self.id);
            }
            return;
        }
        let clock = self.shared.clock(now);
        let deadline = self.deadline(inner).map(|(at, _)| at);
        let Some(endpoint) = &mut inner.endpoint else {
            return;
        };
        let blocked = endpoint.kept.frame.is_some();
        let next = endpoint.next(clock).filter(|_| !blocked);
        // What could be sent now was; a moment later it may be otherwise.
        let soonest = now + Duration::from_millis(1);
        let next = next.map(|at| self.shared.instant(at).max(soonest));
        let Some(at) = next.into_iter().chain(deadline).min() else {
            return;
        };
        if inner.scheduled.is_none_or(|old| at < old) {
            let weak: Weak<Self> = Arc::downgrade(self);
            self.shared.timers.set(inner.scheduled, at, self.id, weak);
            inner.scheduled = Some(at);
        }
    }

    /// Ready when the handshake is over.
    pub(super) fn poll_established(&self, cx: &Context<'_>) -> Poll<Result<(), AcceptError>> {
        let mut inner = self.inner();
        match (inner.phase, inner.end) {
            (_, Some(End::Gone)) => Poll::Ready(Err(AcceptError::Gone)),
            (_, Some(End::Late)) => Poll::Ready(Err(AcceptError::TimedOut)),
            (Phase::Established, _) => Poll::Ready(Ok(())),
            (Phase::Handshake, _) => {
                inner.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            // It may be over already and have data.
            (Phase::Over, _) => match inner.endpoint.as_mut().map(|it| it.socket().can_recv()) {
                Some(true) => Poll::Ready(Ok(())),
                _ => Poll::Ready(Err(AcceptError::GivenUp)),
            },
        }
    }

    /// Hands what the guest sent to `take`, which says how much of it it took.
    pub(super) fn poll_take(
        self: &Arc<Self>,
        cx: &Context<'_>,
        take: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> Step {
        let mut inner = self.inner();
        let (failure, end) = (failure(&inner), inner.end);
        let Some(endpoint) = &mut inner.endpoint else {
            return Poll::Ready(Err(failure));
        };
        let socket = endpoint.socket();
        if !socket.can_recv() {
            if socket.may_recv() && end.is_none() {
                inner.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            return match (end, socket.peek(1)) {
                (None, Err(RecvError::Finished)) => Poll::Ready(Ok(0)),
                _ => Poll::Ready(Err(failure)),
            };
        }
        let taken = socket.recv(|bytes| match take(bytes) {
            Ok(taken) => (taken.min(bytes.len()), Ok(taken)),
            Err(error) => (0, Err(error)),
        });
        inner.active = Instant::now();
        // The guest may send more now.
        self.serve(&mut inner);
        Poll::Ready(taken.unwrap_or(Err(failure)))
    }

    /// Has `fill` write what goes to the guest, and say how much that is.
    pub(super) fn poll_fill(
        self: &Arc<Self>,
        cx: &Context<'_>,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> Step {
        let mut inner = self.inner();
        let (failure, end) = (failure(&inner), inner.end);
        if inner.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let Some(endpoint) = &mut inner.endpoint else {
            return Poll::Ready(Err(failure));
        };
        let socket = endpoint.socket();
        if !socket.can_send() {
            if socket.may_send() && end.is_none() {
                inner.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            return Poll::Ready(Err(failure));
        }
        let filled = socket.send(|room| match fill(room) {
            Ok(filled) => (filled.min(room.len()), Ok(filled)),
            Err(error) => (0, Err(error)),
        });
        inner.active = Instant::now();
        self.serve(&mut inner);
        Poll::Ready(filled.unwrap_or(Err(failure)))
    }

    /// Ends the direction to the guest once all was sent.
    pub(super) fn finish(self: &Arc<Self>) {
        let mut inner = self.inner();
        if !std::mem::replace(&mut inner.finished, true) {
            if let Some(endpoint) = &mut inner.endpoint {
                endpoint.socket().close();
            }
            self.serve(&mut inner);
        }
    }

    /// The holder leaves: in order when both directions are ended or ending, else by a reset.
    pub(super) fn leave(self: &Arc<Self>, abort: bool) {
        let mut inner = self.inner();
        let orderly = inner.finished && !abort;
        inner.left = Some(Instant::now());
        inner.reader = None;
        inner.writer = None;
        if let Some(endpoint) = &mut inner.endpoint
            && !orderly
        {
            endpoint.socket().abort();
        }
        self.serve(&mut inner);
    }

    /// There is nobody at the other end any more.
    pub(super) fn machine_gone(self: &Arc<Self>) {
        let mut inner = self.inner();
        inner.end.get_or_insert(End::Gone);
        inner.phase = Phase::Over;
        self.wake(&mut inner);
        self.schedule(&mut inner, Instant::now());
    }
}

fn wake(waiting: &mut Option<Waker>) {
    if let Some(waiting) = waiting.take() {
        waiting.wake();
    }
}

fn failure(inner: &Inner) -> io::Error {
    let (kind, why) = match inner.end {
        Some(End::Gone) => (io::ErrorKind::ConnectionAborted, "the sandbox is gone"),
        Some(End::Idle) => (io::ErrorKind::TimedOut, "nothing was carried for too long"),
        Some(End::Late) => (
            io::ErrorKind::TimedOut,
            "the sandbox did not answer in time",
        ),
        None => (
            io::ErrorKind::ConnectionReset,
            "the sandbox reset the connection",
        ),
    };
    io::Error::new(kind, why)
}

impl Drop for Connection {
    fn drop(&mut self) {
        let inner = self
            .inner
            .get_mut()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(endpoint) = inner.endpoint.take() {
            self.shared.return_endpoint(endpoint);
        }
    }
}
