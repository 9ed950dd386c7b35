//! Runs a job from its request to its outcome.

use std::{
    ops::RangeInclusive,
    sync::{Arc, atomic::AtomicUsize},
};

use tokio::time::Instant;

use crate::{
    egress::proxy::Egress,
    sandbox::{Sandbox, SandboxError},
};

use super::{
    Options,
    actions::Actions,
    background::Background,
    cancel::{Cancellation, JobClock},
    containers::Containers,
    contexts::JobContext,
    log::StepLog,
    masking::Masker,
    matcher::Matchers,
    network,
    outcome::{Conclusion, JobOutcome, StepRecord},
    reporter::{EventKind, PlannedStep, Reporter},
    request::{JobRequest, MaskHint, StepAction, Variable},
    shared::Shared,
    step::{Begun, Finished, display_name},
    steps::Programs,
    task::{Stage, Task},
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
    let (options, trusted) = network::looked_into(options, sandbox).await;
    let options = &options;
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
        actions: Actions::of(request),
        containers: Containers::default(),
        set: AtomicUsize::new(0),
        debug,
    };
    let steps = request.steps.iter().cloned().map(Arc::new).enumerate();
    let mut run = JobRun {
        shared: &shared,
        context: JobContext::new(request, options),
        tasks: steps
            .map(|(index, step)| Arc::new(Task::main(&step, index)))
            .collect(),
        pres: Vec::new(),
        posts: Vec::new(),
        containers_begun: false,
        background: Background::new(request),
        records: Vec::new(),
        numbers: 1..=u32::MAX,
    };
    // Secrets first: nothing is reported before they are known.
    let masks = trusted.and_then(|()| run.add_masks());
    let masker = shared.masker.clone();
    if let Some(egress) = sandbox.egress() {
        let hide = move |text: &str| masker.mask(text).into_owned();
        egress.record().hide_with(Arc::new(hide));
    }
    let name = shared.masker.mask(&request.job_display_name).into_owned();
    shared.report(EventKind::JobStarted { name: &name }).await;
    let (outputs, environment_url) = run.all(masks).await;
    let steps = run.records();
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
        environment_url,
        steps,
        duration,
    }
}

/// What a job gives besides its result: its outputs, and the address of its environment.
type Given = (Vec<(String, String)>, Option<String>);

/// A job while it runs.
pub(super) struct JobRun<'a, S, R> {
    pub(super) shared: &'a Shared<'a, S, R>,
    pub(super) context: JobContext<'a>,
    /// The steps of the request.
    pub(super) tasks: Vec<Arc<Task>>,
    /// What is to be run before them.
    pub(super) pres: Vec<Arc<Task>>,
    /// What is to be run after them, by the record that registered it; the last comes first.
    pub(super) posts: Vec<(u32, Task)>,
    /// Those of the steps that run beside the others.
    pub(super) background: Background<'a>,
    /// What became of the others.
    pub(super) records: Vec<StepRecord>,
    /// Numbers of records to come.
    numbers: RangeInclusive<u32>,
    /// Whether there may be containers to stop.
    pub(super) containers_begun: bool,
}

/// Why no further step runs.
struct Ends;

