//! What the supervisor knows: pools, workers, jobs that ended. `mayfly status` shows it, metrics count it.
//!
//! Names, numbers and times only: the supervisor never sees a job message or a secret of one.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    config::Pool,
    github::rest::RateLimit,
    notice::{JobNames, Notice, Phase},
};

/// Jobs that ended and are still shown.
const RECENT: usize = 100;

/// Everything, as `mayfly status --json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateView {
    /// Since when the supervisor runs.
    pub started: Timestamp,
    /// Its process.
    pub pid: u32,
    /// The address of what it serves, like `https://github.com/octo/hello`.
    pub serves: String,
    /// Whether it takes no new jobs because it was told to end.
    pub draining: bool,
    /// Whether GitHub can be talked to.
    pub github: Connection,
    /// Requests that GitHub still allows, as it said last.
    pub rate_limit: Option<RateLimit>,
    /// Version of actions/runner that workers report.
    pub runner_version: Option<String>,
    /// The pools, in the order of the configuration.
    pub pools: Vec<PoolView>,
    /// Workers that live.
    pub workers: Vec<WorkerView>,
    /// Jobs that ended, the newest first.
    pub recent: Vec<JobView>,
}

/// How it stands with GitHub.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Whether the last call was answered as it should be; nothing before the first.
    pub ok: Option<bool>,
    /// Since when that is so.
    pub since: Option<Timestamp>,
    /// What the last failure said, while it lasts.
    pub error: Option<String>,
}

/// A pool and its workers, counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolView {
    /// Its name.
    pub name: String,
    /// `jit` or `scale-set`.
    pub mode: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// Its image.
    pub image: String,
    /// Most workers.
    pub capacity: u32,
    /// Workers that are kept ready.
    pub min_idle: u32,
    /// How many workers are wanted now.
    pub desired: u32,
    /// Workers without a session yet.
    pub starting: u32,
    /// Workers that wait for a job.
    pub idle: u32,
    /// Workers with a job.
    pub busy: u32,
    /// Workers that were told to end.
    pub stopping: u32,
    /// Jobs that GitHub assigned to the scale set, as it said last.
    pub assigned: Option<u32>,
    /// Whether the pool serves; it does not before its snapshot is ready.
    pub ready: bool,
    /// When its snapshot was made.
    pub snapshot_created: Option<Timestamp>,
    /// Why it takes no jobs, if it does not.
    pub error: Option<String>,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It has no session yet.
    Starting,
    /// It waits for its job.
    Idle,
    /// It has a job.
    Busy,
    /// It was told to end.
    Stopping,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its pool.
    pub pool: String,
    /// The name of its runner at GitHub.
    pub runner_name: String,
    /// The number of its runner at GitHub.
    pub runner_id: u64,
    /// Its process.
    pub pid: u32,
    /// What it does.
    pub state: WorkerState,
    /// Since when it lives.
    pub started: Timestamp,
    /// Since when its state is this.
    pub since: Timestamp,
    /// Whether an earlier supervisor started it.
    pub adopted: bool,
    /// The process of its sandbox, once it has one.
    pub vmm: Option<u32>,
    /// Its job, once it has one.
    pub job: Option<JobNames>,
    /// Phases of its job that are over, with their seconds.
    pub phases: Vec<(Phase, f64)>,
    /// The job's result, once GitHub knows it.
    pub result: Option<String>,
}

/// A job that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// Its names.
    pub job: JobNames,
    /// The pool that ran it.
    pub pool: String,
    /// The runner.
    pub runner_name: String,
    /// The worker's process.
    pub pid: u32,
    /// The sandbox's process.
    pub vmm: Option<u32>,
    /// When the worker had it.
    pub started: Timestamp,
    /// When the worker was gone.
    pub ended: Timestamp,
    /// `succeeded`, `failed`, `canceled`, …; `lost` where the worker ended without telling one.
    pub result: String,
    /// Its phases with their seconds.
    pub phases: Vec<(Phase, f64)>,
}

