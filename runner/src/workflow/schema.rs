//! The keys of a workflow file: what each holds, which contexts its expressions may use, and whether
//! Mayfly runs it.
//!
//! Keys and contexts are those of GitHub's workflow schema. What Mayfly cannot run yet is in the
//! table too, marked as such, so that it is refused by name and never ignored.

/// What a value may be.
pub(super) enum Shape {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// Text; a number or bool is taken as text.
    Text,
    /// Text that is not empty.
    Name,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// An expression that needs no `${{ }}`.
    Condition,
    /// A list.
    List(&'static Shape),
    /// Known keys.
    Record(&'static Record),
    /// Keys of the author's choice.
    Map(&'static Shape),
    /// Anything.
    Any,
    /// Any of these.
    Either(&'static [&'static Shape]),
    /// The same, with expressions that may use these names.
    With(&'static [&'static str], &'static Shape),
}

/// A mapping with known keys.
pub(super) struct Record {
    /// What it is, for messages: "a job".
    pub what: &'static str,
    pub fields: &'static [Field],
}

/// A known key.
pub(super) struct Field {
    pub key: &'static str,
    pub shape: &'static Shape,
    pub support: Support,
    pub required: bool,
}

/// Whether Mayfly runs a key.
#[derive(Clone, Copy)]
pub(super) enum Support {
    Full,
    /// Accepted without effect; why.
    Notice(&'static str),
    /// Refused; what to do instead.
    Refused(&'static str),
    /// A part of another key, which is refused.
    PartOf(&'static str),
}

const fn field(key: &'static str, shape: &'static Shape) -> Field {
    Field {
        key,
        shape,
        support: Support::Full,
        required: false,
    }
}

const fn required(key: &'static str, shape: &'static Shape) -> Field {
    Field {
        required: true,
        ..field(key, shape)
    }
}

const fn notice(key: &'static str, shape: &'static Shape, why: &'static str) -> Field {
    Field {
        support: Support::Notice(why),
        ..field(key, shape)
    }
}

const fn refused(key: &'static str, instead: &'static str) -> Field {
    Field {
        support: Support::Refused(instead),
        ..field(key, &Shape::Any)
    }
}

const fn part_of(whole: &'static str, key: &'static str) -> Field {
    Field {
        support: Support::PartOf(whole),
        ..field(key, &Shape::Any)
    }
}

const RUN_NAME: &[&str] = &["github", "inputs", "vars"];
const WORKFLOW_ENV: &[&str] = &["github", "inputs", "vars", "secrets"];
const NEEDS: &[&str] = &["github", "inputs", "vars", "needs"];
const JOB_IF: &[&str] = &[
    "github",
    "inputs",
    "vars",
    "needs",
    "always(0,0)",
    "failure(0,MAX)",
    "cancelled(0,0)",
    "success(0,MAX)",
];
const STRATEGY: &[&str] = &["github", "inputs", "vars", "needs", "strategy", "matrix"];
const JOB_ENV: &[&str] = &[
    "github", "inputs", "vars", "needs", "strategy", "matrix", "secrets",
];
const JOB_DEFAULTS: &[&str] = &[
    "github", "inputs", "vars", "strategy", "matrix", "needs", "env",
];
const OUTPUTS: &[&str] = &[
    "github", "inputs", "vars", "needs", "strategy", "matrix", "secrets", "steps", "job", "runner",
    "env",
];
// `hashFiles` belongs to steps at GitHub; it joins these lists when the executor can answer it.
const STEP: &[&str] = &[
    "github", "inputs", "vars", "needs", "strategy", "matrix", "secrets", "steps", "job", "runner",
    "env",
];
const STEP_IF: &[&str] = &[
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
];

static NULL: Shape = Shape::Null;
static BOOL: Shape = Shape::Bool;
static NUMBER: Shape = Shape::Number;
static TEXT: Shape = Shape::Text;
static NAME: Shape = Shape::Name;
static ANY: Shape = Shape::Any;
static NAMES: Shape = Shape::List(&NAME);
static NAME_OR_NAMES: Shape = Shape::Either(&[&NAME, &NAMES]);
static TEXT_MAP: Shape = Shape::Map(&TEXT);

/// The whole file.
pub(super) static WORKFLOW: Shape = Shape::Record(&Record {
    what: "a workflow",
    fields: &[
        field("name", &TEXT),
        field("run-name", &Shape::With(RUN_NAME, &TEXT)),
        required("on", &super::events::ON),
        notice("permissions", &PERMISSIONS, NO_TOKEN),
        field("env", &Shape::With(WORKFLOW_ENV, &TEXT_MAP)),
        field("defaults", &WORKFLOW_DEFAULTS),
        notice(
            "concurrency",
            &Shape::With(RUN_NAME, &CONCURRENCY),
            NO_OTHER_RUN,
        ),
        required("jobs", &Shape::Map(&JOB)),
    ],
});

const NO_TOKEN: &str = "`permissions` has no effect here: a local run has no GitHub token";
const NO_OTHER_RUN: &str = "`concurrency` has no effect here: a local run waits for no other run";

static WORKFLOW_DEFAULTS: Shape = Shape::Record(&Record {
    what: "`defaults`",
    fields: &[field("run", &RUN_DEFAULTS)],
});

static JOB_DEFAULTS_SHAPE: Shape = Shape::Record(&Record {
    what: "`defaults`",
    fields: &[field("run", &Shape::With(JOB_DEFAULTS, &RUN_DEFAULTS))],
});

static RUN_DEFAULTS: Shape = Shape::Record(&Record {
    what: "`defaults.run`",
    fields: &[field("shell", &NAME), field("working-directory", &NAME)],
});

static CONCURRENCY: Shape = Shape::Either(&[
    &NAME,
    &Shape::Record(&Record {
        what: "`concurrency`",
        fields: &[
            required("group", &NAME),
            field("cancel-in-progress", &BOOL),
            field("queue", &Shape::OneOf(&["single", "max"])),
        ],
    }),
]);

static LEVEL: Shape = Shape::OneOf(&["read", "write", "none"]);
static WRITE: Shape = Shape::OneOf(&["write", "none"]);
static READ: Shape = Shape::OneOf(&["read", "none"]);

static PERMISSIONS: Shape = Shape::Either(&[
    &Shape::OneOf(&["read-all", "write-all"]),
    &Shape::Record(&Record {
        what: "`permissions`",
        fields: &[
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
        ],
    }),
]);

static JOB: Shape = Shape::Record(&Record {
    what: "a job",
    fields: &[
        field("name", &Shape::With(STRATEGY, &TEXT)),
        field("needs", &NAME_OR_NAMES),
        field("if", &Shape::With(JOB_IF, &Shape::Condition)),
        field("strategy", &Shape::With(NEEDS, &STRATEGY_SHAPE)),
        field("runs-on", &Shape::With(STRATEGY, &RUNS_ON)),
        field("timeout-minutes", &Shape::With(STRATEGY, &NUMBER)),
        field("continue-on-error", &Shape::With(STRATEGY, &BOOL)),
        field("env", &Shape::With(JOB_ENV, &TEXT_MAP)),
        field("outputs", &Shape::With(OUTPUTS, &TEXT_MAP)),
        field("defaults", &JOB_DEFAULTS_SHAPE),
        field("steps", &Shape::List(&STEP_SHAPE)),
        notice("permissions", &PERMISSIONS, NO_TOKEN),
        notice(
            "concurrency",
            &Shape::With(STRATEGY, &CONCURRENCY),
            NO_OTHER_RUN,
        ),
        refused(
            "uses",
            "copy the jobs of the reusable workflow into this file",
        ),
        part_of("uses", "with"),
        part_of("uses", "secrets"),
        refused(
            "container",
            "remove it: the job already runs in a machine of its own",
        ),
        refused("services", "start the service in a step with `run:`"),
        refused(
            "environment",
            "remove it; give its variables and secrets with `env` and `--secret`",
        ),
        refused(
            "cancel-timeout-minutes",
            "remove it; a cancelled job gets the runner's usual time",
        ),
        refused("snapshot", "remove it; images are built from recipes"),
    ],
});

static RUNS_ON: Shape = Shape::Either(&[
    &NAME,
    &NAMES,
    &Shape::Record(&Record {
        what: "`runs-on`",
        fields: &[field("group", &NAME), field("labels", &NAME_OR_NAMES)],
    }),
]);

static STRATEGY_SHAPE: Shape = Shape::Record(&Record {
    what: "`strategy`",
    fields: &[
        field("fail-fast", &BOOL),
        field("max-parallel", &NUMBER),
        field("matrix", &MATRIX),
    ],
});

/// `include`, `exclude` and the vectors; told apart by the model.
static MATRIX: Shape = Shape::Map(&Shape::List(&ANY));

const NO_ACTIONS: &str = "do the work in a script with `run:`";
const NO_BACKGROUND: &str = "start the process in a script with `&`, or run the steps one by one";

static STEP_SHAPE: Shape = Shape::Record(&Record {
    what: "a step",
    fields: &[
        field("id", &NAME),
        field("name", &Shape::With(STEP, &TEXT)),
        field("if", &Shape::With(STEP_IF, &Shape::Condition)),
        field("run", &Shape::With(STEP, &TEXT)),
        field("shell", &NAME),
        field("working-directory", &Shape::With(STEP, &TEXT)),
        field("env", &Shape::With(STEP, &TEXT_MAP)),
        field("continue-on-error", &Shape::With(STEP, &BOOL)),
        field("timeout-minutes", &Shape::With(STEP, &NUMBER)),
        refused("uses", NO_ACTIONS),
        part_of("uses", "with"),
        refused("background", NO_BACKGROUND),
        refused("wait", NO_BACKGROUND),
        refused("wait-all", NO_BACKGROUND),
        refused("cancel", NO_BACKGROUND),
        refused("parallel", NO_BACKGROUND),
    ],
});

/// Nothing, or a mapping of anything: for events without settings.
pub(super) static NOTHING: Shape = Shape::Either(&[&NULL]);
pub(super) static STRINGS: Shape = Shape::Either(&[&NAME, &NAMES]);
pub(super) static ANYTHING: Shape = Shape::Any;
