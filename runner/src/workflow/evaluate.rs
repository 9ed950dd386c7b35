//! Evaluates tokens: expressions anywhere in a piece of a workflow file become values.

use super::token::{Position, TemplateToken, TokenKind};
use crate::expression::value::{Object, Value};
use crate::expression::{Expression, ExpressionError, Names, Scope, coerce::to_text};

/// An expression of a token that could not be evaluated.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{place}{source}")]
pub struct EvaluateError {
    /// Where the token stands.
    pub at: Position,
    /// The place for messages: `line 3, column 5: `, or nothing.
    place: String,
    /// What is wrong.
    #[source]
    pub source: ExpressionError,
}

impl EvaluateError {
    fn new(at: Position, source: ExpressionError) -> Self {
        let place = match (at.line, at.column) {
            (Some(line), Some(column)) => format!("line {line}, column {column}: "),
            _ => String::new(),
        };
        Self { at, place, source }
    }
}

/// The value of a token.
pub fn evaluate(
    token: &TemplateToken,
    names: &Names,
    scope: &Scope<'_>,
) -> Result<Value, EvaluateError> {
    Ok(match &token.kind {
        TokenKind::Null | TokenKind::Insert => Value::Null,
        TokenKind::Bool(value) => Value::Bool(*value),
        TokenKind::Number(value) => Value::Number(*value),
        TokenKind::String(text) => Value::string(text),
        TokenKind::Expression(text) => Expression::parse(text, names)
            .and_then(|expression| expression.evaluate(scope))
            .map_err(|error| EvaluateError::new(token.at, error))?,
        TokenKind::Sequence(items) => {
            let items: Result<Vec<_>, _> = items
                .iter()
                .map(|item| evaluate(item, names, scope))
                .collect();
            Value::array(items?)
        }
        TokenKind::Mapping(entries) => {
            let mut object = Object::new();
            for (key, value) in entries {
                let value = evaluate(value, names, scope)?;
                match (&key.kind, &value) {
                    (TokenKind::Insert, Value::Object(inserted)) => {
                        inserted
                            .iter()
                            .for_each(|(key, value)| object.insert(key, value.clone()));
                    }
                    (TokenKind::Insert, _) => {
                        let message = "the value of `${{ insert }}` must be a mapping";
                        return Err(EvaluateError::new(
                            key.at,
                            ExpressionError::evaluation(message),
                        ));
                    }
                    _ => object.insert(to_text(&evaluate(key, names, scope)?), value),
                }
            }
            object.into()
        }
    })
}
