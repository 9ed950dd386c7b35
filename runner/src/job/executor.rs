//! Runs a job from its request to its outcome.

use std::sync::Arc;

use tokio::time::Instant;

use crate::sandbox::{Sandbox, SandboxError};

use super::{
    Options,
    actions::Actions,
    cancel::{Cancellation, JobClock},
    containers::Containers,
    contexts::JobContext,
    log::StepLog,
    masking::Masker,
    matcher::Matchers,
    outcome::{Conclusion, JobOutcome, StepRecord},
    reporter::{EventKind, Reporter},
    request::{JobRequest, MaskHint, Variable},
    shared::Shared,
    step::Finished,
    steps::{self, Programs},
    task::Task,
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
    let shared = Shared {
        request,
        options,
        sandbox,
        reporter,
        masker: Masker::new(),
        clock: JobClock::new(cancellation, options.timeout, options.cancel_grace),
        programs: Programs::default(),
        matchers: Matchers::default(),
        actions: Actions::default(),
        containers: Containers::default(),
        debug,
    };
    let steps = request.steps.iter().cloned().map(Arc::new).enumerate();
    let mut run = JobRun {
        shared: &shared,
        context: JobContext::new(request, options),
        tasks: steps
            .map(|(index, step)| Task::main(&step, index))
            .collect(),
        posts: Vec::new(),
        containers_begun: false,
        set: 0,
    };
    // Secrets first: nothing is reported before they are known.
    let masks = run.add_masks();
    let name = shared.masker.mask(&request.job_display_name).into_owned();
    shared.report(EventKind::JobStarted { name: &name }).await;
    let (steps, outputs) = run.all(masks).await;
    let result = run.context.status;
    let duration = started.elapsed();
    let finished = EventKind::JobFinished {
        name: &name,
        result,
        outputs: &outputs,
        duration,
    };
    shared.report(finished).await;
    JobOutcome {
        result,
        outputs,
        steps,
        duration,
    }
}

/// A job while it runs.
pub(super) struct JobRun<'a, S, R> {
    pub(super) shared: &'a Shared<'a, S, R>,
    pub(super) context: JobContext<'a>,
    /// The steps of the request.
    pub(super) tasks: Vec<Task>,
    /// What is to be run after them; the last comes first.
    posts: Vec<Task>,
    /// Whether there may be containers to stop.
    pub(super) containers_begun: bool,
    /// Bytes of names and values that steps set so far.
    set: usize,
}

/// Why no further step runs.
struct Ends;

