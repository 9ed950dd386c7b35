//! The plan of a run: the order of jobs, and for each job, once those it needs are done, whether it
//! runs and as which job requests.
//!
//! This is the part of GitHub's service that a local run does itself: it evaluates what the service
//! evaluates (a job's `if`, `name`, `strategy`, `timeout-minutes`, `continue-on-error`) and leaves
//! to the executor what the runner evaluates.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use secrecy::SecretString;

use super::diagnostic::Diagnostic;
use super::evaluate::{EvaluateError, evaluate};
use super::matrix::{MatrixError, expand};
use super::model::{Job, Workflow, place_of};
use super::token::TemplateToken;
use crate::expression::coerce::{to_number, to_text, truthy};
use crate::expression::value::{Object, Value};
use crate::expression::{Expression, ExpressionError, Function, Names, Scope};
use crate::job::request::JobRequest;

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
    /// Names and values that combinations of matrices must have to be run.
    pub matrix: Vec<(String, String)>,
}

/// How a job ended, as `needs.<job>` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobOutcome {
    /// Its result; a failure that `continue-on-error` covers is a success.
    pub result: JobResult,
    /// Its outputs.
    pub outputs: Object,
}

/// The result of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobResult {
    /// All well.
    Success,
    /// It did not run.
    Skipped,
    /// It was cancelled.
    Cancelled,
    /// A step failed.
    Failure,
}

impl JobResult {
    /// GitHub's word for it.
    pub fn name(self) -> &'static str {
        match self {
            JobResult::Success => "success",
            JobResult::Failure => "failure",
            JobResult::Cancelled => "cancelled",
            JobResult::Skipped => "skipped",
        }
    }
}

impl JobOutcome {
    /// The outcome of a job that did not run.
    pub fn skipped() -> Self {
        Self {
            result: JobResult::Skipped,
            outputs: Object::new(),
        }
    }

    /// The outcome of a job from those of its matrix combinations: the worst result, and of each
    /// output the last that is not empty.
    pub fn merge(outcomes: impl IntoIterator<Item = JobOutcome>) -> Self {
        let mut merged: Option<JobOutcome> = None;
        for outcome in outcomes {
            match &mut merged {
                None => merged = Some(outcome),
                Some(merged) => {
                    merged.result = merged.result.max(outcome.result);
                    for (key, value) in outcome.outputs.iter() {
                        if !to_text(value).is_empty() || merged.outputs.get(key).is_none() {
                            merged.outputs.insert(key, value.clone());
                        }
                    }
                }
            }
        }
        merged.unwrap_or_else(Self::skipped)
    }
}

/// Outcomes of the jobs that are done, by id.
pub type Outcomes = BTreeMap<String, JobOutcome>;

/// Why a job cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// There is no such job.
    #[error("no job `{0}` in this workflow; its jobs are {1}")]
    UnknownJob(String, String),
    /// A needed job has no outcome yet.
    #[error("the job `{job}` needs `{need}`, which is not done")]
    NotReady {
        /// The job.
        job: String,
        /// The job it waits for.
        need: String,
    },
    /// An expression failed.
    #[error("{path}: `{key}` of the job `{job}`: {source}")]
    Evaluate {
        /// The workflow file.
        path: String,
        /// The job.
        job: String,
        /// The key.
        key: &'static str,
        /// What is wrong.
        source: Box<EvaluateError>,
    },
    /// The condition failed.
    #[error("{path}: `if` of the job `{job}`: {source}")]
    Condition {
        /// The workflow file.
        path: String,
        /// The job.
        job: String,
        /// What is wrong.
        source: ExpressionError,
    },
    /// The matrix makes no jobs.
    #[error("{path}: the matrix of the job `{job}`: {source}")]
    Matrix {
        /// The workflow file.
        path: String,
        /// The job.
        job: String,
        /// What is wrong.
        source: MatrixError,
    },
    /// A value is of the wrong kind.
    #[error("{path}: `{key}` of the job `{job}` must be {expected}, it is `{found}`")]
    Value {
        /// The workflow file.
        path: String,
        /// The job.
        job: String,
        /// The key.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
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
}

/// A workflow that is being run.
#[derive(Debug)]
pub struct Plan {
    workflow: Workflow,
    inputs: RunInputs,
    /// Identity of the run.
    pub(super) run_id: String,
    /// Indices of jobs, each after all that it needs.
    order: Vec<usize>,
}

