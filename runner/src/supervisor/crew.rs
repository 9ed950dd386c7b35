//! The workers that live: how they are taken on, followed, and seen off.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use rustix::process::Signal;
use secrecy::SecretString;
use tokio::{
    net::unix::pipe::{self, Receiver},
    process::Child,
    sync::{Notify, futures::Notified},
};

use super::{
    cgroup::{self, CgroupError, Cgroups},
    process::{self, Handle, Order, Program},
    record::{Record, Records},
    state::{State, WorkerState, WorkerView},
};
use crate::{
    config::Pool,
    notice::{self, Notice},
};

/// All workers of this supervisor.
#[derive(Debug)]
pub struct Crew {
    /// What is known of them.
    pub state: Arc<State>,
    /// What is on disk of them.
    records: Records,
    /// What they are.
    program: Program,
    /// Where their cgroups are, if they have some.
    cgroups: Option<Cgroups>,
    live: Mutex<BTreeMap<String, Arc<Handle>>>,
    leftovers: Mutex<Vec<Leftover>>,
    ended: Mutex<BTreeMap<String, Vec<Ended>>>,
    news: Notify,
}

/// A runner whose worker is gone, or that never had one: to be removed at GitHub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Its pool.
    pub pool: String,
    /// Its name.
    pub name: String,
    /// Its number, if it is known.
    pub id: Option<u64>,
}

/// How the life of a worker ended, for the pool that decides when there is a next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With a job, or as it was told.
    Well,
    /// Without a job, and nobody told it to.
    Badly,
}

/// A runner to be given a worker.
#[derive(Debug)]
pub struct Recruit {
    /// Its number at GitHub.
    pub id: u64,
    /// Its configuration.
    pub config: SecretString,
}

impl Crew {
    /// A crew without workers. That there are no cgroups is said here, once.
    #[must_use]
    pub fn new(
        state: Arc<State>,
        records: Records,
        program: Program,
        cgroups: Result<Cgroups, CgroupError>,
    ) -> Self {
        if let Err(why) = &cgroups {
            tracing::warn!("workers have no cgroups of their own: {why}");
        }
        Self {
            state,
            records,
            program,
            cgroups: cgroups.ok(),
            live: Mutex::default(),
            leftovers: Mutex::default(),
            ended: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// The program that workers are.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Ends when a worker has begun or ended to do something.
    pub fn changed(&self) -> Notified<'_> {
        self.news.notified()
    }

    /// Wakes all that wait for a change.
    pub fn wake(&self) {
        self.news.notify_waiters();
    }

    /// How workers of a pool ended since this was asked last.
    #[must_use]
    pub fn ended_of(&self, pool: &str) -> Vec<Ended> {
        lock(&self.ended).remove(pool).unwrap_or_default()
    }

    /// Runners that are to be removed at GitHub; the caller takes them over.
    #[must_use]
    pub fn leftovers_of(&self, pool: &str) -> Vec<Leftover> {
        let mut all = lock(&self.leftovers);
        let (ours, others) = all.drain(..).partition(|left| left.pool == pool);
        *all = others;
        ours
    }

    /// Those of pools that are not among these.
    #[must_use]
    pub fn leftovers_beside(&self, pools: &[Pool]) -> Vec<Leftover> {
        let mut all = lock(&self.leftovers);
        let of_pool = |left: &Leftover| pools.iter().any(|pool| pool.name == left.pool);
        let (others, ours) = all.drain(..).partition(of_pool);
        *all = others;
        ours
    }

    /// A runner that could not be removed yet.
    pub fn leave(&self, leftover: Leftover) {
        lock(&self.leftovers).push(leftover);
    }

    /// Notes that a runner of this name is about to be made, so that it is found if we end meanwhile.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn announce(&self, pool: &Pool, name: &str) -> io::Result<()> {
        self.records.write(&Record {
            pool: pool.name.clone(),
            runner_name: name.to_owned(),
            runner_id: None,
            process: None,
            state: WorkerState::Starting,
            started: Timestamp::now(),
            job: None,
            cgroup: None,
        })
    }

    /// The runner was not made after all.
    pub fn forget(&self, name: &str) {
        self.records.remove(name);
    }

    /// Starts the worker of a runner.
    ///
    /// # Errors
    /// If it cannot be started; the runner then counts as left over.
    pub async fn hire(
        self: &Arc<Self>,
        pool: &Pool,
        name: &str,
        recruit: Recruit,
        version: Option<&str>,
    ) -> io::Result<()> {
        let id = recruit.id;
        let started = self.launch(pool, name, recruit, version).await;
        if started.is_err() {
            self.records.remove(name);
            self.leave(Leftover {
                pool: pool.name.clone(),
                name: name.to_owned(),
                id: Some(id),
            });
        }
        started
    }

