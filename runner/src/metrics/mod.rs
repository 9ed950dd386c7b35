//! What Prometheus can scrape of the supervisor, and the listener that it scrapes.
//!
//! Prefix `mayfly_`, base units; label names are those of ARC's `gha_*` metrics, so that its dashboards port:
//! `name` is the pool, as it is the runner scale set there. [`Metrics::families`] is the reference.

mod bound;
mod family;
mod listener;
mod process;
mod readiness;
mod set;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus::{IntGaugeVec, Registry, TextEncoder, core::Collector};

pub use bound::OTHER;
pub use family::{Family, Kind};
pub use listener::{DEFAULT_LISTEN, ListenError, Listener};
pub use readiness::{GITHUB, NOT_DRAINING, Readiness};
pub use worker::{WorkerExit, WorkerMetrics, WorkerState};

use crate::notice::{JobNames, Phase};
use bound::{SeriesBound, one_of, value};
use family::Registrar;
use process::ProcessMetrics;
use set::{GitHubSet, JobSet, OwnSet, PoolSet, WorkerSet};

/// Results of a job, as GitHub names them; anything else is `other`.
const RESULTS: &[&str] = &["succeeded", "failed", "canceled", "skipped", "abandoned"];
/// Kinds of pin violations.
const PIN_KINDS: &[&str] = &["unpinned", "moved", "mismatch"];
/// Verdicts of an egress policy.
const VERDICTS: &[&str] = &["allow", "deny"];

/// Most different jobs (by repository, name, event and workflow) that have series of their own.
const MOST_JOBS: usize = 500;
/// Most different pairs of endpoint and kind of failure.
const MOST_ERRORS: usize = 200;

/// Whose runners these are: the labels that are the same on all of a supervisor's pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The enterprise, if the scope is one.
    pub enterprise: String,
    /// The organisation or owner; empty in the scope of an enterprise.
    pub organization: String,
    /// The repository without its owner; empty in wider scopes.
    pub repository: String,
}

/// What the configuration says of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolFacts {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Most workers at the same time.
    pub capacity: u64,
    /// Idle workers that are kept.
    pub idle_wanted: u64,
}

/// How much of GitHub's API is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests in a window.
    pub limit: u64,
    /// Requests left in this window.
    pub remaining: u64,
    /// When the next window begins, in seconds since 1970.
    pub reset: u64,
}

/// Jobs at GitHub that are meant for a pool: what a runner scale set's statistics say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Jobs that wait for a runner of this pool or run on one.
    pub jobs: u64,
    /// Runners that GitHub knows of.
    pub registered: u64,
}

/// All metrics of a supervisor.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Vec<Family>,
    readiness: Readiness,
    scope: Scope,
    job_bound: SeriesBound,
    error_bound: SeriesBound,
    scraping: Mutex<()>,
    process: ProcessMetrics,
    own: OwnSet,
    pools: PoolSet,
    work: WorkerSet,
    jobs: JobSet,
    github: GitHubSet,
}

impl Metrics {
    /// All metrics of a supervisor for the runners of `scope`, at their start.
    #[must_use]
    pub fn new(scope: Scope) -> Arc<Self> {
        let mut to = Registrar::default();
        let own = OwnSet::new(&mut to);
        let pools = PoolSet::new(&mut to);
        let work = WorkerSet::new(&mut to);
        let jobs = JobSet::new(&mut to);
        let github = GitHubSet::new(&mut to);
        let process = ProcessMetrics::new(&mut to);
        let (registry, families) = to.finish();
        let new = Self {
            registry,
            families,
            readiness: Readiness::default(),
            scope,
            job_bound: SeriesBound::new(MOST_JOBS),
            error_bound: SeriesBound::new(MOST_ERRORS),
            scraping: Mutex::default(),
            process,
            own,
            pools,
            work,
            jobs,
            github,
        };
        let build = [env!("CARGO_PKG_VERSION"), std::env::consts::ARCH];
        new.own.build.with_label_values(&build).set(1);
        new.draining(false);
        for ok in [true, false] {
            new.own.reloads.with_label_values(&[result_of(ok)]);
        }
        Arc::new(new)
    }

