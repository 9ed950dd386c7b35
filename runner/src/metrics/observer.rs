//! Counters and histograms: each thing that happens, when it happens.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Metrics, bound::value};
use crate::{
    notice::{JobNames, Notice, Phase},
    supervisor::state::{Happening, JobView, Observer, WorkerView},
};

use super::bound::one_of;

/// Results of a job, as GitHub names them, and `lost`; anything else is `other`.
const RESULTS: &[&str] = &["succeeded", "failed", "canceled", "skipped", "lost"];
/// Kinds of pin violations.
pub(super) const PIN_KINDS: &[&str] = &["unpinned", "moved", "mismatch"];
/// Verdicts of an egress policy.
const VERDICTS: &[&str] = &["allow", "deny"];

impl Metrics {
    /// Counts what the supervisor tells it.
    #[must_use]
    pub fn observer(self: &Arc<Self>) -> Observer {
        let metrics = Arc::clone(self);
        Box::new(move |happening| metrics.count(happening))
    }

    /// The configuration was read again.
    pub fn reloaded(&self, ok: bool) {
        self.own.reloads.with_label_values(&[result_of(ok)]).inc();
    }

    /// Runners that an earlier supervisor left at GitHub were removed.
    pub fn orphans_removed(&self, pool: &str, number: u64) {
        let counter = self.pools.orphans.with_label_values(&[value(pool)]);
        counter.inc_by(number);
    }

    fn count(&self, happening: &Happening<'_>) {
        match happening {
            Happening::Started(worker) if worker.adopted => {}
            Happening::Started(worker) => {
                let pool = [value(&worker.pool)];
                self.work.starts.with_label_values(&pool).inc();
            }
            Happening::Told(worker, notice) => self.told(worker, notice),
            Happening::Gone { worker, job, end } => self.gone(worker, *job, *end),
            Happening::Call { failure: None, .. } => {
                let now = Timestamp::now().as_second() as f64;
                self.github.contact.with_label_values::<&str>(&[]).set(now);
            }
            Happening::Call {
                endpoint,
                failure: Some(kind),
            } => self.protocol_error(endpoint, kind),
            Happening::Queued { pool, seconds } => {
                self.phase(value(pool), Phase::Queue, *seconds);
            }
            // Read from the state when it is asked for.
            Happening::RateLimit(_) => {}
            Happening::OrphanRemoved(pool) => self.orphans_removed(pool, 1),
            Happening::Reloaded(ok) => self.reloaded(*ok),
        }
    }

    fn told(&self, worker: &WorkerView, notice: &Notice) {
        let pool = value(&worker.pool);
        match notice {
            Notice::Listening => {}
            Notice::Job(names) => {
                let labels = self.job_labels(&pool, names);
                self.jobs.started.with_label_values(&labels).inc();
            }
            Notice::Phase { phase, seconds } => self.phase(pool, *phase, *seconds),
            Notice::Sandbox { .. } => self.work.restored.with_label_values(&[pool]).inc(),
            Notice::Renewal { ok } => {
                let labels = [pool, result_of(*ok).to_owned()];
                self.jobs.renewals.with_label_values(&labels).inc();
            }
            Notice::ProtocolError { endpoint, kind } => self.protocol_error(endpoint, kind),
            Notice::PinViolation { kind } => {
                let labels = [pool, one_of(kind, PIN_KINDS).to_owned()];
                self.work.pin_violations.with_label_values(&labels).inc();
            }
            Notice::Egress {
                verdict,
                connections,
                sent,
                received,
            } => self.egress(&pool, verdict, *connections, [*sent, *received]),
            // Counted when the worker is gone, with those that never told a result.
            Notice::Ended { .. } => {}
        }
    }

