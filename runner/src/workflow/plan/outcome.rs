//! How jobs ended, as `needs` shows it.

use std::collections::BTreeMap;

use crate::expression::coerce::to_text;
use crate::expression::value::Object;

/// How a job ended, as `needs.<job>` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobOutcome {
    /// Its result; a failure that `continue-on-error` covers is a success.
    pub result: JobResult,
    /// Its outputs.
    pub outputs: Object,
}

/// The result of a job. Of several the greatest is that of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobResult {
    /// It did not run.
    Skipped,
    /// All well.
    Success,
    /// It was cancelled.
    Cancelled,
    /// A step failed.
    Failure,
}

impl JobResult {
    /// GitHub's word for it.
    pub fn name(self) -> &'static str {
        match self {
            JobResult::Success => "success",
            JobResult::Failure => "failure",
            JobResult::Cancelled => "cancelled",
            JobResult::Skipped => "skipped",
        }
    }
}

impl JobOutcome {
    /// The outcome of a job that did not run.
    pub fn skipped() -> Self {
        Self {
            result: JobResult::Skipped,
            outputs: Object::new(),
        }
    }

    /// The outcome of a job that was cancelled before any step ran.
    pub fn cancelled() -> Self {
        Self {
            result: JobResult::Cancelled,
            outputs: Object::new(),
        }
    }

    /// The outcome of a job that failed before any step ran.
    pub fn failed() -> Self {
        Self {
            result: JobResult::Failure,
            outputs: Object::new(),
        }
    }

    /// The outcome of a job from those of its matrix combinations: the worst result, and of each
    /// output the last that is not empty.
    pub fn merge(outcomes: impl IntoIterator<Item = JobOutcome>) -> Self {
        let mut merged: Option<JobOutcome> = None;
        for outcome in outcomes {
            match &mut merged {
                None => merged = Some(outcome),
                Some(merged) => {
                    merged.result = merged.result.max(outcome.result);
                    for (key, value) in outcome.outputs.iter() {
                        if !to_text(value).is_empty() || merged.outputs.get(key).is_none() {
                            merged.outputs.insert(key, value.clone());
                        }
                    }
                }
            }
        }
        merged.unwrap_or_else(Self::skipped)
    }
}

/// Outcomes of the jobs that are done, by id.
pub type Outcomes = BTreeMap<String, JobOutcome>;