    async fn launch(
        self: &Arc<Self>,
        pool: &Pool,
        name: &str,
        recruit: Recruit,
        version: Option<&str>,
    ) -> io::Result<()> {
        let pipe = self.records.make_pipe(name)?;
        let receiver = open(&pipe)?;
        let cgroup = self.cgroup(name, pool);
        let order = Order {
            pool,
            pipe: &pipe,
            version,
            cgroup: cgroup.clone(),
        };
        let mut launched = self.program.launch(order)?;
        let started = Timestamp::now();
        let record = Record {
            pool: pool.name.clone(),
            runner_name: name.to_owned(),
            runner_id: Some(recruit.id),
            process: Some(launched.handle.process.clone()),
            state: WorkerState::Starting,
            started,
            job: None,
            cgroup,
        };
        let configured = match self.records.write(&record) {
            Ok(()) => launched.configure(&recruit.config).await,
            Err(error) => Err(error),
        };
        let (handle, child) = launched.split();
        if let Err(error) = configured {
            handle.kill();
            let _ = wait(child).await;
            if let Some(group) = &handle.cgroup {
                cgroup::remove(group).await;
            }
            return Err(error);
        }
        self.follow(record, handle, Some(child), receiver);
        Ok(())
    }

    fn cgroup(&self, name: &str, pool: &Pool) -> Option<PathBuf> {
        let made = self.cgroups.as_ref()?.make(name, pool);
        made.map_err(|error| tracing::warn!(%error, name, "a worker has no cgroup of its own"))
            .ok()
    }

