//! What is known of a job's steps, and telling it to the results service twice a second at most.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value as Json, json};
use tokio::{sync::Notify, time::sleep};

use super::{deadline::Deadline, service::ResultsService, timestamp};
use crate::{
    github::{
        pause::Backoff,
        run_service::{self, Annotation, StepResult},
    },
    job::outcome::Conclusion,
};

/// Least time between two updates.
const PACE: Duration = Duration::from_millis(500);
/// Most steps in one update.
const AT_ONCE: usize = 25;

/// A step, as far as it got.
#[derive(Debug)]
pub struct Step {
    /// Its identity for the services.
    pub id: String,
    /// The name people see.
    pub name: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How it ended.
    pub conclusion: Option<Conclusion>,
    /// Lines of its log.
    pub lines: u64,
    /// What it said.
    pub annotations: Vec<Annotation>,
    /// Whether the service does not know its last change.
    changed: bool,
}

/// All steps of a job by number.
#[derive(Debug, Default, Clone)]
pub struct Steps {
    steps: Arc<Mutex<BTreeMap<u32, Step>>>,
    news: Arc<Notify>,
}

impl Steps {
    /// A step began.
    pub fn started(&self, number: u32, id: String, name: String, at: Timestamp) {
        let step = Step {
            id,
            name,
            started: at,
            ended: None,
            conclusion: None,
            lines: 0,
            annotations: Vec::new(),
            changed: true,
        };
        self.lock().insert(number, step);
        self.news.notify_one();
    }

    /// A step ended.
    pub fn ended(&self, number: u32, conclusion: Conclusion, at: Timestamp) {
        self.with(number, |step| {
            step.conclusion = Some(conclusion);
            step.ended = Some(at);
            step.changed = true;
        });
        self.news.notify_one();
    }

    /// Does something with a step that began.
    pub fn with<T>(&self, number: u32, act: impl FnOnce(&mut Step) -> T) -> Option<T> {
        self.lock().get_mut(&number).map(act)
    }

    /// All steps for the run service.
    #[must_use]
    pub fn results(&self) -> Vec<StepResult> {
        let steps = self.lock();
        let result = |(number, step): (&u32, &Step)| StepResult {
            external_id: step.id.clone(),
            number: u64::from(*number),
            name: step.name.clone(),
            action_name: None,
            status: if step.ended.is_some() {
                "completed"
            } else {
                "inProgress"
            },
            conclusion: step.conclusion.map(run_conclusion),
            started_at: Some(timestamp(step.started)),
            completed_at: step.ended.map(timestamp),
            completed_log_lines: step.lines,
            annotations: step.annotations.clone(),
        };
        steps.iter().map(result).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Step>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The changes that the service does not know, marked as known.
    fn changes(&self) -> Vec<(u32, Json)> {
        let mut steps = self.lock();
        let changed = steps.iter_mut().filter(|(_, step)| step.changed);
        let told = changed.take(AT_ONCE).map(|(number, step)| {
            step.changed = false;
            (*number, update(*number, step))
        });
        told.collect()
    }

    fn unknown_again(&self, numbers: impl Iterator<Item = u32>) {
        let mut steps = self.lock();
        for number in numbers {
            if let Some(step) = steps.get_mut(&number) {
                step.changed = true;
            }
        }
        self.news.notify_one();
    }

    /// Tells the service of changes until the deadline is set and all of them are told, or it passed.
    pub async fn tell(self, service: ResultsService, deadline: Deadline, backoff: Backoff) {
        let mut whole = deadline.clone();
        if whole
            .before(self.tell_all(service, deadline, backoff))
            .await
            .is_none()
        {
            tracing::warn!("the job's page does not show how all its steps went");
        }
    }

    async fn tell_all(
        &self,
        service: ResultsService,
        mut deadline: Deadline,
        mut backoff: Backoff,
    ) {
        let mut change_order = 0;
        loop {
            let changes = self.changes();
            if changes.is_empty() {
                if deadline.is_set() {
                    return;
                }
                tokio::select! {
                    () = self.news.notified() => {}
                    () = deadline.set() => {}
                }
                continue;
            }
            change_order += 1;
            let (numbers, updates): (Vec<u32>, Vec<Json>) = changes.into_iter().unzip();
            match service.update_steps(&updates, change_order).await {
                Ok(()) => {
                    backoff.reset();
                    // The last ones need not wait for company.
                    tokio::select! {
                        () = sleep(PACE) => {}
                        () = deadline.set() => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the job's page does not show how its steps go");
                    if error.may_pass() {
                        self.unknown_again(numbers.into_iter());
                    }
                    sleep(backoff.after_failure()).await;
                }
            }
        }
    }
}

/// A step in the service's numbers.
fn update(number: u32, step: &Step) -> Json {
    json!({
        "external_id": step.id,
        "number": number,
        "name": step.name,
        "status": if step.ended.is_some() { 6 } else { 3 },
        "started_at": timestamp(step.started),
        "completed_at": step.ended.map(timestamp),
        "conclusion": match step.conclusion {
            None => 0,
            Some(Conclusion::Success) => 2,
            Some(Conclusion::Failure) => 3,
            Some(Conclusion::Cancelled) => 4,
            Some(Conclusion::Skipped) => 7,
        },
    })
}

/// A conclusion in the run service's words.
#[must_use]
pub fn run_conclusion(conclusion: Conclusion) -> run_service::Conclusion {
    match conclusion {
        Conclusion::Success => run_service::Conclusion::Succeeded,
        Conclusion::Failure => run_service::Conclusion::Failed,
        Conclusion::Cancelled => run_service::Conclusion::Canceled,
        Conclusion::Skipped => run_service::Conclusion::Skipped,
    }
}
