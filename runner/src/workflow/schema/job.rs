//! A job: one that runs steps, or one that calls a reusable workflow.

use super::contexts::{
    CREDENTIALS, JOB as JOB_CONTEXTS, JOB_DEFAULTS, JOB_IF, JOB_SECRETS, NEEDS, RUNNER,
    RUNNER_NO_SECRETS,
};
use super::workflow::{CONCURRENCY, NO_TOKEN, PERMISSIONS, RUN_DEFAULTS};
use super::{
    ANY, BOOL, NAME, NAME_OR_NAMES, NAMES, NUMBER, Record, SCALAR, SPELLED_TEXT_MAP, Shape, TEXT,
    field, notice, record, required, step,
};

/// A job.
pub(super) static JOB: Shape = Shape::Either(&[&Shape::Record(&WITH_STEPS), &Shape::Record(&CALL)]);

const NO_DEPLOYMENT: &str = "`environment` makes no deployment here and brings no variables and secrets of its own; \
     give those with `--var` and `--secret`";
const NO_IMAGE: &str = "`snapshot` has no effect here: images are built from recipes";
const NO_GRACE: &str =
    "`cancel-timeout-minutes` has no effect here: a cancelled job gets the runner's usual time";

static WITH_STEPS: Record = record(
    "a job",
    &[
        field("name", &Shape::With(JOB_CONTEXTS, &TEXT)),
        field("needs", &NAME_OR_NAMES),
        field("if", &Shape::With(JOB_IF, &Shape::Condition)),
        field("strategy", &Shape::With(NEEDS, &STRATEGY)),
        required("runs-on", &Shape::With(JOB_CONTEXTS, &RUNS_ON)),
        field("steps", &Shape::List(&step::STEP)),
        field("env", &Shape::With(JOB_SECRETS, &SPELLED_TEXT_MAP)),
        field("outputs", &OUTPUTS),
        field("defaults", &DEFAULTS),
        field("timeout-minutes", &Shape::With(JOB_CONTEXTS, &NUMBER)),
        field("continue-on-error", &Shape::With(JOB_CONTEXTS, &BOOL)),
        field("container", &Shape::With(JOB_CONTEXTS, &CONTAINER)),
        field("services", &Shape::With(JOB_CONTEXTS, &SERVICES)),
        field("concurrency", &Shape::With(JOB_CONTEXTS, &CONCURRENCY)),
        notice(
            "environment",
            &Shape::With(JOB_CONTEXTS, &ENVIRONMENT),
            NO_DEPLOYMENT,
        ),
        notice("permissions", &PERMISSIONS, NO_TOKEN),
        notice(
            "cancel-timeout-minutes",
            &Shape::With(JOB_CONTEXTS, &NUMBER),
            NO_GRACE,
        ),
        notice("snapshot", &SNAPSHOT, NO_IMAGE),
    ],
);

static CALL: Record = record(
    "a job that calls a workflow",
    &[
        required("uses", &NAME),
        field("with", &Shape::Map(&Shape::With(JOB_CONTEXTS, &SCALAR))),
        field("secrets", &CALL_SECRETS),
        field("name", &Shape::With(JOB_CONTEXTS, &TEXT)),
        field("needs", &NAME_OR_NAMES),
        field("if", &Shape::With(JOB_IF, &Shape::Condition)),
        field("strategy", &Shape::With(NEEDS, &STRATEGY)),
        field("concurrency", &Shape::With(JOB_CONTEXTS, &CONCURRENCY)),
        notice("permissions", &PERMISSIONS, NO_TOKEN),
    ],
);

static CALL_SECRETS: Shape = Shape::Either(&[
    &Shape::OneOf(&["inherit"]),
    &Shape::Map(&Shape::With(JOB_SECRETS, &SCALAR)),
]);

static OUTPUTS: Shape = Shape::Map(&Shape::With(RUNNER, &TEXT));

static DEFAULTS: Shape = Shape::Record(&record(
    "`defaults`",
    &[field("run", &Shape::With(JOB_DEFAULTS, &RUN_DEFAULTS))],
));

static RUNS_ON: Shape = Shape::Either(&[
    &NAME,
    &NAMES,
    &Shape::Record(&record(
        "`runs-on`",
        &[field("group", &NAME), field("labels", &NAME_OR_NAMES)],
    )),
]);

static STRATEGY: Shape = Shape::Record(&record(
    "`strategy`",
    &[
        field("fail-fast", &BOOL),
        field("max-parallel", &NUMBER),
        field("matrix", &Shape::Record(&MATRIX)),
    ],
));

static MATRIX: Record = Record {
    what: "`matrix`",
    fields: &[field("include", &FILTERS), field("exclude", &FILTERS)],
    rest: Some(&Shape::List(&ANY)),
};

static FILTERS: Shape = Shape::List(&Shape::Map(&ANY));

static ENVIRONMENT: Shape = Shape::Either(&[
    &TEXT,
    &Shape::Record(&record(
        "`environment`",
        &[
            required("name", &TEXT),
            field("url", &Shape::With(RUNNER_NO_SECRETS, &TEXT)),
            field("deployment", &BOOL),
        ],
    )),
]);

static SNAPSHOT: Shape = Shape::Either(&[
    &NAME,
    &Shape::Record(&record(
        "`snapshot`",
        &[
            required("image-name", &NAME),
            field("if", &Shape::With(JOB_CONTEXTS, &TEXT)),
            field("version", &NAME),
        ],
    )),
]);

static CONTAINER: Shape = Shape::Either(&[
    &TEXT,
    &Shape::Record(&record(
        "`container`",
        &[
            field("image", &NAME),
            field("options", &TEXT),
            field("env", &CONTAINER_ENV),
            field("ports", &NAMES),
            field("volumes", &NAMES),
            field("credentials", &Shape::With(CREDENTIALS, &REGISTRY)),
        ],
    )),
]);

static SERVICES: Shape = Shape::Spelled(&Shape::Map(&SERVICE));

static SERVICE: Shape = Shape::Either(&[
    &NAME,
    &Shape::Record(&record(
        "a service",
        &[
            field("image", &NAME),
            field("options", &TEXT),
            field("env", &CONTAINER_ENV),
            field("ports", &NAMES),
            field("volumes", &NAMES),
            field("credentials", &Shape::With(CREDENTIALS, &REGISTRY)),
            field("entrypoint", &TEXT),
            field("command", &TEXT),
        ],
    )),
]);

static CONTAINER_ENV: Shape = Shape::Map(&Shape::With(RUNNER, &TEXT));

static REGISTRY: Shape = Shape::Record(&record(
    "`credentials`",
    &[field("username", &NAME), field("password", &NAME)],
));
