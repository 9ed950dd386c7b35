//! The record "Set up job": what is refused, the job's own settings, folders and actions.

use std::sync::Arc;

use crate::sandbox::{ExecEvent, ExecRequest, ExecStatus, Sandbox, SandboxError};

use super::{
    Options,
    actions::ActionError,
    containers::ContainerError,
    contexts::JobContext,
    executor::JobRun,
    files::{Archive, bounded},
    log::StepLog,
    outcome::{Conclusion, StepRecord},
    reporter::Reporter,
    request::{JobRequest, StepAction, Variable},
    shared::Shared,
    template::TemplateError,
};

/// Why a job could not begin.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error(transparent)]
    Action(#[from] ActionError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("preparing the work folders in the sandbox: {0}")]
    Sandbox(#[from] SandboxError),
    #[error("preparing the work folders in the sandbox: {0}")]
    Archive(#[from] std::io::Error),
    #[error("preparing the work folders in the sandbox: {0}")]
    Owner(#[from] OwnerError),
    #[error("{0}")]
    Masks(String),
}

/// Why a folder could not be given to the steps' user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnerError {
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("chown to user '{user}' ended with code {code}")]
    Failed { user: String, code: i32 },
}

impl<S: Sandbox, R: Reporter> JobRun<'_, S, R> {
    /// The record "Set up job".
    pub(super) async fn set_up(
        &mut self,
        number: u32,
        masks: Result<Vec<String>, String>,
    ) -> StepRecord {
        let name = "Set up job";
        let Shared {
            request, options, ..
        } = *self.shared;
        let shared = self.shared;
        let mut log = shared.log(number, "");
        log.start(name).await;
        print_set_up(&mut log, request, options, &self.context).await;
        let prepared = match masks {
            Ok(warnings) => {
                for warning in warnings {
                    log.warning(&warning).await;
                }
                self.prepare_all(&mut log).await
            }
            Err(error) => Err(SetupError::Masks(error)),
        };
        let conclusion = match prepared {
            Ok(()) => Conclusion::Success,
            Err(error) => {
                log.error(&error.to_string()).await;
                self.context.status = Conclusion::Failure;
                Conclusion::Failure
            }
        };
        log.line(&format!("Complete job name: {}", request.job_display_name))
            .await;
        log.finish(name, conclusion, conclusion).await
    }

    /// Prepares the job, its containers as far as its request tells, and its actions.
    async fn prepare_all(&mut self, log: &mut StepLog<'_, R>) -> Result<(), SetupError> {
        let Shared {
            options, sandbox, ..
        } = *self.shared;
        prepare(options, sandbox, &mut self.context).await?;
        self.plan_containers().await?;
        Ok(self.actions(log).await?)
    }

    /// Finds all actions that the steps use by reference, and copies them into the sandbox.
    async fn actions(&mut self, log: &mut StepLog<'_, R>) -> Result<(), ActionError> {
        let actions = self.tasks.iter().map(|task| task.step.action.clone());
        let actions: Vec<_> = actions.collect();
        let known = &self.shared.actions;
        let is_by_reference =
            |action: &StepAction| matches!(known.reference_of(action), Ok(Some(_)) | Err(_));
        if !actions.iter().any(is_by_reference) {
            return Ok(());
        }
        log.line("Prepare all required actions").await;
        let Shared {
            sandbox, options, ..
        } = *self.shared;
        let load = self
            .shared
            .actions
            .load_all(sandbox, options, &self.context, actions, 0);
        let said = load.await?;
        for line in &said.lines {
            log.line(line).await;
        }
        for warning in &said.warnings {
            log.warning(warning).await;
        }
        for task in &self.tasks {
            self.pres.extend(self.shared.pre(task)?.map(Arc::new));
        }
        Ok(())
    }
}

/// What "Set up job" says about the runner and the token.
async fn print_set_up<R: Reporter>(
    log: &mut StepLog<'_, R>,
    request: &JobRequest,
    options: &Options,
    context: &JobContext<'_>,
) {
    log.line(&format!("Mayfly version: {}", env!("CARGO_PKG_VERSION")))
        .await;
    log.line(&format!("Runner name: '{}'", options.runner_name))
        .await;
    let permissions = request.variables.get("system.github.token.permissions");
    let permissions = permissions.map(Variable::expose).unwrap_or_default();
    if let Ok(serde_json::Value::Object(map)) = serde_json::from_str(permissions) {
        log.line("##[group]GITHUB_TOKEN Permissions").await;
        for (scope, access) in &map {
            log.line(&format!("{scope}: {}", access.as_str().unwrap_or_default()))
                .await;
        }
        log.line("##[endgroup]").await;
    }
    let source = context.github("secret_source");
    if !source.is_empty() {
        log.line(&format!("Secret source: {source}")).await;
    }
    if let Some(why) = &options.without_services {
        log.warning(&format!("This job has no caches and no artifacts: {why}"))
            .await;
    }
    log.line("Prepare workflow directory").await;
}

/// Refuses what this version cannot do, evaluates the job's own settings, makes its folders.
async fn prepare<S: Sandbox>(
    options: &Options,
    sandbox: &S,
    context: &mut JobContext<'_>,
) -> Result<(), SetupError> {
    context.evaluate_job()?;
    let layout = &context.layout;
    let mut archive = Archive::new();
    for directory in [
        &layout.temp,
        &layout.tool_cache,
        &layout.repository,
        &layout.workspace,
        &layout.github_home(),
    ] {
        archive.directory(below(&layout.work, directory), 0o755)?;
    }
    let event = context.event_json();
    archive.file(
        below(&layout.work, &layout.event_path()),
        0o644,
        event.as_bytes(),
    )?;
    let bytes = archive.finish()?;
    bounded(
        "preparing the work folders",
        sandbox.copy_in(&layout.work, &bytes[..]),
    )
    .await?;
    Ok(own(sandbox, options, &options.work).await?)
}

fn below<'a>(work: &str, path: &'a str) -> &'a str {
    path.strip_prefix(work)
        .unwrap_or(path)
        .trim_start_matches('/')
}

/// Gives a folder and all in it to the user of the steps.
pub(super) async fn own<S: Sandbox>(
    sandbox: &S,
    options: &Options,
    directory: &str,
) -> Result<(), OwnerError> {
    let Some(user) = &options.user else {
        return Ok(());
    };
    let argv = ["chown", "-R", &format!("{user}:"), directory].map(str::to_owned);
    let request = ExecRequest {
        argv: argv.into(),
        env: options.environment.clone(),
        cwd: "/".to_owned(),
        user: None,
        stdin: false,
    };
    let run = async {
        let mut exec = sandbox.exec(request).await?;
        while let Some(event) = exec.events.recv().await {
            if let ExecEvent::Exited(status) = event {
                return Ok(status);
            }
        }
        Err(SandboxError::Lost(
            "the connection ended during chown".to_owned(),
        ))
    };
    match bounded("giving the work folders to the steps' user", run).await? {
        ExecStatus::Code(0) => Ok(()),
        status => Err(OwnerError::Failed {
            user: user.clone(),
            code: status.code(),
        }),
    }
}
