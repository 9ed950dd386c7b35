//! The supervisor's life: it takes over what an earlier one left, serves, reads its configuration anew,
//! and ends without leaving anything.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rustix::fs::{FlockOperation, flock};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    cgroup::Cgroups,
    credentials::{self, CredentialError},
    crew::Crew,
    notify,
    pool::{PoolTask, Shared},
    process::Program,
    record::{Records, installation_id},
    source::told,
    state::{Happening, Observer, State, WorkerState},
    times::Times,
};
use crate::{
    config::{Pool, Problem, ServeConfig},
    github::{pause::Backoff, rest::Rest},
};

/// What a supervisor is made of.
pub struct Setup {
    /// Its configuration.
    pub config: ServeConfig,
    /// Its folder.
    pub folder: PathBuf,
    /// What its workers are.
    pub program: Program,
    /// Its waits; those that the configuration knows are taken from there.
    pub times: Times,
    /// Who is told of all that happens.
    pub observers: Vec<Observer>,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let config = &self.config;
        f.debug_struct("Setup")
            .field("config", config)
            .finish_non_exhaustive()
    }
}

/// What a supervisor is told by signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Read the configuration anew.
    Reload,
    /// End: the first time gently, the second time at once.
    End,
}

/// Why a supervisor does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its folder cannot be used.
    #[error("cannot use the folder {}: {cause}; set MAYFLY_STATE to one that this user may write", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// Another one has it.
    #[error("another `mayfly serve` uses {}; end it, or set MAYFLY_STATE to another folder", .0.display())]
    Taken(PathBuf),
    /// The credentials cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
}

/// A supervisor.
#[derive(Debug)]
pub struct Supervisor {
    config: ServeConfig,
    folder: PathBuf,
    installation: String,
    crew: Arc<Crew>,
    times: Times,
    /// Held as long as it lives.
    _lock: File,
}

/// The supervisor at work with one configuration.
struct Generation {
    config: ServeConfig,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Supervisor {
    /// A supervisor that has not begun. Made within a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(setup: Setup) -> Result<Self, StartError> {
        let folder = setup.folder;
        let failed = |cause| StartError::Folder {
            folder: folder.clone(),
            cause,
        };
        let lock = locked(&folder)?;
        let records = Records::open(&folder).map_err(failed)?;
        let installation = installation_id(&folder).map_err(failed)?;
        let github = &setup.config.github;
        let serves = github.place.of(&github.scope);
        let state = State::new(serves, &setup.config.pools, setup.observers);
        let crew = Crew::new(Arc::new(state), records, setup.program, Cgroups::find());
        Ok(Self {
            config: setup.config,
            folder,
            installation,
            crew: Arc::new(crew),
            times: setup.times,
            _lock: lock,
        })
    }

