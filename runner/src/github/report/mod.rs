//! The job's page at GitHub: how its steps go, their logs, summaries and annotations.
//!
//! A [`GitHubReporter`] takes the executor's events; two tasks behind it bring them to the results
//! service. [`Reporting::finish`] waits for both, before the run service is told that the job ended.

mod deadline;
mod numbers;
mod service;
mod steps;
mod upload;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{sync::mpsc, task::JoinHandle};
use tracing::Instrument;

use super::{
    feed::{self, Feed, FeedTimes, Feeding},
    http::Http,
    pause::Backoff,
    run_service::{Annotation, StepResult},
};
use crate::job::{
    commands::{Annotation as Said, Level},
    reporter::{Event, EventKind, Origin, Reporter, log_line},
    request::JobRequest,
};

pub use service::{Document, NoResults, ResultsError, ResultsService};
pub use steps::run_conclusion;

use deadline::{DeadlineSetter, deadline};
use steps::{Step, Steps};
use upload::{Block, Uploader};

/// Waits between tries of a service that fails.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Bytes of a log that are sent at once.
const BLOCK: usize = 2 << 20;
/// Blocks that may wait to be sent.
const WAITING: usize = 4;
/// Most bytes of a step's summary.
const MAX_SUMMARY: usize = 1 << 20;
/// Most annotations of one level that a step can have on the page.
const MAX_ANNOTATIONS: usize = 10;
/// Most characters of a message about the job.
const MAX_MESSAGE: usize = 4096;
/// What the official runner begins its log files with.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A time as the services write it: RFC 3339 in UTC with milliseconds.
fn timestamp(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// A log between two blocks.
#[derive(Debug, Default)]
struct Log {
    bytes: Vec<u8>,
    lines: u64,
}

impl Log {
    /// Adds a line; a block to be sent if one is full.
    fn push(&mut self, line: &str) -> Option<Bytes> {
        if self.lines == 0 {
            self.bytes.extend_from_slice(BOM);
        }
        self.lines += 1;
        self.bytes.extend_from_slice(line.as_bytes());
        self.bytes.push(b'\n');
        (self.bytes.len() >= BLOCK).then(|| std::mem::take(&mut self.bytes).into())
    }
}

#[derive(Debug, Default)]
struct Logs {
    steps: BTreeMap<u32, Log>,
    job: Log,
}

/// Reports one job to GitHub.
#[derive(Debug)]
pub struct GitHubReporter {
    steps: Steps,
    logs: Mutex<Logs>,
    blocks: mpsc::Sender<Block>,
    job: Arc<Mutex<Vec<Annotation>>>,
    feed: Option<Feed>,
    began: OnceLock<Instant>,
}

/// The tasks behind a [`GitHubReporter`].
#[derive(Debug)]
pub struct Reporting {
    steps: Steps,
    deadline: DeadlineSetter,
    uploads: JoinHandle<u64>,
    updates: JoinHandle<()>,
    feeding: Option<Feeding>,
    job: Arc<Mutex<Vec<Annotation>>>,
}

/// What was reported.
#[derive(Debug)]
pub struct Reported {
    /// The steps, for the run service.
    pub steps: Vec<StepResult>,
    /// What is about the job as a whole.
    pub annotations: Vec<Annotation>,
    /// Logs and summaries that are not whole at GitHub.
    pub incomplete: u64,
}

/// Begins to report a job.
///
/// # Errors
/// [`NoResults`] if the job message does not say where to.
pub fn start(http: Http, job: &JobRequest) -> Result<(GitHubReporter, Reporting), NoResults> {
    start_with(http, job, &Backoff::new(FIRST_WAIT, LONGEST_WAIT))
}

/// Begins to report a job, with waits of one's own between tries.
fn start_with(
    http: Http,
    job: &JobRequest,
    backoff: &Backoff,
) -> Result<(GitHubReporter, Reporting), NoResults> {
    let service = ResultsService::of(http, job)?;
    let (blocks, waiting) = mpsc::channel(WAITING);
    let (deadline, until) = deadline();
    let steps = Steps::default();
    let (feed, feeding) = feed::start(job, FeedTimes::default()).unzip();
    let uploader = Uploader::new(service.clone(), until.clone(), backoff.clone());
    let reporting = Reporting {
        steps: steps.clone(),
        deadline,
        uploads: tokio::spawn(uploader.run(waiting).in_current_span()),
        updates: tokio::spawn(
            steps
                .clone()
                .tell(service, until, backoff.clone())
                .in_current_span(),
        ),
        feeding,
        job: Arc::default(),
    };
    let reporter = GitHubReporter {
        steps,
        logs: Mutex::default(),
        blocks,
        job: Arc::clone(&reporting.job),
        feed,
        began: OnceLock::new(),
    };
    Ok((reporter, reporting))
}

impl Reporting {
    /// Waits until all is at GitHub, at most for `limit`; the reporter is to be dropped before.
    pub async fn finish(self, limit: Duration) -> Reported {
        self.deadline.set(limit);
        let feeding = async {
            if let Some(feeding) = self.feeding {
                feeding.finish().await;
            }
        };
        let (incomplete, ()) = tokio::join!(self.uploads, feeding);
        let incomplete = incomplete.unwrap_or(1);
        // A failed task has said so; the job's result counts more than its page.
        let _ = self.updates.await;
        let mut job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        Reported {
            steps: self.steps.results(),
            annotations: std::mem::take(&mut job),
            incomplete,
        }
    }
}

impl GitHubReporter {
    /// When the first step began.
    pub(super) fn began(&self) -> Option<Instant> {
        self.began.get().copied()
    }

    /// Sends a block; waits while too many wait already.
    async fn send(&self, document: Document, bytes: Bytes, last: bool, size: u64) {
        let block = Block {
            document,
            bytes,
            last,
            size,
        };
        if self.blocks.send(block).await.is_err() {
            tracing::error!("the task that uploads the job's logs is gone");
        }
    }

    fn logs(&self) -> std::sync::MutexGuard<'_, Logs> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self, step: u32) -> Option<Arc<str>> {
        self.steps.with(step, |step| Arc::clone(&step.id))
    }

    async fn line(&self, step: u32, text: &str, time: Timestamp) {
        let line = log_line(time, text);
        let (of_step, of_job, lines) = {
            let mut logs = self.logs();
            let log = logs.steps.entry(step).or_default();
            let block = log.push(&line);
            let lines = log.lines;
            (block, logs.job.push(&line), lines)
        };
        let id = self.steps.with(step, |step| {
            step.lines = lines;
            Arc::clone(&step.id)
        });
        if let (Some(feed), Some(id)) = (&self.feed, &id) {
            feed.say(id, lines, text);
        }
        if let (Some(bytes), Some(id)) = (of_step, id) {
            self.send(Document::StepLog(id), bytes, false, lines).await;
        }
        if let Some(bytes) = of_job {
            self.send(Document::JobLog, bytes, false, 0).await;
        }
    }

    async fn step_ended(&self, step: u32) {
        let log = self.logs().steps.remove(&step);
        if let (Some(log), Some(id)) = (log, self.id(step)) {
            let document = Document::StepLog(id);
            self.send(document, log.bytes.into(), true, log.lines).await;
        }
    }

    async fn summary(&self, step: u32, markdown: &str) {
        let limit = markdown.len().min(MAX_SUMMARY);
        let border = |at: &usize| markdown.is_char_boundary(*at);
        let end = (0..=limit).rev().find(border).unwrap_or(0);
        let bytes = Bytes::copy_from_slice(&markdown.as_bytes()[..end]);
        if let Some(id) = self.id(step) {
            let size = bytes.len() as u64;
            self.send(Document::Summary(id), bytes, true, size).await;
        }
    }

    /// Says on the job's page that the machine failed the job. What is said holds no secret.
    pub fn blames_machine(&self, message: &str) {
        let mut job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        if job.len() < MAX_ANNOTATIONS {
            job.push(Annotation {
                level: "failure".to_owned(),
                message: message.chars().take(MAX_MESSAGE).collect(),
                is_infrastructure_issue: true,
                ..Annotation::default()
            });
        }
    }

    fn annotate(&self, record: u32, said: &Said) {
        self.steps.with(record, |step| {
            let annotation = annotation(step, said);
            let same = step
                .annotations
                .iter()
                .filter(|a| a.level == annotation.level);
            if same.count() < MAX_ANNOTATIONS {
                step.annotations.push(annotation);
            }
        });
    }
}

