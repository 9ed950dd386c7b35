//! Listens to a runner scale set: how many jobs are assigned to it, and which wait to be acquired.

use std::{path::PathBuf, pin::pin, sync::Arc};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    pool::Shared,
    source::{SourceError, told},
    state::Happening,
};
use crate::{
    config::Pool,
    github::{
        pause::Backoff,
        scale_set::{
            JobEntry, Polled, QueueMessage, ScaleSetError, ScaleSets, Session, Statistics,
        },
    },
};

/// Who listens.
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
    pool: Pool,
    sets: Arc<ScaleSets>,
    set: u64,
}

impl Listener {
    /// A listener that has not begun.
    #[must_use]
    pub fn new(shared: Arc<Shared>, pool: Pool, sets: Arc<ScaleSets>, set: u64) -> Self {
        Self {
            shared,
            pool,
            sets,
            set,
        }
    }

    /// Listens, session after session, slower after failures.
    pub async fn listen(&self) -> std::convert::Infallible {
        let (first, longest) = self.shared.times.failure;
        let mut failures = Backoff::new(first, longest);
        self.end_old_session().await;
        loop {
            let (error, worked) = self.session().await;
            if worked {
                failures.reset();
            }
            let wait = error.wait().unwrap_or_else(|| failures.after_failure());
            tracing::warn!(
                pool = self.pool.name,
                wait = wait.as_secs_f64(),
                "the scale set is not heard: {error}"
            );
            self.error(Some(error.to_string()));
            sleep(wait).await;
        }
    }

    /// A session to its end; why it ended, and whether it was of use.
    async fn session(&self) -> (SourceError, bool) {
        let opened = self.sets.open_session(self.set, &self.shared.owner).await;
        let mut session = match self.told("sessions", opened) {
            Ok(session) => session,
            Err(error) => return (error, false),
        };
        self.remember(Some(&session.id));
        self.error(None);
        self.learn(session.statistics);
        let mut guard = EndLater {
            shared: Arc::clone(&self.shared),
            sets: Arc::clone(&self.sets),
            set: self.set,
            id: session.id.clone(),
            file: self.file(),
            armed: true,
        };
        let mut worked = false;
        loop {
            let next = Instant::now() + self.shared.times.poll;
            match self.turn(&mut session).await {
                Ok(()) => worked = true,
                Err(error) => {
                    // It is over, or will be: a new one is asked for by its own name.
                    guard.armed = false;
                    let ended = self.sets.end_session(self.set, &guard.id).await;
                    if ended.is_ok() {
                        self.remember(None);
                    }
                    return (error, worked);
                }
            }
            // The service holds a poll for most of a minute; one that does not must not make us busy.
            sleep_until(next).await;
        }
    }

    /// One poll, and what it leads to.
    async fn turn(&self, session: &mut Session) -> Result<(), SourceError> {
        let polled = self.sets.poll(session, self.pool.capacity).await;
        match self.told("scaleset-message", polled)? {
            Polled::Nothing => {}
            Polled::Expired => {
                let fresh = self.sets.refresh_session(session).await;
                self.told("sessions", fresh)?;
                self.learn(session.statistics);
            }
            Polled::Message(message) => {
                self.heed(session, &message).await?;
                let done = self.sets.acknowledge(session, message.message_id).await;
                if let Err(error) = self.told("scaleset-message", done) {
                    tracing::debug!("a message was not removed and will come again: {error}");
                }
            }
        }
        Ok(())
    }

    async fn heed(&self, session: &Session, message: &QueueMessage) -> Result<(), SourceError> {
        let entries = message.entries().unwrap_or_else(|why| {
            tracing::warn!(
                pool = self.pool.name,
                why,
                "a message of the scale set is not understood"
            );
            Vec::new()
        });
        let available = entries
            .iter()
            .filter(|entry| entry.message_type == "JobAvailable");
        let wanted: Vec<i64> = available.map(|entry| entry.runner_request_id).collect();
        if !wanted.is_empty() {
            let got = self.sets.acquire(session, &wanted).await;
            let got = self.told("acquirejobs", got)?;
            tracing::debug!(
                pool = self.pool.name,
                offered = wanted.len(),
                acquired = got.len(),
                "jobs were acquired"
            );
        }
        let started = entries.iter().filter(|e| e.message_type == "JobStarted");
        for seconds in started.filter_map(JobEntry::waited) {
            let pool = &self.pool.name;
            let state = &self.shared.crew.state;
            state.tell(&Happening::Queued { pool, seconds });
        }
        if let Some(statistics) = message.statistics {
            self.learn(statistics);
        }
        Ok(())
    }

    fn learn(&self, statistics: Statistics) {
        let assigned = u32::try_from(statistics.total_assigned_jobs).unwrap_or(u32::MAX);
        let crew = &self.shared.crew;
        crew.state
            .pool(&self.pool.name, |pool| pool.assigned = Some(assigned));
        crew.wake();
    }

    fn error(&self, error: Option<String>) {
        self.shared.crew.state.serves(&self.pool.name, error);
    }

    fn told<T>(
        &self,
        endpoint: &'static str,
        asked: Result<T, ScaleSetError>,
    ) -> Result<T, SourceError> {
        told(&self.shared.crew.state, &self.shared.rest, endpoint, asked)
    }

    /// Where the id of the open session is, so that the next supervisor can end it.
    fn file(&self) -> PathBuf {
        self.shared
            .folder
            .join(format!("session-{}", self.pool.name))
    }

    fn remember(&self, id: Option<&str>) {
        let kept = match id {
            Some(id) => std::fs::write(self.file(), id),
            None => std::fs::remove_file(self.file()),
        };
        if let Err(error) = kept {
            tracing::debug!(%error, "the session's id is not kept");
        }
    }

    /// Ends the session of a supervisor that was killed; otherwise it blocks ours for minutes.
    async fn end_old_session(&self) {
        let Ok(id) = std::fs::read_to_string(self.file()) else {
            return;
        };
        let good = id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if good && !id.is_empty() {
            let ended = pin!(self.sets.end_session(self.set, &id)).await;
            if let Err(error) = ended {
                tracing::info!(
                    pool = self.pool.name,
                    "the session of the supervisor before this one was not ended: {error}"
                );
            }
        }
        self.remember(None);
    }
}

/// Ends the session beside all else when the listener is dropped.
struct EndLater {
    shared: Arc<Shared>,
    sets: Arc<ScaleSets>,
    set: u64,
    id: String,
    file: PathBuf,
    armed: bool,
}

impl Drop for EndLater {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (sets, set) = (Arc::clone(&self.sets), self.set);
        let (id, file) = (std::mem::take(&mut self.id), std::mem::take(&mut self.file));
        self.shared.close(async move {
            if sets.end_session(set, &id).await.is_ok() {
                let _ = std::fs::remove_file(file);
            }
        });
    }
}
