//! The kinds of steps, one file each, behind [`run()`].

mod composite;
mod docker;
mod inputs;
mod javascript;
mod process;
mod programs;
mod run;
mod shell;

use std::sync::Arc;

use indexmap::IndexMap;

use crate::{
    action::{bytes::is_own, manifest::Runs},
    sandbox::{Sandbox, SandboxError},
};

use super::{
    actions::{Action, ActionError},
    containers::ContainerError,
    contexts::JobContext,
    files::StepFiles,
    outcome::Conclusion,
    output::StepOutput,
    process::Stop,
    reporter::Reporter,
    request::{StepAction, StepRequest},
    shared::Shared,
    stop::StopRule,
    task::{Stage, Task},
    template::{Evaluator, TemplateError},
};

pub(super) use programs::Programs;

/// All that a step needs while it runs.
pub(super) struct StepRun<'a, 'log, S, R> {
    pub(super) shared: &'a Shared<'a, S, R>,
    pub(super) task: &'a Task,
    /// The step's name as people see it.
    pub(super) name: &'a str,
    pub(super) context: &'a JobContext<'a>,
    /// The `env` context of the step.
    pub(super) env: &'a IndexMap<String, String>,
    /// What of it is the step's own.
    pub(super) own_env: &'a IndexMap<String, String>,
    pub(super) output: &'a mut StepOutput<'log, R>,
    pub(super) files: &'a StepFiles,
    pub(super) stop: &'a StopRule<'a>,
}

impl<S, R> StepRun<'_, '_, S, R> {
    /// The post stage of this step.
    fn post(&self, condition: &str, action: &Arc<Action>) -> Task {
        let name = match self.task.stage {
            Stage::Pre => self.name.strip_prefix("Pre ").unwrap_or(self.name),
            Stage::Main | Stage::Post => self.name,
        };
        Task {
            name: Some(format!("Post {name}")),
            ..self.task.stage(Stage::Post, condition, action)
        }
    }
}

/// Why a step could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    /// An input cannot be evaluated.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The `shell:` cannot be used.
    #[error(transparent)]
    Shell(#[from] shell::ShellError),
    /// No program of that name in the sandbox.
    #[error("{0}: command not found")]
    NoProgram(String),
    /// The sandbox did not do it.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// There is no action to run.
    #[error(transparent)]
    Action(#[from] ActionError),
    /// The image has no Node.js of that version.
    #[error(
        "the action {name} needs Node.js {major}, and the image has {has}: run the job on an image \
         whose recipe has a [[node]] entry with major = {major}"
    )]
    NoNode {
        /// The action.
        name: String,
        /// The version.
        major: u32,
        /// The versions that there are.
        has: String,
    },
    /// The job's container, in which the step runs.
    #[error(transparent)]
    Container(#[from] ContainerError),
}

impl StepError {
    /// The loss of the sandbox, if it is that.
    pub(super) fn lost(self) -> Result<SandboxError, Self> {
        match self {
            Self::Sandbox(error @ SandboxError::Lost(_)) => Ok(error),
            Self::Action(error) => error.lost().map_err(Self::Action),
            Self::Container(error) => error.lost().map_err(Self::Container),
            other => Err(other),
        }
    }
}

/// How a step's action ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct ActionEnd {
    pub(super) conclusion: Conclusion,
    /// Why it was stopped, if it was.
    pub(super) stop: Option<Stop>,
}

impl ActionEnd {
    fn success() -> Self {
        Self {
            conclusion: Conclusion::Success,
            stop: None,
        }
    }
}

/// Runs a step; what it changes is in its output.
///
/// Each kind is in a box of its own: an action may use an action ten deep, and the stack then holds
/// the path taken, not room for all kinds at each level.
pub(super) async fn run<S: Sandbox, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
) -> Result<ActionEnd, StepError> {
    match &run.task.step.action {
        StepAction::Repository { .. } => Box::pin(action(run)).await,
        StepAction::ContainerRegistry { image } => {
            let image = image.clone();
            Box::pin(docker::image(run, &image)).await
        }
        _ => Box::pin(run::script(run)).await,
    }
}

/// Runs the task's stage of an action, and registers what is to be run after all steps.
async fn action<S: Sandbox, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
) -> Result<ActionEnd, StepError> {
    let shared = run.shared;
    let step = &run.task.step;
    let action = match &run.task.action {
        Some(action) => Arc::clone(action),
        None => {
            let load =
                shared
                    .actions
                    .load(shared.sandbox, shared.options, run.context, &step.action);
            load.await?
        }
    };
    let context = for_action(run.context, &action);
    let mut run = StepRun {
        context: &context,
        output: &mut *run.output,
        ..*run
    };
    let run = &mut run;
    let is_local = action.reference.is_none();
    if run.task.stage == Stage::Main && is_local && shared.has_pre(&action) {
        let name = &action.name;
        let message = format!("`pre` execution is not supported for local action from '{name}'");
        run.output.log.warning(&message).await;
    }
    if run.task.stage != Stage::Post
        && let Some(condition) = action.manifest.post_if()
    {
        let post = run.post(condition, &action);
        run.output.changes.posts.push(post);
    }
    match &action.manifest.runs {
        Runs::Node(node) => Box::pin(javascript::run(run, &action, node)).await,
        Runs::Composite(_) => Box::pin(composite::run(run, &action)).await,
        Runs::Docker(docker) => Box::pin(docker::run(run, &action, docker)).await,
    }
}

