//! What is known of a job's steps, and telling it to the results service twice a second at most.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value as Json, json};
use tokio::{sync::Notify, time::sleep};
use uuid::Uuid;

use super::{deadline::Deadline, numbers::Numbers, service::ResultsService, timestamp};
use crate::{
    github::{
        pause::Backoff,
        run_service::{self, Annotation, StepResult},
    },
    job::{
        outcome::Conclusion,
        reporter::{Origin, PlannedStep},
        request::StepAction,
    },
};

/// Least time between two updates.
const PACE: Duration = Duration::from_millis(500);
/// Most steps in one update.
const AT_ONCE: usize = 25;

/// A step, as far as it got.
#[derive(Debug)]
pub struct Step {
    /// Its identity for the services.
    pub id: Arc<str>,
    /// Its place on the page.
    pub number: u32,
    /// The name people see.
    pub name: String,
    /// What it runs.
    ran: Ran,
    /// When it began.
    pub started: Option<Timestamp>,
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

/// What a step runs, in the run service's words.
#[derive(Debug, Default)]
struct Ran {
    action: Option<String>,
    reference: Option<String>,
    kind: Option<&'static str>,
}

impl Ran {
    fn of(action: Option<&StepAction>) -> Self {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        match action {
            None | Some(StepAction::BackgroundControl { .. }) => Self::default(),
            Some(StepAction::Script) => Self {
                kind: Some("run"),
                ..Self::default()
            },
            Some(StepAction::ContainerRegistry { image }) => Self {
                action: some(image),
                kind: Some("docker"),
                ..Self::default()
            },
            Some(StepAction::Repository {
                name,
                reference,
                path,
                ..
            }) => {
                let slash = if name.is_empty() || path.is_empty() {
                    ""
                } else {
                    "/"
                };
                Self {
                    action: some(&format!("{name}{slash}{path}")),
                    reference: some(reference),
                    kind: Some("repository"),
                }
            }
        }
    }
}

/// All steps of a job by their records' places in it.
#[derive(Debug, Default, Clone)]
pub struct Steps {
    steps: Arc<Mutex<Known>>,
    news: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Known {
    steps: BTreeMap<u32, Step>,
    numbers: Numbers,
}

impl Steps {
    /// Steps are to come.
    pub fn planned(&self, planned: &[PlannedStep]) {
        let mut known = self.lock();
        for step in planned {
            known.add(step.step, step.id.as_deref(), &step.name, None);
        }
        drop(known);
        self.news.notify_one();
    }

    /// A step began.
    pub fn started(&self, record: u32, name: &str, origin: Origin<'_>, at: Timestamp) {
        let mut known = self.lock();
        let step = known.add(record, origin.id, name, origin.to_come);
        step.ran = Ran::of(origin.action);
        step.started = Some(at);
        drop(known);
        self.news.notify_one();
    }

    /// No further step begins: those that are still to come are not run, and those that run were broken
    /// off.
    pub fn all_over(&self, job: Conclusion) {
        for step in self.lock().steps.values_mut() {
            if step.conclusion.is_none() {
                step.conclusion = Some(match (job, step.started) {
                    (Conclusion::Cancelled, _) | (_, Some(_)) => Conclusion::Cancelled,
                    (_, None) => Conclusion::Skipped,
                });
                step.changed = true;
            }
        }
        self.news.notify_one();
    }

    /// A step ended.
    pub fn ended(&self, record: u32, conclusion: Conclusion, at: Timestamp) {
        self.with(record, |step| {
            step.conclusion = Some(conclusion);
            step.ended = Some(at);
            step.changed = true;
        });
        self.news.notify_one();
    }

    /// Does something with a step that began.
    pub fn with<T>(&self, record: u32, act: impl FnOnce(&mut Step) -> T) -> Option<T> {
        self.lock().steps.get_mut(&record).map(act)
    }

    /// All steps for the run service.
    #[must_use]
    pub fn results(&self) -> Vec<StepResult> {
        let known = self.lock();
        let result = |step: &Step| StepResult {
            external_id: step.id.to_string(),
            number: u64::from(step.number),
            name: step.name.clone(),
            action_name: step.ran.action.clone(),
            reference: step.ran.reference.clone(),
            kind: step.ran.kind,
            status: match (step.conclusion, step.started) {
                (Some(_), _) => "completed",
                (None, Some(_)) => "inProgress",
                (None, None) => "pending",
            },
            conclusion: step.conclusion.map(run_conclusion),
            started_at: step.started.map(timestamp),
            completed_at: step.ended.map(timestamp),
            completed_log_lines: step.lines,
            annotations: step.annotations.clone(),
        };
        known.steps.values().map(result).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The changes that the service does not know, marked as known.
    fn changes(&self) -> Vec<(u32, Json)> {
        let mut known = self.lock();
        let changed = known.steps.iter_mut().filter(|(_, step)| step.changed);
        let told = changed.take(AT_ONCE).map(|(record, step)| {
            step.changed = false;
            (*record, update(step))
        });
        told.collect()
    }

    fn unknown_again(&self, records: impl Iterator<Item = u32>) {
        let mut known = self.lock();
        for record in records {
            if let Some(step) = known.steps.get_mut(&record) {
                step.changed = true;
            }
        }
        drop(known);
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
            let (records, updates): (Vec<u32>, Vec<Json>) = changes.into_iter().unzip();
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
                        self.unknown_again(records.into_iter());
                    }
                    sleep(backoff.after_failure()).await;
                }
            }
        }
    }
}

impl Known {
    /// The step of a record; a new one gets its identity and its number.
    fn add(
        &mut self,
        record: u32,
        id: Option<&str>,
        name: &str,
        to_come: Option<u32>,
    ) -> &mut Step {
        let number = self.numbers.of(record, to_come);
        let step = self.steps.entry(record).or_insert_with(|| Step {
            id: id.map_or_else(|| Uuid::new_v4().to_string().into(), Arc::from),
            number,
            name: String::new(),
            ran: Ran::default(),
            started: None,
            ended: None,
            conclusion: None,
            lines: 0,
            annotations: Vec::new(),
            changed: true,
        });
        name.clone_into(&mut step.name);
        step.changed = true;
        step
    }
}

/// A step in the service's numbers.
fn update(step: &Step) -> Json {
    json!({
        "external_id": &*step.id,
        "number": step.number,
        "name": step.name,
        "status": match (step.conclusion, step.started) {
            (Some(_), _) => 6,
            (None, Some(_)) => 3,
            (None, None) => 5,
        },
        "started_at": step.started.map(timestamp),
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