impl Plan {
    /// Plans a run. The workflow was checked: every needed job exists and none wait for each other.
    pub fn new(workflow: Workflow, inputs: RunInputs) -> Self {
        let order = order(&workflow.jobs);
        Self {
            workflow,
            inputs,
            run_id: uuid::Uuid::new_v4().to_string(),
            order,
        }
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

struct Preparing<'a> {
    plan: &'a Plan,
    job: &'a Job,
    outcomes: &'a Outcomes,
    cancelled: bool,
}

impl Preparing<'_> {
    fn prepare(&self) -> Result<Prepared, PrepareError> {
        let mut contexts = self.contexts();
        if !self.holds(&contexts)? {
            return Ok(Prepared::Skipped);
        }
        let strategy = self.evaluate(self.job.strategy.as_ref(), "strategy", &contexts)?;
        let strategy = strategy.unwrap_or_default();
        let combinations = match strategy.get("matrix") {
            None | Some(Value::Null) => vec![None],
            Some(matrix) => {
                let expanded = expand(matrix).map_err(|source| self.matrix_error(source))?;
                expanded.into_iter().map(Some).collect()
            }
        };
        let fail_fast = strategy.get("fail-fast").is_none_or(truthy);
        let max_parallel = strategy
            .get("max-parallel")
            .map(|v| self.max_parallel(v))
            .transpose()?;
        let mut runs = Vec::with_capacity(combinations.len());
        let total = combinations.len();
        for (index, matrix) in combinations.into_iter().enumerate() {
            if !self.is_wanted(matrix.as_ref()) {
                continue;
            }
            contexts.insert(
                "strategy",
                strategy_context(fail_fast, max_parallel, index, total),
            );
            contexts.insert("matrix", matrix.map_or(Value::Null, Value::from));
            runs.push(self.run(&contexts)?);
        }
        if runs.is_empty() {
            return Ok(Prepared::Skipped);
        }
        Ok(Prepared::Run(PreparedJob {
            fail_fast,
            max_parallel,
            runs,
        }))
    }

    /// Whether a combination has, of each name that was asked for, one of the values.
    fn is_wanted(&self, matrix: Option<&Object>) -> bool {
        let asked = &self.plan.inputs.matrix;
        let Some(matrix) = matrix else { return true };
        asked.iter().all(|(name, _)| {
            let Some(own) = matrix.get(name).map(to_text) else {
                return true;
            };
            let mut same_name = asked
                .iter()
                .filter(|(other, _)| other.eq_ignore_ascii_case(name));
            same_name.any(|(_, value)| *value == own)
        })
    }

    /// The contexts of the job before its strategy is known.
    fn contexts(&self) -> Object {
        let inputs = &self.plan.inputs;
        let mut needs = Object::new();
        for need in &self.job.needs {
            let Some(outcome) = self.outcomes.get(need) else {
                continue;
            };
            let mut entry = Object::new();
            entry.insert("result", outcome.result.name());
            entry.insert("outputs", outcome.outputs.clone());
            needs.insert(need, entry);
        }
        let mut contexts = Object::new();
        contexts.insert("github", inputs.github.clone());
        contexts.insert("needs", needs);
        contexts.insert("inputs", inputs.inputs.clone());
        contexts.insert("vars", inputs.vars.clone());
        contexts
    }

    fn holds(&self, contexts: &Object) -> Result<bool, PrepareError> {
        let names = Names::everything();
        let status = |function: Function, jobs: &[Value]| self.status(function, jobs);
        let scope = Scope {
            status: Some(&status),
            ..Scope::new(contexts)
        };
        Expression::parse(&self.job.condition, &names)
            .and_then(|condition| condition.evaluate(&scope))
            .map(|value| truthy(&value))
            .map_err(|source| PrepareError::Condition {
                path: self.plan.workflow.path.clone(),
                job: self.job.id.clone(),
                source,
            })
    }

    /// `success()` and its like, about all jobs before this one or about the named ones.
    fn status(&self, function: Function, jobs: &[Value]) -> bool {
        let named: Vec<String> = jobs.iter().map(to_text).collect();
        let ids = match named.as_slice() {
            [] => self.plan.ancestors(self.job),
            named => named.iter().map(String::as_str).collect(),
        };
        let result = |id: &&str| self.outcomes.get(*id).map(|outcome| outcome.result);
        let mut results = ids.iter().map(result);
        match function {
            Function::Always => true,
            Function::Cancelled => self.cancelled,
            Function::Success => {
                !self.cancelled && results.all(|result| result == Some(JobResult::Success))
            }
            Function::Failure => {
                !self.cancelled && results.any(|result| result == Some(JobResult::Failure))
            }
            _ => false,
        }
    }

