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

use futures_util::future::select_all;
use tokio::{
    sync::Semaphore,
    task::{Id, JoinSet},
};

use super::{
    exit_of,
    groups::{Groups, Ticket},
    job::{JobRunner, RunJobError},
};
use crate::{
    cli::{
        CommandResult, Failure,
        interrupt::{Interrupts, interrupted},
    },
    job::{Cancellation, Canceller, cancellation, outcome::Conclusion},
    printable,
    workflow::plan::{
        Concurrency, JobOutcome, JobResult, JobRun, Outcomes, Plan, Prepared, PreparedJob,
    },
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
    /// The members of concurrency groups around this workflow.
    around: Vec<u64>,
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
    groups: Arc<Groups>,
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

/// A job that is about to begin.
struct Begin {
    /// Its name as people see it.
    name: String,
    /// The concurrency groups that it enters, one after the other.
    groups: Vec<Concurrency>,
    /// What it does, given the members of groups around it.
    work: Box<dyn FnOnce(Cancellation, Vec<u64>) -> Work + Send>,
}

/// Waits for the turn in a group.
///
/// # Errors
/// It never comes: why, unless the whole run is being cancelled.
async fn turn(
    entered: Result<Ticket, String>,
    cancellation: &Cancellation,
) -> Result<Ticket, Option<String>> {
    let mut ticket = entered.map_err(Some)?;
    tokio::select! {
        biased;
        () = cancellation.requested() => Err(None),
        turn = ticket.turn() => match turn {
            Ok(()) => Ok(ticket),
            Err(why) => Err(Some(why)),
        },
    }
}

/// Does work that is cancelled where a group asks for it, too.
async fn stoppable(
    name: &str,
    mut tickets: Vec<Ticket>,
    outer: Cancellation,
    work: impl FnOnce(Cancellation) -> Work,
) -> Done {
    let (canceller, inner) = cancellation();
    let mut work = work(inner);
    let mut asked = false;
    loop {
        let stopped = async {
            let stopped = tickets.iter_mut().map(|ticket| Box::pin(ticket.stopped()));
            select_all(stopped).await.0
        };
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = outer.requested(), if !asked => {}
            why = stopped, if !asked => {
                eprintln!("mayfly: job {}: {}", printable::lines(name), printable::lines(&why));
            }
        }
        asked = true;
        canceller.cancel();
    }
}

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

    /// A job that called a workflow.
    fn of_call(job: String, name: &str, plan: &Plan, ended: Result<Ended, Failure>) -> Self {
        let ended = match ended {
            Ok(ended) => ended,
            Err(stopped) => {
                return Self {
                    stopped: Some(stopped),
                    ..Self::new(job, JobOutcome::failed(), None)
                };
            }
        };
        let result = Plan::call_result(&ended.outcomes);
        let outcome = match plan.call_outputs(&ended.outcomes) {
            Ok(outputs) => JobOutcome { result, outputs },
            Err(error) => {
                let error = printable::lines(&error.to_string());
                eprintln!("mayfly: job {name}: {error}");
                JobOutcome::failed()
            }
        };
        Self {
            machine_failed: ended.machine_failed,
            ..Self::new(job, outcome, None)
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
            groups: Arc::default(),
        };
        Self::within(plan, selected, runner, shared, Vec::new())
    }

    fn within(
        plan: Arc<Plan>,
        selected: Vec<String>,
        runner: Arc<JobRunner>,
        shared: Shared,
        around: Vec<u64>,
    ) -> Self {
        Self {
            plan,
            waiting: selected,
            running: BTreeMap::new(),
            outcomes: Outcomes::new(),
            runner,
            shared,
            around,
            tasks: JoinSet::new(),
            owners: BTreeMap::new(),
            cancelled: false,
            machine_failed: false,
        }
    }

    /// Runs all jobs. A first signal cancels them, as GitHub does; a second one ends at once.
    pub async fn run(mut self, interrupts: &mut Interrupts) -> CommandResult {
        let group = self.plan.concurrency().map_err(Failure::usage)?;
        // Nothing else is there yet that could hold it.
        let ticket = group.and_then(|group| self.shared.groups.enter(&[], None, &group).ok());
        self.around.extend(ticket.as_ref().map(|ticket| ticket.id));
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
        let runs = job.runs.into_iter().map(|run| self.one(&id, run));
        let calls = job.calls.into_iter().map(|plan| self.called(&id, plan));
        for work in runs.chain(calls).collect::<Vec<_>>() {
            let work = self.in_groups(&id, work, cancellation.clone(), Arc::clone(&at_once));
            let task = self.tasks.spawn(work);
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
    fn one(&self, job: &str, run: JobRun) -> Begin {
        let (runner, slots) = (Arc::clone(&self.runner), Arc::clone(&self.shared.slots));
        let job = job.to_owned();
        Begin {
            name: run.request.job_display_name.clone(),
            groups: run.concurrency.clone().into_iter().collect(),
            work: Box::new(|cancellation, _| {
                Box::pin(async move {
                    let _one_of_all = slots.acquire().await;
                    let (outcome, error) = runner.run(&run, cancellation).await;
                    Done::new(job, outcome, error)
                })
            }),
        }
    }

    /// The jobs of a called workflow, as one job of this one. It takes no slot: its jobs do.
    fn called(&self, job: &str, plan: Plan) -> Begin {
        let name = self.plan.display_id(job);
        let (runner, shared) = (Arc::clone(&self.runner), self.shared.clone());
        let job = job.to_owned();
        Begin {
            name: plan.caller().to_owned(),
            groups: plan.groups.clone(),
            work: Box::new(|cancellation, around| {
                let plan = Arc::new(plan);
                let selected = plan.jobs().map(|job| job.id.clone()).collect();
                let schedule = Self::within(Arc::clone(&plan), selected, runner, shared, around);
                Box::pin(async move {
                    let ended = schedule.all(cancellation).await;
                    Done::of_call(job, &name, &plan, ended)
                })
            }),
        }
    }

    /// Enters the groups that a job asks for, and does its work when it has its turn in all of them.
    fn in_groups(
        &self,
        job: &str,
        begin: Begin,
        cancellation: Cancellation,
        at_once: Arc<Semaphore>,
    ) -> Work {
        let (groups, runner) = (Arc::clone(&self.shared.groups), Arc::clone(&self.runner));
        let (job, mut around) = (job.to_owned(), self.around.clone());
        let Begin {
            name,
            groups: wanted,
            work,
        } = begin;
        // In the order of the jobs, whichever task runs first.
        let mut first = wanted
            .first()
            .map(|group| groups.enter(&around, Some(&name), group));
        Box::pin(async move {
            let mut tickets = Vec::new();
            for group in &wanted {
                let entered = first.take();
                let entered = entered.unwrap_or_else(|| groups.enter(&around, Some(&name), group));
                match turn(entered, &cancellation).await {
                    Ok(ticket) => {
                        around.push(ticket.id);
                        tickets.push(ticket);
                    }
                    Err(why) => {
                        if let Some(why) = why {
                            eprintln!(
                                "mayfly: job {}: {}",
                                printable::lines(&name),
                                printable::lines(&why)
                            );
                        }
                        runner
                            .output
                            .not_started(&name, Conclusion::Cancelled)
                            .await;
                        return Done::new(job, JobOutcome::cancelled(), None);
                    }
                }
            }
            // No semaphore is ever closed.
            let _one_of_its_matrix = at_once.acquire().await;
            if tickets.is_empty() {
                return work(cancellation, around).await;
            }
            stoppable(&name, tickets, cancellation, |cancellation| {
                work(cancellation, around)
            })
            .await
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
