//! Stopping a job: a request from outside, or the job's own time limit.

use std::{sync::OnceLock, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Requests the cancellation of the jobs that hold its [`Cancellation`].
#[derive(Debug)]
pub struct Canceller {
    sender: watch::Sender<Option<Request>>,
}

/// A request for cancellation.
#[derive(Debug, Clone, Copy)]
struct Request {
    /// How long the job has to end by itself, where whoever requests it says so.
    grace: Option<Duration>,
}

impl Canceller {
    /// Requests it; a second time changes nothing.
    pub fn cancel(&self) {
        self.request(Request { grace: None });
    }

    /// Requests it and says how long the job has to end by itself; a second time changes nothing.
    pub fn cancel_within(&self, grace: Duration) {
        let grace = Some(grace);
        self.request(Request { grace });
    }

    fn request(&self, request: Request) {
        self.sender.send_if_modified(|requested| {
            let is_first = requested.is_none();
            requested.get_or_insert(request);
            is_first
        });
    }
}

/// A request for cancellation that may come. Clones see the same request.
#[derive(Debug, Clone)]
pub struct Cancellation {
    receiver: watch::Receiver<Option<Request>>,
}

/// A pair: one side requests, the other waits.
#[must_use]
pub fn cancellation() -> (Canceller, Cancellation) {
    let (sender, receiver) = watch::channel(None);
    (Canceller { sender }, Cancellation { receiver })
}

impl Cancellation {
    /// Whether it was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.receiver.borrow().is_some()
    }

    /// How long the job has to end by itself, where the request says so.
    fn grace(&self) -> Option<Duration> {
        self.receiver.borrow().and_then(|request| request.grace)
    }

    /// Returns once it is requested; never if nobody can any more.
    pub async fn requested(&self) {
        let mut receiver = self.receiver.clone();
        if receiver.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// When one job must stop.
#[derive(Debug)]
pub(super) struct JobClock {
    request: Cancellation,
    deadline: Option<Instant>,
    grace: Duration,
    cancelled_at: OnceLock<Instant>,
}

impl JobClock {
    pub(super) fn new(request: Cancellation, timeout: Option<Duration>, grace: Duration) -> Self {
        Self {
            request,
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            grace,
            cancelled_at: OnceLock::new(),
        }
    }

    /// Whether the job is to be cancelled.
    pub(super) fn is_cancelled(&self) -> bool {
        let cancelled = self.request.is_requested() || self.is_out_of_time();
        if cancelled {
            self.cancelled_at.get_or_init(Instant::now);
        }
        cancelled
    }

    /// Whether the job used up its time.
    pub(super) fn is_out_of_time(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Returns once the job is to be cancelled.
    pub(super) async fn cancelled(&self) {
        tokio::select! {
            () = self.request.requested() => {}
            () = until(self.deadline) => {}
        }
        self.cancelled_at.get_or_init(Instant::now);
    }

    /// Returns once the time to end by itself after a cancellation is over.
    pub(super) async fn grace_over(&self) {
        self.cancelled().await;
        let at = *self.cancelled_at.get_or_init(Instant::now);
        until(at.checked_add(self.grace())).await;
    }

    /// How long the job has to end by itself.
    fn grace(&self) -> Duration {
        self.request.grace().unwrap_or(self.grace)
    }

    /// Whether the time to end by itself is over.
    pub(super) fn is_grace_over(&self) -> bool {
        let over = |at: &Instant| Instant::now().duration_since(*at) >= self.grace();
        self.is_cancelled() && self.cancelled_at.get().is_some_and(over)
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