    /// What lacks for jobs; `/readyz` and `mayfly_ready` tell it.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// What each metric is called, means and is labelled with.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// All of them in Prometheus' text format.
    ///
    /// # Errors
    /// The encoder's, which would be a fault of this room.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let _one = self.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        self.process.refresh();
        let ready = i64::from(self.readiness.lacking().is_empty());
        single(&self.own.ready).set(ready);
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// A pool is there, or its configuration changed. What is counted for it begins at 0, so that the first
    /// of a kind is seen as an increase.
    pub fn pool(&self, facts: &PoolFacts) {
        let name = value(&facts.name);
        self.forget_info(&name);
        let scope = &self.scope;
        let labels = [
            &facts.image,
            &scope.repository,
            &scope.organization,
            &scope.enterprise,
        ];
        let [image, repository, organization, enterprise] = labels.map(|label| value(label));
        let info = [name.clone(), image, repository, organization, enterprise];
        self.pools.info.with_label_values(&info).set(1);
        let name = name.as_str();
        gauge(&self.pools.capacity, name).set(saturated(facts.capacity));
        gauge(&self.pools.idle_wanted, name).set(saturated(facts.idle_wanted));
        self.begin_at_zero(name);
    }

    /// A pool is configured no more. What was counted for it stays.
    pub fn pool_gone(&self, pool: &str) {
        let pool = value(pool);
        self.forget_info(&pool);
        for gauge in [
            &self.pools.capacity,
            &self.pools.idle_wanted,
            &self.pools.assigned_jobs,
            &self.pools.registered_runners,
        ] {
            // There may be none: nobody has asked for it then.
            gauge.remove_label_values(&[&pool]).ok();
        }
        self.pools
            .snapshot_created
            .remove_label_values(&[&pool])
            .ok();
    }

    /// The snapshot that a pool's sandboxes are restored from was made at `at`.
    pub fn snapshot(&self, pool: &str, at: SystemTime) {
        let labels = [value(pool)];
        let seconds = since_1970(at);
        self.pools
            .snapshot_created
            .with_label_values(&labels)
            .set(seconds);
    }

    /// What GitHub says of a pool.
    pub fn assigned(&self, pool: &str, assigned: Assigned) {
        let pool = value(pool);
        gauge(&self.pools.assigned_jobs, &pool).set(saturated(assigned.jobs));
        gauge(&self.pools.registered_runners, &pool).set(saturated(assigned.registered));
    }

    /// A worker was started for a pool.
    #[must_use]
    pub fn worker(self: &Arc<Self>, pool: &str) -> WorkerMetrics {
        self.work.starts.with_label_values(&[value(pool)]).inc();
        WorkerMetrics::new(Arc::clone(self), pool)
    }

    /// A call to GitHub failed: the endpoint by its name in the protocol, and the kind of failure.
    pub fn protocol_error(&self, endpoint: &str, kind: &str) {
        let labels = self.error_bound.admit([endpoint, kind]);
        self.github.errors.with_label_values(&labels).inc();
    }

    /// GitHub answered.
    pub fn github_answered(&self) {
        self.readiness.has(GITHUB);
        let now = since_1970(SystemTime::now());
        self.github.contact.with_label_values::<&str>(&[]).set(now);
    }

    /// GitHub said how much of its API is left.
    pub fn rate_limit(&self, left: RateLimit) {
        single(&self.github.limit).set(saturated(left.limit));
        single(&self.github.remaining).set(saturated(left.remaining));
        let reset = left.reset as f64;
        self.github.reset.with_label_values::<&str>(&[]).set(reset);
    }

