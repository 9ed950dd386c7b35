//! A pool at work: as many workers as are wanted, none that nobody needs, and no haste after failures.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    runtime::Handle,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    crew::{Crew, Ended, Leftover},
    listener::Listener,
    record::random_id,
    source::{Source, SourceError, remove_by_rest, told},
    state::{Happening, PoolView, WorkerState, WorkerView},
    times::Times,
};
use crate::{
    config::{Mode, Pool},
    github::{
        pause::Backoff,
        rest::{Removed, Rest},
    },
};

/// What all pools share.
#[derive(Debug)]
pub struct Shared {
    /// Where the pools' runners come from, once that is known.
    pub sources: Mutex<BTreeMap<String, Source>>,
    /// What is still to be done before the process ends.
    pub closing: Mutex<Vec<JoinHandle<()>>>,
    /// The workers.
    pub crew: Arc<Crew>,
    /// GitHub.
    pub rest: Arc<Rest>,
    /// The version that workers report, once it is known.
    pub version: watch::Receiver<Option<String>>,
    /// Waits.
    pub times: Times,
    /// The identity of this installation.
    pub installation: String,
    /// What a scale set's session is called.
    pub owner: String,
    /// The supervisor's folder.
    pub folder: std::path::PathBuf,
}

impl Shared {
    fn opened(&self, pool: &str, source: Source) {
        lock(&self.sources).insert(pool.to_owned(), source);
    }

    /// Does something beside all else, and before the process ends.
    pub fn close(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Ok(runtime) = Handle::try_current() {
            let mut closing = lock(&self.closing);
            closing.retain(|task| !task.is_finished());
            closing.push(runtime.spawn(work));
        }
    }

    /// Waits until what is to be done before the end is done.
    pub async fn closed(&self, limit: Duration) {
        let tasks = std::mem::take(&mut *lock(&self.closing));
        let _ = timeout(limit, futures_util::future::join_all(tasks)).await;
    }

    /// Ends a worker without a job. GitHub is asked first, so that none ends that has got one just now;
    /// whether it ends.
    ///
    /// # Errors
    /// [`SourceError`]; it then goes on.
    pub async fn dismiss(&self, worker: &WorkerView) -> Result<bool, SourceError> {
        let (crew, name) = (&self.crew, &worker.runner_name);
        // A worker may see that its runner is gone before we can tell it to end.
        crew.state.worker_state(name, WorkerState::Stopping);
        match self.remove(&leftover(worker)).await {
            Ok(Removed::Yes | Removed::Gone) => {
                crew.stop(name);
                Ok(true)
            }
            Ok(Removed::Busy) => {
                crew.state.worker_state(name, WorkerState::Busy);
                Ok(false)
            }
            Err(error) => {
                crew.state.worker_state(name, worker.state);
                Err(error)
            }
        }
    }

    /// Removes a runner, unless it has a job.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn remove(&self, left: &Leftover) -> Result<Removed, SourceError> {
        let source = lock(&self.sources).get(&left.pool).cloned();
        match source {
            Some(source) => source.remove(left, &self.crew.state).await,
            None => remove_by_rest(&self.rest, left, &self.crew.state).await,
        }
    }
}

/// A pool at work.
#[derive(Debug)]
pub struct PoolTask {
    /// Runners that have a job at GitHub although their workers are gone: looked at again later.
    held: Vec<Leftover>,
    next_sweep: Instant,
    shared: Arc<Shared>,
    pool: Pool,
    stop: watch::Receiver<bool>,
    failures: Backoff,
    not_before: Instant,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    desired: u32,
    start: u32,
    retire: Vec<String>,
}

impl PoolTask {
    /// A pool that has not begun.
    #[must_use]
    pub fn new(shared: Arc<Shared>, pool: Pool, stop: watch::Receiver<bool>) -> Self {
        let (first, longest) = shared.times.failure;
        Self {
            held: Vec::new(),
            next_sweep: Instant::now(),
            shared,
            pool,
            stop,
            failures: Backoff::new(first, longest),
            not_before: Instant::now(),
        }
    }

    /// Serves until it is told to stop. Workers live on then.
    pub async fn serve(mut self) {
        let mut stop = self.stop.clone();
        let stopped = async move {
            // A sender that is gone says the same as one that tells us to stop.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        let opened = tokio::select! {
            () = stopped => None,
            source = self.open() => Some(source),
        };
        // From here on it stops between two steps only: a runner that was made gets its worker.
        match opened {
            None => {}
            Some(source @ Source::Jit { .. }) => self.keep(&source).await,
            Some(Source::Set { rest, sets, set }) => {
                let (shared, pool) = (Arc::clone(&self.shared), self.pool.clone());
                let listener = Listener::new(shared, pool, Arc::clone(&sets), set);
                let source = Source::Set { rest, sets, set };
                tokio::select! {
                    never = listener.listen() => match never {},
                    () = self.keep(&source) => {}
                }
            }
        }
    }

