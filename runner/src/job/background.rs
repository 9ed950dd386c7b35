//! Steps in the background: each begins in its place and runs beside the steps after it.
//!
//! What such a step changes (outputs, environment, path, its entry in `steps`) takes effect where a
//! `wait`, `wait-all` or `cancel` step names it, at the latest before the post steps; so does its
//! result. As in the official runner, one that a `cancel` step stopped counts for nothing.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Semaphore;

use crate::sandbox::Sandbox;

use super::{
    cancel::{Canceller, cancellation},
    executor::JobRun,
    outcome::{Conclusion, StepRecord},
    output::StepOutput,
    reporter::Reporter,
    request::{JobRequest, StepAction, Variable},
    step::{Begun, Ended, Finished, close, worst},
    task::Task,
};

/// Steps that run in the background at the same time, unless the service says another number.
const AT_ONCE: usize = 10;

/// The variable in which the service says it.
const AT_ONCE_VARIABLE: &str = "system.runner.maxbackgroundsteps";

/// A step on its way: its record's number, and what is left of it.
type Running<'a> = Pin<Box<dyn Future<Output = (u32, Finished)> + Send + 'a>>;

/// The steps of one job that began in the background.
pub(super) struct Background<'a> {
    /// Never locked: the lock only lets a job be shared between threads.
    running: Mutex<FuturesUnordered<Running<'a>>>,
    steps: Vec<Step>,
    slots: Arc<Semaphore>,
    /// Records of those that ended.
    pub(super) records: Vec<StepRecord>,
    /// Whether the sandbox was lost under one.
    pub(super) lost: bool,
}

/// One of them.
struct Step {
    number: u32,
    name: String,
    task: Arc<Task>,
    canceller: Canceller,
    /// Whether a `cancel` step named it.
    cancelled: bool,
    /// How it ended.
    ended: Option<Ended>,
    /// What it changed, until that took effect.
    left: Option<Finished>,
}

impl Step {
    fn key(&self) -> &str {
        &self.task.step.context_name
    }

    /// Whether it still is to be waited for.
    fn is_open(&self) -> bool {
        self.ended.is_none() || self.left.is_some()
    }

    /// What it counts for in the job.
    fn counts_for(&self) -> Conclusion {
        match self.ended.map(|ended| ended.conclusion) {
            Some(Conclusion::Cancelled) if self.cancelled => Conclusion::Success,
            Some(conclusion) => conclusion,
            None => Conclusion::Success,
        }
    }
}

impl<'a> Background<'a> {
    /// None yet.
    pub(super) fn new(request: &JobRequest) -> Self {
        let said = request
            .variables
            .get(AT_ONCE_VARIABLE)
            .map(Variable::expose);
        let said = said.and_then(|number| number.trim().parse().ok());
        let slots = said.filter(|number| (1..=Semaphore::MAX_PERMITS).contains(number));
        Self {
            running: Mutex::default(),
            steps: Vec::new(),
            slots: Arc::new(Semaphore::new(slots.unwrap_or(AT_ONCE))),
            records: Vec::new(),
            lost: false,
        }
    }

    /// Does `work` while the steps in the background go on.
    pub(super) async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                Some((number, finished)) = self.running().next() => self.ended(number, finished),
                done = &mut work => return done,
            }
        }
    }

    /// Returns when all steps that `wanted` names ended.
    async fn wait(&mut self, wanted: &[u32]) {
        let is_running = |step: &Step| wanted.contains(&step.number) && step.ended.is_none();
        while self.steps.iter().any(is_running) {
            let Some((number, finished)) = self.running().next().await else {
                break;
            };
            self.ended(number, finished);
        }
    }

    fn running(&mut self) -> &mut FuturesUnordered<Running<'a>> {
        let running = self.running.get_mut();
        running.unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&mut self, number: u32, finished: Finished) {
        self.lost |= finished.lost.is_err();
        self.records.push(finished.record.clone());
        if let Some(step) = self.steps.iter_mut().find(|step| step.number == number) {
            step.ended = Some(finished.ended);
            step.left = Some(finished);
        }
    }

    /// Asks every step that still runs to stop.
    pub(super) fn cancel_all(&self) {
        for step in &self.steps {
            step.canceller.cancel();
        }
    }

    /// The steps of these keys, by number.
    fn named(&self, keys: &[String]) -> Vec<u32> {
        let is_named = |step: &&Step| keys.iter().any(|key| key.eq_ignore_ascii_case(step.key()));
        let named = self.steps.iter().filter(is_named);
        named.map(|step| step.number).collect()
    }

    fn open(&self) -> Vec<u32> {
        let open = self.steps.iter().filter(|step| step.is_open());
        open.map(|step| step.number).collect()
    }

    fn of(&self, numbers: &[u32]) -> impl Iterator<Item = &Step> {
        let steps = self.steps.iter();
        steps.filter(|step| numbers.contains(&step.number))
    }

    /// The names of steps as messages have them.
    fn names(&self, numbers: &[u32]) -> String {
        let names: Vec<_> = self.of(numbers).map(|step| step.name.as_str()).collect();
        if names.is_empty() {
            return "(none)".to_owned();
        }
        names.join(", ")
    }
}