    /// Takes over what an earlier supervisor left: workers that live are followed, runners of those that
    /// do not are to be removed.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub async fn take_over(self: &Arc<Self>, pools: &[Pool]) -> io::Result<usize> {
        let mut lives = 0;
        for record in self.records.all()? {
            let handle = record.process.clone().and_then(|process| {
                let handle = Handle::new(process, record.cgroup.clone());
                handle.ok()
            });
            let receiver = open(&self.records.pipe(&record.runner_name));
            if let (Some(handle), Ok(receiver)) = (handle, receiver) {
                tracing::info!(
                    runner = record.runner_name,
                    pid = handle.process.pid,
                    "a worker of the supervisor before this one is taken over"
                );
                lives += 1;
                let pool = pools.iter().find(|pool| pool.name == record.pool);
                if let Some((group, pool)) = record.cgroup.as_deref().zip(pool)
                    && let Err(error) = cgroup::bound(group, pool)
                {
                    tracing::warn!(%error, group = %group.display(), "a worker that was taken over has no bounds");
                }
                self.follow(record, handle, None, receiver);
                continue;
            }
            if let Some(group) = &record.cgroup {
                cgroup::remove(group).await;
            }
            self.records.remove(&record.runner_name);
            self.leave(Leftover {
                pool: record.pool,
                name: record.runner_name,
                id: record.runner_id,
            });
        }
        Ok(lives)
    }

    /// Follows a worker to its end, beside all else.
    fn follow(
        self: &Arc<Self>,
        record: Record,
        handle: Handle,
        child: Option<Child>,
        receiver: Receiver,
    ) {
        let handle = Arc::new(handle);
        let since = record.started;
        self.state.started(WorkerView {
            pool: record.pool.clone(),
            runner_name: record.runner_name.clone(),
            runner_id: record.runner_id.unwrap_or_default(),
            pid: handle.process.pid,
            state: record.state,
            started: since,
            since: Timestamp::now(),
            adopted: child.is_none(),
            vmm: None,
            job: record.job.clone(),
            phases: Vec::new(),
            result: None,
        });
        lock(&self.live).insert(record.runner_name.clone(), Arc::clone(&handle));
        let crew = Arc::clone(self);
        tokio::spawn(async move { crew.to_its_end(record, handle, child, receiver).await });
    }

    async fn to_its_end(
        self: Arc<Self>,
        mut record: Record,
        handle: Arc<Handle>,
        child: Option<Child>,
        receiver: Receiver,
    ) {
        let mut lines = Lines::default();
        let ended = async {
            match child {
                Some(child) => wait(child).await,
                None => {
                    handle.gone().await;
                    None
                }
            }
        };
        tokio::pin!(ended);
        let end = loop {
            tokio::select! {
                end = &mut ended => break end,
                ready = receiver.readable() => {
                    if ready.is_err() {
                        break ended.await;
                    }
                    self.read(&receiver, &mut lines, &mut record);
                }
            }
        };
        // What it said last.
        self.read(&receiver, &mut lines, &mut record);
        self.see_off(&record, &handle, end.as_deref()).await;
    }

    /// Reads what there is in the pipe.
    fn read(&self, receiver: &Receiver, lines: &mut Lines, record: &mut Record) {
        let mut buffer = [0; notice::MAX_LINE];
        while let Ok(count @ 1..) = receiver.try_read(&mut buffer) {
            for line in lines.take(&buffer[..count]) {
                match serde_json::from_slice(&line) {
                    Ok(notice) => self.heard(&notice, record),
                    Err(error) => {
                        tracing::warn!(runner = record.runner_name, %error, "a worker's notice is not understood");
                    }
                }
            }
        }
    }

    fn heard(&self, notice: &Notice, record: &mut Record) {
        let Some(worker) = self.state.told(&record.runner_name, notice) else {
            return;
        };
        if worker.state != record.state || worker.job != record.job {
            record.state = worker.state;
            record.job = worker.job;
            if let Err(error) = self.records.write(record) {
                tracing::warn!(%error, runner = record.runner_name, "cannot write a worker's record");
            }
            self.wake();
        }
    }

    /// Removes what is left of a worker.
    async fn see_off(&self, record: &Record, handle: &Handle, end: Option<&str>) {
        let name = &record.runner_name;
        if let Some(group) = &handle.cgroup {
            cgroup::remove(group).await;
        }
        lock(&self.live).remove(name);
        self.records.remove(name);
        let Some(worker) = self.state.gone(name, end) else {
            return;
        };
        let had_job = worker.job.is_some();
        let told = worker.state == WorkerState::Stopping;
        let well = had_job || told || end == Some("exit code 0");
        let said = end.unwrap_or("unknown to us");
        if had_job && worker.result.is_none() {
            tracing::error!(
                runner = name,
                end = said,
                "a worker ended without telling its job's result"
            );
        } else if !well {
            tracing::error!(
                runner = name,
                end = said,
                "a worker ended before it had a job"
            );
        }
        // GitHub removes a just-in-time runner itself once it knows its job's result.
        if worker.result.is_none() {
            self.leave(Leftover {
                pool: record.pool.clone(),
                name: name.clone(),
                id: record.runner_id,
            });
        }
        let ended = if well { Ended::Well } else { Ended::Badly };
        lock(&self.ended)
            .entry(record.pool.clone())
            .or_default()
            .push(ended);
        self.wake();
    }

    /// Tells a worker to end: the first time gently, by which a job that it has is cancelled.
    pub fn stop(&self, name: &str) {
        self.state.worker_state(name, WorkerState::Stopping);
        if let Some(handle) = lock(&self.live).get(name) {
            handle.signal(Signal::TERM);
        }
    }

    /// Ends a worker and its sandbox at once.
    pub fn kill(&self, name: &str) {
        self.state.worker_state(name, WorkerState::Stopping);
        if let Some(handle) = lock(&self.live).get(name) {
            handle.kill();
        }
    }
}

/// Lines out of what comes in pieces. One that is too long is nobody's notice and is dropped.
#[derive(Debug, Default)]
struct Lines {
    open: Vec<u8>,
    skipping: bool,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (content, ends) = match piece.split_last() {
                Some((b'\n', content)) => (content, true),
                _ => (piece, false),
            };
            if self.open.len() + content.len() > notice::MAX_LINE {
                self.skipping = true;
                self.open.clear();
            }
            if !self.skipping {
                self.open.extend_from_slice(content);
            }
            if ends {
                let line = std::mem::take(&mut self.open);
                if !std::mem::take(&mut self.skipping) && !line.is_empty() {
                    lines.push(line);
                }
            }
        }
        lines
    }
}

/// The pipe, for reading; it does not end when a worker closes it.
fn open(pipe: &Path) -> io::Result<Receiver> {
    pipe::OpenOptions::new()
        .read_write(true)
        .open_receiver(pipe)
}

async fn wait(mut child: Child) -> Option<String> {
    child.wait().await.ok().map(process::end)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_endless_ones_not_at_all() {
        let mut lines = Lines::default();
        assert!(lines.take(b"one\ntw").len() == 1);
        assert_eq!(
            lines.take(b"o\n\nthree\n"),
            [b"two".to_vec(), b"three".to_vec()]
        );
        for _ in 0..10 {
            assert!(lines.take(&[b'x'; 4096]).is_empty());
        }
        assert!(lines.open.len() <= notice::MAX_LINE);
        assert_eq!(lines.take(b"end\nfour\n"), [b"four".to_vec()]);
    }
}
