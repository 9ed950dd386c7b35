//! The kinds of steps, one file each, behind [`run()`].

mod javascript;
mod programs;
mod run;
mod shell;

use indexmap::IndexMap;

use crate::{
    action::manifest::ManifestError,
    sandbox::{Sandbox, SandboxError},
};

use super::{
    Options,
    contexts::JobContext,
    files::StepFiles,
    outcome::Conclusion,
    output::StepOutput,
    process::Stop,
    reporter::Reporter,
    request::{StepAction, StepRequest},
    stop::StopRule,
    template::{Evaluator, TemplateError},
};

pub(super) use programs::Programs;

/// All that a step needs while it runs.
pub(super) struct StepRun<'a, 'log, S, R> {
    pub(super) step: &'a StepRequest,
    pub(super) context: &'a JobContext<'a>,
    pub(super) options: &'a Options,
    pub(super) sandbox: &'a S,
    /// The `env` context of the step.
    pub(super) env: &'a IndexMap<String, String>,
    pub(super) output: &'a mut StepOutput<'log, R>,
    pub(super) files: &'a StepFiles,
    pub(super) stop: &'a StopRule<'a>,
    pub(super) programs: &'a Programs,
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
    /// The action's manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// There is no action where the step says.
    #[error(
        "Can't find 'action.yml', 'action.yaml' or 'Dockerfile' under '{0}'. Did you forget to run \
         actions/checkout before running your local action?"
    )]
    NoAction(String),
    /// A kind of step that this version does not have.
    #[error("{0}")]
    Unsupported(String),
}

/// How a step's action ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct ActionEnd {
    pub(super) conclusion: Conclusion,
    /// Why it was stopped, if it was.
    pub(super) stop: Option<Stop>,
}

/// Runs a step; what it changes is in its output.
pub(super) async fn run<S: Sandbox, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
) -> Result<ActionEnd, StepError> {
    match unsupported(run.step) {
        Some(message) => Err(StepError::Unsupported(message)),
        None => match &run.step.action {
            StepAction::Repository { path, .. } => javascript::local(run, path).await,
            _ => run::script(run).await,
        },
    }
}

/// The name of a step that has none of its own.
pub(super) fn default_name(step: &StepRequest, evaluator: &Evaluator<'_>) -> String {
    match &step.action {
        StepAction::Script => run::default_name(step, evaluator),
        StepAction::Repository { path, .. } if is_local(step) => format!("Run {path}"),
        other => format!("Run {}", describe(other)),
    }
}

/// Why this version cannot run a step, or nothing if it can.
pub(super) fn unsupported(step: &StepRequest) -> Option<String> {
    let what = match &step.action {
        StepAction::Script if step.background => "a step with `background: true`".to_owned(),
        StepAction::Script if step.parallel_group_id.is_some() => "`parallel` steps".to_owned(),
        StepAction::Repository { .. } if is_local(step) && step.background => {
            "a step with `background: true`".to_owned()
        }
        StepAction::Repository { .. } if is_local(step) && step.parallel_group_id.is_some() => {
            "`parallel` steps".to_owned()
        }
        StepAction::Repository { .. } if is_local(step) => return None,
        StepAction::Script => return None,
        other => describe(other),
    };
    Some(format!(
        "This version of Mayfly cannot run {what}: only `run:` steps and local JavaScript actions are \
         supported."
    ))
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
            ..
        } => {
            let mut text = name.clone();
            if !path.is_empty() {
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
        StepAction::BackgroundControl { control_type, .. } => {
            format!("a step with `{control_type}`")
        }
    }
}