    /// Whether the supervisor takes no new jobs because it is to end.
    pub fn draining(&self, draining: bool) {
        single(&self.own.draining).set(i64::from(draining));
        if draining {
            self.readiness
                .lacks(NOT_DRAINING, "told to end, running jobs finish");
        } else {
            self.readiness.has(NOT_DRAINING);
        }
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

    fn phase(&self, pool: &str, phase: Phase, seconds: f64) {
        if seconds.is_finite() && seconds >= 0.0 {
            let labels = [value(pool), phase_name(phase).to_owned()];
            self.jobs.phases.with_label_values(&labels).observe(seconds);
        }
    }

    fn job_started(&self, pool: &str, names: &JobNames) {
        let labels = self.job_labels(pool, names);
        self.jobs.started.with_label_values(&labels).inc();
    }

    fn job_completed(&self, pool: &str, names: &JobNames, result: &str, took: Duration) {
        let result = one_of(result, RESULTS).to_owned();
        let [
            name,
            repository,
            organization,
            enterprise,
            job,
            event,
            workflow,
        ] = self.job_labels(pool, names);
        let labels = [
            name.clone(),
            repository,
            organization,
            enterprise,
            job,
            event,
            workflow,
            result.clone(),
        ];
        self.jobs.completed.with_label_values(&labels).inc();
        let histogram = self.jobs.execution.with_label_values(&[name, result]);
        histogram.observe(took.as_secs_f64());
    }

    /// `name`, `repository`, `organization`, `enterprise`, `job_name`, `event_name`, `job_workflow_ref`.
    fn job_labels(&self, pool: &str, names: &JobNames) -> [String; 7] {
        let whole = names.repository.as_str();
        let (organization, repository) = whole.split_once('/').unwrap_or(("", whole));
        let admitted = self.job_bound.admit([
            repository,
            organization,
            &names.job_name,
            &names.event_name,
            &names.job_workflow_ref,
        ]);
        let [repository, organization, job, event, workflow] = admitted;
        let enterprise = value(&self.scope.enterprise);
        let name = value(pool);
        [
            name,
            repository,
            organization,
            enterprise,
            job,
            event,
            workflow,
        ]
    }

    fn renewal(&self, pool: &str, ok: bool) {
        let labels = [value(pool), result_of(ok).to_owned()];
        self.jobs.renewals.with_label_values(&labels).inc();
    }

    fn pin_violation(&self, pool: &str, kind: &str) {
        let labels = [value(pool), one_of(kind, PIN_KINDS).to_owned()];
        self.work.pin_violations.with_label_values(&labels).inc();
    }

    fn egress(&self, pool: &str, verdict: &str, connections: u64, sent: u64, received: u64) {
        let verdict = one_of(verdict, VERDICTS).to_owned();
        let labels = [value(pool), verdict];
        self.work
            .egress_connections
            .with_label_values(&labels)
            .inc_by(connections);
        for (direction, bytes) in [("sent", sent), ("received", received)] {
            let [pool, verdict] = labels.clone();
            let labels = [pool, verdict, direction.to_owned()];
            self.work
                .egress_bytes
                .with_label_values(&labels)
                .inc_by(bytes);
        }
    }

    fn sandbox_restored(&self, pool: &str) {
        gauge(&self.work.sandboxes, &value(pool)).inc();
        let labels = [value(pool)];
        self.work.restored.with_label_values(&labels).inc();
    }

    fn sandboxes_gone(&self, pool: &str, number: i64) {
        gauge(&self.work.sandboxes, &value(pool)).sub(number);
    }

    fn worker_exited(&self, pool: &str, how: WorkerExit) {
        let labels = [value(pool), how.as_str().to_owned()];
        self.work.exits.with_label_values(&labels).inc();
    }

    fn begin_at_zero(&self, pool: &str) {
        for state in WorkerState::ALL {
            self.work.workers.with_label_values(&[pool, state.as_str()]);
        }
        for how in WorkerExit::ALL {
            self.work.exits.with_label_values(&[pool, how.as_str()]);
        }
        for kind in PIN_KINDS {
            self.work.pin_violations.with_label_values(&[pool, kind]);
        }
        for ok in [true, false] {
            self.jobs.renewals.with_label_values(&[pool, result_of(ok)]);
        }
        gauge(&self.work.sandboxes, pool);
        for counter in [&self.work.starts, &self.work.restored] {
            counter.with_label_values(&[pool]);
        }
    }

    /// Takes the line of a pool out of `mayfly_pool_info`, whatever image it named.
    fn forget_info(&self, pool: &str) {
        for family in self.pools.info.collect() {
            for metric in family.get_metric() {
                let pairs = metric.get_label();
                let of = |name: &str| {
                    let pair = pairs.iter().find(|pair| pair.name() == name);
                    pair.map(|pair| pair.value().to_owned()).unwrap_or_default()
                };
                if of("name") == pool {
                    self.pools
                        .info
                        .remove_label_values(&set::POOL_INFO.map(of))
                        .ok();
                }
            }
        }
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

fn result_of(ok: bool) -> &'static str {
    if ok { "ok" } else { "failed" }
}

fn single(gauge: &IntGaugeVec) -> prometheus::IntGauge {
    gauge.with_label_values::<&str>(&[])
}

fn gauge(gauges: &IntGaugeVec, pool: &str) -> prometheus::IntGauge {
    gauges.with_label_values(&[pool])
}

fn saturated(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn since_1970(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
