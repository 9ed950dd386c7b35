//! What Prometheus can scrape of the supervisor, and the listener that it scrapes.
//!
//! Prefix `mayfly_`, base units; label names are those of ARC's `gha_*` metrics, so that its dashboards port:
//! `name` is the pool, as it is the runner scale set there. Gauges are read from the supervisor's state when
//! they are asked for, counters and histograms from what it tells its observers. docs/metrics.md is the reference,
//! made from [`Metrics::families`].

mod bound;
mod family;
mod listener;
mod observer;
mod process;
mod set;
#[cfg(test)]
mod tests;
mod view;

use std::{
    fmt::Write,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{Registry, TextEncoder};

pub use bound::OTHER;
pub use family::{Family, Kind};
pub use listener::{ListenError, Listener};

use crate::{
    github::rest::Scope,
    supervisor::state::{PoolView, StateView},
};
use bound::{SeriesBound, value};
use family::Registrar;
use observer::result_of;
use process::ProcessMetrics;
use set::{GitHubSet, JobSet, OwnSet, PoolSet, WorkerSet};

/// Most different jobs (by repository, name, event and workflow) that have series of their own.
const MOST_JOBS: usize = 500;
/// Most different pairs of endpoint and kind of failure.
const MOST_ERRORS: usize = 200;

/// Whose runners these are, as label values; what the scope does not name is empty.
#[derive(Clone, Debug, Default)]
struct Owner {
    enterprise: String,
    organization: String,
    repository: String,
}

impl Owner {
    fn of(scope: &Scope) -> Self {
        match scope {
            Scope::Repository { owner, name } => Self {
                organization: value(owner),
                repository: value(name),
                ..Self::default()
            },
            Scope::Organization(name) => Self {
                organization: value(name),
                ..Self::default()
            },
            Scope::Enterprise(name) => Self {
                enterprise: value(name),
                ..Self::default()
            },
        }
    }
}

/// All metrics of a supervisor.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Vec<Family>,
    owner: Owner,
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
    pub fn new(scope: &Scope) -> Arc<Self> {
        let mut to = Registrar::default();
        let own = OwnSet::new(&mut to);
        let pools = PoolSet::new(&mut to);
        let work = WorkerSet::new(&mut to);
        let jobs = JobSet::new(&mut to);
        let github = GitHubSet::new(&mut to);
        let process = ProcessMetrics::new(&mut to);
        let (registry, families) = to.finish();
        let build = [env!("CARGO_PKG_VERSION"), std::env::consts::ARCH];
        own.build.with_label_values(&build).set(1);
        for ok in [true, false] {
            own.reloads.with_label_values(&[result_of(ok)]);
        }
        Arc::new(Self {
            registry,
            families,
            owner: Owner::of(scope),
            job_bound: SeriesBound::new(MOST_JOBS),
            error_bound: SeriesBound::new(MOST_ERRORS),
            scraping: Mutex::default(),
            process,
            own,
            pools,
            work,
            jobs,
            github,
        })
    }

    /// What each metric is called, means and is labelled with.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// All of them in Prometheus' text format, with gauges as `view` has them.
    ///
    /// # Errors
    /// The encoder's, which would be a fault of this room.
    pub fn text(&self, view: &StateView) -> Result<String, prometheus::Error> {
        let _one = self.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        self.process.refresh();
        self.show(view, &lacking(view));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// The reference as a table of Markdown.
    #[must_use]
    pub fn reference(&self) -> String {
        let mut table = "| metric | kind | labels | what it says |\n|---|---|---|---|\n".to_owned();
        for family in &self.families {
            let labels: Vec<String> = family.labels.iter().map(|l| format!("`{l}`")).collect();
            let (name, kind) = (family.name, family.kind.as_str());
            let labels = labels.join(", ");
            // Writing to a String cannot fail.
            writeln!(table, "| `{name}` | {kind} | {labels} | {} |", family.help).ok();
        }
        table
    }
}

/// What keeps the supervisor from taking jobs, a line each; nothing when it is ready: GitHub answers, at least
/// one pool has its image and snapshot, and nobody told it to end.
#[must_use]
pub fn lacking(view: &StateView) -> Vec<String> {
    let mut lacking = Vec::new();
    if view.draining {
        lacking.push("new jobs: told to end; running jobs finish".to_owned());
    }
    match (view.github.ok, &view.github.error) {
        (Some(true), _) => {}
        (None, _) => lacking.push("github: no answer yet".to_owned()),
        (Some(false), error) => {
            let why = error.as_deref().unwrap_or("the last call failed");
            lacking.push(format!("github: {why}"));
        }
    }
    let serves = |pool: &PoolView| pool.ready && pool.error.is_none();
    if !view.pools.iter().any(serves) {
        lacking.extend(view.pools.iter().map(|pool| {
            let why = pool
                .error
                .as_deref()
                .unwrap_or("its snapshot is not ready yet");
            format!("pool {}: {why}", pool.name)
        }));
    }
    lacking
}
