//! Checks a file against the schema and turns it into tokens. All that is wrong is collected.

use std::sync::Arc;

use super::diagnostic::{Diagnostic, Severity, nearest};
use super::schema::{Field, Record, Shape};
use super::source::{Place, Source};
use super::template::{self, Fault, Template, TemplateError};
use super::token::{Position, TemplateToken, TokenKind};
use super::yaml::{Node, NodeValue, Scalar};
use crate::expression::{CONTEXTS, Expression, ExpressionError, Names, coerce::format_number};

/// Most errors that are collected for one file, and most other findings.
pub(super) const MAX_FINDINGS: usize = 100;

/// Index of the workflow file in the file table.
const FILE: u32 = 1;

/// Checks a tree; findings are added to `findings`.
pub(super) fn check(
    source: &Source,
    root: &Node,
    shape: &Shape,
    findings: &mut Vec<Diagnostic>,
) -> TemplateToken {
    let mut checker = Checker {
        source,
        findings,
        allowed: Vec::new(),
        names: None,
    };
    checker.value(root, shape, "the file")
}

struct Checker<'a> {
    source: &'a Source,
    findings: &'a mut Vec<Diagnostic>,
    /// What outer keys allow expressions to name; inner keys add to it.
    allowed: Vec<&'static str>,
    /// The names that expressions may use here; `None` where there may be no expression.
    names: Option<Arc<Names>>,
}

fn token(place: Place, kind: TokenKind) -> TemplateToken {
    let at = Position {
        file: Some(FILE),
        line: Some(place.line),
        column: Some(place.column),
    };
    TemplateToken::new(at, kind)
}

