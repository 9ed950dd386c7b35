//! A step, by kind.

use super::contexts::{STEP as STEP_CONTEXTS, STEP_IF};
use super::{
    BOOL, Field, NAME, NAME_OR_NAMES, NULL, NUMBER, SPELLED_TEXT_MAP, Shape, TEXT, TEXT_MAP, field,
    record, required,
};

/// A step.
pub(super) static STEP: Shape = Shape::Either(&[
    &Shape::Record(&record("a step with `run`", RUN)),
    &Shape::Record(&record("a step with `uses`", USES)),
    &Shape::Record(&record("a step with `wait`", WAIT)),
    &Shape::Record(&record("a step with `wait-all`", WAIT_ALL)),
    &Shape::Record(&record("a step with `cancel`", CANCEL)),
    &Shape::Record(&record("a step with `parallel`", &PARALLEL)),
]);

static STEP_TEXT: Shape = Shape::With(STEP_CONTEXTS, &TEXT);
static STEP_BOOL: Shape = Shape::With(STEP_CONTEXTS, &BOOL);
static STEP_NUMBER: Shape = Shape::With(STEP_CONTEXTS, &NUMBER);
static STEP_ENV: Shape = Shape::With(STEP_CONTEXTS, &SPELLED_TEXT_MAP);
static STEP_WITH: Shape = Shape::With(STEP_CONTEXTS, &TEXT_MAP);
static STEP_CONDITION: Shape = Shape::With(STEP_IF, &Shape::Condition);

const RUN: &[Field] = &[
    required("run", &STEP_TEXT),
    field("id", &NAME),
    field("name", &STEP_TEXT),
    field("if", &STEP_CONDITION),
    field("shell", &NAME),
    field("working-directory", &STEP_TEXT),
    field("env", &STEP_ENV),
    field("continue-on-error", &STEP_BOOL),
    field("timeout-minutes", &STEP_NUMBER),
    field("background", &BOOL),
];

const USES: &[Field] = &[
    required("uses", &NAME),
    field("with", &STEP_WITH),
    field("id", &NAME),
    field("name", &STEP_TEXT),
    field("if", &STEP_CONDITION),
    field("env", &STEP_ENV),
    field("continue-on-error", &STEP_BOOL),
    field("timeout-minutes", &STEP_NUMBER),
    field("background", &BOOL),
];

const WAIT: &[Field] = &[
    required("wait", &NAME_OR_NAMES),
    field("id", &NAME),
    field("name", &STEP_TEXT),
    field("continue-on-error", &STEP_BOOL),
];

const WAIT_ALL: &[Field] = &[
    required("wait-all", &NOTHING_OR_BOOL),
    field("id", &NAME),
    field("name", &STEP_TEXT),
    field("continue-on-error", &STEP_BOOL),
];

const CANCEL: &[Field] = &[
    required("cancel", &NAME),
    field("id", &NAME),
    field("name", &STEP_TEXT),
    field("continue-on-error", &STEP_BOOL),
];

static NOTHING_OR_BOOL: Shape = Shape::Either(&[&NULL, &BOOL]);
static STEPS: Shape = Shape::List(&STEP);

static PARALLEL: [Field; 1] = [required("parallel", &STEPS)];
