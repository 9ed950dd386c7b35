//! Reads YAML into a tree that knows where each part stands.
//!
//! Scalars follow the YAML 1.2 core schema, as GitHub reads them (`on`, `yes` and `0777` are text,
//! octal and decimal respectively). Anchors and aliases are allowed and shared, not copied; how far
//! they would expand is counted and bounded, as are depth and length, so that no file takes more
//! than its own size to read.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::check::MAX_FINDINGS;
use super::diagnostic::Diagnostic;
use super::source::{MAX_FILE_BYTES, Place, Source};
use crate::expression::value::fold;

/// Deepest nesting of mappings and sequences.
const MAX_DEPTH: usize = 60;
/// Most bytes a file may have once its aliases are put in, a value counted as 8 and its text.
const MAX_EXPANDED: u64 = 10 * 1024 * 1024;

/// A value of the file.
#[derive(Debug)]
pub(super) struct Node {
    pub place: Place,
    pub value: NodeValue,
    /// How many bytes it is, aliases put in.
    expanded: u64,
}

#[derive(Debug)]
pub(super) enum NodeValue {
    Scalar(Scalar),
    Sequence(Vec<Arc<Node>>),
    Mapping(Vec<(Arc<Node>, Arc<Node>)>),
}

/// A scalar as the core schema reads it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Number(f64),
    String(String),
}

type Read<T> = Result<T, Diagnostic>;

/// Reads the one document of a file.
///
/// What is wrong with keys goes to `findings`, and such entries are left out; what is not YAML is
/// the error.
pub(super) fn read(source: &Source, findings: &mut Vec<Diagnostic>) -> Read<Arc<Node>> {
    if source.text().len() > MAX_FILE_BYTES {
        let size = source.text().len();
        return Err(Diagnostic::file(
            format!(
                "the file has {size} bytes, more than the {MAX_FILE_BYTES} a workflow may have"
            ),
            "move long scripts into files of the repository and call them",
        ));
    }
    let mut reader = Reader {
        source,
        findings,
        parser: Parser::new_from_str(source.text()),
        anchors: HashMap::new(),
        depth: 0,
    };
    reader.document()
}

