//! One step of a job: its environment, condition, run, and what it leaves behind.

use std::time::Duration;

use indexmap::IndexMap;

use crate::sandbox::{Sandbox, SandboxError};

use super::{
    commands::{Effect, Policy},
    contexts::JobContext,
    env_files::{EnvFile, MAX_SUMMARY, pairs, paths, text},
    executor::JobRun,
    files::StepFiles,
    hash_files,
    log::StepLog,
    matcher::StepMatchers,
    outcome::{Conclusion, StepRecord},
    output::{Changes, StepOutput},
    process::Stop,
    reporter::Reporter,
    request::StepRequest,
    steps::{self, StepError, StepRun},
    stop::StopRule,
    template::TemplateError,
};

/// Longest `timeout-minutes` that is kept, in minutes: a month.
const MAX_TIMEOUT: f64 = 31.0 * 24.0 * 60.0;

/// How a step ended.
struct Ended {
    outcome: Conclusion,
    conclusion: Conclusion,
}

impl Ended {
    fn as_is(conclusion: Conclusion) -> Self {
        Self {
            outcome: conclusion,
            conclusion,
        }
    }
}

impl<S: Sandbox, R: Reporter> JobRun<'_, S, R> {
    /// Runs one step, number `number` of the log.
    ///
    /// # Errors
    /// [`SandboxError::Lost`] when no further step can run; the step's record is there already.
    pub(super) async fn step(
        &mut self,
        step: &StepRequest,
        number: u32,
    ) -> (StepRecord, Result<(), SandboxError>) {
        let files = StepFiles::new(&self.context.layout.temp);
        self.context.set_github("action", &step.name);
        for file in EnvFile::ALL {
            self.context
                .set_github(file.context_name(), &files.path(file));
        }
        self.context.workspace = None;
        if hash_files::is_asked_for(step) {
            let workspace = &self.context.layout.workspace;
            self.context.workspace = Some(hash_files::index(self.sandbox, workspace).await);
        }
        let env = step_env(&self.context, step);
        let seen = env.as_ref().unwrap_or(&self.context.env);
        let name = display_name(&self.context, step, seen);
        let log = self.log(number);
        log.start(&name).await;
        let mut output = StepOutput::new(
            log,
            &self.masker,
            policy(seen),
            self.debug,
            self.set,
            self.step_matchers(),
        );
        let (ended, lost) = match &env {
            Err(error) => {
                output.log.error(&error.to_string()).await;
                (Ended::as_is(Conclusion::Failure), Ok(()))
            }
            Ok(env) => self.attempt(step, &name, env, &files, &mut output).await,
        };
        let Ended {
            outcome,
            conclusion,
        } = ended;
        let changes = std::mem::take(&mut output.changes);
        let set = output.set;
        let record = output.log.finish(&name, outcome, conclusion).await;
        self.set = self.set.saturating_add(set);
        self.keep(step, changes, outcome, conclusion);
        (record, lost)
    }

    /// Evaluates the condition and runs the step if it holds.
    async fn attempt(
        &self,
        step: &StepRequest,
        name: &str,
        env: &IndexMap<String, String>,
        files: &StepFiles,
        output: &mut StepOutput<'_, R>,
    ) -> (Ended, Result<(), SandboxError>) {
        let evaluator = self.context.evaluator(env);
        match evaluator.condition(&step.condition) {
            Ok(true) => {}
            Ok(false) => return (Ended::as_is(Conclusion::Skipped), Ok(())),
            Err(error) => {
                output.log.error(&error.to_string()).await;
                return (Ended::as_is(Conclusion::Failure), Ok(()));
            }
        }
        drop(evaluator);
        let (mut outcome, mut lost) = self.run(step, name, env, files, output).await;
        if lost.is_ok() {
            lost = self.read_files(files, output).await;
        }
        if output.changes.failed || lost.is_err() {
            outcome = worst(outcome, Conclusion::Failure);
        }
        let mut conclusion = outcome;
        if outcome == Conclusion::Failure && self.continues(step, env, output).await {
            conclusion = Conclusion::Success;
        }
        (
            Ended {
                outcome,
                conclusion,
            },
            lost,
        )
    }

    /// Runs the step's action with its timeout.
    async fn run(
        &self,
        step: &StepRequest,
        name: &str,
        env: &IndexMap<String, String>,
        files: &StepFiles,
        output: &mut StepOutput<'_, R>,
    ) -> (Conclusion, Result<(), SandboxError>) {
        let minutes = self.timeout(step, env, output).await;
        let timeout = minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
        let stop = StopRule {
            clock: &self.clock,
            context: &self.context,
            env,
            condition: &step.condition,
            timeout,
        };
        let mut run = StepRun {
            step,
            context: &self.context,
            options: self.options,
            sandbox: self.sandbox,
            env,
            output,
            files,
            stop: &stop,
            programs: &self.programs,
        };
        match steps::run(&mut run).await {
            Ok(ended) => {
                if let Some(message) = stopped(ended.stop, name, minutes) {
                    output.log.error(&message).await;
                }
                (ended.conclusion, Ok(()))
            }
            Err(error) => {
                output.log.error(&error.to_string()).await;
                match error {
                    StepError::Sandbox(error @ SandboxError::Lost(_)) => {
                        (Conclusion::Failure, Err(error))
                    }
                    _ => (Conclusion::Failure, Ok(())),
                }
            }
        }
    }

    async fn timeout(
        &self,
        step: &StepRequest,
        env: &IndexMap<String, String>,
        output: &mut StepOutput<'_, R>,
    ) -> Option<f64> {
        let token = step.timeout_in_minutes.as_ref()?;
        let number = self.context.evaluator(env).number(token);
        match number {
            Ok(number) => number.filter(|minutes| *minutes > 0.0 && *minutes <= MAX_TIMEOUT),
            Err(error) => {
                let message = "An error occurred when attempting to determine the step timeout.";
                output.log.error(message).await;
                output.log.error(&error.to_string()).await;
                None
            }
        }
    }

    async fn continues(
        &self,
        step: &StepRequest,
        env: &IndexMap<String, String>,
        output: &mut StepOutput<'_, R>,
    ) -> bool {
        let Some(token) = &step.continue_on_error else {
            return false;
        };
        let evaluated = self.context.evaluator(env).boolean(token);
        match evaluated {
            Ok(flag) => flag.unwrap_or(false),
            Err(error) => {
                let message = "The step failed and an error occurred when attempting to determine \
                               whether to continue on error.";
                output.log.error(message).await;
                output.log.error(&error.to_string()).await;
                false
            }
        }
    }

    /// Lets what the step wrote into its files take effect, and removes them.
    async fn read_files(
        &self,
        files: &StepFiles,
        output: &mut StepOutput<'_, R>,
    ) -> Result<(), SandboxError> {
        let [path, env, summary, out, state] = EnvFile::ALL;
        let contents = tokio::join!(
            files.read(self.sandbox, path),
            files.read(self.sandbox, env),
            files.read(self.sandbox, summary),
            files.read(self.sandbox, out),
            files.read(self.sandbox, state),
        );
        let contents = [contents.0, contents.1, contents.2, contents.3, contents.4];
        for (file, content) in EnvFile::ALL.into_iter().zip(contents) {
            match content {
                Ok(Some(content)) if !content.is_empty() => take(file, &content, output).await,
                Ok(_) => {}
                Err(error @ SandboxError::Lost(_)) => return Err(error),
                Err(error) => refuse(file, &error.to_string(), output).await,
            }
        }
        match files.remove(self.sandbox).await {
            Err(error @ SandboxError::Lost(_)) => Err(error),
            Err(error) => {
                output.log.warning(&error.to_string()).await;
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Enters what the step left into the job.
    fn keep(
        &mut self,
        step: &StepRequest,
        changes: Changes,
        outcome: Conclusion,
        conclusion: Conclusion,
    ) {
        let context = &mut self.context;
        context.env.extend(changes.env);
        for directory in changes.path {
            context.prepend_path(directory);
        }
        context.finish_step(&step.context_name, &changes.outputs, outcome, conclusion);
        if conclusion == Conclusion::Failure && context.status == Conclusion::Success {
            context.status = Conclusion::Failure;
        }
    }
}

/// `env` of the job and of the step.
fn step_env(
    context: &JobContext<'_>,
    step: &StepRequest,
) -> Result<IndexMap<String, String>, TemplateError> {
    let mut env = context.env.clone();
    if let Some(token) = &step.environment {
        env.extend(context.evaluator(&context.env).strings(token)?);
    }
    Ok(env)
}

/// The step's own name if it has one that can be evaluated, else one made from what it runs.
fn display_name(
    context: &JobContext<'_>,
    step: &StepRequest,
    env: &IndexMap<String, String>,
) -> String {
    let evaluator = context.evaluator(env);
    let own = step
        .display_name
        .as_ref()
        .and_then(|token| evaluator.string(token).ok());
    let own = own.filter(|name| !name.trim().is_empty());
    let name = own.unwrap_or_else(|| steps::default_name(step, &evaluator));
    name.lines().next().unwrap_or_default().to_owned()
}

fn policy(env: &IndexMap<String, String>) -> Policy {
    let allowed = |name: &str| {
        let value = env.get(name).map(|value| value.trim());
        value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
    };
    Policy {
        unsecure_commands: allowed("ACTIONS_ALLOW_UNSECURE_COMMANDS"),
        unsecure_stop_tokens: allowed("ACTIONS_ALLOW_UNSECURE_STOPCOMMAND_TOKENS"),
    }
}

/// The error for a step that was stopped.
fn stopped(stop: Option<Stop>, name: &str, minutes: Option<f64>) -> Option<String> {
    match stop? {
        Stop::TimedOut => {
            let minutes = minutes.unwrap_or_default();
            Some(format!(
                "The action '{name}' has timed out after {minutes} minutes."
            ))
        }
        Stop::Cancelled | Stop::GraceOver => Some("The operation was canceled.".to_owned()),
    }
}

/// Cancelled outweighs failed, and failed all else.
fn worst(one: Conclusion, other: Conclusion) -> Conclusion {
    let rank = |conclusion| match conclusion {
        Conclusion::Cancelled => 2,
        Conclusion::Failure => 1,
        Conclusion::Success | Conclusion::Skipped => 0,
    };
    if rank(other) > rank(one) { other } else { one }
}

/// Lets the content of an environment file take effect.
async fn take<R: Reporter>(file: EnvFile, content: &[u8], output: &mut StepOutput<'_, R>) {
    let error = match file {
        EnvFile::StepSummary => {
            output.log.summary(&text(content)).await;
            None
        }
        EnvFile::Path => {
            let (found, error) = paths(content);
            for directory in found {
                output.apply(Effect::Path(directory)).await;
            }
            error
        }
        EnvFile::Env | EnvFile::Output | EnvFile::State => {
            let (found, error) = pairs(content);
            for (name, value) in found {
                set(file, name, value, output).await;
            }
            error
        }
    };
    if let Some(error) = error {
        refuse(file, &error.to_string(), output).await;
    }
}

async fn set<R: Reporter>(
    file: EnvFile,
    name: String,
    value: String,
    output: &mut StepOutput<'_, R>,
) {
    if file == EnvFile::Env && name.eq_ignore_ascii_case("NODE_OPTIONS") {
        let message = "Can't store NODE_OPTIONS output parameter using '$GITHUB_ENV' command.";
        return output.log.error(message).await;
    }
    output
        .log
        .debug(&format!("{} {name} = {value}", file.variable()))
        .await;
    let effect = match file {
        EnvFile::Env => Effect::Env(name, value),
        EnvFile::Output => Effect::Output(name, value),
        _ => Effect::State(name, value),
    };
    output.apply(effect).await;
}

/// Fails the step for what an environment file holds; a summary is only left out.
async fn refuse<R: Reporter>(file: EnvFile, cause: &str, output: &mut StepOutput<'_, R>) {
    if file == EnvFile::StepSummary {
        let limit = MAX_SUMMARY >> 10;
        let message = format!(
            "$GITHUB_STEP_SUMMARY upload aborted, supports content up to a size of {limit}k: {cause}"
        );
        return output.log.error(&message).await;
    }
    let name = file.context_name();
    let message = format!("Unable to process file command '{name}' successfully.");
    output.log.error(&message).await;
    output.log.error(cause).await;
    output.changes.failed = true;
}

impl<S: Sandbox, R: Reporter> JobRun<'_, S, R> {
    /// The job's problem matchers, for one step.
    fn step_matchers(&self) -> StepMatchers<'_> {
        let context = &self.context;
        StepMatchers::new(
            &self.matchers,
            self.sandbox,
            &context.layout.workspace,
            context.github("server_url"),
            context.github("repository"),
        )
    }
}

impl<S, R: Reporter> JobRun<'_, S, R> {
    /// The log of record `number`.
    pub(super) fn log(&self, number: u32) -> StepLog<'_, R> {
        let workspace = &self.context.layout.workspace;
        let job = &self.request.job_id;
        StepLog::new(
            self.reporter,
            &self.masker,
            job,
            number,
            self.debug,
            workspace,
        )
    }
}
