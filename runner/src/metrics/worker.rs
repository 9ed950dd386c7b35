//! The part of one worker in the metrics: from its start to its end, whatever end that is.

use std::{sync::Arc, time::Instant};

use super::{Metrics, bound};
use crate::notice::{JobNames, Notice};

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// Was started; has no session at GitHub yet.
    Starting,
    /// Waits for a job.
    Idle,
    /// Has a job.
    Busy,
    /// Its job is over; it cleans up.
    Ending,
}

impl WorkerState {
    /// All, in the order of a life.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Idle, Self::Busy, Self::Ending];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Ending => "ending",
        }
    }
}

/// How a worker's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerExit {
    /// After its job, or because it was told to stop before one came.
    Clean,
    /// With an error of its own.
    Error,
    /// By a signal.
    Killed,
}

impl WorkerExit {
    /// All.
    pub const ALL: [Self; 3] = [Self::Clean, Self::Error, Self::Killed];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Error => "error",
            Self::Killed => "killed",
        }
    }
}

/// One worker. What it counts as present is given back when this is dropped, and a job that was not
/// over then counts as `abandoned`.
#[derive(Debug)]
pub struct WorkerMetrics {
    metrics: Arc<Metrics>,
    pool: String,
    state: WorkerState,
    sandboxes: i64,
    job: Option<(JobNames, Instant)>,
}

impl WorkerMetrics {
    pub(super) fn new(metrics: Arc<Metrics>, pool: &str) -> Self {
        let new = Self {
            metrics,
            pool: pool.to_owned(),
            state: WorkerState::Starting,
            sandboxes: 0,
            job: None,
        };
        new.count(WorkerState::Starting, 1);
        new
    }

    /// What the worker said.
    pub fn on_notice(&mut self, notice: &Notice) {
        let metrics = Arc::clone(&self.metrics);
        let pool = self.pool.as_str();
        match notice {
            Notice::Listening => self.enter(WorkerState::Idle),
            Notice::Job(names) => self.begin(names),
            Notice::Phase { phase, seconds } => metrics.phase(pool, *phase, *seconds),
            Notice::Sandbox { .. } => {
                self.sandboxes += 1;
                metrics.sandbox_restored(pool);
            }
            Notice::Renewal { ok } => metrics.renewal(pool, *ok),
            Notice::ProtocolError { endpoint, kind } => metrics.protocol_error(endpoint, kind),
            Notice::PinViolation { kind } => metrics.pin_violation(pool, kind),
            Notice::Egress {
                verdict,
                connections,
                sent,
                received,
            } => metrics.egress(pool, verdict, *connections, *sent, *received),
            Notice::Ended { result } => {
                self.end(result);
                self.enter(WorkerState::Ending);
            }
        }
    }

    /// The worker's process is gone.
    pub fn exited(&self, how: WorkerExit) {
        self.metrics.worker_exited(&self.pool, how);
    }

    /// What it does, as far as it said.
    #[must_use]
    pub fn state(&self) -> WorkerState {
        self.state
    }

    fn begin(&mut self, names: &JobNames) {
        // A worker has one job in its life; a second one would be a fault of its own.
        if self.job.is_none() {
            self.metrics.job_started(&self.pool, names);
            self.job = Some((names.clone(), Instant::now()));
        }
        self.enter(WorkerState::Busy);
    }

    fn end(&mut self, result: &str) {
        if let Some((names, since)) = self.job.take() {
            let took = since.elapsed();
            self.metrics.job_completed(&self.pool, &names, result, took);
        }
    }

    fn enter(&mut self, state: WorkerState) {
        self.count(self.state, -1);
        self.count(state, 1);
        self.state = state;
    }

    fn count(&self, state: WorkerState, by: i64) {
        let labels = [bound::value(&self.pool), state.as_str().to_owned()];
        self.metrics.work.workers.with_label_values(&labels).add(by);
    }
}

impl Drop for WorkerMetrics {
    fn drop(&mut self) {
        self.end("abandoned");
        self.count(self.state, -1);
        self.metrics.sandboxes_gone(&self.pool, self.sandboxes);
    }
}