struct Reader<'a> {
    source: &'a Source,
    findings: &'a mut Vec<Diagnostic>,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Arc<Node>>,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Read<(Event<'a>, Span)> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let message = format!("this is not YAML: {}", error.info());
                let help = if error.info().contains("unknown anchor") {
                    "an alias `*name` stands for a value that `&name` marks before it"
                } else {
                    "check the indentation, the quotes and the `:` around this place"
                };
                Err(Diagnostic::error(point(error.marker()), message, help))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self) -> Read<Arc<Node>> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(_) if root.is_some() => {
                    return Err(Diagnostic::error(
                        point(&span.start),
                        "a workflow file has one document, this is a second one",
                        "put each workflow into a file of its own",
                    ));
                }
                Event::DocumentStart(_) => {}
                other => root = Some(self.node(other, span)?),
            }
        }
        root.ok_or_else(|| {
            Diagnostic::file(
                "the file is empty",
                "a workflow has the keys `on` and `jobs`",
            )
        })
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Read<Arc<Node>> {
        let place = self.place(&event, span);
        let (value, anchor) = match event {
            Event::Alias(id) => return self.alias(id, place),
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = scalar(&text, style, tag.as_deref(), place)?;
                (NodeValue::Scalar(scalar), anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                collection_tag(tag.as_deref(), "seq", place)?;
                (
                    NodeValue::Sequence(self.nested(place, Self::items)?),
                    anchor,
                )
            }
            Event::MappingStart(anchor, tag) => {
                collection_tag(tag.as_deref(), "map", place)?;
                (
                    NodeValue::Mapping(self.nested(place, Self::entries)?),
                    anchor,
                )
            }
            _ => return Err(Diagnostic::error(place, "a value was expected", "add one")),
        };
        let node = Arc::new(Node {
            place,
            expanded: expanded(&value),
            value,
        });
        if node.expanded > MAX_EXPANDED {
            return Err(too_large(place));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, Arc::clone(&node));
        }
        Ok(node)
    }

    /// Where an event stands.
    fn place(&self, event: &Event<'_>, span: Span) -> Place {
        let mut place = point(&span.start);
        if let Event::Scalar(_, ScalarStyle::Literal | ScalarStyle::Folded, ..) = event {
            return self.block_header(place);
        }
        if matches!(event, Event::Scalar(..)) && span.start.line() == span.end.line() {
            let length = span.end.index().saturating_sub(span.start.index());
            place.length = u32::try_from(length).unwrap_or(1).max(1);
        }
        place
    }

    /// Where the `|` or `>` is of a block whose text begins at a place: in the next line above that is
    /// not blank.
    fn block_header(&self, text: Place) -> Place {
        let header = (1..text.line)
            .rev()
            .find(|line| !self.source.line(*line).trim().is_empty());
        let Some(line) = header else { return text };
        let code = self
            .source
            .line(line)
            .split(" #")
            .next()
            .unwrap_or("")
            .trim_end();
        let code = code.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-'));
        if !code.ends_with(['|', '>']) {
            return text;
        }
        let column = u32::try_from(code.chars().count()).unwrap_or(u32::MAX);
        Place {
            line,
            column,
            length: 1,
        }
    }

    fn alias(&self, id: usize, place: Place) -> Read<Arc<Node>> {
        self.anchors.get(&id).map(Arc::clone).ok_or_else(|| {
            let help = "an alias can only stand for a value that is complete before it";
            Diagnostic::error(
                place,
                "this alias stands inside the value that it names",
                help,
            )
        })
    }

    fn nested<T>(&mut self, place: Place, read: fn(&mut Self) -> Read<T>) -> Read<T> {
        if self.depth == MAX_DEPTH {
            let message = format!("values are nested more than {MAX_DEPTH} deep");
            return Err(Diagnostic::error(
                place,
                message,
                "no workflow key needs that: flatten it",
            ));
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    fn items(&mut self) -> Read<Vec<Arc<Node>>> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span)?),
            }
        }
    }

    fn entries(&mut self) -> Read<Vec<(Arc<Node>, Arc<Node>)>> {
        let mut entries = Vec::new();
        let mut keys: HashMap<String, Place> = HashMap::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => return Ok(entries),
                (event, span) => self.node(event, span)?,
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span)?;
            match check_key(&key, &mut keys) {
                Ok(()) => entries.push((key, value)),
                Err(finding) if self.findings.len() < MAX_FINDINGS => self.findings.push(finding),
                Err(_) => {}
            }
        }
    }
}

/// Whether a key is text, none of those before it, and no merge key.
fn check_key(key: &Node, keys: &mut HashMap<String, Place>) -> Read<()> {
    let NodeValue::Scalar(scalar) = &key.value else {
        let help = "quote it if it is text that begins with `[`, `{` or `?`";
        return Err(Diagnostic::error(key.place, "a key must be text", help));
    };
    let text = scalar.to_text();
    if text == "<<" {
        let help = "write the entries out; an alias may stand for a whole value";
        return Err(Diagnostic::error(
            key.place,
            "GitHub knows no merge keys (`<<`)",
            help,
        ));
    }
    match keys.insert(fold(&text), key.place) {
        None => Ok(()),
        Some(first) => {
            let message = format!("the key `{text}` is already defined in line {}", first.line);
            let help = "keys must differ in more than case: remove or rename one of the two";
            Err(Diagnostic::error(key.place, message, help))
        }
    }
}

impl Scalar {
    /// The scalar as text, as GitHub turns it into a string (`1.10` becomes `1.1`).
    pub fn to_text(&self) -> String {
        match self {
            Scalar::Null => String::new(),
            Scalar::Bool(value) => value.to_string(),
            Scalar::Number(value) => crate::expression::coerce::format_number(*value),
            Scalar::String(text) => text.clone(),
        }
    }
}

