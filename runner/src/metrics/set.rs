//! The set of metrics: name, meaning and labels of each, and the bounds of the histograms.

use prometheus::{GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec};

use super::family::Registrar;

const NONE: &[&str] = &[];
const POOL: &[&str] = &["name"];
const POOL_INFO: &[&str] = &[
    "name",
    "mode",
    "image",
    "repository",
    "organization",
    "enterprise",
];
/// As in `gha_started_jobs_total`.
const JOB: &[&str] = &[
    "name",
    "repository",
    "organization",
    "enterprise",
    "job_name",
    "event_name",
    "job_workflow_ref",
];
/// As in `gha_completed_jobs_total`.
const COMPLETED: &[&str] = &[
    "name",
    "repository",
    "organization",
    "enterprise",
    "job_name",
    "event_name",
    "job_workflow_ref",
    "job_result",
];

/// Upper bounds in seconds: from a restore on bare metal to a job of six hours.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0,
];

/// The supervisor.
#[derive(Debug)]
pub(super) struct OwnSet {
    pub(super) build: IntGaugeVec,
    pub(super) ready: IntGaugeVec,
    pub(super) draining: IntGaugeVec,
    pub(super) reloads: IntCounterVec,
    pub(super) protocol: IntGaugeVec,
}

impl OwnSet {
    pub(super) fn new(to: &mut Registrar) -> Self {
        Self {
            build: to.gauge(
                "mayfly_build_info",
                "1, with the supervisor's version and the CPU it was built for.",
                &["version", "arch"],
            ),
            ready: to.gauge(
                "mayfly_ready",
                "1 if the supervisor can take jobs; /readyz tells what lacks.",
                NONE,
            ),
            draining: to.gauge(
                "mayfly_draining",
                "1 while the supervisor takes no new jobs because it was told to end.",
                NONE,
            ),
            reloads: to.counter(
                "mayfly_config_reloads_total",
                "Times the configuration was read again, by result (ok, failed).",
                &["result"],
            ),
            protocol: to.gauge(
                "mayfly_protocol_info",
                "1, with the version of actions/runner whose protocol level is reported.",
                &["runner_version"],
            ),
        }
    }
}

/// Pools, as configured and as GitHub sees them.
#[derive(Debug)]
pub(super) struct PoolSet {
    pub(super) info: IntGaugeVec,
    pub(super) ready: IntGaugeVec,
    pub(super) capacity: IntGaugeVec,
    pub(super) idle_wanted: IntGaugeVec,
    pub(super) desired: IntGaugeVec,
    pub(super) assigned: IntGaugeVec,
    pub(super) snapshot_created: GaugeVec,
    pub(super) orphans: IntCounterVec,
}

impl PoolSet {
    pub(super) fn new(to: &mut Registrar) -> Self {
        Self {
            info: to.gauge(
                "mayfly_pool_info",
                "1 for each configured pool, with its image and whose runners they are.",
                POOL_INFO,
            ),
            ready: to.gauge(
                "mayfly_pool_ready",
                "1 if the pool has its image and snapshot and nothing keeps it from taking jobs.",
                POOL,
            ),
            capacity: to.gauge(
                "mayfly_pool_capacity",
                "Most workers of the pool at the same time, as configured.",
                POOL,
            ),
            idle_wanted: to.gauge(
                "mayfly_pool_idle_wanted",
                "Idle workers that the pool keeps, as configured.",
                POOL,
            ),
            desired: to.gauge(
                "mayfly_desired_workers",
                "Workers that the pool wants now.",
                POOL,
            ),
            assigned: to.gauge(
                "mayfly_assigned_jobs",
                "Jobs that GitHub assigned to the pool, waiting or running (runner scale sets only).",
                POOL,
            ),
            snapshot_created: to.gauge_f64(
                "mayfly_snapshot_created_timestamp_seconds",
                "When the pool's snapshot was made, in seconds since 1970; its age is time() minus this.",
                POOL,
            ),
            orphans: to.counter(
                "mayfly_orphaned_runners_removed_total",
                "Runners of an earlier supervisor that were removed at GitHub.",
                POOL,
            ),
        }
    }

    /// Takes the series of all pools out.
    pub(super) fn reset(&self) {
        for gauge in [
            &self.info,
            &self.ready,
            &self.capacity,
            &self.idle_wanted,
            &self.desired,
            &self.assigned,
        ] {
            gauge.reset();
        }
        self.snapshot_created.reset();
    }
}

