//! One step of a job: its environment, condition, run, and what it leaves behind.
//!
//! A step sees a copy of the job's contexts as they are when it begins; what it changes is given
//! back and entered by whoever runs it, the job or a composite action.

use std::{sync::Arc, time::Duration};

use indexmap::IndexMap;
use tokio::time::Instant;

use crate::{
    egress::proxy::RunningStep,
    sandbox::{Sandbox, SandboxError},
};

use super::{
    cancel::Cancellation,
    commands::Policy,
    contexts::JobContext,
    file_commands::read_files,
    files::StepFiles,
    hash_files,
    matcher::StepMatchers,
    outcome::{Conclusion, StepRecord},
    output::{Changes, StepOutput},
    process::Stop,
    reporter::{Origin, Reporter},
    shared::Shared,
    steps::{self, StepRun},
    stop::StopRule,
    task::{Stage, Task},
    template::{Evaluator, TemplateError},
};

/// Longest `timeout-minutes` that is kept, in minutes: a month.
const MAX_TIMEOUT: f64 = 31.0 * 24.0 * 60.0;

/// How a step ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    /// By itself.
    pub(super) outcome: Conclusion,
    /// With `continue-on-error`.
    pub(super) conclusion: Conclusion,
}

impl Ended {
    pub(super) fn as_is(conclusion: Conclusion) -> Self {
        Self {
            outcome: conclusion,
            conclusion,
        }
    }
}

/// A step of the job that ended.
pub(super) struct Finished {
    pub(super) record: StepRecord,
    pub(super) ended: Ended,
    pub(super) changes: Changes,
    /// Whether a further step can run.
    pub(super) lost: Result<(), SandboxError>,
}

/// A step that is about to begin.
pub(super) struct Begun<'a> {
    pub(super) task: Arc<Task>,
    /// The contexts for this step alone.
    pub(super) context: JobContext<'a>,
    files: StepFiles,
    /// The step's own `env`.
    own_env: IndexMap<String, String>,
    /// All of its `env` context.
    env: IndexMap<String, String>,
    /// Why the step's own `env` cannot be evaluated.
    error: Option<TemplateError>,
    /// Asks the step to stop, if it runs in the background.
    pub(super) asked: Option<Cancellation>,
    /// How many records after all steps come after this one, if it is such a one.
    pub(super) to_come: Option<u32>,
}

impl<'a> Begun<'a> {
    /// Evaluates the step's `env` in contexts of its own.
    pub(super) async fn new<S: Sandbox>(
        sandbox: &S,
        context: &JobContext<'a>,
        task: Arc<Task>,
    ) -> Self {
        let files = StepFiles::new(&context.layout.temp);
        let mut context = context.for_step(&files);
        if task.depth == 0 {
            context.set_github("action", &task.step.name);
        }
        if hash_files::is_asked_for(&task.step) {
            context.index_workspace(sandbox).await;
        }
        let mut env = context.env.clone();
        env.extend(context.overrides.clone());
        let token = task.step.environment.as_ref();
        let own = token.map(|token| context.evaluator(&env).strings(token));
        let (own_env, error) = match own.transpose() {
            Ok(own) => (own.unwrap_or_default(), None),
            Err(error) => (IndexMap::new(), Some(error)),
        };
        env.extend(own_env.clone());
        Self {
            task,
            context,
            files,
            own_env,
            env,
            error,
            asked: None,
            to_come: None,
        }
    }

    /// Whether the step is to be run.
    ///
    /// # Errors
    /// Its `env` or its condition cannot be evaluated: it failed.
    pub(super) fn holds(&self) -> Result<bool, String> {
        if let Some(error) = &self.error {
            return Err(error.to_string());
        }
        let evaluator = self.context.evaluator(&self.env);
        let holds = evaluator.condition(&self.task.condition);
        holds.map_err(|error| error.to_string())
    }

    /// What workflow commands may do in this step.
    pub(super) fn policy(&self) -> Policy {
        let allowed = |name: &str| {
            let value = self.env.get(name).map(|value| value.trim());
            value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
        };
        Policy {
            unsecure_commands: allowed("ACTIONS_ALLOW_UNSECURE_COMMANDS"),
            unsecure_stop_tokens: allowed("ACTIONS_ALLOW_UNSECURE_STOPCOMMAND_TOKENS"),
        }
    }

