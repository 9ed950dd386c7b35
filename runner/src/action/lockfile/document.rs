//! The YAML of lock files: a small tree that keeps what it does not know, and its one way to be written.
//!
//! Lock files are machine-written: two-level maps of quoted texts. Anchors, tags and further documents
//! have no place there and are refused, so that no reader can take a file for another than this one.

use std::fmt::Write as _;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

/// Longest lock file, in bytes; GitHub's own limit.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Deepest nesting; the known fields need five.
const MAX_DEPTH: usize = 16;
/// Indentation of one level, as `gh actions-lock` writes it.
const INDENT: usize = 4;

/// A lock file: the comment it begins with, and its fields in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Comment lines before the first field, as they stand.
    pub header: String,
    /// The fields.
    pub fields: Map,
}

/// Fields in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map(pub Vec<(Scalar, Value)>);

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text or number.
    Scalar(Scalar),
    /// A list.
    List(Vec<Value>),
    /// Fields.
    Map(Map),
}

/// A text, and whether it stands in quotes.
#[derive(Clone, Debug, Default, Eq)]
pub struct Scalar {
    /// The text.
    pub text: String,
    /// Whether it is quoted, which makes it a string whatever it looks like.
    pub quoted: bool,
    /// 1-based line that it was read from; 0 if it was not. No part of its value.
    pub line: usize,
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.quoted == other.quoted
    }
}

/// Why a text is no lock file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct DocumentError {
    /// 1-based line.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
}

impl DocumentError {
    /// A finding at a line.
    pub fn at(line: usize, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { line, message }
    }
}

impl Scalar {
    /// A quoted text.
    pub fn quoted(text: impl Into<String>) -> Self {
        let (text, quoted) = (text.into(), true);
        Self {
            text,
            quoted,
            line: 0,
        }
    }

    /// A text without quotes: a number, or the name of a field.
    pub fn plain(text: impl Into<String>) -> Self {
        let (text, quoted) = (text.into(), false);
        Self {
            text,
            quoted,
            line: 0,
        }
    }
}

impl Value {
    /// A quoted text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Scalar(Scalar::quoted(text))
    }

    /// A list of quoted texts.
    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::List(texts.into_iter().map(Self::text).collect())
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// The fields, if it has some.
    pub fn as_map(&self) -> Option<&Map> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The texts of a list of texts.
    pub fn as_texts(&self) -> Option<Vec<&str>> {
        match self {
            Self::List(items) => items.iter().map(Self::as_text).collect(),
            _ => None,
        }
    }
}

impl Map {
    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let field = self.0.iter().find(|(key, _)| key.text == name)?;
        Some(&field.1)
    }

    /// The value of a field, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        let field = self.0.iter_mut().find(|(key, _)| key.text == name)?;
        Some(&mut field.1)
    }

    /// The line of a field; 0 if it was not read from a file.
    pub fn line(&self, name: &str) -> usize {
        let field = self.0.iter().find(|(key, _)| key.text == name);
        field.map_or(0, |(key, _)| key.line)
    }

    /// Puts a field at its value; a new one goes where the order of names has it.
    pub fn insert_sorted(&mut self, key: Scalar, value: Value) {
        if let Some(old) = self.get_mut(&key.text) {
            *old = value;
            return;
        }
        let at = self.0.iter().position(|(other, _)| other.text > key.text);
        self.0.insert(at.unwrap_or(self.0.len()), (key, value));
    }

    /// Puts a field at its value; a new one goes behind those of `before` that are there.
    pub fn insert_after(&mut self, before: &[&str], key: Scalar, value: Value) {
        if let Some(old) = self.get_mut(&key.text) {
            *old = value;
            return;
        }
        let known = |(key, _): &(Scalar, Value)| before.contains(&key.text.as_str());
        let at = self.0.iter().rposition(known).map_or(0, |at| at + 1);
        self.0.insert(at, (key, value));
    }

    /// Takes a field away.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| key.text != name);
    }
}

impl Document {
    /// Reads a lock file.
    ///
    /// # Errors
    /// [`DocumentError`] names the line.
    pub fn parse(text: &str) -> Result<Self, DocumentError> {
        if text.len() > MAX_BYTES {
            let size = text.len();
            let message = format!(
                "the file has {size} bytes, more than the {MAX_BYTES} a lock file may have"
            );
            return Err(DocumentError::at(1, message));
        }
        let header: String = text
            .split_inclusive('\n')
            .take_while(|line| line.starts_with('#') || line.trim().is_empty())
            .collect();
        let mut reader = Reader {
            parser: Parser::new_from_str(text),
            depth: 0,
        };
        let fields = reader.document()?;
        Ok(Self { header, fields })
    }

