//! How steps and jobs end.

use std::time::Duration;

use serde::Serialize;

/// How a step or a job ended, in the words of the contexts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Conclusion {
    /// All well.
    Success,
    /// Something went wrong.
    Failure,
    /// Somebody or a timeout stopped it.
    Cancelled,
    /// Its condition did not hold.
    Skipped,
}

impl Conclusion {
    /// The word for it in contexts and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }
}

/// How one record of a job's log went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepRecord {
    /// Its place in the job, from 1; the first is "Set up job", the last "Complete job".
    pub number: u32,
    /// The name people see, secrets masked.
    pub name: String,
    /// What came of it by itself.
    pub outcome: Conclusion,
    /// What it counts for, `continue-on-error` considered.
    pub conclusion: Conclusion,
    /// How long it took.
    #[serde(serialize_with = "super::reporter::seconds", rename = "seconds")]
    pub duration: Duration,
    /// How many errors, warnings and notices it gave.
    pub annotations: AnnotationCounts,
}

/// Numbers of annotations.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AnnotationCounts {
    /// Errors.
    pub error: u32,
    /// Warnings.
    pub warning: u32,
    /// Notices.
    pub notice: u32,
}

/// How a job went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOutcome {
    /// The job's result.
    pub result: Conclusion,
    /// Its outputs in order; none holds a secret.
    pub outputs: Vec<(String, String)>,
    /// The address of the environment that it was for, if it has one; it holds no secret.
    pub environment_url: Option<String>,
    /// Its steps in order, with the two records around them.
    pub steps: Vec<StepRecord>,
    /// How long it took.
    pub duration: Duration,
}