/// Something that happened, for whoever counts.
#[derive(Debug)]
pub enum Happening<'a> {
    /// A worker was started, or taken over from an earlier supervisor.
    Started(&'a WorkerView),
    /// A worker told something.
    Told(&'a WorkerView, &'a Notice),
    /// A worker is gone.
    Gone {
        /// It.
        worker: &'a WorkerView,
        /// Its job, if it had one.
        job: Option<&'a JobView>,
        /// How it ended, in words; nothing where that is not known.
        end: Option<&'a str>,
    },
    /// A call of the supervisor to GitHub was answered, or not.
    Call {
        /// The endpoint: `generate-jitconfig`, `access_tokens`, `sessions`, ….
        endpoint: &'static str,
        /// The kind of its failure; nothing if it succeeded.
        failure: Option<&'static str>,
    },
    /// GitHub said how many requests it still allows.
    RateLimit(RateLimit),
    /// A job of a scale set has its runner.
    Queued {
        /// The pool.
        pool: &'a str,
        /// How long it waited, in seconds.
        seconds: f64,
    },
    /// Runners without workers were removed at GitHub.
    OrphanRemoved(&'a str),
    /// The configuration was read anew, and taken or not.
    Reloaded(bool),
}

/// Is told of all that happens, at once and on the thread where it does: it must not wait.
pub type Observer = Box<dyn Fn(&Happening<'_>) + Send + Sync>;

/// What the supervisor knows, shared by all its tasks.
pub struct State {
    inner: Mutex<Inner>,
    observers: Vec<Observer>,
}

struct Inner {
    started: Timestamp,
    serves: String,
    draining: bool,
    github: Connection,
    rate_limit: Option<RateLimit>,
    runner_version: Option<String>,
    pools: Vec<PoolView>,
    workers: BTreeMap<String, WorkerView>,
    recent: VecDeque<JobView>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl State {
    /// Nothing is known yet but what is served and by which pools.
    #[must_use]
    pub fn new(serves: String, pools: &[Pool], observers: Vec<Observer>) -> Self {
        let inner = Inner {
            started: Timestamp::now(),
            serves,
            draining: false,
            github: Connection::default(),
            rate_limit: None,
            runner_version: None,
            pools: pools.iter().map(pool_view).collect(),
            workers: BTreeMap::new(),
            recent: VecDeque::new(),
        };
        Self {
            inner: Mutex::new(inner),
            observers,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all who want to know.
    pub fn tell(&self, happening: &Happening<'_>) {
        for observer in &self.observers {
            observer(happening);
        }
    }

    /// All of it, as it is now.
    #[must_use]
    pub fn view(&self) -> StateView {
        let inner = self.lock();
        let mut pools = inner.pools.clone();
        for pool in &mut pools {
            for worker in inner.workers.values().filter(|w| w.pool == pool.name) {
                *match worker.state {
                    WorkerState::Starting => &mut pool.starting,
                    WorkerState::Idle => &mut pool.idle,
                    WorkerState::Busy => &mut pool.busy,
                    WorkerState::Stopping => &mut pool.stopping,
                } += 1;
            }
        }
        StateView {
            started: inner.started,
            pid: std::process::id(),
            serves: inner.serves.clone(),
            draining: inner.draining,
            github: inner.github.clone(),
            rate_limit: inner.rate_limit,
            runner_version: inner.runner_version.clone(),
            pools,
            workers: inner.workers.values().cloned().collect(),
            recent: inner.recent.iter().rev().cloned().collect(),
        }
    }

    /// Whether jobs can come: GitHub answers, a pool is ready, and nobody told us to end.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let inner = self.lock();
        let serves = |pool: &PoolView| pool.ready && pool.error.is_none();
        !inner.draining && inner.github.ok == Some(true) && inner.pools.iter().any(serves)
    }

    /// No new jobs from now on.
    pub fn drain(&self) {
        self.lock().draining = true;
    }

    /// Whether it was told to end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.lock().draining
    }

    /// The pools of a new configuration; what is known of those that stay is kept.
    pub fn configure(&self, pools: &[Pool]) {
        let mut inner = self.lock();
        let old = std::mem::take(&mut inner.pools);
        inner.pools = pools
            .iter()
            .map(|pool| {
                let known = old.iter().find(|old| old.name == pool.name);
                PoolView {
                    assigned: known.and_then(|old| old.assigned),
                    ready: known.is_some_and(|old| old.ready),
                    snapshot_created: known.and_then(|old| old.snapshot_created),
                    error: known.and_then(|old| old.error.clone()),
                    ..pool_view(pool)
                }
            })
            .collect();
    }

    /// A pool serves, or does not, and why.
    pub fn serves(&self, name: &str, error: Option<String>) {
        self.pool(name, |pool| {
            pool.ready = pool.ready || error.is_none();
            pool.error = error;
        });
    }

    /// Changes what is known of a pool.
    pub fn pool(&self, name: &str, change: impl FnOnce(&mut PoolView)) {
        if let Some(pool) = self.lock().pools.iter_mut().find(|pool| pool.name == name) {
            change(pool);
        }
    }

    /// The version that workers report.
    pub fn runner_version(&self, version: &str) {
        self.lock().runner_version = Some(version.to_owned());
    }

    /// A call of the supervisor was answered, or failed with this kind and these words.
    pub fn called(&self, endpoint: &'static str, failure: Option<(&'static str, String)>) {
        let kind = failure.as_ref().map(|(kind, _)| *kind);
        {
            let mut inner = self.lock();
            let ok = failure.is_none();
            if inner.github.ok != Some(ok) {
                inner.github.ok = Some(ok);
                inner.github.since = Some(Timestamp::now());
            }
            inner.github.error = failure.map(|(_, words)| words);
        }
        let failure = kind;
        self.tell(&Happening::Call { endpoint, failure });
    }

    /// What GitHub said about the requests it still allows.
    pub fn limited(&self, limit: RateLimit) {
        self.lock().rate_limit = Some(limit);
        self.tell(&Happening::RateLimit(limit));
    }

    /// A worker was started or taken over.
    pub fn started(&self, worker: WorkerView) {
        self.tell(&Happening::Started(&worker));
        self.lock()
            .workers
            .insert(worker.runner_name.clone(), worker);
    }

    /// A worker told something; returns how it stands now.
    pub fn told(&self, runner: &str, notice: &Notice) -> Option<WorkerView> {
        let worker = {
            let mut inner = self.lock();
            let worker = inner.workers.get_mut(runner)?;
            learn(worker, notice);
            worker.clone()
        };
        self.tell(&Happening::Told(&worker, notice));
        Some(worker)
    }

    /// A worker does something else now.
    pub fn worker_state(&self, runner: &str, state: WorkerState) {
        if let Some(worker) = self.lock().workers.get_mut(runner)
            && worker.state != state
        {
            worker.state = state;
            worker.since = Timestamp::now();
        }
    }

    /// A worker is gone; returns it.
    pub fn gone(&self, runner: &str, end: Option<&str>) -> Option<WorkerView> {
        let (worker, job) = {
            let mut inner = self.lock();
            let worker = inner.workers.remove(runner)?;
            let job = ended_job(&worker);
            if let Some(job) = &job {
                inner.recent.push_back(job.clone());
                if inner.recent.len() > RECENT {
                    inner.recent.pop_front();
                }
            }
            (worker, job)
        };
        let job = job.as_ref();
        let worker_ref = &worker;
        self.tell(&Happening::Gone {
            worker: worker_ref,
            job,
            end,
        });
        Some(worker)
    }

    /// Workers of a pool.
    #[must_use]
    pub fn workers_of(&self, pool: &str) -> Vec<WorkerView> {
        let inner = self.lock();
        let of_pool = inner.workers.values().filter(|w| w.pool == pool);
        of_pool.cloned().collect()
    }

    /// All workers.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerView> {
        self.lock().workers.values().cloned().collect()
    }
}

fn pool_view(pool: &Pool) -> PoolView {
    PoolView {
        name: pool.name.clone(),
        mode: match pool.mode {
            crate::config::Mode::Jit => "jit".to_owned(),
            crate::config::Mode::ScaleSet => "scale-set".to_owned(),
        },
        labels: pool.labels.clone(),
        image: pool.image.clone(),
        capacity: pool.capacity,
        min_idle: pool.min_idle,
        desired: pool.min_idle,
        starting: 0,
        idle: 0,
        busy: 0,
        stopping: 0,
        assigned: None,
        ready: false,
        snapshot_created: None,
        error: None,
    }
}

/// What a notice changes.
fn learn(worker: &mut WorkerView, notice: &Notice) {
    let state = match notice {
        Notice::Listening if worker.state == WorkerState::Starting => WorkerState::Idle,
        Notice::Job(_) if worker.state != WorkerState::Stopping => WorkerState::Busy,
        _ => worker.state,
    };
    if state != worker.state {
        worker.state = state;
        worker.since = Timestamp::now();
    }
    match notice {
        Notice::Job(names) => worker.job = Some(names.clone()),
        Notice::Phase { phase, seconds } => worker.phases.push((*phase, *seconds)),
        Notice::Sandbox { vmm } => worker.vmm = Some(*vmm),
        Notice::Ended { result } => worker.result = Some(result.clone()),
        _ => {}
    }
    // Each phase is told once; a worker that tells more is broken, and must not fill our memory.
    worker.phases.truncate(16);
}

fn ended_job(worker: &WorkerView) -> Option<JobView> {
    Some(JobView {
        job: worker.job.clone()?,
        pool: worker.pool.clone(),
        runner_name: worker.runner_name.clone(),
        pid: worker.pid,
        vmm: worker.vmm,
        started: worker.since,
        ended: Timestamp::now(),
        result: worker.result.clone().unwrap_or_else(|| "lost".to_owned()),
        phases: worker.phases.clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn worker(name: &str) -> WorkerView {
        WorkerView {
            pool: "sandbox".into(),
            runner_name: name.into(),
            runner_id: 7,
            pid: 42,
            state: WorkerState::Starting,
            started: Timestamp::now(),
            since: Timestamp::now(),
            adopted: false,
            vmm: None,
            job: None,
            phases: Vec::new(),
            result: None,
        }
    }

    fn state(observers: Vec<Observer>) -> State {
        let pool = Pool {
            name: "sandbox".into(),
            mode: crate::config::Mode::Jit,
            labels: vec!["sandbox".into()],
            image: "minimal".into(),
            cpus: 1,
            memory_mib: 512,
            capacity: 2,
            min_idle: 1,
            runner_group: "Default".into(),
            pins: None,
        };
        State::new("https://github.com/o/r".into(), &[pool], observers)
    }

    #[test]
    fn a_worker_is_followed_from_its_start_to_its_jobs_result() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&seen);
        let observer: Observer = Box::new(move |happening| {
            let mut seen = into.lock().unwrap();
            seen.push(match happening {
                Happening::Started(worker) => format!("started {}", worker.runner_name),
                Happening::Told(worker, _) => format!("told {:?}", worker.state),
                Happening::Gone { job, .. } => format!("gone {}", job.unwrap().result),
                other => format!("{other:?}"),
            });
        });
        let state = state(vec![observer]);
        state.started(worker("a"));
        assert_eq!(state.view().pools[0].starting, 1);
        state.told("a", &Notice::Listening).unwrap();
        assert_eq!(state.view().pools[0].idle, 1);
        let names = JobNames {
            job_name: "build".into(),
            ..JobNames::default()
        };
        state.told("a", &Notice::Job(names)).unwrap();
        let result = "failed".to_owned();
        state.told("a", &Notice::Ended { result }).unwrap();
        assert_eq!(state.view().pools[0].busy, 1);
        state.gone("a", None).unwrap();
        let view = state.view();
        assert!(view.workers.is_empty());
        assert_eq!(view.recent[0].job.job_name, "build");
        let said = [
            "started a",
            "told Idle",
            "told Busy",
            "told Busy",
            "gone failed",
        ];
        assert_eq!(*seen.lock().unwrap(), said);
        // What is printed can be read back.
        let json = serde_json::to_string(&view).unwrap();
        assert_eq!(serde_json::from_str::<StateView>(&json).unwrap(), view);
    }

    #[test]
    fn a_job_whose_worker_never_told_a_result_is_lost_and_few_are_kept() {
        let state = state(Vec::new());
        for _ in 0..RECENT + 5 {
            state.started(worker("a"));
            state.told("a", &Notice::Job(JobNames::default()));
            state.gone("a", Some("signal 9"));
        }
        let view = state.view();
        assert_eq!(view.recent.len(), RECENT);
        assert_eq!(view.recent[0].result, "lost");
        state.started(worker("idle"));
        state.gone("idle", None);
        assert_eq!(state.view().recent.len(), RECENT, "it had no job");
    }

    #[test]
    fn readiness_needs_github_and_a_pool() {
        let state = state(Vec::new());
        assert!(!state.is_ready());
        state.called("releases", None);
        assert!(!state.is_ready());
        state.pool("sandbox", |pool| pool.ready = true);
        assert!(state.is_ready());
        state.called("generate-jitconfig", Some(("server", "HTTP 502".into())));
        assert!(!state.is_ready());
        state.called("generate-jitconfig", None);
        assert!(state.is_ready());
        state.drain();
        assert!(!state.is_ready());
    }
}
