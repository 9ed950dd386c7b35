//! Why an expression was refused: while reading its symbols, its structure, or while evaluating it.

use std::fmt;

/// The stage at which an expression failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A symbol that is none (`b@r`, an unclosed string), or too long a text.
    Lexing,
    /// Symbols in an order that means nothing, an unknown name, a wrong number of arguments.
    Parsing,
    /// A function refused its arguments.
    Evaluation,
}

impl ErrorKind {
    /// The name used in messages and JSON.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Lexing => "lexing",
            ErrorKind::Parsing => "parsing",
            ErrorKind::Evaluation => "evaluation",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An expression that cannot be used. The words are GitHub's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionError {
    /// The stage.
    pub kind: ErrorKind,
    /// The whole message.
    pub message: String,
    /// Where in the expression, as characters from its start, when one symbol is to blame.
    pub offset: Option<usize>,
    /// How many characters that symbol has.
    pub length: usize,
}

impl ExpressionError {
    /// An error that blames one symbol of the source. The position in the message counts UTF-16
    /// units, as GitHub's do.
    pub(super) fn at(kind: ErrorKind, what: &str, symbol: &str, byte: usize, source: &str) -> Self {
        let before = &source[..byte];
        let (offset, position) = (before.chars().count(), before.encode_utf16().count() + 1);
        Self {
            kind,
            message: format!(
                "{what}: '{symbol}'. Located at position {position} within expression: {source}"
            ),
            offset: Some(offset),
            length: symbol.chars().count().max(1),
        }
    }

    /// An error that blames the whole expression.
    pub(super) fn whole(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            offset: None,
            length: 0,
        }
    }

    /// An evaluation error.
    pub fn evaluation(message: impl Into<String>) -> Self {
        Self::whole(ErrorKind::Evaluation, message)
    }
}
