//! Scalars: literals against what may stand there, and expressions in place of them.

use super::super::diagnostic::{Diagnostic, nearest};
use super::super::schema::Shape;
use super::super::source::Place;
use super::super::template::{self, Template};
use super::super::token::{TemplateToken, TokenKind};
use super::super::yaml::Scalar;
use super::{Checker, shorten, token};
use crate::expression::coerce::format_number;

impl Checker<'_> {
    pub(super) fn scalar(
        &mut self,
        place: Place,
        scalar: &Scalar,
        shape: &Shape,
        what: &str,
    ) -> TemplateToken {
        if let Scalar::String(text) = scalar
            && let Shape::Condition = shape
        {
            return self.condition(place, text);
        }
        if let Scalar::String(text) = scalar
            && template::has_expression(text)
        {
            return self.expression(place, text, shape, what);
        }
        self.literal(place, scalar, shape, what)
    }

    fn literal(
        &mut self,
        place: Place,
        scalar: &Scalar,
        shape: &Shape,
        what: &str,
    ) -> TemplateToken {
        let text = || scalar.to_text();
        for shape in alternatives(shape) {
            let kind = match (shape, scalar) {
                (Shape::Any | Shape::Null, Scalar::Null) => TokenKind::Null,
                (Shape::Any | Shape::Bool, Scalar::Bool(value)) => TokenKind::Bool(*value),
                (Shape::Any | Shape::Number, Scalar::Number(value)) => TokenKind::Number(*value),
                (Shape::Any, Scalar::String(text)) => TokenKind::String(text.clone()),
                (Shape::Text, _) => TokenKind::String(text()),
                (Shape::Name, _) if !text().is_empty() => TokenKind::String(text()),
                (Shape::OneOf(words), _) if words.contains(&text().as_str()) => {
                    TokenKind::String(text())
                }
                (Shape::Condition, _) => return self.condition(place, &text()),
                _ => continue,
            };
            return token(place, kind);
        }
        let found = match scalar {
            Scalar::Null => "nothing".to_owned(),
            Scalar::Bool(value) => format!("`{value}`"),
            Scalar::Number(value) => format!("the number {}", format_number(*value)),
            Scalar::String(text) if text.is_empty() => "an empty text".to_owned(),
            Scalar::String(text) => format!("the text `{}`", shorten(text)),
        };
        if let Some(near) = self.nearest_word(scalar, shape) {
            let message = format!("{what} cannot be {found}");
            self.report(Diagnostic::error(
                place,
                message,
                format!("did you mean `{near}`?"),
            ));
            return token(place, TokenKind::Null);
        }
        self.unfit(place, shape, what, &found)
    }

    fn nearest_word(&self, scalar: &Scalar, shape: &Shape) -> Option<&'static str> {
        let words = alternatives(shape)
            .into_iter()
            .find_map(|shape| match shape {
                Shape::OneOf(words) => Some(*words),
                _ => None,
            })?;
        nearest(&scalar.to_text(), words.iter().copied())
    }

    pub(super) fn unfit(
        &mut self,
        place: Place,
        shape: &Shape,
        what: &str,
        found: &str,
    ) -> TemplateToken {
        let expected: Vec<_> = alternatives(shape).into_iter().map(describe).collect();
        let message = format!("{what} cannot be {found}");
        let help = format!("write {}", expected.join(", or "));
        self.report(Diagnostic::error(place, message, help));
        token(place, TokenKind::Null)
    }

    fn expression(&mut self, place: Place, text: &str, shape: &Shape, what: &str) -> TemplateToken {
        let Some(names) = self.names.clone() else {
            let place = self.opening(place, 0);
            let message = format!("{what} may hold no expression");
            self.report(Diagnostic::error(place, message, "write the value out"));
            return token(place, TokenKind::Null);
        };
        if let Shape::Spelled(_) = shape {
            let message =
                format!("{what} must be a mapping, an expression cannot stand for all of it");
            let help = "write the keys out; each value may be an expression";
            self.report(Diagnostic::error(place, message, help));
            return token(place, TokenKind::Null);
        }
        match template::read(text, &names) {
            Ok(Template::Literal(text)) => self.literal(place, &Scalar::String(text), shape, what),
            Ok(Template::Expression(text)) => token(place, TokenKind::Expression(text)),
            Ok(Template::Insert) => {
                let help = "`insert` is a key whose value is put in; write the entries out";
                self.report(Diagnostic::error(place, "`insert` cannot be a value", help));
                token(place, TokenKind::Null)
            }
            Err(errors) => {
                for error in errors {
                    self.template_error(place, &error, &names);
                }
                token(place, TokenKind::Null)
            }
        }
    }
}

/// The shapes that a value may have, one level of choice resolved.
pub(super) fn alternatives(shape: &Shape) -> Vec<&Shape> {
    match shape {
        Shape::Either(shapes) => shapes
            .iter()
            .flat_map(|shape| alternatives(shape))
            .collect(),
        Shape::With(_, shape) | Shape::Spelled(shape) => alternatives(shape),
        shape => vec![shape],
    }
}

fn describe(shape: &Shape) -> String {
    match shape {
        Shape::Null => "nothing".to_owned(),
        Shape::Bool => "`true` or `false`".to_owned(),
        Shape::Number => "a number".to_owned(),
        Shape::Text | Shape::Any | Shape::With(..) | Shape::Spelled(_) | Shape::Either(_) => {
            "text".to_owned()
        }
        Shape::Name => "text that is not empty".to_owned(),
        Shape::OneOf(words) if words.len() > 8 => "the name of an event of GitHub".to_owned(),
        Shape::OneOf(words) => {
            let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
            words.join(" or ")
        }
        Shape::Condition => "an expression".to_owned(),
        Shape::List(_) => "a list".to_owned(),
        Shape::Record(record) => {
            let keys: Vec<_> = record
                .fields
                .iter()
                .take(4)
                .map(|f| format!("`{}`", f.key))
                .collect();
            let more = if record.fields.len() > 4 { " …" } else { "" };
            format!("a mapping with {}{more}", keys.join(", "))
        }
        Shape::Map(_) => "a mapping".to_owned(),
    }
}
