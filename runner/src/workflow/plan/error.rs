//! Why a job cannot be prepared.

use super::super::evaluate::EvaluateError;
use super::super::inputs::InputError;
use super::super::matrix::MatrixError;
use crate::expression::ExpressionError;

/// Why a job cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// There is no such job.
    #[error("no job `{0}` in this workflow; its jobs are {1}")]
    UnknownJob(String, String),
    /// A needed job has no outcome yet.
    #[error("the job `{job}` needs `{need}`, which is not done")]
    NotReady {
        /// The job.
        job: String,
        /// The job it waits for.
        need: String,
    },
    /// An expression failed.
    #[error("{path}: `{key}` of the job `{job}`: {source}")]
    Evaluate {
        /// The workflow file.
        path: String,
        /// The job.
        job: String,
        /// The key.
        key: &'static str,
        /// What is wrong.
        source: Box<EvaluateError>,
    },
    /// `concurrency` of the workflow failed.
    #[error("{path}: `concurrency`: {source}")]
    Group {
        /// The workflow file.
        path: String,
        /// What is wrong.
        source: Box<EvaluateError>,
    },
    /// The condition failed.
    #[error("{path}: `if` of the job `{job}`: {source}")]
    Condition {
        /// The workflow file.
        path: String,
        /// The job.
        job: String,
        /// What is wrong.
        source: ExpressionError,
    },
    /// An input of a called workflow does not fit.
    #[error("{place}: the job `{job}` calls a workflow: {source}")]
    Input {
        /// File, line and column.
        place: String,
        /// The job.
        job: String,
        /// What is wrong.
        source: Box<InputError>,
    },
    /// A called workflow was not read.
    #[error("{path}: what the job `{job}` calls was not read from the checkout")]
    Unresolved {
        /// The workflow file.
        path: String,
        /// The job.
        job: String,
    },
    /// An output of a called workflow failed.
    #[error("{path}: the output `{name}` of the workflow: {source}")]
    Output {
        /// The workflow file.
        path: String,
        /// The output.
        name: String,
        /// What is wrong.
        source: Box<EvaluateError>,
    },
    /// The matrix makes no jobs.
    #[error("{path}: the matrix of the job `{job}`: {source}")]
    Matrix {
        /// The workflow file.
        path: String,
        /// The job.
        job: String,
        /// What is wrong.
        source: MatrixError,
    },
    /// A value is of the wrong kind.
    #[error("{path}: `{key}` of the job `{job}` must be {expected}, it is `{found}`")]
    Value {
        /// The workflow file.
        path: String,
        /// The job.
        job: String,
        /// The key.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
}