    /// What it knows.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.crew.state)
    }

    /// Serves until it is told to end. `reread` reads the configuration anew.
    ///
    /// # Errors
    /// [`StartError`]; later failures are waited out.
    pub async fn run(
        self,
        mut orders: mpsc::Receiver<Order>,
        reread: impl Fn() -> Result<ServeConfig, Vec<Problem>>,
    ) -> Result<(), StartError> {
        let rest = Arc::new(credentials::client(&self.config.github)?);
        let folder = self.folder.clone();
        let failed = |cause| StartError::Folder { folder, cause };
        let lives = self
            .crew
            .take_over(&self.config.pools)
            .await
            .map_err(failed)?;
        if lives > 0 {
            tracing::info!(lives, "workers of the supervisor before this one go on");
        }
        let mut now = self.begin(self.config.clone(), rest);
        while let Some(Order::Reload) = orders.recv().await {
            now = self.reload(now, &reread).await;
        }
        tracing::info!("no new jobs from now on");
        self.drain(&mut now, &mut orders).await;
        now.shared.closed(self.times.last).await;
        Ok(())
    }

    /// Begins to serve with a configuration.
    fn begin(&self, config: ServeConfig, rest: Arc<Rest>) -> Generation {
        let (stop, stopped) = watch::channel(false);
        let (version, known) = watch::channel(config.github.runner_version.clone());
        let shared = Arc::new(Shared {
            sources: Mutex::new(BTreeMap::new()),
            closing: Mutex::new(Vec::new()),
            crew: Arc::clone(&self.crew),
            rest,
            version: known,
            times: self.times_of(&config),
            installation: self.installation.clone(),
            owner: owner(),
            folder: self.folder.clone(),
        });
        let mut tasks = JoinSet::new();
        match &config.github.runner_version {
            Some(version) => self.crew.state.runner_version(version),
            None => drop(tasks.spawn(versions(Arc::clone(&shared), version, stopped.clone()))),
        }
        for pool in config.pools.clone() {
            let task = PoolTask::new(Arc::clone(&shared), pool, stopped.clone());
            tasks.spawn(task.serve());
        }
        let pools = config.pools.clone();
        tasks.spawn(others(Arc::clone(&shared), pools, stopped));
        Generation {
            config,
            shared,
            stop,
            tasks,
        }
    }

    fn times_of(&self, config: &ServeConfig) -> Times {
        Times {
            drain: config.limits.drain,
            connect: config.limits.connect,
            ..self.times.clone()
        }
    }

    /// Takes a new configuration, if it is right; else all stays as it is, and that is said.
    async fn reload(
        &self,
        mut old: Generation,
        reread: &impl Fn() -> Result<ServeConfig, Vec<Problem>>,
    ) -> Generation {
        let state = &self.crew.state;
        let read = reread().map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            lines.join("\n")
        });
        let client = read.and_then(|config| {
            let rest = credentials::client(&config.github).map_err(|error| error.to_string())?;
            Ok((config, Arc::new(rest)))
        });
        let (config, rest) = match client {
            Ok(read) => read,
            Err(problems) => {
                tracing::error!(
                    "the configuration is wrong and the one before it stays:\n{problems}"
                );
                state.tell(&Happening::Reloaded(false));
                return old;
            }
        };
        if config.metrics != old.config.metrics {
            tracing::warn!(
                "[metrics] is read at the start only; start it again for the new address"
            );
        }
        old.end().await;
        self.let_go(&old, &config).await;
        old.shared.closed(self.times.last).await;
        state.configure(&config.pools);
        tracing::info!("the configuration was read anew");
        state.tell(&Happening::Reloaded(true));
        self.begin(config, rest)
    }

    /// Ends idle workers that are not as the new configuration wants them.
    async fn let_go(&self, old: &Generation, new: &ServeConfig) {
        for worker in self.crew.state.workers() {
            let of = |config: &ServeConfig| {
                let mut pools = config.pools.iter();
                pools.find(|pool| pool.name == worker.pool).map(workers_are)
            };
            let same = of(&old.config) == of(new) && of(new).is_some();
            let other_github = old.config.github != new.github;
            if (!same || other_github)
                && worker.state == WorkerState::Idle
                && let Err(error) = old.shared.dismiss(&worker).await
            {
                tracing::warn!(
                    runner = worker.runner_name,
                    "an idle worker of the old configuration goes on: {error}"
                );
            }
        }
    }

    /// Ends: idle workers now, others when their jobs are over, within the limit.
    async fn drain(&self, now: &mut Generation, orders: &mut mpsc::Receiver<Order>) {
        let crew = &self.crew;
        crew.state.drain();
        notify::stopping(crew.state.workers().len());
        let limit = now.shared.times.drain;
        let gently = async {
            now.end().await;
            self.stop_idle(&now.shared).await;
            if !self.until_none(Instant::now() + limit).await {
                tracing::warn!(
                    "jobs still run after {} s and are cancelled",
                    limit.as_secs()
                );
                self.each(Crew::stop);
                if !self.until_none(Instant::now() + self.times.kill).await {
                    tracing::error!("workers did not end when they were told, and are ended");
                    self.each(Crew::kill);
                    self.until_none(Instant::now() + self.times.last).await;
                }
            }
        };
        let ended = tokio::select! {
            () = gently => true,
            () = second(orders) => false,
        };
        if !ended {
            tracing::warn!("told to end once more: all workers are ended now");
            // First what could start others.
            now.tasks.shutdown().await;
            self.each(Crew::kill);
            self.until_none(Instant::now() + self.times.last).await;
        }
        let left = crew.leftovers_beside(&[]);
        let removal = async {
            for leftover in left {
                if let Err(error) = now.shared.remove(&leftover).await {
                    tracing::warn!(runner = leftover.name, "a runner was not removed: {error}");
                }
            }
        };
        if timeout(self.times.last, removal).await.is_err() {
            tracing::warn!(
                "not all runners could be removed at GitHub; the next start removes them"
            );
        }
    }

    /// Ends workers without a job. GitHub is asked, so that none ends that has got one just now.
    async fn stop_idle(&self, shared: &Shared) {
        let all = self.crew.state.workers();
        let waits = |state| matches!(state, WorkerState::Starting | WorkerState::Idle);
        for worker in all.iter().filter(|worker| waits(worker.state)) {
            match timeout(self.times.last, shared.dismiss(worker)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => tracing::info!(
                    runner = worker.runner_name,
                    "it has got a job, which goes on"
                ),
                // Without GitHub it gets none.
                Ok(Err(_)) | Err(_) => self.crew.stop(&worker.runner_name),
            }
        }
    }

    /// Waits until there is no worker; whether it came to that.
    async fn until_none(&self, end: Instant) -> bool {
        loop {
            let changed = self.crew.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.crew.state.workers().is_empty() {
                return true;
            }
            tokio::select! {
                () = changed => {}
                () = sleep_until(end) => return self.crew.state.workers().is_empty(),
            }
        }
    }

    fn each(&self, end: impl Fn(&Crew, &str)) {
        for worker in self.crew.state.workers() {
            end(&self.crew, &worker.runner_name);
        }
    }
}

