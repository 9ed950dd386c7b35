//! Checks a file against the schema and turns it into tokens. All that is wrong is collected.

mod expressions;
mod scalar;

use std::sync::Arc;

use super::diagnostic::{Diagnostic, Severity, nearest};
use super::schema::{Field, Record, Shape};
use super::source::{Place, Source};
use super::template::{self, Template};
use super::token::{Position, TemplateToken, TokenKind};
use super::yaml::{Node, NodeValue};
use crate::expression::Names;
use scalar::alternatives;

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
            let lacks = |record: &&Record| {
                let mut required = record.fields.iter().filter(|field| field.required);
                required.any(|field| !has_key(read, field.key))
            };
            if !records.iter().all(lacks) {
                return;
            }
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
}

fn find<'a>(record: &'a Record, key: &str) -> Option<&'a Field> {
    record.fields.iter().find(|field| field.key == key)
}

fn has_key(entries: &[(TemplateToken, TemplateToken)], key: &str) -> bool {
    entries.iter().any(|(name, _)| name.as_str() == Some(key))
}

fn shorten(text: &str) -> String {
    let line = text.lines().next().unwrap_or("");
    if line.chars().count() <= 40 && line.len() == text.len() {
        return line.to_owned();
    }
    format!("{}…", line.chars().take(40).collect::<String>())
}
