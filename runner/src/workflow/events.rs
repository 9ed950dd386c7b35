//! The events that start a workflow, and the settings each may have.

use super::schema::{ANYTHING, Field, NOTHING, Record, STRINGS, Shape, Support};

/// The events of GitHub.
const EVENTS: &[&str] = &[
    "branch_protection_rule",
    "check_run",
    "check_suite",
    "create",
    "delete",
    "deployment",
    "deployment_status",
    "discussion",
    "discussion_comment",
    "fork",
    "gollum",
    "image_version",
    "issue_comment",
    "issues",
    "label",
    "merge_group",
    "milestone",
    "page_build",
    "project",
    "project_card",
    "project_column",
    "public",
    "pull_request",
    "pull_request_comment",
    "pull_request_review",
    "pull_request_review_comment",
    "pull_request_target",
    "push",
    "registry_package",
    "release",
    "repository_dispatch",
    "schedule",
    "status",
    "watch",
    "workflow_call",
    "workflow_dispatch",
    "workflow_run",
];

static EVENT: Shape = Shape::OneOf(EVENTS);

/// The value of `on`.
pub(super) static ON: Shape = Shape::Either(&[
    &EVENT,
    &Shape::List(&EVENT),
    &Shape::Record(&Record {
        what: "`on`",
        fields: &[
            event("branch_protection_rule", &TYPES),
            event("check_run", &TYPES),
            event("check_suite", &TYPES),
            event("create", &NOTHING),
            event("delete", &NOTHING),
            event("deployment", &NOTHING),
            event("deployment_status", &NOTHING),
            event("discussion", &TYPES),
            event("discussion_comment", &TYPES),
            event("fork", &NOTHING),
            event("gollum", &NOTHING),
            event("image_version", &IMAGE_VERSION),
            event("issue_comment", &TYPES),
            event("issues", &TYPES),
            event("label", &TYPES),
            event("merge_group", &MERGE_GROUP),
            event("milestone", &TYPES),
            event("page_build", &NOTHING),
            event("project", &TYPES),
            event("project_card", &TYPES),
            event("project_column", &TYPES),
            event("public", &NOTHING),
            event("pull_request", &PULL_REQUEST),
            event("pull_request_comment", &TYPES),
            event("pull_request_review", &TYPES),
            event("pull_request_review_comment", &TYPES),
            event("pull_request_target", &PULL_REQUEST),
            event("push", &PUSH),
            event("registry_package", &TYPES),
            event("release", &TYPES),
            event("repository_dispatch", &TYPES),
            event("schedule", &SCHEDULE),
            event("status", &NOTHING),
            event("watch", &TYPES),
            event("workflow_call", &ANYTHING),
            event("workflow_dispatch", &DISPATCH),
            event("workflow_run", &WORKFLOW_RUN),
        ],
    }),
]);

const fn event(key: &'static str, shape: &'static Shape) -> Field {
    Field {
        key,
        shape,
        support: Support::Full,
        required: false,
    }
}

const fn settings(fields: &'static [Field]) -> Record {
    Record {
        what: "the settings of an event",
        fields,
    }
}

static TYPES: Shape = Shape::Either(&[
    &Shape::Null,
    &Shape::Record(&settings(&[event("types", &STRINGS)])),
]);

static IMAGE_VERSION: Shape = Shape::Either(&[
    &Shape::Null,
    &Shape::Record(&settings(&[
        event("types", &STRINGS),
        event("names", &STRINGS),
        event("versions", &STRINGS),
    ])),
]);

static MERGE_GROUP: Shape = Shape::Either(&[
    &Shape::Null,
    &Shape::Record(&settings(&[
        event("types", &STRINGS),
        event("branches", &STRINGS),
        event("branches-ignore", &STRINGS),
    ])),
]);

static PULL_REQUEST: Shape = Shape::Either(&[
    &Shape::Null,
    &Shape::Record(&settings(&[
        event("types", &STRINGS),
        event("branches", &STRINGS),
        event("branches-ignore", &STRINGS),
        event("paths", &STRINGS),
        event("paths-ignore", &STRINGS),
    ])),
]);

static PUSH: Shape = Shape::Either(&[
    &Shape::Null,
    &Shape::Record(&settings(&[
        event("branches", &STRINGS),
        event("branches-ignore", &STRINGS),
        event("tags", &STRINGS),
        event("tags-ignore", &STRINGS),
        event("paths", &STRINGS),
        event("paths-ignore", &STRINGS),
    ])),
]);

static WORKFLOW_RUN: Shape = Shape::Either(&[
    &Shape::Null,
    &Shape::Record(&settings(&[
        event("types", &STRINGS),
        event("workflows", &STRINGS),
        event("branches", &STRINGS),
        event("branches-ignore", &STRINGS),
    ])),
]);

static SCHEDULE: Shape = Shape::List(&Shape::Record(&Record {
    what: "an entry of `schedule`",
    fields: &[
        Field {
            required: true,
            ..event("cron", &Shape::Name)
        },
        event("timezone", &Shape::Name),
    ],
}));

static DISPATCH: Shape = Shape::Either(&[
    &Shape::Null,
    &Shape::Record(&settings(&[event("inputs", &INPUTS)])),
]);

static INPUTS: Shape = Shape::Either(&[&Shape::Null, &Shape::Map(&INPUT)]);

static INPUT: Shape = Shape::Either(&[
    &Shape::Null,
    &Shape::Record(&Record {
        what: "an input",
        fields: &[
            event("description", &Shape::Text),
            event("deprecationMessage", &Shape::Text),
            event("required", &Shape::Bool),
            event(
                "type",
                &Shape::OneOf(&["string", "boolean", "number", "environment", "choice"]),
            ),
            event("default", &ANYTHING),
            event("options", &Shape::List(&Shape::Text)),
        ],
    }),
]);
