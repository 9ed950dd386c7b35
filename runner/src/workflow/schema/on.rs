//! The events that start a workflow, and the settings each may have.

use super::contexts::{CALL_OUTPUT, RUN_NAME};
use super::{
    BOOL, Field, NAME, NAME_OR_NAMES, NAMES, NULL, Record, SCALAR, Shape, TEXT, field, record,
    required,
};

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
    &Shape::Record(&record("`on`", SETTINGS)),
]);

const SETTINGS: &[Field] = &[
    field("branch_protection_rule", &BRANCH_PROTECTION_RULE),
    field("check_run", &CHECK_RUN),
    field("check_suite", &CHECK_SUITE),
    field("create", &NULL),
    field("delete", &NULL),
    field("deployment", &NULL),
    field("deployment_status", &NULL),
    field("discussion", &DISCUSSION),
    field("discussion_comment", &BRANCH_PROTECTION_RULE),
    field("fork", &NULL),
    field("gollum", &NULL),
    field("image_version", &IMAGE_VERSION),
    field("issue_comment", &BRANCH_PROTECTION_RULE),
    field("issues", &ISSUES),
    field("label", &BRANCH_PROTECTION_RULE),
    field("merge_group", &MERGE_GROUP),
    field("milestone", &MILESTONE),
    field("page_build", &NULL),
    field("project", &PROJECT),
    field("project_card", &PROJECT_CARD),
    field("project_column", &PROJECT_COLUMN),
    field("public", &NULL),
    field("pull_request", &PULL_REQUEST),
    field("pull_request_comment", &BRANCH_PROTECTION_RULE),
    field("pull_request_review", &PULL_REQUEST_REVIEW),
    field("pull_request_review_comment", &BRANCH_PROTECTION_RULE),
    field("pull_request_target", &PULL_REQUEST),
    field("push", &PUSH),
    field("registry_package", &REGISTRY_PACKAGE),
    field("release", &RELEASE),
    field("repository_dispatch", &REPOSITORY_DISPATCH),
    field("schedule", &SCHEDULE),
    field("status", &NULL),
    field("watch", &WATCH),
    field("workflow_call", &CALL),
    field("workflow_dispatch", &DISPATCH),
    field("workflow_run", &WORKFLOW_RUN),
];

/// `types`: one of these activities, or a list of them.
macro_rules! activity {
    ($($word:literal),+) => {
        &Shape::Either(&[
            &Shape::OneOf(&[$($word),+]),
            &Shape::List(&Shape::OneOf(&[$($word),+])),
        ])
    };
}

const fn settings(fields: &'static [Field]) -> Record {
    record("the settings of an event", fields)
}

static BRANCH_PROTECTION_RULE: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[field(
        "types",
        activity!["created", "edited", "deleted"],
    )])),
]);

static CHECK_RUN: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[field(
        "types",
        activity!["completed", "created", "rerequested", "requested_action"],
    )])),
]);

static CHECK_SUITE: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[field("types", activity!["completed"])])),
]);

static DISCUSSION: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[field(
        "types",
        activity![
            "created",
            "edited",
            "deleted",
            "transferred",
            "pinned",
            "unpinned",
            "labeled",
            "unlabeled",
            "locked",
            "unlocked",
            "category_changed",
            "answered",
            "unanswered"
        ],
    )])),
]);

static IMAGE_VERSION: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[
        field("types", activity!["created", "ready", "deleted"]),
        field("names", &NAME_OR_NAMES),
        field("versions", &NAME_OR_NAMES),
    ])),
]);

static ISSUES: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[field(
        "types",
        activity![
            "opened",
            "edited",
            "deleted",
            "transferred",
            "pinned",
            "unpinned",
            "closed",
            "reopened",
            "assigned",
            "unassigned",
            "labeled",
            "unlabeled",
            "locked",
            "unlocked",
            "milestoned",
            "demilestoned",
            "field_added",
            "field_removed",
            "typed",
            "untyped"
        ],
    )])),
]);

static MERGE_GROUP: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[
        field("types", activity!["checks_requested"]),
        field("branches", &NAME_OR_NAMES),
        field("branches-ignore", &NAME_OR_NAMES),
    ])),
]);

static MILESTONE: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[field(
        "types",
        activity!["created", "closed", "opened", "edited", "deleted"],
    )])),
]);

