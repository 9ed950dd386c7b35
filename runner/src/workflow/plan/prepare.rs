//! A job whose needs are done: whether it runs, and as which job requests.

use super::super::diagnostic::Diagnostic;
use super::super::evaluate::evaluate;
use super::super::matrix::{MatrixError, expand};
use super::super::model::{Job, Workflow, place_of};
use super::super::request::job_request;
use super::super::token::TemplateToken;
use super::{
    Concurrency, DEFAULT_TIMEOUT_MINUTES, JobResult, JobRun, Outcomes, Plan, PrepareError,
    Prepared, PreparedJob, concurrency,
};
use crate::expression::coerce::{to_number, to_text, truthy};
use crate::expression::value::{Object, Value};
use crate::expression::{Expression, Function, Names, Scope};

/// A job at the moment when its turn came.
pub(super) struct Preparing<'a> {
    pub(super) plan: &'a Plan,
    pub(super) job: &'a Job,
    pub(super) outcomes: &'a Outcomes,
    /// Whether the run is being cancelled.
    pub(super) cancelled: bool,
}

impl Preparing<'_> {
    pub(super) fn prepare(&self) -> Result<Prepared, PrepareError> {
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
        let (mut runs, mut calls) = (Vec::new(), Vec::new());
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
            match &self.job.call {
                Some(call) => calls.push(self.call(call, &contexts)?),
                None => runs.push(self.run(&contexts)?),
            }
        }
        if runs.is_empty() && calls.is_empty() {
            return Ok(Prepared::Skipped);
        }
        Ok(Prepared::Run(PreparedJob {
            fail_fast,
            max_parallel,
            runs,
            calls,
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
        let name = self.full_name(contexts)?;
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
        let concurrency = self.concurrency(contexts)?;
        let request = job_request(self.plan, self.job, name, contexts);
        Ok(JobRun {
            request,
            concurrency,
            continue_on_error,
            timeout_minutes,
        })
    }

    /// The name people see, with those of the jobs that call this workflow before it.
    pub(super) fn full_name(&self, contexts: &Object) -> Result<String, PrepareError> {
        let name = self.evaluate(self.job.name.as_ref(), "name", contexts)?;
        let name = self.display_name(name.as_ref(), contexts.get("matrix"));
        Ok(self.plan.display_id(&name))
    }

    /// The name of the job: that of the job, with the values of its combination unless the name was
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

    /// The group of the job, for one combination.
    pub(super) fn concurrency(
        &self,
        contexts: &Object,
    ) -> Result<Option<Concurrency>, PrepareError> {
        let Some(token) = &self.job.concurrency else {
            return Ok(None);
        };
        concurrency::read(token, contexts).map_err(|source| PrepareError::Evaluate {
            path: self.plan.workflow.path.clone(),
            job: self.job.id.clone(),
            key: "concurrency",
            source: Box::new(source),
        })
    }

    fn max_parallel(&self, value: &Value) -> Result<usize, PrepareError> {
        let number = to_number(value);
        if number >= 1.0 && number.is_finite() {
            return Ok(number as usize);
        }
        Err(self.value_error("max-parallel", "a number of at least 1", value))
    }

    pub(super) fn evaluate(
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
pub(in crate::workflow) fn check_matrices(workflow: &Workflow, findings: &mut Vec<Diagnostic>) {
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
