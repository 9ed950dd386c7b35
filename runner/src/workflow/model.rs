//! The model of a workflow: jobs and steps, with their places, and all that is checked once the
//! shape of the file is known: ids, `needs`, what a step does.

mod jobs;
mod needs;
mod steps;

use super::diagnostic::Diagnostic;
use super::source::Place;
use super::token::{Position, TemplateToken};
use super::triggers::{self, CallOutput, CallSecret, Input, Trigger};
use crate::action::bytes::spell_out;
use crate::action::reference::RepositoryReference;
use crate::job::request::StepAction;
use std::sync::Arc;

/// A workflow.
#[derive(Clone, Debug)]
pub struct Workflow {
    /// Its path as it was given.
    pub path: String,
    /// `name`.
    pub name: Option<String>,
    /// `run-name`.
    pub run_name: Option<TemplateToken>,
    /// The events of `on`.
    pub triggers: Vec<Trigger>,
    /// The inputs of `workflow_dispatch`.
    pub dispatch_inputs: Vec<Input>,
    /// The inputs of `workflow_call`.
    pub call_inputs: Vec<Input>,
    /// The secrets of `workflow_call`.
    pub call_secrets: Vec<CallSecret>,
    /// The outputs of `workflow_call`.
    pub call_outputs: Vec<CallOutput>,
    /// `env`.
    pub env: Option<TemplateToken>,
    /// `defaults`.
    pub defaults: Option<TemplateToken>,
    /// `concurrency`.
    pub concurrency: Option<TemplateToken>,
    /// `permissions`.
    pub permissions: Option<TemplateToken>,
    /// `jobs`, in the order of the file.
    pub jobs: Vec<Job>,
}

impl Workflow {
    /// Spells `$/path` out: it is of the repository that this file is of.
    pub(super) fn belong_to(&mut self, repository: &RepositoryReference) {
        for step in self.jobs.iter_mut().flat_map(|job| &mut job.steps) {
            if let Action::Uses { reference, .. } = &mut step.action {
                spell_out(reference, repository);
            }
        }
    }
}

/// A job.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its key.
    pub id: String,
    /// Where the key stands.
    pub place: Place,
    /// `name`.
    pub name: Option<TemplateToken>,
    /// The jobs it needs.
    pub needs: Vec<String>,
    /// `if`, with its implied `success()`.
    pub condition: String,
    /// `strategy`.
    pub strategy: Option<TemplateToken>,
    /// `timeout-minutes`.
    pub timeout_minutes: Option<TemplateToken>,
    /// `continue-on-error`.
    pub continue_on_error: Option<TemplateToken>,
    /// `env`.
    pub env: Option<TemplateToken>,
    /// `outputs`.
    pub outputs: Option<TemplateToken>,
    /// `defaults`.
    pub defaults: Option<TemplateToken>,
    /// `container`.
    pub container: Option<TemplateToken>,
    /// `services`.
    pub services: Option<TemplateToken>,
    /// `concurrency`.
    pub concurrency: Option<TemplateToken>,
    /// `permissions`.
    pub permissions: Option<TemplateToken>,
    /// `environment`.
    pub environment: Option<TemplateToken>,
    /// The reusable workflow that the job calls instead of having steps.
    pub call: Option<Call>,
    /// `steps`, those of parallel groups one after the other.
    pub steps: Vec<Step>,
}

/// The call of a reusable workflow.
#[derive(Clone, Debug)]
pub struct Call {
    /// `uses`.
    pub uses: TemplateToken,
    /// `with`.
    pub with: Option<TemplateToken>,
    /// `secrets`: a mapping, or the word `inherit`.
    pub secrets: Option<TemplateToken>,
    /// What is called, once it was read from the checkout.
    pub workflow: Option<Arc<Workflow>>,
}

/// A step.
#[derive(Clone, Debug)]
pub struct Step {
    /// `id`, or a made-up one that begins with `__`.
    pub context_name: String,
    /// Where the step begins.
    pub place: Place,
    /// `name`.
    pub name: Option<TemplateToken>,
    /// `if`, with its implied `success()`.
    pub condition: String,
    /// What it does.
    pub action: Action,
    /// Whether the job goes on while it runs.
    pub background: bool,
    /// The number of its parallel group in the job, if it is in one.
    pub group: Option<usize>,
    /// `env`.
    pub env: Option<TemplateToken>,
    /// `continue-on-error`.
    pub continue_on_error: Option<TemplateToken>,
    /// `timeout-minutes`.
    pub timeout_minutes: Option<TemplateToken>,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum Action {
    /// `run`, with `shell` and `working-directory`.
    Run {
        /// The script.
        script: TemplateToken,
        /// `shell`.
        shell: Option<TemplateToken>,
        /// `working-directory`.
        working_directory: Option<TemplateToken>,
    },
    /// `uses`, with `with`.
    Uses {
        /// What the reference stands for.
        reference: StepAction,
        /// `with`.
        with: Option<TemplateToken>,
    },
    /// `wait`, `wait-all` or `cancel`, and the steps that are meant.
    Control {
        /// The key.
        kind: &'static str,
        /// Ids of steps.
        steps: Vec<String>,
    },
}

/// Builds the model of a checked file; what is wrong is added to `findings`.
pub(super) fn build(path: &str, root: &TemplateToken, findings: &mut Vec<Diagnostic>) -> Workflow {
    let mut builder = Builder { findings };
    let jobs = builder.jobs(root);
    builder.check_needs(&jobs, root);
    triggers::check(root, builder.findings);
    let text = |key: &str| {
        root.get(key)
            .and_then(TemplateToken::as_str)
            .map(str::to_owned)
    };
    Workflow {
        path: path.to_owned(),
        name: text("name").filter(|name| !name.is_empty()),
        run_name: value(root, "run-name"),
        triggers: triggers::triggers(root),
        dispatch_inputs: triggers::inputs(root, "workflow_dispatch"),
        call_inputs: triggers::inputs(root, "workflow_call"),
        call_secrets: triggers::call_secrets(root),
        call_outputs: triggers::call_outputs(root),
        env: value(root, "env"),
        defaults: value(root, "defaults"),
        concurrency: value(root, "concurrency"),
        permissions: value(root, "permissions"),
        jobs,
    }
}

/// The steps of a composite action's `runs`; what is wrong is added to `findings`.
pub(super) fn composite_steps(runs: &TemplateToken, findings: &mut Vec<Diagnostic>) -> Vec<Step> {
    Builder { findings }.steps(runs, place_of(runs))
}

/// A place for messages: that of a token, as long as its text.
pub(super) fn place_of(token: &TemplateToken) -> Place {
    let Position { line, column, .. } = token.at;
    let length = token
        .as_str()
        .map_or(1, |text| text.lines().next().unwrap_or("").chars().count());
    Place {
        line: line.unwrap_or(1),
        column: column.unwrap_or(1),
        length: u32::try_from(length).unwrap_or(1).max(1),
    }
}

/// The value of a key, unless it is nothing.
fn value(token: &TemplateToken, key: &str) -> Option<TemplateToken> {
    token.get(key).filter(|value| !value.is_null()).cloned()
}

fn condition(token: &TemplateToken) -> String {
    let text = token.get("if").and_then(TemplateToken::as_str);
    text.unwrap_or("success()").to_owned()
}

struct Builder<'a> {
    findings: &'a mut Vec<Diagnostic>,
}

impl Builder<'_> {
    fn error(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.findings.push(Diagnostic::error(place, message, help));
    }
}