static PROJECT: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[field(
        "types",
        activity!["created", "closed", "reopened", "edited", "deleted"],
    )])),
]);

static PROJECT_CARD: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[field(
        "types",
        activity!["created", "moved", "converted", "edited", "deleted"],
    )])),
]);

static PROJECT_COLUMN: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[field(
        "types",
        activity!["created", "updated", "moved", "deleted"],
    )])),
]);

static PULL_REQUEST: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[
        field(
            "types",
            activity![
                "assigned",
                "unassigned",
                "labeled",
                "unlabeled",
                "opened",
                "edited",
                "closed",
                "reopened",
                "synchronize",
                "converted_to_draft",
                "locked",
                "unlocked",
                "enqueued",
                "dequeued",
                "milestoned",
                "demilestoned",
                "ready_for_review",
                "review_requested",
                "review_request_removed",
                "auto_merge_enabled",
                "auto_merge_disabled",
                "stacked"
            ],
        ),
        field("branches", &NAME_OR_NAMES),
        field("branches-ignore", &NAME_OR_NAMES),
        field("paths", &NAME_OR_NAMES),
        field("paths-ignore", &NAME_OR_NAMES),
    ])),
]);

static PULL_REQUEST_REVIEW: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[field(
        "types",
        activity!["submitted", "edited", "dismissed"],
    )])),
]);

static PUSH: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[
        field("branches", &NAME_OR_NAMES),
        field("branches-ignore", &NAME_OR_NAMES),
        field("tags", &NAME_OR_NAMES),
        field("tags-ignore", &NAME_OR_NAMES),
        field("paths", &NAME_OR_NAMES),
        field("paths-ignore", &NAME_OR_NAMES),
    ])),
]);

static REGISTRY_PACKAGE: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[field(
        "types",
        activity!["published", "updated"],
    )])),
]);

static RELEASE: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[field(
        "types",
        activity![
            "published",
            "unpublished",
            "created",
            "edited",
            "deleted",
            "prereleased",
            "released"
        ],
    )])),
]);

static REPOSITORY_DISPATCH: Shape =
    Shape::Either(&[&NULL, &Shape::Record(&settings(&[field("types", &NAMES)]))]);

static WATCH: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[field("types", activity!["started"])])),
]);

static WORKFLOW_RUN: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[
        field("types", activity!["requested", "completed", "in_progress"]),
        field("workflows", &NAME_OR_NAMES),
        field("branches", &NAME_OR_NAMES),
        field("branches-ignore", &NAME_OR_NAMES),
    ])),
]);

static SCHEDULE: Shape = Shape::List(&Shape::Record(&record(
    "an entry of `schedule`",
    &[required("cron", &NAME), field("timezone", &NAME)],
)));

static DISPATCH: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[field("inputs", &Shape::Map(&DISPATCH_INPUT))])),
]);

static DISPATCH_INPUT: Shape = Shape::Record(&record(
    "an input",
    &[
        field("description", &TEXT),
        field(
            "type",
            &Shape::OneOf(&["string", "boolean", "number", "environment", "choice"]),
        ),
        field("required", &BOOL),
        field("default", &SCALAR),
        field("options", &Shape::List(&TEXT)),
    ],
));

static CALL: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&settings(&[
        field("inputs", &Shape::Map(&CALL_INPUT)),
        field("secrets", &Shape::Map(&CALL_SECRET)),
        field("outputs", &Shape::Map(&CALL_OUTPUT_SHAPE)),
    ])),
]);

static CALL_INPUT: Shape = Shape::Record(&record(
    "an input",
    &[
        field("description", &TEXT),
        required("type", &Shape::OneOf(&["string", "boolean", "number"])),
        field("required", &BOOL),
        field("default", &Shape::With(RUN_NAME, &SCALAR)),
    ],
));

static CALL_SECRET: Shape = Shape::Either(&[
    &NULL,
    &Shape::Record(&record(
        "a secret",
        &[field("description", &TEXT), field("required", &BOOL)],
    )),
]);

static CALL_OUTPUT_SHAPE: Shape = Shape::Record(&record(
    "an output",
    &[
        field("description", &TEXT),
        required("value", &Shape::With(CALL_OUTPUT, &TEXT)),
    ],
));