    /// Makes all ready that workers need.
    async fn open(&mut self) -> Source {
        self.until_it_works(async |this| {
            let crew = &this.shared.crew;
            let created = crew.program().prepare(&this.pool).await;
            let created = created.map_err(|error| (error.to_string(), None))?;
            let keep = |pool: &mut PoolView| pool.snapshot_created = created;
            crew.state.pool(&this.pool.name, keep);
            Ok(())
        })
        .await;
        let source = self
            .until_it_works(async |this| {
                let state = &this.shared.crew.state;
                let opened = Source::open(&this.pool, &this.shared.rest, state).await;
                opened.map_err(|error| (error.to_string(), error.wait()))
            })
            .await;
        self.shared.opened(&self.pool.name, source.clone());
        self.known_version().await;
        self.error(None);
        source
    }

    /// Waits for the version that workers report, but not for ever: they know one themselves.
    async fn known_version(&mut self) {
        let mut version = self.shared.version.clone();
        let known = version.wait_for(Option::is_some);
        if timeout(self.shared.times.connect, known).await.is_err() {
            tracing::warn!(
                pool = self.pool.name,
                "the newest version of actions/runner is not known; workers report an older one"
            );
        }
    }

    /// Tries until it works, slower after each failure.
    async fn until_it_works<T>(
        &mut self,
        attempt: impl AsyncFn(&Self) -> Result<T, (String, Option<Duration>)>,
    ) -> T {
        loop {
            match attempt(self).await {
                Ok(value) => {
                    self.failures.reset();
                    return value;
                }
                Err((error, wait)) => {
                    let wait = wait.unwrap_or_else(|| self.failures.after_failure());
                    tracing::error!(
                        pool = self.pool.name,
                        wait = wait.as_secs_f64(),
                        "the pool cannot serve yet: {error}"
                    );
                    self.error(Some(error));
                    sleep(wait).await;
                }
            }
        }
    }

    fn error(&self, error: Option<String>) {
        self.shared.crew.state.serves(&self.pool.name, error);
    }

    /// Keeps as many workers as are wanted, until it is told to stop.
    async fn keep(&mut self, source: &Source) {
        let crew = Arc::clone(&self.shared.crew);
        let mut stop = self.stop.clone();
        while !*stop.borrow() {
            let mut changed = pin!(crew.changed());
            // From here on no change is missed.
            changed.as_mut().enable();
            for ended in crew.ended_of(&self.pool.name) {
                self.heed(ended);
            }
            self.sweep(source).await;
            self.clear(source).await;
            self.watch(source).await;
            let plan = self.plan();
            crew.state
                .pool(&self.pool.name, |pool| pool.desired = plan.desired);
            for name in &plan.retire {
                self.retire(name).await;
            }
            if plan.start > 0 && Instant::now() >= self.not_before {
                self.start(source).await;
                continue;
            }
            let mut until = Instant::now() + self.shared.times.tick;
            if plan.start > 0 {
                until = until.min(self.not_before);
            }
            tokio::select! {
                () = changed => {}
                () = sleep_until(until) => {}
                told = stop.changed() => if told.is_err() { return },
            }
        }
    }

    /// What a worker's end says about the next one.
    fn heed(&mut self, ended: Ended) {
        match ended {
            Ended::Well => self.failures.reset(),
            Ended::Badly => self.pause(
                None,
                "workers end before they have a job; their lines in the log say why",
            ),
        }
    }

    /// Starts nothing for a while.
    fn pause(&mut self, wait: Option<Duration>, why: &str) {
        let wait = wait.unwrap_or_else(|| self.failures.after_failure());
        self.not_before = self.not_before.max(Instant::now() + wait);
        self.error(Some(why.to_owned()));
    }

    /// Now and then: runners with names of this installation that nobody works for are left over, be it
    /// from a supervisor whose records are lost too.
    async fn sweep(&mut self, source: &Source) {
        if Instant::now() < self.next_sweep {
            return;
        }
        self.next_sweep = Instant::now() + self.shared.times.sweep;
        let crew = &self.shared.crew;
        self.held.drain(..).for_each(|left| crew.leave(left));
        let Source::Jit { rest, .. } = source else {
            return;
        };
        let runners = match told(&crew.state, rest, "runners", rest.runners().await) {
            Ok(runners) => runners,
            Err(error) => {
                tracing::warn!(
                    pool = self.pool.name,
                    "runners without workers cannot be looked for: {error}"
                );
                return;
            }
        };
        let ours = format!("{}-{}-", self.pool.name, self.shared.installation);
        let workers = crew.state.workers_of(&self.pool.name);
        let works = |name: &str| workers.iter().any(|worker| worker.runner_name == name);
        for runner in runners {
            if runner.name.starts_with(&ours) && !works(&runner.name) {
                crew.leave(Leftover {
                    pool: self.pool.name.clone(),
                    name: runner.name,
                    id: Some(runner.id),
                });
            }
        }
    }

