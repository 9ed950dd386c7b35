//! The plan of a run: the order of jobs, and for each job, once those it needs are done, whether it
//! runs and as which job requests.
//!
//! This is the part of GitHub's service that a local run does itself: it evaluates what the service
//! evaluates (a job's `if`, `name`, `strategy`, `timeout-minutes`, `continue-on-error`) and leaves
//! to the executor what the runner evaluates.

mod call;
mod concurrency;
mod error;
mod outcome;
mod prepare;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use secrecy::SecretString;

use super::model::{Job, Workflow};
use crate::expression::value::Object;
use crate::job::request::JobRequest;
use prepare::Preparing;

pub use concurrency::Concurrency;
pub use error::PrepareError;
pub use outcome::{JobOutcome, JobResult, Outcomes};
pub(super) use prepare::check_matrices;

/// Minutes a job may take if it does not say.
pub const DEFAULT_TIMEOUT_MINUTES: f64 = 360.0;

/// What a run is started with.
#[derive(Debug, Default)]
pub struct RunInputs {
    /// The `github` context.
    pub github: Object,
    /// The `inputs` context.
    pub inputs: Object,
    /// The `vars` context.
    pub vars: Object,
    /// Secrets by name.
    pub secrets: Vec<(String, SecretString)>,
    /// Secrets of the workflows that call this one: hidden in its logs, and not given to it.
    pub masked: Vec<SecretString>,
    /// Names and values that combinations of matrices must have to be run.
    pub matrix: Vec<(String, String)>,
}

/// A job that is ready.
#[derive(Debug)]
pub enum Prepared {
    /// Its condition does not hold, or its matrix leaves nothing.
    Skipped,
    /// It runs.
    Run(PreparedJob),
}

/// A job with all its combinations.
#[derive(Debug)]
pub struct PreparedJob {
    /// Whether a failing combination cancels the others.
    pub fail_fast: bool,
    /// How many combinations may run at once.
    pub max_parallel: Option<usize>,
    /// One for each combination; one if there is no matrix.
    pub runs: Vec<JobRun>,
    /// The same for a job that calls a workflow, which has no runs of its own.
    pub calls: Vec<Plan>,
}

/// One combination of a job.
#[derive(Debug)]
pub struct JobRun {
    /// What the executor runs.
    pub request: JobRequest,
    /// Whether its failure counts as success.
    pub continue_on_error: bool,
    /// Minutes after which it is cancelled.
    pub timeout_minutes: f64,
    /// The group that it belongs to.
    pub concurrency: Option<Concurrency>,
}

/// A workflow that is being run.
#[derive(Debug)]
pub struct Plan {
    workflow: Arc<Workflow>,
    inputs: RunInputs,
    /// What the names of its jobs begin with: `CALLER / ` for a called workflow.
    prefix: String,
    /// The groups of a called workflow: that of the job that calls it, and its own.
    pub groups: Vec<Concurrency>,
    /// Identity of the run.
    pub(super) run_id: String,
    /// Indices of jobs, each after all that it needs.
    order: Vec<usize>,
}

impl Plan {
    /// Plans a run. The workflow was checked: every needed job exists and none wait for each other.
    pub fn new(workflow: Workflow, inputs: RunInputs) -> Self {
        Self::shared(Arc::new(workflow), inputs)
    }

    fn shared(workflow: Arc<Workflow>, inputs: RunInputs) -> Self {
        let order = order(&workflow.jobs);
        Self {
            workflow,
            inputs,
            prefix: String::new(),
            groups: Vec::new(),
            run_id: uuid::Uuid::new_v4().to_string(),
            order,
        }
    }

    /// The name of a job that people see while its own is not known.
    pub fn display_id(&self, id: &str) -> String {
        format!("{}{id}", self.prefix)
    }

    /// The name of the job that calls this workflow, if one does.
    pub fn caller(&self) -> &str {
        self.prefix.strip_suffix(" / ").unwrap_or_default()
    }

    /// The workflow.
    pub fn workflow(&self) -> &Workflow {
        &self.workflow
    }

    /// What the run was started with.
    pub fn inputs(&self) -> &RunInputs {
        &self.inputs
    }

    /// The jobs, each after all that it needs.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.order.iter().map(|at| &self.workflow.jobs[*at])
    }

    /// A job by id.
    pub fn job(&self, id: &str) -> Result<&Job, PrepareError> {
        self.workflow
            .jobs
            .iter()
            .find(|job| job.id == id)
            .ok_or_else(|| {
                let ids: Vec<_> = self
                    .workflow
                    .jobs
                    .iter()
                    .map(|job| job.id.as_str())
                    .collect();
                PrepareError::UnknownJob(id.to_owned(), ids.join(", "))
            })
    }

    /// The ids of all jobs that a job needs, directly or not.
    pub fn ancestors(&self, job: &Job) -> Vec<&str> {
        let by_id: HashMap<&str, &Job> = self
            .workflow
            .jobs
            .iter()
            .map(|job| (job.id.as_str(), job))
            .collect();
        let mut found: BTreeSet<&str> = BTreeSet::new();
        let mut open: Vec<&str> = job.needs.iter().map(String::as_str).collect();
        while let Some(id) = open.pop() {
            let Some(needed) = by_id.get(id) else {
                continue;
            };
            if found.insert(&needed.id) {
                open.extend(needed.needs.iter().map(String::as_str));
            }
        }
        found.into_iter().collect()
    }

    /// Prepares a job whose needed jobs are all done.
    ///
    /// `cancelled` says whether the run is being cancelled; then only jobs that ask for it run.
    pub fn prepare(
        &self,
        id: &str,
        outcomes: &Outcomes,
        cancelled: bool,
    ) -> Result<Prepared, PrepareError> {
        let job = self.job(id)?;
        for need in &job.needs {
            if !outcomes.contains_key(need) {
                let (job, need) = (job.id.clone(), need.clone());
                return Err(PrepareError::NotReady { job, need });
            }
        }
        let preparing = Preparing {
            plan: self,
            job,
            outcomes,
            cancelled,
        };
        preparing.prepare()
    }
}

/// Jobs after all that they need, else in the order of the file.
fn order(jobs: &[Job]) -> Vec<usize> {
    let index: HashMap<&str, usize> = jobs
        .iter()
        .enumerate()
        .map(|(at, job)| (job.id.as_str(), at))
        .collect();
    let mut waiting: Vec<usize> = jobs.iter().map(|job| job.needs.len()).collect();
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); jobs.len()];
    for (at, job) in jobs.iter().enumerate() {
        for need in job.needs.iter().filter_map(|need| index.get(need.as_str())) {
            followers[*need].push(at);
        }
    }
    let ready = waiting.iter().enumerate().filter(|(_, count)| **count == 0);
    let mut ready: BTreeSet<usize> = ready.map(|(at, _)| at).collect();
    let mut order = Vec::with_capacity(jobs.len());
    while let Some(at) = ready.pop_first() {
        order.push(at);
        for follower in &followers[at] {
            waiting[*follower] -= 1;
            if waiting[*follower] == 0 {
                ready.insert(*follower);
            }
        }
    }
    order
}