impl Checker<'_> {
    fn report(&mut self, finding: Diagnostic) {
        if !self.is_full(finding.severity) {
            self.findings.push(finding);
        }
    }

    /// Whether no more findings of a severity are collected. Errors are counted apart, so that
    /// notices never push one out.
    fn is_full(&self, severity: Severity) -> bool {
        let error = severity == Severity::Error;
        let alike = |finding: &&Diagnostic| (finding.severity == Severity::Error) == error;
        self.findings.len() >= MAX_FINDINGS
            && self.findings.iter().filter(alike).count() >= MAX_FINDINGS
    }

    /// Reads a value; `what` names it for messages.
    fn value(&mut self, node: &Node, shape: &Shape, what: &str) -> TemplateToken {
        if let Shape::With(names, shape) = shape {
            let outer = (self.allowed.len(), self.names.clone());
            self.allowed.extend(*names);
            self.names = Some(Arc::new(Names::new(self.allowed.iter().copied())));
            let value = self.value(node, shape, what);
            self.allowed.truncate(outer.0);
            self.names = outer.1;
            return value;
        }
        match &node.value {
            NodeValue::Scalar(scalar) => self.scalar(node.place, scalar, shape, what),
            NodeValue::Sequence(items) => self.list(node.place, items, shape, what),
            NodeValue::Mapping(entries) => self.mapping(node.place, entries, shape, what),
        }
    }

    fn list(
        &mut self,
        place: Place,
        items: &[Arc<Node>],
        shape: &Shape,
        what: &str,
    ) -> TemplateToken {
        let Some(item_shape) = alternatives(shape)
            .into_iter()
            .find_map(|shape| match shape {
                Shape::List(item) => Some(*item),
                Shape::Any => Some(&Shape::Any),
                _ => None,
            })
        else {
            return self.unfit(place, shape, what, "a list");
        };
        let what = format!("an item of {what}");
        let items = items
            .iter()
            .map(|item| self.value(item, item_shape, &what))
            .collect();
        token(place, TokenKind::Sequence(items))
    }

    fn mapping(
        &mut self,
        place: Place,
        entries: &[(Arc<Node>, Arc<Node>)],
        shape: &Shape,
        what: &str,
    ) -> TemplateToken {
        let alternatives = alternatives(shape);
        let records: Vec<&Record> = alternatives
            .iter()
            .filter_map(|shape| match shape {
                Shape::Record(record) => Some(*record),
                _ => None,
            })
            .collect();
        if !records.is_empty() {
            return self.record(place, entries, records);
        }
        for shape in alternatives {
            let value = match shape {
                Shape::Map(value) => value,
                Shape::Any => &Shape::Any,
                _ => continue,
            };
            return self.map(place, entries, value);
        }
        self.unfit(place, shape, what, "a mapping")
    }

    fn map(
        &mut self,
        place: Place,
        entries: &[(Arc<Node>, Arc<Node>)],
        shape: &Shape,
    ) -> TemplateToken {
        let mut read = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let Some(key) = self.key(key) else { continue };
            let what = format!("`{}`", shorten(key.as_str().unwrap_or("an expression")));
            let value = self.value(value, shape, &what);
            read.push((key, value));
        }
        token(place, TokenKind::Mapping(read))
    }

    /// A mapping that is one of several records: each key narrows down which.
    fn record(
        &mut self,
        place: Place,
        entries: &[(Arc<Node>, Arc<Node>)],
        mut records: Vec<&Record>,
    ) -> TemplateToken {
        let mut read = Vec::with_capacity(entries.len());
        let mut meant = Vec::new();
        let mut computed = false;
        for (key_node, value) in entries {
            let Some(key) = self.key(key_node) else {
                continue;
            };
            let Some(name) = key.as_str().map(str::to_owned) else {
                computed = true;
                let value = self.value(value, &Shape::Any, "the value of an expression");
                read.push((key, value));
                continue;
            };
            let with_it = |record: &&Record| find(record, &name).is_some();
            let fitting: Vec<&Record> = records.iter().copied().filter(with_it).collect();
            if let Some(field) = fitting.first().and_then(|record| find(record, &name)) {
                records = fitting;
                let value = self.field(key_node, value, field);
                read.push((key, value));
            } else if let Some(rest) = records[0].rest {
                let value = self.value(value, rest, &format!("`{}`", shorten(&name)));
                read.push((key, value));
            } else {
                meant.extend(self.unknown_key(key_node.place, &name, &records));
            }
        }
        // A misspelt key is there all the same: that it is missing need not be told too.
        for (name, place) in meant {
            if !has_key(&read, name) {
                records.retain(|record| find(record, name).is_some());
                let key = token(place, TokenKind::String(name.to_owned()));
                read.push((key, token(place, TokenKind::Null)));
            }
        }
        if !computed {
            self.missing(place, &read, &records);
        }
        token(place, TokenKind::Mapping(read))
    }

    /// Reports the keys that a mapping lacks.
    fn missing(
        &mut self,
        place: Place,
        read: &[(TemplateToken, TemplateToken)],
        records: &[&Record],
    ) {
        let [record] = records else {
            let required = records.iter().flat_map(|record| record.fields);
            let keys: Vec<_> = required
                .filter(|field| field.required)
                .map(|field| format!("`{}`", field.key))
                .collect();
            if !keys.is_empty() {
                let message = format!("this needs one of the keys {}", keys.join(", "));
                let help = format!("add one of them, most likely {}", keys[0]);
                self.report(Diagnostic::error(place, message, help));
            }
            return;
        };
        for field in record.fields.iter().filter(|field| field.required) {
            if !has_key(read, field.key) {
                let message = format!("{} needs the key `{}`", record.what, field.key);
                let help = format!("add `{}:`", field.key);
                self.report(Diagnostic::error(place, message, help));
            }
        }
    }

    /// The value of a known key.
    fn field(&mut self, key: &Node, value: &Node, field: &Field) -> TemplateToken {
        if let Some(why) = field.notice {
            let finding = Diagnostic::error(key.place, why, "");
            self.report(finding.with_severity(Severity::Notice));
        }
        self.value(value, field.shape, &format!("`{}`", field.key))
    }

    /// A key: text, or an expression where expressions may be.
    fn key(&mut self, key: &Node) -> Option<TemplateToken> {
        // The reader has refused keys that are no scalars.
        let NodeValue::Scalar(scalar) = &key.value else {
            return None;
        };
        let name = scalar.to_text();
        if name.is_empty() {
            self.report(Diagnostic::error(
                key.place,
                "a key must not be empty",
                "name it",
            ));
            return None;
        }
        if !template::has_expression(&name) {
            return Some(token(key.place, TokenKind::String(name)));
        }
        let Some(names) = self.names.clone() else {
            let place = self.opening(key.place, 0);
            let message = "a key here may hold no expression";
            self.report(Diagnostic::error(place, message, "write the key out"));
            return None;
        };
        match template::read(&name, &names) {
            Ok(Template::Literal(text)) => Some(token(key.place, TokenKind::String(text))),
            Ok(Template::Expression(text)) => Some(token(key.place, TokenKind::Expression(text))),
            Ok(Template::Insert) => Some(token(key.place, TokenKind::Insert)),
            Err(errors) => {
                for error in errors {
                    self.template_error(key.place, &error, &names);
                }
                None
            }
        }
    }

    /// Reports a key that is not known; returns the one that is likely meant.
    fn unknown_key(
        &mut self,
        place: Place,
        name: &str,
        records: &[&Record],
    ) -> Option<(&'static str, Place)> {
        if self.is_full(Severity::Error) {
            return None;
        }
        let fields = || records.iter().flat_map(|record| record.fields);
        let near = nearest(name, fields().map(|field| field.key));
        let help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                let mut keys: Vec<String> = Vec::new();
                for field in fields() {
                    let key = format!("`{}`", field.key);
                    if !keys.contains(&key) {
                        keys.push(key);
                    }
                }
                format!("the keys here are {}", keys.join(", "))
            }
        };
        let message = format!("unknown key `{}` in {}", shorten(name), records[0].what);
        self.report(Diagnostic::error(place, message, help));
        near.map(|near| (near, place))
    }

    fn scalar(
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

    fn unfit(&mut self, place: Place, shape: &Shape, what: &str, found: &str) -> TemplateToken {
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

    /// A condition as GitHub's service sends it: with `success()` unless it asks for a status itself.
    fn condition(&mut self, place: Place, text: &str) -> TemplateToken {
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

    fn template_error(&mut self, place: Place, error: &TemplateError, names: &Names) {
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
    fn opening(&self, scalar: Place, number: usize) -> Place {
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

fn find<'a>(record: &'a Record, key: &str) -> Option<&'a Field> {
    record.fields.iter().find(|field| field.key == key)
}

fn has_key(entries: &[(TemplateToken, TemplateToken)], key: &str) -> bool {
    entries.iter().any(|(name, _)| name.as_str() == Some(key))
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

/// The shapes that a value may have, one level of choice resolved.
fn alternatives(shape: &Shape) -> Vec<&Shape> {
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

fn shorten(text: &str) -> String {
    let line = text.lines().next().unwrap_or("");
    if line.chars().count() <= 40 && line.len() == text.len() {
        return line.to_owned();
    }
    format!("{}…", line.chars().take(40).collect::<String>())
}