/// The contexts for an action: it knows where it is from.
fn for_action<'a>(context: &JobContext<'a>, action: &Action) -> JobContext<'a> {
    let mut context = context.clone();
    match &action.reference {
        Some(reference) => {
            let repository = &reference.repository;
            let name = format!("{}/{}", repository.owner, repository.name);
            context.set_github("action_repository", &name);
            context.set_github("action_ref", &reference.reference);
        }
        None => {
            context.unset_github("action_repository");
            context.unset_github("action_ref");
        }
    }
    context
}

/// Most steps inside of an action, at all depths, that are looked at for stages before the job's steps.
pub(super) const MAX_PRES: usize = 1000;

/// They are more.
struct TooMany;

impl<S: Sandbox, R: Reporter> Shared<'_, S, R> {
    /// The stage before all steps of a step of the job, if its action has one.
    ///
    /// # Errors
    /// [`ActionError::TooManyStages`] where actions nest without end.
    pub(super) fn pre(&self, task: &Task) -> Result<Option<Task>, ActionError> {
        self.pre_stage(task, &mut 0).map_err(|TooMany| {
            let action = self.actions.known(&task.step.action);
            ActionError::TooManyStages(
                action.map_or_else(String::new, |action| action.name.clone()),
            )
        })
    }

    fn pre_stage(&self, task: &Task, count: &mut usize) -> Result<Option<Task>, TooMany> {
        let Some(action) = self.actions.known(&task.step.action) else {
            return Ok(None);
        };
        if let Some(condition) = action.manifest.pre_if() {
            return Ok(Some(task.stage(Stage::Pre, condition, &action)));
        }
        let mut inner = Vec::new();
        for (index, step) in action.manifest.steps().iter().enumerate() {
            *count += 1;
            if *count > MAX_PRES {
                return Err(TooMany);
            }
            inner.extend(self.pre_stage(&task.inside(&step.request, index), count)?);
        }
        Ok((!inner.is_empty()).then(|| Task {
            inner,
            ..task.stage(Stage::Pre, "always()", &action)
        }))
    }

    /// Whether an action, or one by reference inside of it, has a stage before all steps.
    fn has_pre(&self, action: &Action) -> bool {
        let inner = || {
            let steps = action.manifest.steps().iter();
            steps.filter_map(|step| self.actions.known(&step.request.action))
        };
        action.manifest.pre_if().is_some()
            || inner().any(|action| action.manifest.pre_if().is_some())
    }
}

/// The name of a step that has none of its own.
pub(super) fn default_name(step: &StepRequest, evaluator: &Evaluator<'_>) -> String {
    match &step.action {
        StepAction::Script => run::default_name(step, evaluator),
        StepAction::ContainerRegistry { image } => format!("Run {image}"),
        StepAction::Repository { path, .. } if is_local(step) => format!("Run {path}"),
        other @ StepAction::Repository { .. } => {
            format!("Run {}", describe(other).trim_start_matches("the action "))
        }
        StepAction::BackgroundControl {
            control_type,
            step_ids,
        } => control_name(control_type, &step_ids.join(", ")),
    }
}

fn control_name(control_type: &str, steps: &str) -> String {
    match control_type {
        "wait" => format!("Wait for {steps}"),
        "wait-all" => "Wait for all background steps".to_owned(),
        "cancel" => format!("Cancel {steps}"),
        other => format!("Run {other}"),
    }
}

/// Whether a step runs an action of the workspace.
fn is_local(step: &StepRequest) -> bool {
    matches!(&step.action, StepAction::Repository { repository_type, .. }
        if repository_type.eq_ignore_ascii_case("self"))
}

fn describe(action: &StepAction) -> String {
    match action {
        StepAction::Script => "a script".to_owned(),
        StepAction::Repository {
            name,
            reference,
            path,
            repository_type,
        } => {
            let mut text = name.clone();
            if is_own(repository_type) {
                text = format!("$/{path}");
            } else if !path.is_empty() {
                text = if text.is_empty() {
                    path.clone()
                } else {
                    format!("{text}/{path}")
                };
            }
            if !reference.is_empty() {
                text = format!("{text}@{reference}");
            }
            format!("the action {text}")
        }
        StepAction::ContainerRegistry { image } => format!("the container docker://{image}"),
        StepAction::BackgroundControl { control_type, .. } => format!("`{control_type}`"),
    }
}