impl<S: Sandbox, R: Reporter> JobRun<'_, S, R> {
    /// Begins a step in the background. One that does not run (its condition does not hold, or
    /// cannot be evaluated) has ended already, and is given back.
    pub(super) async fn begin(&mut self, task: &Arc<Task>, number: u32) -> Option<Finished> {
        let begun = Begun::new(self.shared.sandbox, &self.context, Arc::clone(task));
        let mut begun = self.background.beside(begun).await;
        let shared = self.shared;
        if begun.holds() != Ok(true) {
            return Some(self.background.beside(shared.step(&begun, number)).await);
        }
        let (canceller, asked) = cancellation();
        begun.asked = Some(asked.clone());
        self.background.steps.push(Step {
            number,
            name: begun.display_name(),
            task: Arc::clone(task),
            canceller,
            cancelled: false,
            ended: None,
            left: None,
        });
        let slots = Arc::clone(&self.background.slots);
        self.background.running().push(Box::pin(async move {
            // One that is cancelled before it has a slot ends without one.
            let _slot = tokio::select! {
                biased;
                () = asked.requested() => None,
                () = shared.clock.cancelled() => None,
                slot = slots.acquire() => slot.ok(),
            };
            (number, shared.step(&begun, number).await)
        }));
        None
    }

    /// Runs a `wait`, `wait-all` or `cancel` step.
    pub(super) async fn control(&mut self, task: &Arc<Task>, number: u32) -> Finished {
        let begun = Begun::new(self.shared.sandbox, &self.context, Arc::clone(task));
        let begun = self.background.beside(begun).await;
        let name = begun.display_name();
        let mut output = self.shared.open(&begun, &name, number).await;
        let ended = match begun.holds() {
            Ok(true) => {
                let outcome = self.obey(&task.step.action, &mut output).await;
                self.shared.conclude(&begun, outcome, &mut output).await
            }
            Ok(false) => Ended::as_is(Conclusion::Skipped),
            Err(error) => {
                output.log.error(&error).await;
                Ended::as_is(Conclusion::Failure)
            }
        };
        close(output, &name, ended, Ok(())).await
    }

    async fn obey(&mut self, action: &StepAction, output: &mut StepOutput<'_, R>) -> Conclusion {
        let StepAction::BackgroundControl {
            control_type,
            step_ids,
        } = action
        else {
            return Conclusion::Success;
        };
        match control_type.as_str() {
            "wait" => {
                let steps = self.background.named(step_ids);
                let names = self.background.names(&steps);
                let line = format!("Waiting for background step(s) to complete: {names}");
                output.log.line(&line).await;
                let result = self.wait_for(&steps).await;
                let line = "Finished waiting for background step(s).";
                self.report_results(line, &steps, output).await;
                result
            }
            "wait-all" => {
                let steps = self.background.open();
                let line = match steps.as_slice() {
                    [] => "No background steps remaining to wait for.".to_owned(),
                    steps => {
                        let names = self.background.names(steps);
                        format!("Waiting for all background step(s) to complete: {names}")
                    }
                };
                output.log.line(&line).await;
                let result = self.wait_for(&steps).await;
                let line = "Finished waiting for all background step(s).";
                self.report_results(line, &steps, output).await;
                result
            }
            "cancel" => {
                let steps = self.background.named(step_ids);
                let names = self.background.names(&steps);
                let line = format!("Cancelling background step(s): {names}");
                output.log.line(&line).await;
                self.cancel(&steps).await;
                let line = "Finished cancelling background step(s).";
                self.report_results(line, &steps, output).await;
                Conclusion::Success
            }
            other => {
                let message = format!("Unknown background step control type '{other}'.");
                output.log.error(&message).await;
                Conclusion::Failure
            }
        }
    }

    async fn report_results(&mut self, line: &str, steps: &[u32], output: &mut StepOutput<'_, R>) {
        output.log.line(line).await;
        for step in self.background.of(steps) {
            let result = match step.ended.map(|ended| ended.conclusion) {
                Some(Conclusion::Success) => "Succeeded",
                Some(Conclusion::Failure) => "Failed",
                Some(Conclusion::Cancelled) => "Canceled",
                Some(Conclusion::Skipped) => "Skipped",
                None => "Unknown",
            };
            output.log.line(&format!("  {}: {result}", step.name)).await;
        }
    }

    async fn cancel(&mut self, steps: &[u32]) {
        for step in &mut self.background.steps {
            if steps.contains(&step.number) {
                step.cancelled = true;
                step.canceller.cancel();
            }
        }
        self.wait_for(steps).await;
    }

    /// Waits for steps and lets what they changed take effect; gives the worst of their results.
    async fn wait_for(&mut self, steps: &[u32]) -> Conclusion {
        self.background.wait(steps).await;
        for step in &mut self.background.steps {
            if steps.contains(&step.number)
                && let Some(left) = step.left.take()
            {
                let task = Arc::clone(&step.task);
                self.context.enter(&task, &left.changes, left.ended);
                super::executor::register(&mut self.posts, step.number, left.changes.posts);
            }
        }
        let results = self.background.of(steps).filter_map(|step| step.ended);
        let results = results.map(|ended| ended.conclusion);
        results.fold(Conclusion::Success, worst)
    }

    /// Waits for all that nobody waited for; gives what all steps in the background count for.
    pub(super) async fn wait_for_rest(&mut self) -> Conclusion {
        let open = self.background.open();
        self.wait_for(&open).await;
        let steps = self.background.steps.iter();
        steps.map(Step::counts_for).fold(Conclusion::Success, worst)
    }
}
