//! A job that calls a workflow: the plan of what it calls, and the outputs that come back.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::super::evaluate::evaluate;
use super::super::inputs;
use super::super::model::{Call, Workflow, place_of};
use super::super::token::TemplateToken;
use super::prepare::Preparing;
use super::{JobResult, Outcomes, Plan, PrepareError, RunInputs};
use crate::expression::coerce::to_text;
use crate::expression::value::Object;
use crate::expression::{Names, Scope};
use inputs::InputError;

/// The secret that every called workflow gets.
const TOKEN: &str = "GITHUB_TOKEN";

impl Preparing<'_> {
    /// The plan of a called workflow, for one combination of the job that calls it.
    pub(super) fn call(&self, call: &Call, contexts: &Object) -> Result<Plan, PrepareError> {
        let Some(workflow) = &call.workflow else {
            let (path, job) = (self.plan.workflow.path.clone(), self.job.id.clone());
            return Err(PrepareError::Unresolved { path, job });
        };
        let own = &self.plan.inputs;
        let values = own.secrets.iter().map(|(_, value)| value);
        let inputs = RunInputs {
            github: own.github.clone(),
            inputs: self.inputs(call, workflow, contexts)?,
            vars: own.vars.clone(),
            secrets: self.secrets(call, contexts)?,
            masked: own.masked.iter().chain(values).cloned().collect(),
            matrix: own.matrix.clone(),
        };
        let mut plan = Plan::shared(Arc::clone(workflow), inputs);
        plan.run_id.clone_from(&self.plan.run_id);
        plan.prefix = format!("{} / ", self.full_name(contexts)?);
        plan.groups.extend(self.concurrency(contexts)?);
        plan.groups.extend(plan.concurrency()?);
        Ok(plan)
    }

    fn inputs(
        &self,
        call: &Call,
        workflow: &Workflow,
        contexts: &Object,
    ) -> Result<Object, PrepareError> {
        let own = &self.plan.inputs;
        let known = Object::from_iter([("github", own.github.clone()), ("vars", own.vars.clone())]);
        let mut values = Object::new();
        for input in &workflow.call_inputs {
            let token = call.with.as_ref().and_then(|with| with.get(&input.name));
            let value = match token {
                Some(token) => {
                    let value = self.evaluate(Some(token), "with", contexts)?;
                    inputs::given(input, &value.unwrap_or_default())
                        .map_err(|source| self.input_error(&self.plan.workflow, token, source))?
                }
                None => inputs::default(input, &known).map_err(|source| {
                    let token = input.default.as_ref().unwrap_or(&call.uses);
                    self.input_error(workflow, token, source)
                })?,
            };
            values.insert(&input.name, value);
        }
        Ok(values)
    }

    fn input_error(&self, file: &Workflow, at: &TemplateToken, source: InputError) -> PrepareError {
        let at = place_of(at);
        PrepareError::Input {
            place: format!("{}:{}:{}", file.path, at.line, at.column),
            job: self.job.id.clone(),
            source: Box::new(source),
        }
    }

    /// All secrets if the call inherits them, else those that it names and that are not empty.
    fn secrets(
        &self,
        call: &Call,
        contexts: &Object,
    ) -> Result<Vec<(String, SecretString)>, PrepareError> {
        let own = &self.plan.inputs.secrets;
        let is_token = |name: &str| name.eq_ignore_ascii_case(TOKEN);
        let mut secrets: Vec<_> = own
            .iter()
            .filter(|(name, _)| is_token(name))
            .cloned()
            .collect();
        let named = match &call.secrets {
            None => return Ok(secrets),
            Some(token) if token.as_str().is_some() => return Ok(own.clone()),
            Some(token) => token.as_mapping().unwrap_or_default(),
        };
        let known = own
            .iter()
            .map(|(name, value)| (name, value.expose_secret()));
        let mut contexts = contexts.clone();
        contexts.insert("secrets", Object::from_iter(known));
        for (key, token) in named {
            let name = key.as_str().unwrap_or_default().to_owned();
            let value = self.evaluate(Some(token), "secrets", &contexts)?;
            let text = to_text(&value.unwrap_or_default());
            if !text.is_empty() {
                secrets.retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
                secrets.push((name, text.into()));
            }
        }
        Ok(secrets)
    }
}

impl Plan {
    /// The outputs of a called workflow whose jobs are done.
    ///
    /// # Errors
    /// [`PrepareError::Output`] for an expression that fails.
    pub fn call_outputs(&self, outcomes: &Outcomes) -> Result<Object, PrepareError> {
        let mut jobs = Object::new();
        for (id, outcome) in outcomes {
            let mut job = Object::new();
            job.insert("result", outcome.result.name());
            job.insert("outputs", outcome.outputs.clone());
            jobs.insert(id, job);
        }
        let contexts = Object::from_iter([
            ("github", self.inputs.github.clone()),
            ("inputs", self.inputs.inputs.clone()),
            ("vars", self.inputs.vars.clone()),
            ("jobs", jobs),
        ]);
        let mut outputs = Object::new();
        for output in &self.workflow.call_outputs {
            let value = evaluate(&output.value, &Names::everything(), &Scope::new(&contexts))
                .map_err(|source| PrepareError::Output {
                    path: self.workflow.path.clone(),
                    name: output.name.clone(),
                    source: Box::new(source),
                })?;
            outputs.insert(&output.name, to_text(&value));
        }
        Ok(outputs)
    }

    /// The result of a workflow whose jobs are done: the worst of theirs, and `skipped` if all were.
    pub fn call_result(outcomes: &Outcomes) -> JobResult {
        let results = outcomes.values().map(|outcome| outcome.result);
        results.max().unwrap_or(JobResult::Skipped)
    }
}
