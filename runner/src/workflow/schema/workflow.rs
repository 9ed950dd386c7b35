//! The whole file, and what workflows and jobs share: `concurrency` and `permissions`.

use super::contexts::{RUN_NAME, WORKFLOW_ENV};
use super::{
    BOOL, Field, NAME, Record, Shape, TEXT, TEXT_MAP, field, job, notice, on, record, required,
};

/// The whole file.
pub(in crate::workflow) static WORKFLOW: Shape = Shape::Record(&record(
    "a workflow",
    &[
        field("name", &TEXT),
        field("run-name", &Shape::With(RUN_NAME, &TEXT)),
        required("on", &on::ON),
        notice("permissions", &PERMISSIONS, NO_TOKEN),
        field("env", &Shape::With(WORKFLOW_ENV, &TEXT_MAP)),
        field("defaults", &DEFAULTS),
        notice("concurrency", &WORKFLOW_CONCURRENCY, NO_OTHER_RUN),
        required("jobs", &Shape::Map(&job::JOB)),
    ],
));

pub(super) const NO_TOKEN: &str =
    "`permissions` has no effect here: a local run has no GitHub token";
const NO_OTHER_RUN: &str =
    "`concurrency` holds within this run here: a local run waits for no other run";

static DEFAULTS: Shape = Shape::Record(&record("`defaults`", &[field("run", &RUN_DEFAULTS)]));

pub(super) static RUN_DEFAULTS: Shape = Shape::Record(&record(
    "`defaults.run`",
    &[field("shell", &NAME), field("working-directory", &NAME)],
));

static WORKFLOW_CONCURRENCY: Shape =
    Shape::With(RUN_NAME, &Shape::Either(&[&TEXT, &CONCURRENCY_SETTINGS]));

pub(super) static CONCURRENCY: Shape = Shape::Either(&[&NAME, &CONCURRENCY_SETTINGS]);

static CONCURRENCY_SETTINGS: Shape = Shape::Record(&record(
    "`concurrency`",
    &[
        required("group", &NAME),
        field("cancel-in-progress", &BOOL),
        field("queue", &Shape::OneOf(&["single", "max"])),
    ],
));

static LEVEL: Shape = Shape::OneOf(&["read", "write", "none"]);
static WRITE: Shape = Shape::OneOf(&["write", "none"]);
static READ: Shape = Shape::OneOf(&["read", "none"]);

pub(super) static PERMISSIONS: Shape = Shape::Either(&[
    &Shape::OneOf(&["read-all", "write-all"]),
    &Shape::Record(&SCOPES),
]);

static SCOPES: Record = record("`permissions`", SCOPE_FIELDS);

const SCOPE_FIELDS: &[Field] = &[
    field("actions", &LEVEL),
    field("artifact-metadata", &LEVEL),
    field("attestations", &LEVEL),
    field("checks", &LEVEL),
    field("code-quality", &LEVEL),
    field("contents", &LEVEL),
    field("copilot-requests", &WRITE),
    field("deployments", &LEVEL),
    field("discussions", &LEVEL),
    field("drives", &LEVEL),
    field("id-token", &WRITE),
    field("issues", &LEVEL),
    field("models", &READ),
    field("packages", &LEVEL),
    field("pages", &LEVEL),
    field("pull-requests", &LEVEL),
    field("repository-projects", &LEVEL),
    field("security-events", &LEVEL),
    field("statuses", &LEVEL),
    field("vulnerability-alerts", &READ),
];
