//! Conditions, and where in the file an expression is wrong.

use super::super::diagnostic::{Diagnostic, Severity, nearest};
use super::super::source::Place;
use super::super::template::{self, Fault, Template, TemplateError};
use super::super::token::{TemplateToken, TokenKind};
use super::{Checker, token};
use crate::expression::{CONTEXTS, Expression, ExpressionError, Names};

impl Checker<'_> {
    /// A condition as GitHub's service sends it: with `success()` unless it asks for a status itself.
    pub(super) fn condition(&mut self, place: Place, text: &str) -> TemplateToken {
        let names = self.names.clone().unwrap_or_default();
        let trimmed = text.trim();
        let done = |condition: String| token(place, TokenKind::String(condition));
        if trimmed.is_empty() {
            return done("success()".to_owned());
        }
        let body = if template::has_expression(text) {
            match template::read(text, &names) {
                Ok(Template::Expression(body) | Template::Literal(body)) => {
                    self.warn_if_always_true(place, trimmed, &body);
                    body
                }
                Ok(Template::Insert) => "insert".to_owned(),
                Err(errors) => {
                    errors
                        .iter()
                        .for_each(|error| self.template_error(place, error, &names));
                    return done(String::new());
                }
            }
        } else {
            trimmed.to_owned()
        };
        match Expression::parse(&body, &names) {
            Ok(expression) if expression.checks_status() => done(body),
            Ok(_) => done(format!("success() && ({body})")),
            Err(error) => {
                let at = self.bare(place, trimmed, &error);
                self.expression_error(at, &error, &names);
                done(String::new())
            }
        }
    }

    fn warn_if_always_true(&mut self, place: Place, text: &str, body: &str) {
        if body.starts_with("format('") && !text.contains("format(") {
            let message = "this condition always holds: it is text, not an expression";
            let help = "put the whole condition into one `${{ }}`, or leave `${{ }}` away";
            self.report(Diagnostic::error(place, message, help).with_severity(Severity::Warning));
        }
    }

    pub(super) fn template_error(&mut self, place: Place, error: &TemplateError, names: &Names) {
        let at = self.opening(place, error.opening);
        match &error.fault {
            Fault::NotClosed => self.report(Diagnostic::error(
                at,
                "the expression is not closed: there is a `${{` without its `}}`",
                "add `}}`; a `'` inside may have opened a string that does not end",
            )),
            Fault::Empty => self.report(Diagnostic::error(
                at,
                "an expression was expected between `${{` and `}}`",
                "write one, or remove the braces",
            )),
            Fault::InsertInText => self.report(Diagnostic::error(
                at,
                "`insert` cannot stand beside other text",
                "write the entries out",
            )),
            Fault::Expression(expression) => {
                let skip = 3 + error.leading + expression.offset.unwrap_or(0);
                let at = self.advance(at, skip, expression.length);
                self.expression_error(at, expression, names);
            }
        }
    }

    fn expression_error(&mut self, place: Place, error: &ExpressionError, names: &Names) {
        let help = help_for(error, names);
        self.report(Diagnostic::error(place, error.message.clone(), help));
    }

    /// The place of the `${{` with a number in a scalar, whatever the style of the scalar.
    pub(super) fn opening(&self, scalar: Place, number: usize) -> Place {
        let text = self.source.from(scalar.line, scalar.column);
        match text.match_indices("${{").nth(number) {
            Some((at, _)) => walk(scalar, &text[..at], 3),
            None => scalar,
        }
    }

    /// The place some characters on, if it is on the same line.
    fn advance(&self, place: Place, characters: usize, length: usize) -> Place {
        let rest = self.source.from(place.line, place.column);
        let skipped: String = rest.chars().take(characters).collect();
        if skipped.contains(['\n', '\r']) {
            return place;
        }
        walk(place, &skipped, length.max(1))
    }

    /// The place of an error in a condition without `${{ }}`.
    fn bare(&self, scalar: Place, text: &str, error: &ExpressionError) -> Place {
        let raw = self.source.from(scalar.line, scalar.column);
        let lead = raw
            .split(['\n', '\r'])
            .next()
            .and_then(|line| line.find(text));
        match (lead, error.offset) {
            (Some(lead), Some(offset)) => {
                let lead = raw[..lead].chars().count();
                self.advance(scalar, lead + offset, error.length)
            }
            _ => scalar,
        }
    }
}

/// The place after a text that begins at a place.
fn walk(from: Place, text: &str, length: usize) -> Place {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let normal = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines = number(normal.matches('\n').count());
    let last = normal.rsplit('\n').next().unwrap_or("");
    let characters = number(last.chars().count());
    let column = if lines == 0 {
        from.column + characters
    } else {
        characters + 1
    };
    Place {
        line: from.line + lines,
        column,
        length: number(length),
    }
}

fn help_for(error: &ExpressionError, names: &Names) -> String {
    let symbol = error.message.split('\'').nth(1).unwrap_or_default();
    if error.message.starts_with("Unrecognized named-value") {
        let allowed: Vec<_> = names.contexts().collect();
        if CONTEXTS.contains(&symbol.to_ascii_lowercase().as_str()) {
            return format!(
                "`{symbol}` is not available here; there are {}",
                allowed.join(", ")
            );
        }
        return match nearest(symbol, allowed.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!(
                "text stands in single quotes; contexts here are {}",
                allowed.join(", ")
            ),
        };
    }
    if error.message.starts_with("Unrecognized function") {
        let all = [
            "contains",
            "startsWith",
            "endsWith",
            "format",
            "join",
            "toJSON",
            "fromJSON",
            "case",
            "hashFiles",
            "success",
            "failure",
            "always",
            "cancelled",
        ];
        return match nearest(symbol, all) {
            Some(near) if near.eq_ignore_ascii_case(symbol) => {
                format!("`{near}` is not available here")
            }
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the functions are {}", all.join(", ")),
        };
    }
    match error.message.as_str() {
        message if message.starts_with("Too few") => format!("give `{symbol}` more arguments"),
        message if message.starts_with("Too many") => format!("give `{symbol}` fewer arguments"),
        message if message.starts_with("Unexpected end") => {
            "the expression goes on: complete it".to_owned()
        }
        message if message.contains("ormat string") => {
            "`{0}` stands for the first argument after the text; write `{{` for a brace".to_owned()
        }
        message if message.starts_with("Exceeded") => "split the expression".to_owned(),
        _ if symbol.starts_with('"') => "text stands in single quotes".to_owned(),
        _ => match symbol {
            "=" => "`==` compares".to_owned(),
            "&" | "and" => "`&&` joins conditions that must both hold".to_owned(),
            "|" | "or" => "`||` joins conditions of which one must hold".to_owned(),
            _ => "text stands in single quotes; operators are ! < <= > >= == != && ||".to_owned(),
        },
    }
}