fn point(marker: &Marker) -> Place {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let (line, column) = (number(marker.line().max(1)), number(marker.col() + 1));
    Place {
        line,
        column,
        length: 1,
    }
}

fn too_large(place: Place) -> Diagnostic {
    let message = format!("with its aliases put in, the file has more than {MAX_EXPANDED} bytes");
    Diagnostic::error(place, message, "use fewer aliases of large values")
}

fn expanded(value: &NodeValue) -> u64 {
    let below: u64 = match value {
        NodeValue::Scalar(Scalar::String(text)) => text.len() as u64,
        NodeValue::Scalar(_) => 0,
        NodeValue::Sequence(items) => sum(items.iter().map(|item| item.expanded)),
        NodeValue::Mapping(entries) => sum(entries
            .iter()
            .map(|(key, value)| key.expanded.saturating_add(value.expanded))),
    };
    below.saturating_add(8)
}

fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

fn collection_tag(tag: Option<&Tag>, own: &str, place: Place) -> Read<()> {
    match tag {
        None => Ok(()),
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == own => Ok(()),
        Some(tag) => Err(bad_tag(tag, place)),
    }
}

fn bad_tag(tag: &Tag, place: Place) -> Diagnostic {
    let message = format!("the tag `{tag}` does not fit here");
    Diagnostic::error(place, message, "remove the tag: workflows need none")
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, place: Place) -> Read<Scalar> {
    let resolved = || resolve(text);
    let Some(tag) = tag else {
        return Ok(match style {
            ScalarStyle::Plain => resolved(),
            _ => Scalar::String(text.to_owned()),
        });
    };
    let fits = |scalar: &Scalar| match tag.suffix.as_str() {
        "null" => *scalar == Scalar::Null,
        "bool" => matches!(scalar, Scalar::Bool(_)),
        "int" | "float" => matches!(scalar, Scalar::Number(_)),
        _ => false,
    };
    match tag.suffix.as_str() {
        "str" if tag.is_yaml_core_schema() => Ok(Scalar::String(text.to_owned())),
        _ if tag.is_yaml_core_schema() && fits(&resolved()) => Ok(resolved()),
        _ => Err(bad_tag(tag, place)),
    }
}

/// The core schema of YAML 1.2.
fn resolve(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "false" | "False" | "FALSE" => return Scalar::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Scalar::Number(f64::NAN),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Scalar::String(text.to_owned());
    }
    let number = match text.trim_start_matches(['+', '-']) {
        ".inf" | ".Inf" | ".INF" if text.len() <= 5 => Some(if text.starts_with('-') {
            f64::NEG_INFINITY
        } else {
            f64::INFINITY
        }),
        _ => integer(text, "0x", 16)
            .or_else(|| integer(text, "0o", 8))
            .or_else(|| decimal(text)),
    };
    number.map_or_else(|| Scalar::String(text.to_owned()), Scalar::Number)
}

fn integer(text: &str, prefix: &str, radix: u32) -> Option<f64> {
    let digits = text.strip_prefix(prefix)?;
    let digit = |c: char| c.to_digit(radix);
    if digits.is_empty() {
        return None;
    }
    let step = |value: f64, digit: u32| value * f64::from(radix) + f64::from(digit);
    digits
        .chars()
        .map(digit)
        .try_fold(0.0, |value, digit| Some(step(value, digit?)))
}

