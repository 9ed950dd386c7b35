//! Which contexts and functions the expressions of a key may use.

pub(super) const RUN_NAME: &[&str] = &["github", "inputs", "vars"];
pub(super) const CALL_OUTPUT: &[&str] = &["github", "inputs", "vars", "jobs"];
pub(super) const WORKFLOW_ENV: &[&str] = &["github", "inputs", "vars", "secrets"];
pub(super) const NEEDS: &[&str] = &["github", "inputs", "vars", "needs"];
pub(super) const CREDENTIALS: &[&str] = &["github", "inputs", "vars", "secrets", "env"];

pub(super) const JOB_IF: &[&str] = &[
    "github",
    "inputs",
    "vars",
    "needs",
    "always(0,0)",
    "failure(0,MAX)",
    "cancelled(0,0)",
    "success(0,MAX)",
];

/// Most keys of a job.
pub(super) const JOB: &[&str] = &["github", "inputs", "vars", "needs", "strategy", "matrix"];

/// `env` of a job, and the secrets that it hands to a reusable workflow.
pub(super) const JOB_SECRETS: &[&str] = &[
    "github", "inputs", "vars", "needs", "strategy", "matrix", "secrets",
];

pub(super) const JOB_DEFAULTS: &[&str] = &[
    "github", "inputs", "vars", "strategy", "matrix", "needs", "env",
];

/// What the runner evaluates outside of steps: outputs, `env` of containers.
pub(super) const RUNNER: &[&str] = &[
    "github", "inputs", "vars", "needs", "strategy", "matrix", "secrets", "steps", "job", "runner",
    "env",
];

pub(super) const RUNNER_NO_SECRETS: &[&str] = &[
    "github", "inputs", "vars", "needs", "strategy", "matrix", "steps", "job", "runner", "env",
];

pub(super) const STEP: &[&str] = &[
    "github",
    "inputs",
    "vars",
    "needs",
    "strategy",
    "matrix",
    "secrets",
    "steps",
    "job",
    "runner",
    "env",
    "hashFiles(1,255)",
];

pub(super) const STEP_IF: &[&str] = &[
    "github",
    "inputs",
    "vars",
    "needs",
    "strategy",
    "matrix",
    "steps",
    "job",
    "runner",
    "env",
    "always(0,0)",
    "failure(0,0)",
    "cancelled(0,0)",
    "success(0,0)",
    "hashFiles(1,255)",
];

/// Steps of a composite action: it has no secrets, needs and variables but those that its inputs
/// hand over.
pub(super) const COMPOSITE: &[&str] = &[
    "github",
    "inputs",
    "strategy",
    "matrix",
    "steps",
    "job",
    "runner",
    "env",
    "hashFiles(1,255)",
];

pub(super) const COMPOSITE_IF: &[&str] = &[
    "github",
    "inputs",
    "strategy",
    "matrix",
    "steps",
    "job",
    "runner",
    "env",
    "always(0,0)",
    "failure(0,0)",
    "cancelled(0,0)",
    "success(0,0)",
    "hashFiles(1,255)",
];

/// Outputs of a composite action.
pub(super) const COMPOSITE_OUTPUT: &[&str] = &[
    "github", "strategy", "matrix", "steps", "inputs", "job", "runner", "env",
];

/// Arguments and environment of a container action.
pub(super) const CONTAINER_RUNS: &[&str] = &["inputs"];
