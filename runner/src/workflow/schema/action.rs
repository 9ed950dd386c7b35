//! An action's manifest (`action.yml`). Keys beside the known ones are allowed where GitHub allows
//! them: at the top, in inputs and in outputs.

use super::contexts::{STEP, STEP_IF};
use super::{ANY, BOOL, Field, NAME, NULL, Record, Shape, TEXT, field, record, required};

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
        fields: &[field("value", &Shape::With(STEP, &TEXT))],
        rest: Some(&ANY),
    }),
]);

static STAGE_IF: Shape = Shape::With(STEP_IF, &TEXT);
static TEMPLATE: Shape = Shape::With(STEP, &ANY);

static STEPS: Shape = Shape::List(&TEMPLATE);

static RUNS: Shape = Shape::Record(&record("`runs`", RUNS_FIELDS));

const RUNS_FIELDS: &[Field] = &[
    required("using", &NAME),
    field("main", &NAME),
    field("pre", &NAME),
    field("pre-if", &STAGE_IF),
    field("post", &NAME),
    field("post-if", &STAGE_IF),
    field("steps", &STEPS),
    field("image", &NAME),
    field("entrypoint", &NAME),
    field("pre-entrypoint", &NAME),
    field("post-entrypoint", &NAME),
    field("args", &TEMPLATE),
    field("env", &TEMPLATE),
];