impl<S: Sandbox, R: Reporter> JobRun<'_, S, R> {
    /// Runs the job.
    async fn all(&mut self, masks: Result<Vec<String>, String>) -> Given {
        let number = self.number();
        let record = self.set_up(number, masks).await;
        self.records.push(record);
        if self.context.status == Conclusion::Success {
            // Nothing but the end of the queue or of the sandbox ends it: a step that failed does not.
            let _: Result<(), Ends> = self.stages().await;
        }
        if self.shared.clock.is_cancelled() && self.context.status == Conclusion::Success {
            self.context.status = Conclusion::Cancelled;
        }
        let number = self.number();
        let (record, given) = self.complete(number).await;
        self.fails_with(record.conclusion);
        self.records.push(record);
        given
    }

    /// All records of the job, in order.
    fn records(&mut self) -> Vec<StepRecord> {
        let mut records = std::mem::take(&mut self.records);
        records.append(&mut self.background.records);
        records.sort_by_key(|record| record.number);
        records
    }

    /// The number of the next record.
    pub(super) fn number(&mut self) -> u32 {
        self.numbers.next().unwrap_or(u32::MAX)
    }

    /// What is before the steps, the steps, and what is after them.
    async fn stages(&mut self) -> Result<(), Ends> {
        let mains = self.mains().await;
        if mains.is_err() {
            self.background.cancel_all();
        }
        let result = self.wait_for_rest().await;
        self.fails_with(result);
        if self.background.lost {
            return Err(self.loses());
        }
        mains?;
        while let Some((_, task)) = self.posts.pop() {
            self.one(&Arc::new(task)).await?;
        }
        let stopped = self.stop_containers().await;
        self.unless_lost(stopped)
    }

    fn unless_lost(&mut self, ended: Result<(), SandboxError>) -> Result<(), Ends> {
        ended.map_err(|_| self.loses())
    }

    /// What is before the steps, and the steps.
    async fn mains(&mut self) -> Result<(), Ends> {
        let prepared = self.prepare_images().await;
        self.unless_lost(prepared)?;
        let started = self.start_containers().await;
        self.unless_lost(started)?;
        let pres = std::mem::take(&mut self.pres);
        let tasks: Vec<_> = pres.into_iter().chain(self.tasks.clone()).collect();
        self.plan(&tasks).await;
        for task in &tasks {
            self.one(task).await?;
        }
        Ok(())
    }

    /// Tells which steps are to come.
    async fn plan(&self, tasks: &[Arc<Task>]) {
        let steps: Vec<PlannedStep> = {
            let evaluator = self.context.evaluator(&self.context.env);
            let planned = |(task, step): (&Arc<Task>, u32)| PlannedStep {
                step,
                id: (task.stage == Stage::Main).then(|| task.step.id.clone()),
                name: self
                    .shared
                    .masker
                    .mask(&display_name(task, &evaluator))
                    .into_owned(),
            };
            tasks
                .iter()
                .zip(self.numbers.clone())
                .map(planned)
                .collect()
        };
        let steps = steps.as_slice();
        self.shared.report(EventKind::StepsPlanned { steps }).await;
    }

    /// How many records after all steps come after that of this task.
    fn to_come(&self, task: &Task) -> Option<u32> {
        let rest = self.posts.len() + usize::from(self.containers_begun);
        (task.stage == Stage::Post).then(|| u32::try_from(rest).unwrap_or(u32::MAX))
    }

    async fn one(&mut self, task: &Arc<Task>) -> Result<(), Ends> {
        if self.shared.clock.is_cancelled() {
            self.context.status = Conclusion::Cancelled;
        }
        if self.shared.clock.is_grace_over() {
            return Err(Ends);
        }
        let number = self.number();
        let is_main = task.stage == Stage::Main;
        let finished = if let StepAction::BackgroundControl { .. } = task.step.action {
            Some(self.control(task, number).await)
        } else if is_main && task.step.background {
            self.begin(task, number).await
        } else {
            let shared = self.shared;
            let begun = Begun::new(shared.sandbox, &self.context, Arc::clone(task));
            let mut begun = self.background.beside(begun).await;
            begun.to_come = self.to_come(task);
            Some(self.background.beside(shared.step(&begun, number)).await)
        };
        let mut lost = self.background.lost;
        if let Some(finished) = finished {
            lost |= finished.lost.is_err();
            self.keep(task, finished);
        }
        if lost { Err(self.loses()) } else { Ok(()) }
    }

    /// The sandbox is gone.
    fn loses(&mut self) -> Ends {
        self.context.status = Conclusion::Failure;
        Ends
    }

    /// Enters what a step left into the job.
    fn keep(&mut self, task: &Task, finished: Finished) {
        let Finished {
            ended,
            changes,
            record,
            ..
        } = finished;
        let number = record.number;
        self.records.push(record);
        self.context.enter(task, &changes, ended);
        register(&mut self.posts, number, changes.posts);
        self.fails_with(ended.conclusion);
    }

    /// A failure of a part of the job is one of the job, unless that stands worse already.
    fn fails_with(&mut self, conclusion: Conclusion) {
        if conclusion == Conclusion::Failure && self.context.status == Conclusion::Success {
            self.context.status = Conclusion::Failure;
        }
    }

    /// The record "Complete job", and what the job gives.
    async fn complete(&mut self, number: u32) -> (StepRecord, Given) {
        let name = "Complete job";
        let shared = self.shared;
        let mut log = shared.log(number, &self.context.layout.workspace);
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
        let (outputs, mut conclusion) = match self.outputs(&mut log).await {
            Ok(outputs) => (outputs, Conclusion::Success),
            Err(error) => {
                log.error("Fail to evaluate job outputs").await;
                log.error(&error.to_string()).await;
                (Vec::new(), Conclusion::Failure)
            }
        };
        let url = match self.environment_url(&mut log).await {
            Ok(url) => url,
            Err(error) => {
                log.error("Failed to evaluate environment url").await;
                log.error(&error.to_string()).await;
                conclusion = Conclusion::Failure;
                None
            }
        };
        self.network(&mut log).await;
        let record = log.finish(name, conclusion, conclusion).await;
        (record, (outputs, url))
    }

    /// What the job reached, and what it did not.
    async fn network(&self, log: &mut StepLog<'_, R>) {
        let Some(record) = self.shared.sandbox.egress().map(Egress::record) else {
            return;
        };
        if let Err(error) = record.finish() {
            log.warning(&error.to_string()).await;
        }
        let table = record.table();
        if table.is_empty() {
            return;
        }
        log.line("##[group]Network").await;
        for line in table.lines() {
            log.line(&line).await;
        }
        if let Some(path) = record.path() {
            log.line(&format!("record: {}", path.display())).await;
        }
        log.line("##[endgroup]").await;
        log.summary(&table.markdown()).await;
    }

    /// Outputs of the job: empty ones and those that hold a secret are left out.
    async fn outputs(
        &mut self,
        log: &mut StepLog<'_, R>,
    ) -> Result<Vec<(String, String)>, TemplateError> {
        let Some(token) = &self.shared.request.job_outputs else {
            return Ok(Vec::new());
        };
        log.line("Evaluate and set job outputs").await;
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

    /// The address of the environment that the job is for: it may be made of outputs of the steps.
    async fn environment_url(
        &mut self,
        log: &mut StepLog<'_, R>,
    ) -> Result<Option<String>, TemplateError> {
        let environment = self.shared.request.actions_environment.as_ref();
        let Some(url) = environment.and_then(|environment| environment.get("url")) else {
            return Ok(None);
        };
        if url.is_null() {
            return Ok(None);
        }
        log.line("Evaluate and set environment url").await;
        let evaluator = self.context.evaluator(&self.context.env);
        let name = environment.and_then(|environment| environment.get("name"));
        let name = name.and_then(|name| evaluator.string(name).ok());
        let url = evaluator.string(url);
        drop(evaluator);
        let url = url?;
        if self.shared.masker.contains_secret(&url) {
            let name = name.unwrap_or_default();
            let message =
                format!("Skip setting environment url as environment '{name}' may contain secret.");
            log.warning(&message).await;
            return Ok(None);
        }
        log.line(&format!("Evaluated environment url: {url}")).await;
        Ok(Some(url).filter(|url| !url.is_empty()))
    }

    /// Makes all secrets of the request known to the masker.
    fn add_masks(&self) -> Result<Vec<String>, String> {
        let text = |error: super::masking::MaskError| error.to_string();
        for (_, variable) in self.shared.request.variables.iter() {
            if let Variable::Secret(_) = variable {
                self.shared.masker.add(variable.expose()).map_err(text)?;
            }
        }
        for value in &self.shared.request.masked {
            let value = secrecy::ExposeSecret::expose_secret(value);
            self.shared.masker.add(value).map_err(text)?;
        }
        for endpoint in &self.shared.request.endpoints {
            if let Some(token) = &endpoint.access_token {
                let token = secrecy::ExposeSecret::expose_secret(token);
                self.shared.masker.add(token).map_err(text)?;
            }
        }
        // Who knows a placeholder can still do nothing with it elsewhere; but no log needs it.
        for placeholder in self.shared.options.placeholders.iter() {
            self.shared.masker.add(placeholder).map_err(text)?;
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

/// Enters what the step of record `number` wants to be run after all steps.
pub(super) fn register(posts: &mut Vec<(u32, Task)>, number: u32, new: Vec<Task>) {
    for post in new {
        match posts.iter_mut().find(|(_, known)| known.id == post.id) {
            Some((_, known)) => known.merge(post),
            None => {
                // A step in the background is entered later than it began.
                let place = posts.partition_point(|(other, _)| *other <= number);
                posts.insert(place, (number, post));
            }
        }
    }
}