    /// The text of the file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = self.header.clone();
        if self.fields.0.is_empty() {
            out.push_str("{}\n");
        }
        write_map(&mut out, &self.fields, 0);
        out
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), DocumentError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let message = format!("this is not YAML: {}", error.info());
                Err(DocumentError::at(error.marker().line(), message))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self) -> Result<Map, DocumentError> {
        let mut fields = None;
        loop {
            let (event, span) = self.next()?;
            let line = span.start.line();
            match event {
                Event::StreamEnd => break,
                Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(_) if fields.is_some() => {
                    return Err(DocumentError::at(
                        line,
                        "a lock file has one document, this is a second one",
                    ));
                }
                Event::DocumentStart(_) => {}
                other => match self.value(other, span)? {
                    Value::Map(map) => fields = Some(map),
                    Value::Scalar(scalar) if scalar.text.is_empty() && !scalar.quoted => {}
                    _ => {
                        return Err(DocumentError::at(
                            line,
                            "a lock file is a mapping of fields",
                        ));
                    }
                },
            }
        }
        fields.ok_or_else(|| {
            DocumentError::at(1, "the file is empty; a lock file has the field `version`")
        })
    }

    fn value(&mut self, event: Event<'a>, span: Span) -> Result<Value, DocumentError> {
        let line = span.start.line();
        let refused = |what: &str| {
            Err(DocumentError::at(
                line,
                format!("{what} has no place in a lock file"),
            ))
        };
        match event {
            Event::Alias(_) => refused("an alias"),
            Event::Scalar(_, _, anchor, tag) if anchor > 0 || tag.is_some() => {
                refused("an anchor or a tag")
            }
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag)
                if anchor > 0 || tag.is_some() =>
            {
                refused("an anchor or a tag")
            }
            Event::Scalar(text, style, ..) => {
                let (text, quoted) = (text.into_owned(), style != ScalarStyle::Plain);
                Ok(Value::Scalar(Scalar { text, quoted, line }))
            }
            Event::SequenceStart(..) => self.nested(line, Self::items).map(Value::List),
            Event::MappingStart(..) => self.nested(line, Self::fields).map(Value::Map),
            _ => Err(DocumentError::at(line, "a value was expected")),
        }
    }

    fn nested<T>(
        &mut self,
        line: usize,
        read: fn(&mut Self) -> Result<T, DocumentError>,
    ) -> Result<T, DocumentError> {
        if self.depth == MAX_DEPTH {
            let message = format!("values are nested more than {MAX_DEPTH} deep");
            return Err(DocumentError::at(line, message));
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    fn items(&mut self) -> Result<Vec<Value>, DocumentError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.value(event, span)?),
            }
        }
    }

    fn fields(&mut self) -> Result<Map, DocumentError> {
        let mut fields: Vec<(Scalar, Value)> = Vec::new();
        let mut names = std::collections::HashSet::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Map(fields));
            }
            let line = span.start.line();
            let Value::Scalar(key) = self.value(event, span)? else {
                return Err(DocumentError::at(line, "a key must be text"));
            };
            if key.text.is_empty() {
                return Err(DocumentError::at(line, "a key must not be empty"));
            }
            if !names.insert(key.text.clone()) {
                return Err(DocumentError::at(
                    line,
                    format!("the key `{}` stands there twice", key.text),
                ));
            }
            let (event, span) = self.next()?;
            fields.push((key, self.value(event, span)?));
        }
    }
}

fn write_map(out: &mut String, map: &Map, indent: usize) {
    for (key, value) in &map.0 {
        let _ = write!(out, "{:indent$}", "");
        write_scalar(out, key);
        out.push(':');
        write_value(out, value, indent);
    }
}

