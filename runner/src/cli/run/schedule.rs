//! The order of jobs: each after those that it needs, so many at the same time, matrix jobs cancelled
//! together where they fail fast.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{
    sync::Semaphore,
    task::{Id, JoinSet},
};

use super::{
    exit_of,
    job::{JobRunner, RunJobError},
};
use crate::{
    cli::{
        CommandResult, Failure,
        interrupt::{Interrupts, interrupted},
    },
    job::{Canceller, cancellation, outcome::Conclusion},
    printable,
    workflow::plan::{JobOutcome, JobResult, Outcomes, Plan, Prepared, PreparedJob},
};

/// A run of selected jobs.
#[derive(Debug)]
pub struct Schedule {
    plan: Arc<Plan>,
    /// Jobs that have not begun, in an order that respects their needs.
    waiting: Vec<String>,
    running: BTreeMap<String, Group>,
    outcomes: Outcomes,
    runner: Arc<JobRunner>,
    slots: Arc<Semaphore>,
    tasks: JoinSet<Done>,
    /// Which job a task belongs to, for one that panicked.
    owners: BTreeMap<Id, String>,
    cancelled: bool,
    machine_failed: bool,
}

/// The jobs of one matrix.
#[derive(Debug)]
struct Group {
    canceller: Canceller,
    fail_fast: bool,
    open: usize,
    outcomes: Vec<JobOutcome>,
}

/// One job that ended.
#[derive(Debug)]
struct Done {
    job: String,
    outcome: JobOutcome,
    error: Option<RunJobError>,
}

impl Schedule {
    /// A schedule of `selected` jobs, at most `slots` at the same time.
    pub fn new(
        plan: Arc<Plan>,
        selected: Vec<String>,
        runner: Arc<JobRunner>,
        slots: usize,
    ) -> Self {
        Self {
            plan,
            waiting: selected,
            running: BTreeMap::new(),
            outcomes: Outcomes::new(),
            runner,
            slots: Arc::new(Semaphore::new(slots)),
            tasks: JoinSet::new(),
            owners: BTreeMap::new(),
            cancelled: false,
            machine_failed: false,
        }
    }

    /// Runs all jobs. A first signal cancels them, as GitHub does; a second one ends at once.
    pub async fn run(mut self, interrupts: &mut Interrupts) -> CommandResult {
        let mut signal = None;
        loop {
            self.start_ready().await?;
            if self.running.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                number = interrupts.next() => {
                    if signal.replace(number).is_some() {
                        return Err(interrupted(number));
                    }
                    eprintln!("mayfly: cancelling; once more ends at once");
                    self.cancel();
                }
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
            }
        }
        if let Some(number) = signal {
            return Err(interrupted(number));
        }
        let failed = self
            .outcomes
            .values()
            .any(|outcome| matches!(outcome.result, JobResult::Failure | JobResult::Cancelled));
        Ok(exit_of(failed, self.machine_failed))
    }

    /// Starts every job whose needs are done. One that is skipped may free others.
    async fn start_ready(&mut self) -> Result<(), Failure> {
        while let Some(id) = self.next_ready()? {
            self.waiting.retain(|other| *other != id);
            match self.plan.prepare(&id, &self.outcomes, self.cancelled) {
                Ok(Prepared::Skipped) => {
                    self.runner
                        .output
                        .not_started(&id, Conclusion::Skipped)
                        .await;
                    self.outcomes.insert(id, JobOutcome::skipped());
                }
                // The others go on, as on GitHub: what is wrong is wrong with this job alone.
                Err(error) => {
                    let error = printable::lines(&error.to_string());
                    eprintln!("mayfly: job {id}: {error}");
                    self.runner
                        .output
                        .not_started(&id, Conclusion::Failure)
                        .await;
                    self.outcomes.insert(id, JobOutcome::failed());
                }
                Ok(Prepared::Run(job)) => self.start(id, job),
            }
        }
        Ok(())
    }

    fn next_ready(&self) -> Result<Option<String>, Failure> {
        for id in &self.waiting {
            let job = self.plan.job(id).map_err(Failure::usage)?;
            if job
                .needs
                .iter()
                .all(|need| self.outcomes.contains_key(need))
            {
                return Ok(Some(id.clone()));
            }
        }
        Ok(None)
    }

    fn start(&mut self, id: String, job: PreparedJob) {
        let (canceller, cancellation) = cancellation();
        if self.cancelled {
            // Its condition wants it to run although the run is being cancelled.
            tracing::debug!(job = id, "runs after the cancellation");
        }
        let at_once = Arc::new(Semaphore::new(
            job.max_parallel.unwrap_or(Semaphore::MAX_PERMITS),
        ));
        let open = job.runs.len();
        for run in job.runs {
            let (runner, slots, at_once) = (
                Arc::clone(&self.runner),
                Arc::clone(&self.slots),
                Arc::clone(&at_once),
            );
            let (job, cancellation) = (id.clone(), cancellation.clone());
            let task = self.tasks.spawn(async move {
                // Neither semaphore is ever closed.
                let _one_of_its_matrix = at_once.acquire().await;
                let _one_of_all = slots.acquire().await;
                let (outcome, error) = runner.run(&run, cancellation).await;
                Done {
                    job,
                    outcome,
                    error,
                }
            });
            self.owners.insert(task.id(), id.clone());
        }
        let group = Group {
            canceller,
            fail_fast: job.fail_fast,
            open,
            outcomes: Vec::new(),
        };
        self.running.insert(id, group);
    }

    fn ended(&mut self, ended: Result<(Id, Done), tokio::task::JoinError>) {
        let done = match ended {
            Ok((task, done)) => {
                self.owners.remove(&task);
                done
            }
            Err(error) => {
                let Some(job) = self.owners.remove(&error.id()) else {
                    return;
                };
                Done {
                    job,
                    outcome: JobOutcome::failed(),
                    error: Some(RunJobError::Lost(error.to_string())),
                }
            }
        };
        if let Some(error) = done.error {
            let error = printable::lines(&error.to_string());
            eprintln!("mayfly: job {}: {error}", done.job);
            self.machine_failed = true;
        }
        let Some(group) = self.running.get_mut(&done.job) else {
            return;
        };
        if done.outcome.result == JobResult::Failure && group.fail_fast {
            group.canceller.cancel();
        }
        group.outcomes.push(done.outcome);
        group.open -= 1;
        if group.open == 0
            && let Some(group) = self.running.remove(&done.job)
        {
            self.outcomes
                .insert(done.job, JobOutcome::merge(group.outcomes));
        }
    }

    fn cancel(&mut self) {
        self.cancelled = true;
        for group in self.running.values() {
            group.canceller.cancel();
        }
    }
}