impl<S: Sandbox, R: Reporter> JobRun<'_, S, R> {
    /// All records of the job, and its outputs.
    async fn all(
        &mut self,
        masks: Result<Vec<String>, String>,
    ) -> (Vec<StepRecord>, Vec<(String, String)>) {
        let mut records = vec![self.set_up(masks).await];
        if self.context.status == Conclusion::Success {
            // Nothing but the end of the queue or of the sandbox ends it: a step that failed does not.
            let _: Result<(), Ends> = self.stages(&mut records).await;
        }
        if self.shared.clock.is_cancelled() && self.context.status == Conclusion::Success {
            self.context.status = Conclusion::Cancelled;
        }
        let (record, outputs) = self.complete(next(&records)).await;
        if record.conclusion == Conclusion::Failure && self.context.status == Conclusion::Success {
            self.context.status = Conclusion::Failure;
        }
        records.push(record);
        (records, outputs)
    }

    /// What is before the steps, the steps, and what is after them.
    async fn stages(&mut self, records: &mut Vec<StepRecord>) -> Result<(), Ends> {
        let started = self.start_containers(records).await;
        self.unless_lost(started)?;
        let mains = self.tasks.clone();
        let pres = mains.iter().filter_map(|task| self.shared.pre(task));
        for task in pres.collect::<Vec<_>>().iter().chain(&mains) {
            self.one(task, records).await?;
        }
        while let Some(task) = self.posts.pop() {
            self.one(&task, records).await?;
        }
        let stopped = self.stop_containers(records).await;
        self.unless_lost(stopped)
    }

    fn unless_lost(&mut self, ended: Result<(), SandboxError>) -> Result<(), Ends> {
        ended.map_err(|_| {
            self.context.status = Conclusion::Failure;
            Ends
        })
    }

    async fn one(&mut self, task: &Task, records: &mut Vec<StepRecord>) -> Result<(), Ends> {
        if self.shared.clock.is_cancelled() {
            self.context.status = Conclusion::Cancelled;
        }
        if self.shared.clock.is_grace_over() {
            return Err(Ends);
        }
        let step = self
            .shared
            .step(&self.context, task, next(records), self.set);
        let finished = step.await;
        let lost = finished.lost.is_err();
        records.push(finished.record.clone());
        self.keep(task, finished);
        if lost {
            self.context.status = Conclusion::Failure;
            return Err(Ends);
        }
        Ok(())
    }

    /// Enters what the step left into the job.
    fn keep(&mut self, task: &Task, finished: Finished) {
        let Finished {
            ended,
            changes,
            set,
            ..
        } = finished;
        self.set = self.set.saturating_add(set);
        self.context.enter(task, &changes, ended);
        for post in changes.posts {
            match self.posts.iter_mut().find(|known| known.id == post.id) {
                Some(known) => known.merge(post),
                None => self.posts.push(post),
            }
        }
        let failed = ended.conclusion == Conclusion::Failure;
        if failed && self.context.status == Conclusion::Success {
            self.context.status = Conclusion::Failure;
        }
    }

    /// The record "Complete job", and the job's outputs.
    async fn complete(&self, number: u32) -> (StepRecord, Vec<(String, String)>) {
        let name = "Complete job";
        let workspace = &self.context.layout.workspace;
        let mut log = self.shared.log(number, workspace);
        log.start(name).await;
        if self.shared.clock.is_out_of_time() && self.context.status == Conclusion::Cancelled {
            let minutes = self
                .shared
                .options
                .timeout
                .unwrap_or_default()
                .as_secs_f64()
                / 60.0;
            let runner = &self.shared.options.runner_name;
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
        let Some(token) = &self.shared.request.job_outputs else {
            return Ok(Vec::new());
        };
        let evaluated = self.context.evaluator(&self.context.env).strings(token)?;
        let mut outputs = Vec::new();
        for (name, value) in evaluated {
            if value.is_empty() {
                log.debug(&format!("Skip output '{name}' since it is empty"))
                    .await;
            } else if self.shared.masker.contains_secret(&value) {
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
        for (_, variable) in self.shared.request.variables.iter() {
            if let Variable::Secret(_) = variable {
                self.shared.masker.add(variable.expose()).map_err(text)?;
            }
        }
        for endpoint in &self.shared.request.endpoints {
            if let Some(token) = &endpoint.access_token {
                let token = secrecy::ExposeSecret::expose_secret(token);
                self.shared.masker.add(token).map_err(text)?;
            }
        }
        if let Some(services) = &self.shared.options.services {
            let token = secrecy::ExposeSecret::expose_secret(&services.token);
            self.shared.masker.add(token).map_err(text)?;
        }
        let mut warnings = Vec::new();
        for (index, hint) in self.shared.request.mask.iter().enumerate() {
            match hint {
                MaskHint::Literal(value) => self.shared.masker.add(value).map_err(text)?,
                MaskHint::Regex(pattern) => {
                    if let Err(error) = self.shared.masker.add_pattern(index + 1, pattern) {
                        warnings.push(error.to_string());
                    }
                }
            }
        }
        Ok(warnings)
    }
}

/// The number of the next record.
fn next(records: &[StepRecord]) -> u32 {
    u32::try_from(records.len() + 1).unwrap_or(u32::MAX)
}

/// What of a request this version cannot do, before anything runs.
#[must_use]
pub fn unsupported(request: &JobRequest) -> Option<String> {
    request.steps.iter().find_map(steps::unsupported)
}