    fn gone(&self, worker: &WorkerView, job: Option<&JobView>, end: Option<&str>) {
        let pool = value(&worker.pool);
        let labels = [pool.as_str(), end_of(end)];
        self.work.exits.with_label_values(&labels).inc();
        let Some(job) = job else { return };
        let result = one_of(&job.result, RESULTS);
        let [
            name,
            repository,
            organization,
            enterprise,
            job_name,
            event,
            workflow,
        ] = self.job_labels(&pool, &job.job);
        let names = [
            name,
            repository,
            organization,
            enterprise,
            job_name,
            event,
            workflow,
        ];
        let labels: Vec<&str> = names.iter().map(String::as_str).chain([result]).collect();
        self.jobs.completed.with_label_values(&labels).inc();
        let took = job.ended.duration_since(job.started).as_secs_f64();
        let histogram = self
            .jobs
            .execution
            .with_label_values(&[pool.as_str(), result]);
        histogram.observe(took.max(0.0));
    }

    fn protocol_error(&self, endpoint: &str, kind: &str) {
        let labels = self.error_bound.admit([endpoint, kind]);
        self.github.errors.with_label_values(&labels).inc();
    }

    fn phase(&self, pool: String, phase: Phase, seconds: f64) {
        if seconds.is_finite() && seconds >= 0.0 {
            let labels = [pool, phase_name(phase).to_owned()];
            self.jobs.phases.with_label_values(&labels).observe(seconds);
        }
    }

    /// `name`, `repository`, `organization`, `enterprise`, `job_name`, `event_name`, `job_workflow_ref`.
    fn job_labels(&self, pool: &str, names: &JobNames) -> [String; 7] {
        let whole = names.repository.as_str();
        let (organization, repository) = whole.split_once('/').unwrap_or(("", whole));
        let [repository, organization, job, event, workflow] = self.job_bound.admit([
            repository,
            organization,
            &names.job_name,
            &names.event_name,
            &names.job_workflow_ref,
        ]);
        let enterprise = self.owner.enterprise.clone();
        [
            pool.to_owned(),
            repository,
            organization,
            enterprise,
            job,
            event,
            workflow,
        ]
    }

    fn egress(&self, pool: &str, verdict: &str, connections: u64, bytes: [u64; 2]) {
        let verdict = one_of(verdict, VERDICTS);
        let counter = &self.work.egress_connections;
        counter
            .with_label_values(&[pool, verdict])
            .inc_by(connections);
        for (direction, bytes) in ["sent", "received"].into_iter().zip(bytes) {
            let counter = &self.work.egress_bytes;
            counter
                .with_label_values(&[pool, verdict, direction])
                .inc_by(bytes);
        }
    }

    /// What is counted for a pool begins at 0, so that the first of a kind is seen as an increase.
    pub(super) fn begin_at_zero(&self, pool: &str) {
        for end in ENDS {
            self.work.exits.with_label_values(&[pool, end]);
        }
        for result in RESULTS {
            self.jobs.execution.with_label_values(&[pool, result]);
        }
        for kind in PIN_KINDS {
            self.work.pin_violations.with_label_values(&[pool, kind]);
        }
        for ok in [true, false] {
            self.jobs.renewals.with_label_values(&[pool, result_of(ok)]);
        }
        for counter in [&self.work.starts, &self.work.restored, &self.pools.orphans] {
            counter.with_label_values(&[pool]);
        }
    }
}

/// How a worker's process can end.
const ENDS: [&str; 4] = ["clean", "error", "killed", "unknown"];

/// The kind of an end that is told in words.
fn end_of(words: Option<&str>) -> &'static str {
    match words {
        None => "unknown",
        Some(words) if words.contains("signal") => "killed",
        Some("exit code 0" | "exit status: 0") => "clean",
        Some(_) => "error",
    }
}

/// The phase as its label's value.
fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Queue => "queue",
        Phase::Acquire => "acquire",
        Phase::Restore => "restore",
        Phase::Identity => "identity",
        Phase::FirstStep => "first_step",
        Phase::Run => "run",
        Phase::Report => "report",
    }
}

pub(super) fn result_of(ok: bool) -> &'static str {
    if ok { "ok" } else { "failed" }
}
