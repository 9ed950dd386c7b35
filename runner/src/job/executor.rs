//! Runs a job from its request to its outcome.

use tokio::time::Instant;

use jiff::Timestamp;

use crate::sandbox::{ExecEvent, ExecRequest, ExecStatus, Sandbox, SandboxError};

use super::{
    Options,
    cancel::{Cancellation, JobClock},
    contexts::JobContext,
    files::{Archive, bounded},
    log::StepLog,
    masking::Masker,
    matcher::Matchers,
    outcome::{Conclusion, JobOutcome, StepRecord},
    reporter::{Event, EventKind, Reporter},
    request::{JobRequest, MaskHint, Variable},
    steps::{self, Programs},
    template::TemplateError,
};

/// Runs the steps of `request` in `sandbox`.
///
/// Everything that happens goes to `reporter`, masked. The job ends when its steps ended, when
/// `cancellation` was requested and the steps that run even then ended (or the grace of `options`
/// is over), or when the sandbox is lost. The checkout is expected to be in the workspace
/// ([`super::layout::Layout`]) already; the sandbox is left as the last step left it.
///
/// It never fails as such: whatever goes wrong is in the log and in the outcome's result.
pub async fn execute<S: Sandbox, R: Reporter>(
    request: &JobRequest,
    options: &Options,
    sandbox: &S,
    reporter: &R,
    cancellation: Cancellation,
) -> JobOutcome {
    let started = Instant::now();
    let debug = options.debug || request.variables.is_true("ACTIONS_STEP_DEBUG");
    let mut run = JobRun {
        request,
        options,
        sandbox,
        reporter,
        masker: Masker::new(),
        context: JobContext::new(request, options),
        clock: JobClock::new(cancellation, options.timeout, options.cancel_grace),
        programs: Programs::default(),
        matchers: Matchers::default(),
        set: 0,
        debug,
    };
    // Secrets first: nothing is reported before they are known.
    let masks = run.add_masks();
    let name = run.masker.mask(&request.job_display_name).into_owned();
    run.report(EventKind::JobStarted { name: &name }).await;
    let (steps, outputs) = run.all(masks).await;
    let result = run.context.status;
    let duration = started.elapsed();
    run.report(EventKind::JobFinished {
        name: &name,
        result,
        outputs: &outputs,
        duration,
    })
    .await;
    JobOutcome {
        result,
        outputs,
        steps,
        duration,
    }
}

/// A job while it runs.
pub(super) struct JobRun<'a, S, R> {
    pub(super) request: &'a JobRequest,
    pub(super) options: &'a Options,
    pub(super) sandbox: &'a S,
    pub(super) reporter: &'a R,
    pub(super) masker: Masker,
    pub(super) context: JobContext<'a>,
    pub(super) clock: JobClock,
    pub(super) programs: Programs,
    /// Problem matchers that steps added.
    pub(super) matchers: Matchers,
    /// Bytes of names and values that steps set so far.
    pub(super) set: usize,
    pub(super) debug: bool,
}

/// Why a job could not begin.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("preparing the work folders in the sandbox: {0}")]
    Sandbox(#[from] SandboxError),
    #[error("preparing the work folders in the sandbox: {0}")]
    Archive(#[from] std::io::Error),
    #[error(
        "preparing the work folders in the sandbox: chown to user '{user}' ended with code {code}"
    )]
    Owner { user: String, code: i32 },
    #[error("{0}")]
    Unsupported(String),
    #[error("{0}")]
    Masks(String),
}