    /// Removes runners at GitHub whose workers are gone.
    async fn clear(&mut self, source: &Source) {
        let crew = Arc::clone(&self.shared.crew);
        let mut left = crew.leftovers_of(&self.pool.name).into_iter();
        while let Some(leftover) = left.next() {
            match source.remove(&leftover, &crew.state).await {
                Ok(Removed::Yes) => {
                    tracing::info!(
                        runner = leftover.name,
                        "a runner without a worker was removed"
                    );
                    crew.state.tell(&Happening::OrphanRemoved(&leftover.pool));
                }
                Ok(Removed::Gone) => {}
                Ok(Removed::Busy) => {
                    // GitHub gives the job up once nobody renews it; the next sweep removes the runner.
                    tracing::warn!(
                        runner = leftover.name,
                        "a runner without a worker still has a job at GitHub"
                    );
                    self.held.push(leftover);
                }
                Err(error) => {
                    tracing::warn!(
                        runner = leftover.name,
                        "a runner without a worker was not removed: {error}"
                    );
                    crew.leave(leftover);
                    left.for_each(|other| crew.leave(other));
                    self.pause(error.wait(), &error.to_string());
                    return;
                }
            }
        }
    }

    /// Ends workers that have no session after so long: they are no capacity.
    async fn watch(&mut self, source: &Source) {
        let crew = Arc::clone(&self.shared.crew);
        let limit = self.shared.times.connect;
        for worker in crew.state.workers_of(&self.pool.name) {
            let starting = worker.state == WorkerState::Starting;
            if !starting || age(worker.started) <= limit {
                continue;
            }
            tracing::error!(
                runner = worker.runner_name,
                pid = worker.pid,
                "a worker has no session with GitHub after {} s and is ended",
                limit.as_secs()
            );
            let left = leftover(&worker);
            crew.kill(&worker.runner_name);
            if let Err(error) = source.remove(&left, &crew.state).await {
                tracing::warn!(
                    runner = worker.runner_name,
                    "its runner was not removed yet: {error}"
                );
            }
            self.pause(
                None,
                "workers do not come to a session with GitHub; their lines in the log say why",
            );
        }
    }

    fn plan(&self) -> Plan {
        let state = &self.shared.crew.state;
        let workers = state.workers_of(&self.pool.name);
        let mut assigned = 0;
        state.pool(&self.pool.name, |pool| {
            assigned = pool.assigned.unwrap_or_default();
        });
        plan(&self.pool, assigned, &workers, self.shared.times.idle)
    }

    /// Starts a worker.
    async fn start(&mut self, source: &Source) {
        match self.try_start(source).await {
            Ok(()) => {
                // A pool whose workers end badly says so until one does not.
                if self.failures.failures() == 0 {
                    self.error(None);
                }
            }
            Err((error, wait)) => {
                tracing::error!(pool = self.pool.name, "no worker was started: {error}");
                self.pause(wait, &error);
            }
        }
    }

    async fn try_start(&self, source: &Source) -> Result<(), (String, Option<Duration>)> {
        let crew = &self.shared.crew;
        let name = format!(
            "{}-{}-{}",
            self.pool.name,
            self.shared.installation,
            random_id()
        );
        let machine = |error: std::io::Error| (format!("cannot start a worker: {error}"), None);
        crew.announce(&self.pool, &name).map_err(machine)?;
        let recruit = source.recruit(&self.pool, &name, &crew.state).await;
        let recruit = recruit.map_err(|error: SourceError| {
            crew.forget(&name);
            // The answer may have been lost after the runner was made.
            let id = None;
            let pool = self.pool.name.clone();
            if matches!(error.kind(), "transport" | "server" | "answer") {
                let name = name.clone();
                crew.leave(Leftover { pool, name, id });
            }
            (error.to_string(), error.wait())
        })?;
        let version = self.shared.version.borrow().clone();
        let hired = crew.hire(&self.pool, &name, recruit, version.as_deref());
        hired.await.map_err(machine)
    }