/// A value behind `key:` or `-`.
fn write_value(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Scalar(scalar) if scalar.text.is_empty() && !scalar.quoted => out.push('\n'),
        Value::Scalar(scalar) => {
            out.push(' ');
            write_scalar(out, scalar);
            out.push('\n');
        }
        Value::List(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Map(map) if map.0.is_empty() => out.push_str(" {}\n"),
        Value::Map(map) => {
            out.push('\n');
            write_map(out, map, indent + INDENT);
        }
        Value::List(items) => {
            out.push('\n');
            let indent = indent + INDENT;
            for item in items {
                let _ = write!(out, "{:indent$}-", "");
                write_value(out, item, indent);
            }
        }
    }
}

fn write_scalar(out: &mut String, scalar: &Scalar) {
    let Scalar { text, quoted, .. } = scalar;
    let odd =
        |c: char| c.is_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}');
    if text.contains(odd) {
        write_escaped(out, text);
    } else if *quoted {
        let _ = write!(out, "'{}'", text.replace('\'', "''"));
    } else {
        out.push_str(text);
    }
}

/// A text with characters that single quotes cannot hold.
fn write_escaped(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (text, expected) in [
            ("", "the file is empty"),
            ("# nothing\n", "the file is empty"),
            ("- a\n", "a lock file is a mapping"),
            ("a: &x 1\nb: *x\n", "line 1: an anchor or a tag"),
            ("a: !!str 1\n", "an anchor or a tag"),
            ("a: 1\n---\nb: 2\n", "a second one"),
            ("a: 1\na: 2\n", "line 2: the key `a` stands there twice"),
            ("a: [1\n", "this is not YAML"),
            ("? [a]\n: b\n", "a key must be text"),
        ] {
            let error = Document::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let deep = format!("a: {}{}\n", "[".repeat(40), "]".repeat(40));
        assert!(
            Document::parse(&deep)
                .unwrap_err()
                .message
                .contains("nested")
        );
        let long = format!("a: '{}'\n", "x".repeat(MAX_BYTES));
        assert!(
            Document::parse(&long)
                .unwrap_err()
                .message
                .contains("bytes")
        );
    }

    #[test]
    fn other_styles_are_read_and_written_in_the_one_style() {
        let text = "# top\n\nversion: v1\nlist: [a, 'b']\nmap: {x: \"y\\n\", z: }\nempty: {}\n";
        let document = Document::parse(text).unwrap();
        assert_eq!(document.header, "# top\n\n");
        let expected = "# top\n\nversion: v1\nlist:\n    - a\n    - 'b'\nmap:\n    x: \"y\\u000a\"\n    z:\nempty: {}\n";
        assert_eq!(document.to_text(), expected);
        assert_eq!(Document::parse(expected).unwrap(), document);
    }

    fn scalar() -> impl Strategy<Value = Scalar> {
        let plain = "[A-Za-z0-9_./][A-Za-z0-9_./-]{0,12}".prop_map(Scalar::plain);
        let quoted = "\\PC{0,16}|[ -~\\n\\t\\r\u{1}\u{85}\u{2028}]{0,12}".prop_map(Scalar::quoted);
        prop_oneof![plain, quoted]
    }

    fn map_of(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map> {
        prop::collection::vec((scalar(), value), 1..5).prop_map(|entries| {
            let mut map = Map::default();
            for (key, value) in entries {
                if !key.text.is_empty() && map.get(&key.text).is_none() {
                    map.0.push((key, value));
                }
            }
            map
        })
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            scalar().prop_map(Value::Scalar),
            Just(Value::Scalar(Scalar::plain(""))),
            Just(Value::List(Vec::new())),
            Just(Value::Map(Map::default()))
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::List),
                map_of(inner).prop_map(Value::Map)
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]

        #[test]
        fn what_is_written_is_read_back(fields in map_of(value())) {
            prop_assume!(!fields.0.is_empty());
            let document = Document { header: "# h\n".to_owned(), fields };
            let text = document.to_text();
            let read = Document::parse(&text).unwrap();
            // A text that needs escapes is quoted whatever it was.
            prop_assert_eq!(read.to_text(), text);
            prop_assert_eq!(read, document);
        }

        #[test]
        fn any_text_is_read_without_panic_and_once_read_it_is_stable(text in "\\PC{0,200}|[a-c:'\"\\-# \\[\\]{},\\n|>&*!?]{0,80}") {
            if let Ok(document) = Document::parse(&text) {
                let written = document.to_text();
                prop_assert_eq!(Document::parse(&written).map(|read| read.to_text()), Ok(written));
            }
        }
    }
}
