//! The keys of a workflow file: what each holds, and which contexts its expressions may use.
//!
//! Keys, contexts and values are those of GitHub's workflow schema (`workflow-v1.0.json` of the npm
//! package `@actions/workflow-parser`), one file for each part of a workflow.

mod action;
mod contexts;
mod job;
mod on;
mod step;
mod workflow;

pub(super) use action::ACTION;
pub(super) use workflow::WORKFLOW;

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
    /// A mapping or list that an expression cannot stand for as a whole.
    Spelled(&'static Shape),
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
    /// What other keys hold, where others may be.
    pub rest: Option<&'static Shape>,
}

/// A known key.
pub(super) struct Field {
    pub key: &'static str,
    pub shape: &'static Shape,
    pub required: bool,
    /// Why the key has no effect in a local run, if it has none.
    pub notice: Option<&'static str>,
}

const fn record(what: &'static str, fields: &'static [Field]) -> Record {
    Record {
        what,
        fields,
        rest: None,
    }
}

const fn field(key: &'static str, shape: &'static Shape) -> Field {
    Field {
        key,
        shape,
        required: false,
        notice: None,
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
        notice: Some(why),
        ..field(key, shape)
    }
}

static NULL: Shape = Shape::Null;
static BOOL: Shape = Shape::Bool;
static NUMBER: Shape = Shape::Number;
static TEXT: Shape = Shape::Text;
static NAME: Shape = Shape::Name;
static ANY: Shape = Shape::Any;
static NAMES: Shape = Shape::List(&NAME);
static NAME_OR_NAMES: Shape = Shape::Either(&[&NAME, &NAMES]);
static SCALAR: Shape = Shape::Either(&[&BOOL, &NUMBER, &TEXT]);
static TEXT_MAP: Shape = Shape::Map(&TEXT);
static SPELLED_TEXT_MAP: Shape = Shape::Spelled(&TEXT_MAP);