    /// Ends an idle worker, unless GitHub has given it a job meanwhile.
    async fn retire(&self, name: &str) {
        let workers = self.shared.crew.state.workers_of(&self.pool.name);
        if let Some(worker) = workers.iter().find(|worker| worker.runner_name == name)
            && let Err(error) = self.shared.dismiss(worker).await
        {
            tracing::warn!(
                runner = name,
                "an idle worker is kept, as its runner was not removed: {error}"
            );
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The runner of a worker.
#[must_use]
pub fn leftover(worker: &WorkerView) -> Leftover {
    Leftover {
        pool: worker.pool.clone(),
        name: worker.runner_name.clone(),
        id: Some(worker.runner_id).filter(|id| *id != 0),
    }
}

/// How long ago something was.
fn age(since: Timestamp) -> Duration {
    Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default()
}

/// What a pool of these workers needs.
fn plan(pool: &Pool, assigned: u32, workers: &[WorkerView], patience: Duration) -> Plan {
    let count = |state| {
        workers
            .iter()
            .filter(|worker| worker.state == state)
            .count()
    };
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let waiting = number(count(WorkerState::Starting) + count(WorkerState::Idle));
    let busy = number(count(WorkerState::Busy));
    let all = number(workers.len());
    let needed = match pool.mode {
        Mode::Jit => busy,
        // Jobs that run are among those that are assigned.
        Mode::ScaleSet => assigned.max(busy),
    };
    let desired = needed.saturating_add(pool.min_idle).min(pool.capacity);
    let live = waiting + busy;
    let room = pool.capacity.saturating_sub(all);
    let mut idle: Vec<&WorkerView> = workers
        .iter()
        .filter(|worker| worker.state == WorkerState::Idle && age(worker.since) > patience)
        .collect();
    idle.sort_by_key(|worker| worker.since);
    let surplus = live.saturating_sub(desired);
    let retire = idle.iter().take(surplus as usize);
    Plan {
        desired,
        start: desired.saturating_sub(live).min(room),
        retire: retire.map(|worker| worker.runner_name.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(mode: Mode, capacity: u32, min_idle: u32) -> Pool {
        Pool {
            name: "sandbox".into(),
            mode,
            labels: vec!["sandbox".into()],
            image: "minimal".into(),
            cpus: 1,
            memory_mib: 512,
            capacity,
            min_idle,
            runner_group: "Default".into(),
            pins: None,
        }
    }

    fn workers(states: &[(WorkerState, i64)]) -> Vec<WorkerView> {
        let worker = |(index, (state, age)): (usize, &(WorkerState, i64))| {
            let since = Timestamp::now() - jiff::SignedDuration::from_secs(*age);
            WorkerView {
                pool: "sandbox".into(),
                runner_name: format!("w{index}"),
                runner_id: 1,
                pid: 1,
                state: *state,
                started: since,
                since,
                adopted: false,
                vmm: None,
                job: None,
                phases: Vec::new(),
                result: None,
            }
        };
        states.iter().enumerate().map(worker).collect()
    }

    fn planned(
        pool: &Pool,
        assigned: u32,
        states: &[(WorkerState, i64)],
    ) -> (u32, u32, Vec<String>) {
        let plan = plan(pool, assigned, &workers(states), Duration::from_secs(60));
        (plan.desired, plan.start, plan.retire)
    }

    #[test]
    fn idle_runners_are_kept_up_to_the_capacity() {
        use WorkerState::{Busy, Idle, Starting, Stopping};
        let pool = pool(Mode::Jit, 4, 2);
        assert_eq!(planned(&pool, 0, &[]), (2, 2, vec![]));
        assert_eq!(
            planned(&pool, 0, &[(Starting, 0), (Idle, 0)]),
            (2, 0, vec![])
        );
        let busy = [(Busy, 0), (Busy, 0), (Busy, 0)];
        assert_eq!(planned(&pool, 0, &busy), (4, 1, vec![]));
        let full = [(Busy, 0), (Busy, 0), (Busy, 0), (Stopping, 0)];
        assert_eq!(
            planned(&pool, 0, &full),
            (4, 0, vec![]),
            "it is still there"
        );
        let many = [(Idle, 100), (Idle, 300), (Idle, 10), (Idle, 200)];
        let retired = vec!["w1".to_owned(), "w3".to_owned()];
        assert_eq!(planned(&pool, 0, &many), (2, 0, retired));
    }

    #[test]
    fn a_scale_set_follows_the_jobs_that_are_assigned() {
        use WorkerState::{Busy, Idle};
        let pool = pool(Mode::ScaleSet, 4, 0);
        assert_eq!(planned(&pool, 0, &[]), (0, 0, vec![]));
        assert_eq!(planned(&pool, 3, &[(Busy, 0)]), (3, 2, vec![]));
        assert_eq!(planned(&pool, 90, &[(Busy, 0)]), (4, 3, vec![]));
        // A worker that was started for a job that another one took is not kept for ever.
        assert_eq!(planned(&pool, 1, &[(Busy, 0), (Idle, 5)]), (1, 0, vec![]));
        let late = planned(&pool, 1, &[(Busy, 0), (Idle, 65)]);
        assert_eq!(late, (1, 0, vec!["w1".to_owned()]));
        // What runs is never too much.
        assert_eq!(planned(&pool, 0, &[(Busy, 0), (Busy, 900)]), (2, 0, vec![]));
    }
}
