//! An action's manifest (`action.yml`). Keys beside the known ones are allowed where GitHub allows
//! them: at the top, in inputs and in outputs.

use super::contexts::{COMPOSITE, COMPOSITE_IF, COMPOSITE_OUTPUT, CONTAINER_RUNS, STEP_IF};
use super::{ANY, BOOL, Field, NAME, NULL, Record, Shape, TEXT, TEXT_MAP, field, record, required};

/// The default of an input.
const INPUT_DEFAULT: &[&str] = &[
    "github",
    "strategy",
    "matrix",
    "job",
    "runner",
    "hashFiles(1,255)",
];

/// The whole file.
pub(in crate::workflow) static ACTION: Shape = Shape::Record(&Record {
    what: "an action",
    fields: &[
        field("name", &TEXT),
        field("description", &TEXT),
        field("inputs", &Shape::Either(&[&NULL, &Shape::Map(&INPUT)])),
        field("outputs", &Shape::Either(&[&NULL, &Shape::Map(&OUTPUT)])),
        required("runs", &RUNS),
    ],
    rest: Some(&ANY),
});

static INPUT: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&Record {
        what: "an input",
        fields: &[
            field("default", &Shape::With(INPUT_DEFAULT, &TEXT)),
            field("deprecationMessage", &TEXT),
            field("required", &BOOL),
        ],
        rest: Some(&ANY),
    }),
]);

static OUTPUT: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&Record {
        what: "an output",
        fields: &[field("value", &Shape::With(COMPOSITE_OUTPUT, &TEXT))],
        rest: Some(&ANY),
    }),
]);

static TEXT_OF_STEP: Shape = Shape::With(COMPOSITE, &TEXT);
static BOOL_OF_STEP: Shape = Shape::With(COMPOSITE, &BOOL);
static MAP_OF_STEP: Shape = Shape::With(COMPOSITE, &TEXT_MAP);
static CONDITION_OF_STEP: Shape = Shape::With(COMPOSITE_IF, &Shape::Condition);

static STEPS: Shape = Shape::List(&STEP);

static STEP: Shape = Shape::Either(&[
    &Shape::Record(&record("a composite action's step with `run`", RUN)),
    &Shape::Record(&record("a composite action's step with `uses`", USES)),
]);

const RUN: &[Field] = &[
    required("run", &TEXT_OF_STEP),
    field("id", &NAME),
    field("name", &TEXT_OF_STEP),
    field("if", &CONDITION_OF_STEP),
    required("shell", &SHELL),
    field("working-directory", &TEXT_OF_STEP),
    field("env", &MAP_OF_STEP),
    field("continue-on-error", &BOOL_OF_STEP),
];

/// GitHub's own schema wants a text without expressions, and its runner evaluates one all the same.
static SHELL: Shape = Shape::With(COMPOSITE, &NAME);

const USES: &[Field] = &[
    required("uses", &NAME),
    field("with", &MAP_OF_STEP),
    field("id", &NAME),
    field("name", &TEXT_OF_STEP),
    field("if", &CONDITION_OF_STEP),
    field("env", &MAP_OF_STEP),
    field("continue-on-error", &BOOL_OF_STEP),
];

/// Conditions of stages are texts, read when they are evaluated.
static STAGE_IF: Shape = Shape::With(STEP_IF, &Shape::Condition);

static ARGUMENTS: Shape = Shape::With(
    CONTAINER_RUNS,
    &Shape::Either(&[&NULL, &Shape::List(&TEXT)]),
);
static ENVIRONMENT: Shape = Shape::With(CONTAINER_RUNS, &Shape::Either(&[&NULL, &TEXT_MAP]));

static RUNS: Shape = Shape::Either(&[
    &Shape::Record(&record("`runs` of a JavaScript action", NODE_RUNS)),
    &Shape::Record(&record("`runs` of a composite action", COMPOSITE_RUNS)),
    &Shape::Record(&record("`runs` of a Docker action", DOCKER_RUNS)),
]);

const NODE_RUNS: &[Field] = &[
    required("using", &NAME),
    field("main", &NAME),
    field("pre", &NAME),
    field("pre-if", &STAGE_IF),
    field("post", &NAME),
    field("post-if", &STAGE_IF),
];

const COMPOSITE_RUNS: &[Field] = &[required("using", &NAME), field("steps", &STEPS)];

const DOCKER_RUNS: &[Field] = &[
    required("using", &NAME),
    field("image", &NAME),
    field("entrypoint", &NAME),
    field("args", &ARGUMENTS),
    field("env", &ENVIRONMENT),
    field("pre-entrypoint", &NAME),
    field("pre-if", &STAGE_IF),
    field("post-entrypoint", &NAME),
    field("post-if", &STAGE_IF),
];