impl Reporter for GitHubReporter {
    async fn report(&self, event: &Event<'_>) {
        match &event.kind {
            EventKind::StepStarted { step, name, origin } => {
                self.began.get_or_init(Instant::now);
                self.steps.started(*step, name, *origin, event.time);
            }
            EventKind::StepsPlanned { steps } => self.steps.planned(steps),
            EventKind::Log { step, line } => self.line(*step, line, event.time).await,
            EventKind::Annotation { step, annotation } => self.annotate(*step, annotation),
            EventKind::Summary { step, markdown } => self.summary(*step, markdown).await,
            EventKind::StepFinished { record } => {
                if self.id(record.number).is_none() {
                    let origin = Origin::default();
                    self.steps
                        .started(record.number, &record.name, origin, event.time);
                }
                self.steps
                    .ended(record.number, record.conclusion, event.time);
                self.step_ended(record.number).await;
            }
            EventKind::JobFinished { result, .. } => {
                self.steps.all_over(*result);
                let log = std::mem::take(&mut self.logs().job);
                if log.lines > 0 {
                    let bytes = log.bytes.into();
                    self.send(Document::JobLog, bytes, true, log.lines).await;
                }
            }
            EventKind::JobStarted { .. } => {}
        }
    }
}

/// An annotation in the run service's form. One without a place is where the log has it.
fn annotation(step: &Step, said: &Said) -> Annotation {
    let in_log = said.file.is_none() && said.line.unwrap_or(0) == 0;
    let number = |value: Option<u32>| match value {
        Some(value) => u64::from(value),
        None => 0,
    };
    let line = |value: Option<u32>| match in_log {
        true => step.lines,
        false => number(value),
    };
    Annotation {
        level: match said.level {
            Level::Error => "failure",
            Level::Warning => "warning",
            Level::Notice => "notice",
        }
        .to_owned(),
        message: said.message.clone(),
        title: said.title.clone(),
        path: said.file.clone(),
        is_infrastructure_issue: false,
        start_line: line(said.line),
        end_line: line(said.end_line.or(said.line)),
        start_column: number(said.column),
        end_column: number(said.end_column.or(said.column)),
        step_number: u64::from(step.number),
    }
}