/// Workers and their sandboxes.
#[derive(Debug)]
pub(super) struct WorkerSet {
    pub(super) workers: IntGaugeVec,
    pub(super) starts: IntCounterVec,
    pub(super) exits: IntCounterVec,
    pub(super) sandboxes: IntGaugeVec,
    pub(super) restored: IntCounterVec,
    pub(super) pin_violations: IntCounterVec,
    pub(super) egress_connections: IntCounterVec,
    pub(super) egress_bytes: IntCounterVec,
}

impl WorkerSet {
    pub(super) fn new(to: &mut Registrar) -> Self {
        Self {
            workers: to.gauge(
                "mayfly_workers",
                "Worker processes by what they do (starting, idle, busy, stopping).",
                &["name", "state"],
            ),
            starts: to.counter("mayfly_worker_starts_total", "Workers started.", POOL),
            exits: to.counter(
                "mayfly_worker_exits_total",
                "Workers that ended, by how (clean, error, killed, unknown).",
                &["name", "reason"],
            ),
            sandboxes: to.gauge("mayfly_sandboxes", "Sandboxes that are there.", POOL),
            restored: to.counter(
                "mayfly_sandboxes_restored_total",
                "Sandboxes restored from the pool's snapshot.",
                POOL,
            ),
            pin_violations: to.counter(
                "mayfly_pin_violations_total",
                "References that were not what the pins say, by kind (unpinned, moved, mismatch).",
                &["name", "kind"],
            ),
            egress_connections: to.counter(
                "mayfly_egress_connections_total",
                "Connections that sandboxes asked for, by verdict (allow, deny).",
                &["name", "verdict"],
            ),
            egress_bytes: to.counter(
                "mayfly_egress_bytes_total",
                "Bytes between sandboxes and the outside, by verdict and direction (sent, received).",
                &["name", "verdict", "direction"],
            ),
        }
    }
}

/// Jobs.
#[derive(Debug)]
pub(super) struct JobSet {
    pub(super) started: IntCounterVec,
    pub(super) completed: IntCounterVec,
    pub(super) execution: HistogramVec,
    pub(super) phases: HistogramVec,
    pub(super) renewals: IntCounterVec,
}

impl JobSet {
    pub(super) fn new(to: &mut Registrar) -> Self {
        Self {
            started: to.counter("mayfly_started_jobs_total", "Jobs that a worker took.", JOB),
            completed: to.counter(
                "mayfly_completed_jobs_total",
                "Jobs that are over, by result; lost: their worker ended before it told one.",
                COMPLETED,
            ),
            execution: to.histogram(
                "mayfly_job_execution_duration_seconds",
                "From a job's arrival at its worker to its end.",
                &["name", "job_result"],
                SECONDS,
            ),
            phases: to.histogram(
                "mayfly_job_phase_duration_seconds",
                "Parts of a job's time: queue, acquire, restore, identity, first_step, run, report.",
                &["name", "phase"],
                SECONDS,
            ),
            renewals: to.counter(
                "mayfly_job_renewals_total",
                "Renewals of jobs' locks, by result (ok, failed).",
                &["name", "result"],
            ),
        }
    }
}

/// GitHub's side.
#[derive(Debug)]
pub(super) struct GitHubSet {
    pub(super) errors: IntCounterVec,
    pub(super) contact: GaugeVec,
    pub(super) limit: IntGaugeVec,
    pub(super) remaining: IntGaugeVec,
    pub(super) reset: GaugeVec,
}

impl GitHubSet {
    pub(super) fn new(to: &mut Registrar) -> Self {
        Self {
            errors: to.counter(
                "mayfly_protocol_errors_total",
                "Calls to GitHub that failed, by endpoint and kind of failure; they may have been repeated.",
                &["endpoint", "kind"],
            ),
            contact: to.gauge_f64(
                "mayfly_github_contact_timestamp_seconds",
                "When GitHub answered the supervisor last, in seconds since 1970.",
                NONE,
            ),
            limit: to.gauge(
                "mayfly_github_rate_limit",
                "Requests to GitHub's API in a window.",
                NONE,
            ),
            remaining: to.gauge(
                "mayfly_github_rate_limit_remaining",
                "Requests to GitHub's API that are left in this window.",
                NONE,
            ),
            reset: to.gauge_f64(
                "mayfly_github_rate_limit_reset_timestamp_seconds",
                "When the next window of GitHub's API begins, in seconds since 1970.",
                NONE,
            ),
        }
    }
}
