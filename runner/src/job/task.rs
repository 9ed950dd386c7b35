//! What the queues of a job hold: a step, or what one of its stages is to do.

use std::sync::Arc;

use crate::expression::value::Object;

use super::{actions::Action, request::StepRequest};

/// When a step's action runs: before all steps, in its place, or after all steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// `pre`.
    Pre,
    /// `main`.
    Main,
    /// `post`.
    Post,
}

/// A step, or one of its stages, that is to be run.
#[derive(Debug, Clone)]
pub(super) struct Task {
    /// Identity of the step in its job, the same in all stages; a step inside of a composite
    /// action has that of the outer one before its own.
    pub(super) id: String,
    /// What the workflow or the composite action says.
    pub(super) step: Arc<StepRequest>,
    /// The stage.
    pub(super) stage: Stage,
    /// When to run: the step's `if`, `pre-if` or `post-if`.
    pub(super) condition: String,
    /// The name of the record, if it is known already.
    pub(super) name: Option<String>,
    /// The action, if it is known already: a post step runs what the main step was.
    pub(super) action: Option<Arc<Action>>,
    /// Stages of the steps of a composite action, in the order in which they run.
    pub(super) inner: Vec<Task>,
    /// The `steps` context inside of a composite action as its main steps left it.
    pub(super) steps: Object,
    /// Its place among the steps around it.
    pub(super) index: usize,
    /// How many composite actions are around it.
    pub(super) depth: usize,
}

impl Task {
    /// The main stage of a step of the job.
    pub(super) fn main(step: &Arc<StepRequest>, index: usize) -> Self {
        Self {
            id: format!("{index}"),
            step: Arc::clone(step),
            stage: Stage::Main,
            condition: step.condition.clone(),
            name: None,
            action: None,
            inner: Vec::new(),
            steps: Object::new(),
            index,
            depth: 0,
        }
    }

    /// The main stage of a step inside of the composite action that this task runs.
    pub(super) fn inside(&self, step: &Arc<StepRequest>, index: usize) -> Self {
        Self {
            id: format!("{}/{index}", self.id),
            depth: self.depth + 1,
            ..Self::main(step, index)
        }
    }

    /// Another stage of the same step.
    pub(super) fn stage(&self, stage: Stage, condition: &str, action: &Arc<Action>) -> Self {
        Self {
            stage,
            condition: condition.to_owned(),
            action: Some(Arc::clone(action)),
            name: None,
            inner: Vec::new(),
            steps: Object::new(),
            ..self.clone()
        }
    }

    /// Adds what a later stage registered for the same step.
    pub(super) fn merge(&mut self, later: Task) {
        for task in later.inner {
            match self.inner.iter_mut().find(|known| known.id == task.id) {
                Some(known) => known.merge(task),
                None => self.inner.push(task),
            }
        }
        // Last in, first out: the place in the manifest is the order of running.
        self.inner.sort_by_key(|task| std::cmp::Reverse(task.index));
        self.steps = later.steps;
    }
}