/// `[-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`
fn decimal(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let enough = !whole.is_empty() || fraction.is_some_and(|fraction| !fraction.is_empty());
    let exponent_fits = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    if !enough || !digits(whole) || !fraction.is_none_or(digits) || !exponent_fits {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Read<Arc<Node>> {
        let mut findings = Vec::new();
        let root = read(&Source::new("t.yml", text), &mut findings)?;
        findings.pop().map_or(Ok(root), Err)
    }

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        let number = |text: &str| match resolve(text) {
            Scalar::Number(value) => value,
            other => panic!("{text}: {other:?}"),
        };
        for (text, value) in [
            ("0", 0.0),
            ("-1", -1.0),
            ("+12", 12.0),
            ("012", 12.0),
            ("0o17", 15.0),
            ("0xFf", 255.0),
            ("1.10", 1.1),
            (".5", 0.5),
            ("5.", 5.0),
            ("1e3", 1000.0),
            ("1E-2", 0.01),
            (".inf", f64::INFINITY),
            ("-.INF", f64::NEG_INFINITY),
            ("+.Inf", f64::INFINITY),
            ("1e999", f64::INFINITY),
        ] {
            assert_eq!(number(text), value, "{text}");
        }
        assert!(number(".NaN").is_nan());
        for text in [
            "yes", "on", "off", "y", "tRUE", "nULL", "1.2.3", "1_000", "0b1", "0x", "0o8", "-0x1",
            "1e", "e1", ".", "-", "+", "--1", "12:30", "inf", "nan", "1e+", "3.x", "0xg", "--.inf",
        ] {
            assert_eq!(resolve(text), Scalar::String(text.to_owned()), "{text}");
        }
        assert_eq!(resolve("~"), Scalar::Null);
        assert_eq!(resolve("TRUE"), Scalar::Bool(true));
    }

    #[test]
    fn values_know_their_place() {
        let node = parse("a: 1\nbé:\n  - 'x'\n  - |\n    text\nc:\n").unwrap();
        let NodeValue::Mapping(entries) = &node.value else {
            panic!()
        };
        assert_eq!(
            entries[1].0.place,
            Place {
                line: 2,
                column: 1,
                length: 2
            }
        );
        let NodeValue::Sequence(items) = &entries[1].1.value else {
            panic!()
        };
        assert_eq!(
            items[0].place,
            Place {
                line: 3,
                column: 5,
                length: 3
            }
        );
        assert_eq!((items[1].place.line, items[1].place.column), (4, 5));
        assert_eq!(entries[2].1.place.line, 6);
    }

    #[test]
    fn aliases_share_values() {
        let node = parse("a: &x [1, 2]\nb: *x\n").unwrap();
        let NodeValue::Mapping(entries) = &node.value else {
            panic!()
        };
        assert!(Arc::ptr_eq(&entries[0].1, &entries[1].1));
    }

    #[test]
    fn an_alias_bomb_is_refused_at_once() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let alias = format!("*a{}, ", level - 1).repeat(10);
            text += &format!("a{level}: &a{level} [{}]\n", alias.trim_end_matches(", "));
        }
        let started = std::time::Instant::now();
        // Not `unwrap_err`: it would print the whole tree.
        let Err(error) = parse(&text) else {
            panic!("the bomb was read");
        };
        assert!(error.message.contains("aliases"), "{error:?}");
        assert!(started.elapsed().as_secs() < 120);
    }

    #[test]
    fn depth_is_bounded_in_both_styles() {
        let block: String = (0..5000)
            .map(|level| format!("{}a:\n", " ".repeat(level)))
            .collect();
        // 5000 levels are more than a file may have; 1000 fit into its length.
        let block: String = block
            .lines()
            .take(1000)
            .map(|line| format!("{line}\n"))
            .collect();
        for text in [
            block,
            "[".repeat(200),
            "[".repeat(100_000),
            "- ".repeat(10_000),
            "{a: ".repeat(200),
        ] {
            let started = std::time::Instant::now();
            let error = parse(&text).unwrap_err();
            assert!(started.elapsed().as_secs() < 120, "{}", error.message);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,300}") {
            let _ = parse(&text);
        }

        #[test]
        fn any_sequence_of_yaml_symbols_is_read_without_panic(
            symbols in prop::collection::vec(prop::sample::select(vec![
                "a", ":", ": ", "- ", "\n", "  ", "    ", "|", ">", "|2-", "'", "\"", "[", "]", "{", "}", ",",
                "&x", "*x", "!", "!!str ", "#", "---", "...", "%YAML 1.2", "\t", "\r", "\\", "? ", "\u{feff}", "é", "\u{85}", "~",
            ]), 0..60)
        ) {
            let _ = parse(&symbols.concat());
        }
    }
}
