//! The order of jobs: each after those that it needs, so many at the same time, matrix jobs cancelled
//! together where they fail fast.

use std::{
    collections::BTreeMap,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

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
    job::{Cancellation, Canceller, cancellation, outcome::Conclusion},
    printable,
    workflow::plan::{JobOutcome, JobResult, JobRun, Outcomes, Plan, Prepared, PreparedJob},
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
    shared: Shared,
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
    /// Whether the machine failed under a job of a called workflow, which was told there.
    machine_failed: bool,
    /// Why a called workflow could not go on.
    stopped: Option<Failure>,
}

/// What the workflows of a run, the called ones too, have in common.
#[derive(Clone, Debug)]
struct Shared {
    slots: Arc<Semaphore>,
    /// Jobs that were begun or wait for a slot.
    begun: Arc<AtomicUsize>,
}

/// How the jobs of a workflow ended.
#[derive(Debug)]
struct Ended {
    outcomes: Outcomes,
    machine_failed: bool,
}

/// Jobs of one run, all combinations of matrices and called workflows counted. GitHub bounds a
/// matrix only; matrices of calls within each other need a bound on the whole.
const MAX_JOBS: usize = 10_000;

/// What a task does. The box ends the recursion of the type.
type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

impl Done {
    fn new(job: String, outcome: JobOutcome, error: Option<RunJobError>) -> Self {
        Self {
            job,
            outcome,
            error,
            machine_failed: false,
            stopped: None,
        }
    }
}

impl Schedule {
    /// A schedule of `selected` jobs, at most `slots` at the same time.
    pub fn new(
        plan: Arc<Plan>,
        selected: Vec<String>,
        runner: Arc<JobRunner>,
        slots: usize,
    ) -> Self {
        let shared = Shared {
            slots: Arc::new(Semaphore::new(slots)),
            begun: Arc::default(),
        };
        Self::within(plan, selected, runner, shared)
    }

    fn within(
        plan: Arc<Plan>,
        selected: Vec<String>,
        runner: Arc<JobRunner>,
        shared: Shared,
    ) -> Self {
        Self {
            plan,
            waiting: selected,
            running: BTreeMap::new(),
            outcomes: Outcomes::new(),
            runner,
            shared,
            tasks: JoinSet::new(),
            owners: BTreeMap::new(),
            cancelled: false,
            machine_failed: false,
        }
    }

    /// Runs all jobs. A first signal cancels them, as GitHub does; a second one ends at once.
    pub async fn run(self, interrupts: &mut Interrupts) -> CommandResult {
        let (canceller, cancellation) = cancellation();
        let mut all = pin!(self.all(cancellation));
        let mut signal = None;
        let ended = loop {
            tokio::select! {
                biased;
                number = interrupts.next() => {
                    if signal.replace(number).is_some() {
                        return Err(interrupted(number));
                    }
                    eprintln!("mayfly: cancelling; once more ends at once");
                    canceller.cancel();
                }
                ended = &mut all => break ended?,
            }
        };
        if let Some(number) = signal {
            return Err(interrupted(number));
        }
        let failed = Plan::call_result(&ended.outcomes) > JobResult::Success;
        Ok(exit_of(failed, ended.machine_failed))
    }