    /// The step's own name if it has one that can be evaluated, else one made from what it runs.
    pub(super) fn display_name(&self) -> String {
        display_name(&self.task, &self.context.evaluator(&self.env))
    }
}

/// The name of a task, as far as its own name can be evaluated.
pub(super) fn display_name(task: &Task, evaluator: &Evaluator<'_>) -> String {
    if let Some(name) = &task.name {
        return name.clone();
    }
    let step = &task.step;
    let own = step
        .display_name
        .as_ref()
        .and_then(|token| evaluator.string(token).ok());
    let own = own.filter(|name| !name.trim().is_empty());
    let name = own.unwrap_or_else(|| steps::default_name(step, evaluator));
    let name = name.lines().next().unwrap_or_default();
    match task.stage {
        Stage::Pre => format!("Pre {name}"),
        Stage::Main => name.to_owned(),
        Stage::Post => format!("Post {name}"),
    }
}

impl<S: Sandbox, R: Reporter> Shared<'_, S, R> {
    /// Runs one step of the job as record `number` of the log.
    pub(super) async fn step(&self, begun: &Begun<'_>, number: u32) -> Finished {
        let name = begun.display_name();
        let mut output = self.open(begun, &name, number).await;
        let (ended, lost) = self.attempt(begun, &name, None, &mut output).await;
        close(output, &name, ended, lost).await
    }

    /// Begins a record of the log.
    pub(super) async fn open(
        &self,
        begun: &Begun<'_>,
        name: &str,
        number: u32,
    ) -> StepOutput<'_, R> {
        let log = self.log(number, &begun.context.layout.workspace);
        let Task { step, stage, .. } = &*begun.task;
        let origin = Origin {
            id: (*stage == Stage::Main).then_some(step.id.as_str()),
            action: Some(&step.action),
            to_come: begun.to_come,
        };
        log.start_as(name, origin).await;
        let matchers = self.step_matchers(&begun.context);
        StepOutput::new(
            log,
            &self.masker,
            begun.policy(),
            self.debug,
            &self.set,
            matchers,
        )
    }

    /// The job's problem matchers, for one step.
    fn step_matchers(&self, context: &JobContext<'_>) -> StepMatchers<'_> {
        let matchers = StepMatchers::new(
            &self.matchers,
            self.sandbox,
            &context.layout.workspace,
            context.github("server_url"),
            context.github("repository"),
        );
        match self.containers.paths() {
            Some(paths) => matchers.called(paths),
            None => matchers,
        }
    }

    /// Evaluates the condition and runs the step if it holds. `around` is the rule that stops the
    /// composite action that the step belongs to.
    pub(super) async fn attempt(
        &self,
        begun: &Begun<'_>,
        name: &str,
        around: Option<&StopRule<'_>>,
        output: &mut StepOutput<'_, R>,
    ) -> (Ended, Result<(), SandboxError>) {
        match begun.holds() {
            Ok(true) => {}
            Ok(false) => return (Ended::as_is(Conclusion::Skipped), Ok(())),
            Err(error) => {
                output.log.error(&error).await;
                return (Ended::as_is(Conclusion::Failure), Ok(()));
            }
        }
        let (mut outcome, mut lost) = self.run(begun, name, around, output).await;
        if lost.is_ok() && begun.files.are_written() {
            let others = self.has_background_steps();
            lost = read_files(self.sandbox, &begun.files, others, output).await;
        }
        if output.changes.failed || lost.is_err() {
            outcome = worst(outcome, Conclusion::Failure);
        }
        (self.conclude(begun, outcome, output).await, lost)
    }

    /// What an outcome counts for.
    pub(super) async fn conclude(
        &self,
        begun: &Begun<'_>,
        outcome: Conclusion,
        output: &mut StepOutput<'_, R>,
    ) -> Ended {
        let mut conclusion = outcome;
        if outcome == Conclusion::Failure && self.continues(begun, output).await {
            conclusion = Conclusion::Success;
        }
        Ended {
            outcome,
            conclusion,
        }
    }

    /// Runs the step's action with its timeout.
    async fn run(
        &self,
        begun: &Begun<'_>,
        name: &str,
        around: Option<&StopRule<'_>>,
        output: &mut StepOutput<'_, R>,
    ) -> (Conclusion, Result<(), SandboxError>) {
        let minutes = self.timeout(begun, output).await;
        let timeout = minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
        let stop = StopRule {
            clock: &self.clock,
            context: &begun.context,
            env: &begun.env,
            condition: &begun.task.condition,
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            asked: begun.asked.as_ref(),
            around,
        };
        if begun.asked.is_some() && stop.is_stopped().await == Some(Stop::Cancelled) {
            output.log.error(CANCELLED).await;
            return (Conclusion::Cancelled, Ok(()));
        }
        let mut run = StepRun {
            shared: self,
            task: &begun.task,
            name,
            context: &begun.context,
            env: &begun.env,
            own_env: &begun.own_env,
            output,
            files: &begun.files,
            stop: &stop,
        };
        let running = self.begins(begun, name);
        let ended = steps::run(&mut run).await;
        drop(running);
        let (conclusion, lost) = match ended {
            Ok(ended) => {
                // What stopped the action around is told once, by it.
                if stop.is_stopped_around().await.is_none()
                    && let Some(message) = stopped(ended.stop, begun, name, minutes)
                {
                    output.log.error(&message).await;
                }
                (ended.conclusion, Ok(()))
            }
            Err(error) => {
                output.log.error(&error.to_string()).await;
                match error.lost() {
                    Ok(error) => (Conclusion::Failure, Err(error)),
                    Err(_) => (Conclusion::Failure, Ok(())),
                }
            }
        };
        if begun.task.depth > 0 {
            return (conclusion, lost);
        }
        let words = self.words(begun, name);
        (self.sent_astray(&words, conclusion, output).await, lost)
    }

    /// From now on the sandbox's network is that of this step. Steps inside of a composite action are
    /// part of the step around them.
    fn begins(&self, begun: &Begun<'_>, name: &str) -> Option<RunningStep> {
        let egress = self.sandbox.egress().filter(|_| begun.task.depth == 0)?;
        Some(egress.step(self.words(begun, name)))
    }

    /// By what the policy knows a step: its id and its name.
    fn words(&self, begun: &Begun<'_>, name: &str) -> Vec<String> {
        let id = begun.task.step.context_name.clone();
        vec![id, self.masker.mask(name).into_owned()]
    }

    async fn timeout(&self, begun: &Begun<'_>, output: &mut StepOutput<'_, R>) -> Option<f64> {
        let token = begun.task.step.timeout_in_minutes.as_ref()?;
        let number = begun.context.evaluator(&begun.env).number(token);
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

    async fn continues(&self, begun: &Begun<'_>, output: &mut StepOutput<'_, R>) -> bool {
        let Some(token) = &begun.task.step.continue_on_error else {
            return false;
        };
        let evaluated = begun.context.evaluator(&begun.env).boolean(token);
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
}

/// Ends a record of the log.
pub(super) async fn close<R: Reporter>(
    mut output: StepOutput<'_, R>,
    name: &str,
    ended: Ended,
    lost: Result<(), SandboxError>,
) -> Finished {
    let changes = std::mem::take(&mut output.changes);
    let Ended {
        outcome,
        conclusion,
    } = ended;
    let record = output.log.finish(name, outcome, conclusion).await;
    Finished {
        record,
        ended,
        changes,
        lost,
    }
}

/// The error for a step that was stopped.
fn stopped(
    stop: Option<Stop>,
    begun: &Begun<'_>,
    name: &str,
    minutes: Option<f64>,
) -> Option<String> {
    match stop? {
        Stop::TimedOut => {
            let what = match begun.asked {
                Some(_) => "background step",
                None => "action",
            };
            let minutes = minutes.unwrap_or_default();
            Some(format!(
                "The {what} '{name}' has timed out after {minutes} minutes."
            ))
        }
        Stop::Cancelled | Stop::GraceOver => Some(CANCELLED.to_owned()),
    }
}

/// The error of a step that was cancelled.
const CANCELLED: &str = "The operation was canceled.";

/// Cancelled outweighs failed, and failed all else.
pub(super) fn worst(one: Conclusion, other: Conclusion) -> Conclusion {
    let rank = |conclusion| match conclusion {
        Conclusion::Cancelled => 2,
        Conclusion::Failure => 1,
        Conclusion::Success | Conclusion::Skipped => 0,
    };
    if rank(other) > rank(one) { other } else { one }
}