impl Generation {
    async fn end(&mut self) {
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// A second order to end. Without anybody who could give one it never comes.
async fn second(orders: &mut mpsc::Receiver<Order>) {
    loop {
        match orders.recv().await {
            Some(Order::End) => return,
            Some(Order::Reload) => {}
            None => std::future::pending().await,
        }
    }
}

/// Keeps the newest version of actions/runner known.
async fn versions(
    shared: Arc<Shared>,
    version: watch::Sender<Option<String>>,
    mut stop: watch::Receiver<bool>,
) {
    let (first, longest) = shared.times.failure;
    let mut failures = Backoff::new(first, longest);
    let ask = async {
        loop {
            let state = &shared.crew.state;
            let newest = shared.rest.newest_runner().await;
            let wait = match told(state, &shared.rest, "releases", newest) {
                Ok(newest) => {
                    failures.reset();
                    state.runner_version(&newest);
                    version.send_replace(Some(newest));
                    shared.times.version
                }
                Err(error) => {
                    tracing::warn!("the newest version of actions/runner is not known: {error}");
                    error.wait().unwrap_or_else(|| failures.after_failure())
                }
            };
            sleep(wait).await;
        }
    };
    tokio::select! {
        () = ask => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Sees to what is left of pools that are configured no more.
async fn others(shared: Arc<Shared>, pools: Vec<Pool>, mut stop: watch::Receiver<bool>) {
    let crew = &shared.crew;
    let remove = async {
        loop {
            let configured = |name: &str| pools.iter().any(|pool| pool.name == name);
            for worker in crew.state.workers() {
                if !configured(&worker.pool)
                    && worker.state == WorkerState::Idle
                    && let Err(error) = shared.dismiss(&worker).await
                {
                    tracing::warn!(
                        runner = worker.runner_name,
                        "an idle worker of no pool goes on: {error}"
                    );
                }
            }
            for left in crew.leftovers_beside(&pools) {
                if let Err(error) = shared.remove(&left).await {
                    tracing::warn!(runner = left.name, "a runner was not removed: {error}");
                    crew.leave(left);
                }
            }
            sleep(shared.times.tick).await;
        }
    };
    tokio::select! {
        () = remove => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// What workers of a pool are: if it changes, those that wait are to be replaced.
fn workers_are(pool: &Pool) -> Pool {
    Pool {
        capacity: 0,
        min_idle: 0,
        ..pool.clone()
    }
}

/// What a session of this process is called.
fn owner() -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    format!("{host} (mayfly serve, PID: {})", std::process::id())
}

/// Takes the folder for this process.
fn locked(folder: &Path) -> Result<File, StartError> {
    let failed = |cause| StartError::Folder {
        folder: folder.to_owned(),
        cause,
    };
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed)?;
    let file = File::create(folder.join("lock")).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::Taken(folder.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}