    /// Runs all jobs of this workflow. A task of a called workflow dies with the set that holds it.
    async fn all(mut self, cancellation: Cancellation) -> Result<Ended, Failure> {
        loop {
            if cancellation.is_requested() && !self.cancelled {
                self.cancel();
            }
            self.start_ready().await?;
            if self.running.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                () = cancellation.requested(), if !self.cancelled => self.cancel(),
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended)?,
            }
        }
        Ok(Ended {
            outcomes: self.outcomes,
            machine_failed: self.machine_failed,
        })
    }

    /// Starts every job whose needs are done. One that is skipped may free others.
    async fn start_ready(&mut self) -> Result<(), Failure> {
        while let Some(id) = self.next_ready()? {
            self.waiting.retain(|other| *other != id);
            match self.plan.prepare(&id, &self.outcomes, self.cancelled) {
                Ok(Prepared::Skipped) => {
                    self.runner
                        .output
                        .not_started(&self.plan.display_id(&id), Conclusion::Skipped)
                        .await;
                    self.outcomes.insert(id, JobOutcome::skipped());
                }
                // The others go on, as on GitHub: what is wrong is wrong with this job alone.
                Err(error) => {
                    let error = printable::lines(&error.to_string());
                    let name = self.plan.display_id(&id);
                    eprintln!("mayfly: job {name}: {error}");
                    self.runner
                        .output
                        .not_started(&name, Conclusion::Failure)
                        .await;
                    self.outcomes.insert(id, JobOutcome::failed());
                }
                Ok(Prepared::Run(job)) => self.start(id, job)?,
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

    fn start(&mut self, id: String, job: PreparedJob) -> Result<(), Failure> {
        let (canceller, cancellation) = cancellation();
        if self.cancelled {
            // Its condition wants it to run although the run is being cancelled.
            tracing::debug!(job = id, "runs after the cancellation");
        }
        let at_once = Arc::new(Semaphore::new(
            job.max_parallel.unwrap_or(Semaphore::MAX_PERMITS),
        ));
        let open = job.runs.len() + job.calls.len();
        self.count(&id, open)?;
        let runs = job
            .runs
            .into_iter()
            .map(|run| self.one(id.clone(), run, cancellation.clone()));
        let calls = job
            .calls
            .into_iter()
            .map(|plan| self.called(id.clone(), plan, cancellation.clone()));
        for work in runs.chain(calls).collect::<Vec<_>>() {
            let at_once = Arc::clone(&at_once);
            let task = self.tasks.spawn(async move {
                // No semaphore is ever closed.
                let _one_of_its_matrix = at_once.acquire().await;
                work.await
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
        Ok(())
    }

    /// Counts jobs that begin, so that matrices of calls within each other cannot grow without end.
    fn count(&self, id: &str, jobs: usize) -> Result<(), Failure> {
        if self.shared.begun.fetch_add(jobs, Ordering::Relaxed) + jobs <= MAX_JOBS {
            return Ok(());
        }
        Err(Failure::usage(anyhow::anyhow!(
            "{}: with the job `{id}` this run has more than {MAX_JOBS} jobs; make its matrix smaller",
            self.plan.workflow().path
        )))
    }

    /// One combination of a job that has steps.
    fn one(&self, job: String, run: JobRun, cancellation: Cancellation) -> Work {
        let (runner, slots) = (Arc::clone(&self.runner), Arc::clone(&self.shared.slots));
        Box::pin(async move {
            let _one_of_all = slots.acquire().await;
            let (outcome, error) = runner.run(&run, cancellation).await;
            Done::new(job, outcome, error)
        })
    }

    /// The jobs of a called workflow, as one job of this one. It takes no slot: its jobs do.
    fn called(&self, job: String, plan: Plan, cancellation: Cancellation) -> Work {
        let name = self.plan.display_id(&job);
        let plan = Arc::new(plan);
        let selected = plan.jobs().map(|job| job.id.clone()).collect();
        let schedule = Self::within(
            Arc::clone(&plan),
            selected,
            Arc::clone(&self.runner),
            self.shared.clone(),
        );
        Box::pin(async move {
            let ended = schedule.all(cancellation).await.map(|ended| {
                let result = Plan::call_result(&ended.outcomes);
                let outcome = match plan.call_outputs(&ended.outcomes) {
                    Ok(outputs) => JobOutcome { result, outputs },
                    Err(error) => {
                        let error = printable::lines(&error.to_string());
                        eprintln!("mayfly: job {name}: {error}");
                        JobOutcome::failed()
                    }
                };
                (outcome, ended.machine_failed)
            });
            match ended {
                Ok((outcome, machine_failed)) => Done {
                    machine_failed,
                    ..Done::new(job, outcome, None)
                },
                Err(stopped) => Done {
                    stopped: Some(stopped),
                    ..Done::new(job, JobOutcome::failed(), None)
                },
            }
        })
    }

    fn ended(&mut self, ended: Result<(Id, Done), tokio::task::JoinError>) -> Result<(), Failure> {
        let done = match ended {
            Ok((task, done)) => {
                self.owners.remove(&task);
                done
            }
            Err(error) => {
                let Some(job) = self.owners.remove(&error.id()) else {
                    return Ok(());
                };
                Done::new(
                    job,
                    JobOutcome::failed(),
                    Some(RunJobError::Lost(error.to_string())),
                )
            }
        };
        if let Some(stopped) = done.stopped {
            return Err(stopped);
        }
        self.machine_failed |= done.machine_failed;
        if let Some(error) = done.error {
            let error = printable::lines(&error.to_string());
            eprintln!("mayfly: job {}: {error}", self.plan.display_id(&done.job));
            self.machine_failed = true;
        }
        let Some(group) = self.running.get_mut(&done.job) else {
            return Ok(());
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
        Ok(())
    }

    fn cancel(&mut self) {
        self.cancelled = true;
        for group in self.running.values() {
            group.canceller.cancel();
        }
    }
}