impl<S: Sandbox, R: Reporter> JobRun<'_, S, R> {
    /// All records of the job, and its outputs.
    async fn all(
        &mut self,
        masks: Result<Vec<String>, String>,
    ) -> (Vec<StepRecord>, Vec<(String, String)>) {
        let mut records = vec![self.set_up(masks).await];
        let mut number = 2;
        if self.context.status == Conclusion::Success {
            for step in &self.request.steps {
                if self.clock.is_cancelled() {
                    self.context.status = Conclusion::Cancelled;
                }
                if self.clock.is_grace_over() {
                    break;
                }
                let (record, lost) = self.step(step, number).await;
                records.push(record);
                number += 1;
                if lost.is_err() {
                    self.context.status = Conclusion::Failure;
                    break;
                }
            }
        }
        if self.clock.is_cancelled() && self.context.status == Conclusion::Success {
            self.context.status = Conclusion::Cancelled;
        }
        let (record, outputs) = self.complete(number).await;
        if record.conclusion == Conclusion::Failure && self.context.status == Conclusion::Success {
            self.context.status = Conclusion::Failure;
        }
        records.push(record);
        (records, outputs)
    }

    /// The record "Set up job".
    async fn set_up(&mut self, masks: Result<Vec<String>, String>) -> StepRecord {
        let name = "Set up job";
        let mut log = StepLog::new(
            self.reporter,
            &self.masker,
            &self.request.job_id,
            1,
            self.debug,
            "",
        );
        log.start(name).await;
        print_set_up(&log, self.request, self.options, &self.context).await;
        let prepared = match masks {
            Ok(warnings) => {
                for warning in warnings {
                    log.warning(&warning).await;
                }
                prepare(self.request, self.options, self.sandbox, &mut self.context).await
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
        log.line(&format!(
            "Complete job name: {}",
            self.request.job_display_name
        ))
        .await;
        log.finish(name, conclusion, conclusion).await
    }

    /// The record "Complete job", and the job's outputs.
    async fn complete(&self, number: u32) -> (StepRecord, Vec<(String, String)>) {
        let name = "Complete job";
        let mut log = self.log(number);
        log.start(name).await;
        if self.clock.is_out_of_time() && self.context.status == Conclusion::Cancelled {
            let minutes = self.options.timeout.unwrap_or_default().as_secs_f64() / 60.0;
            let runner = &self.options.runner_name;
            let message = format!(
                "The job running on runner {runner} has exceeded the maximum execution time of \
                 {minutes} minutes."
            );
            log.error(&message).await;
        }
        let (outputs, conclusion) = match self.outputs(&mut log).await {
            Ok(outputs) => (outputs, Conclusion::Success),
            Err(error) => {
                log.error("Fail to evaluate job outputs").await;
                log.error(&error.to_string()).await;
                (Vec::new(), Conclusion::Failure)
            }
        };
        (log.finish(name, conclusion, conclusion).await, outputs)
    }

    /// Outputs of the job: empty ones and those that hold a secret are left out.
    async fn outputs(
        &self,
        log: &mut StepLog<'_, R>,
    ) -> Result<Vec<(String, String)>, TemplateError> {
        let Some(token) = &self.request.job_outputs else {
            return Ok(Vec::new());
        };
        let evaluated = self.context.evaluator(&self.context.env).strings(token)?;
        let mut outputs = Vec::new();
        for (name, value) in evaluated {
            if value.is_empty() {
                log.debug(&format!("Skip output '{name}' since it is empty"))
                    .await;
            } else if self.masker.contains_secret(&value) {
                let message = format!("Skip output '{name}' since it may contain secret.");
                log.warning(&message).await;
            } else {
                log.line(&format!("Set output '{name}'")).await;
                outputs.push((name, value));
            }
        }
        Ok(outputs)
    }

    /// Makes all secrets of the request known to the masker.
    fn add_masks(&self) -> Result<Vec<String>, String> {
        let text = |error: super::masking::MaskError| error.to_string();
        for (_, variable) in self.request.variables.iter() {
            if let Variable::Secret(_) = variable {
                self.masker.add(variable.expose()).map_err(text)?;
            }
        }
        for endpoint in &self.request.endpoints {
            if let Some(token) = &endpoint.access_token {
                let token = secrecy::ExposeSecret::expose_secret(token);
                self.masker.add(token).map_err(text)?;
            }
        }
        let mut warnings = Vec::new();
        for (index, hint) in self.request.mask.iter().enumerate() {
            match hint {
                MaskHint::Literal(value) => self.masker.add(value).map_err(text)?,
                MaskHint::Regex(pattern) => {
                    if let Err(error) = self.masker.add_pattern(index + 1, pattern) {
                        warnings.push(error.to_string());
                    }
                }
            }
        }
        Ok(warnings)
    }

    async fn report(&self, kind: EventKind<'_>) {
        let (time, job) = (Timestamp::now(), self.request.job_id.as_str());
        self.reporter.report(&Event { time, job, kind }).await;
    }
}

/// What "Set up job" says about the runner and the token.
async fn print_set_up<R: Reporter>(
    log: &StepLog<'_, R>,
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
    log.line("Prepare workflow directory").await;
}

/// Refuses what this version cannot do, evaluates the job's own settings, makes its folders.
async fn prepare<S: Sandbox>(
    request: &JobRequest,
    options: &Options,
    sandbox: &S,
    context: &mut JobContext<'_>,
) -> Result<(), SetupError> {
    if let Some(message) = unsupported(request) {
        return Err(SetupError::Unsupported(message));
    }
    context.evaluate_job()?;
    let layout = &context.layout;
    let mut archive = Archive::new();
    for directory in [
        &layout.temp,
        &layout.tool_cache,
        &layout.repository,
        &layout.workspace,
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
    match &options.user {
        Some(user) => own(sandbox, options, user).await,
        None => Ok(()),
    }
}

fn below<'a>(work: &str, path: &'a str) -> &'a str {
    path.strip_prefix(work)
        .unwrap_or(path)
        .trim_start_matches('/')
}

/// Gives the work folders to the user of the steps.
async fn own<S: Sandbox>(sandbox: &S, options: &Options, user: &str) -> Result<(), SetupError> {
    let argv = ["chown", "-R", &format!("{user}:"), &options.work].map(str::to_owned);
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
        status => Err(SetupError::Owner {
            user: user.to_owned(),
            code: status.code(),
        }),
    }
}

/// What of a request this version cannot do, before anything runs.
#[must_use]
pub fn unsupported(request: &JobRequest) -> Option<String> {
    for (token, key) in [
        (&request.job_container, "container"),
        (&request.job_service_containers, "services"),
    ] {
        if token.is_some() {
            return Some(format!(
                "This job uses `{key}`, which this version of Mayfly does not support."
            ));
        }
    }
    request.steps.iter().find_map(steps::unsupported)
}