    fn run(&self, contexts: &Object) -> Result<JobRun, PrepareError> {
        let name = self.evaluate(self.job.name.as_ref(), "name", contexts)?;
        let name = self.display_name(name.as_ref(), contexts.get("matrix"));
        let continue_on_error = self.evaluate(
            self.job.continue_on_error.as_ref(),
            "continue-on-error",
            contexts,
        )?;
        let continue_on_error = match continue_on_error {
            None | Some(Value::Null) => false,
            Some(Value::Bool(value)) => value,
            Some(value) => {
                return Err(self.value_error("continue-on-error", "true or false", &value));
            }
        };
        let timeout = self.evaluate(
            self.job.timeout_minutes.as_ref(),
            "timeout-minutes",
            contexts,
        )?;
        let timeout_minutes = match timeout {
            None | Some(Value::Null) => DEFAULT_TIMEOUT_MINUTES,
            Some(value) => Some(to_number(&value))
                .filter(|minutes| *minutes > 0.0)
                .ok_or_else(|| self.value_error("timeout-minutes", "a number above 0", &value))?,
        };
        let request = super::request::job_request(self.plan, self.job, name, contexts);
        Ok(JobRun {
            request,
            continue_on_error,
            timeout_minutes,
        })
    }

    /// The name people see: that of the job, with the values of its combination unless the name was
    /// made by an expression.
    fn display_name(&self, name: Option<&Value>, matrix: Option<&Value>) -> String {
        let computed = self
            .job
            .name
            .as_ref()
            .is_some_and(|token| token.as_str().is_none());
        let name = name.map(to_text).filter(|name| !name.trim().is_empty());
        let name = match name {
            Some(name) if computed => return name,
            Some(name) => name,
            None => self.job.id.clone(),
        };
        let mut values = Vec::new();
        matrix
            .into_iter()
            .for_each(|matrix| leaves(matrix, &mut values));
        if values.is_empty() {
            name
        } else {
            format!("{name} ({})", values.join(", "))
        }
    }

    fn max_parallel(&self, value: &Value) -> Result<usize, PrepareError> {
        let number = to_number(value);
        if number >= 1.0 && number.is_finite() {
            return Ok(number as usize);
        }
        Err(self.value_error("max-parallel", "a number of at least 1", value))
    }

    fn evaluate(
        &self,
        token: Option<&TemplateToken>,
        key: &'static str,
        contexts: &Object,
    ) -> Result<Option<Value>, PrepareError> {
        let Some(token) = token else { return Ok(None) };
        let value = evaluate(token, &Names::everything(), &Scope::new(contexts));
        value.map(Some).map_err(|source| PrepareError::Evaluate {
            path: self.plan.workflow.path.clone(),
            job: self.job.id.clone(),
            key,
            source: Box::new(source),
        })
    }

    fn matrix_error(&self, source: MatrixError) -> PrepareError {
        let (path, job) = (self.plan.workflow.path.clone(), self.job.id.clone());
        PrepareError::Matrix { path, job, source }
    }

    fn value_error(
        &self,
        key: &'static str,
        expected: &'static str,
        found: &Value,
    ) -> PrepareError {
        let (path, job) = (self.plan.workflow.path.clone(), self.job.id.clone());
        PrepareError::Value {
            path,
            job,
            key,
            expected,
            found: to_text(found),
        }
    }
}

fn strategy_context(
    fail_fast: bool,
    parallel: Option<usize>,
    index: usize,
    total: usize,
) -> Object {
    let mut strategy = Object::new();
    strategy.insert("fail-fast", fail_fast);
    strategy.insert("job-index", index as f64);
    strategy.insert("job-total", total as f64);
    strategy.insert("max-parallel", parallel.unwrap_or(total) as f64);
    strategy
}

fn leaves(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| leaves(item, found)),
        Value::Object(object) => object.values().for_each(|item| leaves(item, found)),
        leaf => {
            let text = to_text(leaf);
            if !text.is_empty() {
                found.push(text);
            }
        }
    }
}

/// Expands matrices that hold no expression, so that what is wrong with them is told before anything
/// runs.
pub(super) fn check_matrices(workflow: &Workflow, findings: &mut Vec<Diagnostic>) {
    for job in &workflow.jobs {
        let Some(matrix) = job
            .strategy
            .as_ref()
            .and_then(|strategy| strategy.get("matrix"))
        else {
            continue;
        };
        // A matrix with expressions waits for its contexts; a value that was refused is nothing.
        let refused = |(_, value): &(TemplateToken, TemplateToken)| value.is_null();
        if matrix.has_expression() || matrix.as_mapping().is_some_and(|m| m.iter().any(refused)) {
            continue;
        }
        let contexts = Object::new();
        let Ok(value) = evaluate(matrix, &Names::default(), &Scope::new(&contexts)) else {
            continue;
        };
        if let Err(error) = expand(&value) {
            let place = place_of(matrix);
            let help = "see `matrix` in GitHub's syntax of workflows";
            findings.push(Diagnostic::error(place, error.to_string(), help));
        }
    }
}
