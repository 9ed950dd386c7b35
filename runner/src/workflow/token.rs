//! `TemplateToken`: a piece of a workflow file as it stands in a job message, with its place.
//!
//! The planner makes them from YAML, the executor evaluates them; a message from GitHub decodes to
//! the very same type. In JSON a token is a bare scalar or an object `{type, file, line, col, …}`.

use std::fmt;

use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::expression::value::exact_integer;

/// Where a token stands. GitHub leaves places out for tokens that no file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// 1-based index into the message's `fileTable`.
    pub file: Option<u32>,
    /// 1-based line.
    pub line: Option<u32>,
    /// 1-based column, in characters.
    pub column: Option<u32>,
}

/// A piece of a workflow file with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct TemplateToken {
    /// Where it stands.
    pub at: Position,
    /// What it is.
    pub kind: TokenKind,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum TokenKind {
    /// Nothing (`null`, or a key without a value).
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(f64),
    /// Text without expressions.
    String(String),
    /// A list.
    Sequence(Vec<TemplateToken>),
    /// Keys and values in order; a key is a string, or an expression.
    Mapping(Vec<(TemplateToken, TemplateToken)>),
    /// An expression, without `${{ }}`.
    Expression(String),
    /// The key `${{ insert }}`: its value is a mapping whose entries are put in its place.
    Insert,
}

impl TemplateToken {
    /// A token at a place.
    pub fn new(at: Position, kind: TokenKind) -> Self {
        Self { at, kind }
    }

    /// A string that stands in no file.
    pub fn string(text: impl Into<String>) -> Self {
        Self::new(Position::default(), TokenKind::String(text.into()))
    }

    /// An expression (without `${{ }}`) that stands in no file.
    pub fn expression(text: impl Into<String>) -> Self {
        Self::new(Position::default(), TokenKind::Expression(text.into()))
    }

    /// A mapping that stands in no file, its keys plain strings.
    pub fn mapping<K: Into<String>>(entries: impl IntoIterator<Item = (K, TemplateToken)>) -> Self {
        let entries = entries
            .into_iter()
            .map(|(key, value)| (Self::string(key), value));
        Self::new(Position::default(), TokenKind::Mapping(entries.collect()))
    }

    /// The text if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            TokenKind::String(text) => Some(text),
            _ => None,
        }
    }

    /// The entries if this is a mapping.
    pub fn as_mapping(&self) -> Option<&[(TemplateToken, TemplateToken)]> {
        match &self.kind {
            TokenKind::Mapping(entries) => Some(entries),
            _ => None,
        }
    }

    /// The items if this is a sequence.
    pub fn as_sequence(&self) -> Option<&[TemplateToken]> {
        match &self.kind {
            TokenKind::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// The value of a plain string key, case ignored, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&TemplateToken> {
        let same =
            |token: &TemplateToken| token.as_str().is_some_and(|k| k.eq_ignore_ascii_case(key));
        let entry = self.as_mapping()?.iter().find(|(name, _)| same(name))?;
        Some(&entry.1)
    }

    /// Whether an expression stands anywhere in it.
    pub fn has_expression(&self) -> bool {
        match &self.kind {
            TokenKind::Expression(_) | TokenKind::Insert => true,
            TokenKind::Sequence(items) => items.iter().any(Self::has_expression),
            TokenKind::Mapping(entries) => entries
                .iter()
                .any(|(key, value)| key.has_expression() || value.has_expression()),
            _ => false,
        }
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.kind == TokenKind::Null
    }
}

/// Type numbers of a token in a job message.
mod kind {
    pub const STRING: u8 = 0;
    pub const SEQUENCE: u8 = 1;
    pub const MAPPING: u8 = 2;
    pub const EXPRESSION: u8 = 3;
    pub const INSERT: u8 = 4;
    pub const BOOL: u8 = 5;
    pub const NUMBER: u8 = 6;
    pub const NULL: u8 = 7;
}

impl Serialize for TemplateToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &self.kind.number())?;
        let Position { file, line, column } = self.at;
        for (name, value) in [("file", file), ("line", line), ("col", column)] {
            if let Some(value) = value {
                map.serialize_entry(name, &value)?;
            }
        }
        match &self.kind {
            TokenKind::Null => {}
            TokenKind::Bool(value) => map.serialize_entry("bool", value)?,
            TokenKind::Number(value) => match exact_integer(*value) {
                Some(integer) => map.serialize_entry("num", &integer)?,
                None => map.serialize_entry("num", value)?,
            },
            TokenKind::String(text) => map.serialize_entry("lit", text)?,
            TokenKind::Sequence(items) => map.serialize_entry("seq", items)?,
            TokenKind::Mapping(entries) => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|(key, value)| WireEntryRef { key, value })
                    .collect();
                map.serialize_entry("map", &entries)?;
            }
            TokenKind::Expression(text) => map.serialize_entry("expr", text)?,
            TokenKind::Insert => map.serialize_entry("directive", "insert")?,
        }
        map.end()
    }
}

impl TokenKind {
    fn number(&self) -> u8 {
        match self {
            TokenKind::String(_) => kind::STRING,
            TokenKind::Sequence(_) => kind::SEQUENCE,
            TokenKind::Mapping(_) => kind::MAPPING,
            TokenKind::Expression(_) => kind::EXPRESSION,
            TokenKind::Insert => kind::INSERT,
            TokenKind::Bool(_) => kind::BOOL,
            TokenKind::Number(_) => kind::NUMBER,
            TokenKind::Null => kind::NULL,
        }
    }
}

#[derive(Serialize)]
struct WireEntryRef<'a> {
    #[serde(rename = "Key")]
    key: &'a TemplateToken,
    #[serde(rename = "Value")]
    value: &'a TemplateToken,
}

#[derive(Deserialize)]
struct WireEntry {
    #[serde(rename = "Key", alias = "key")]
    key: TemplateToken,
    #[serde(rename = "Value", alias = "value")]
    value: TemplateToken,
}

#[derive(Deserialize)]
struct WireToken {
    #[serde(rename = "type", default)]
    kind: u8,
    file: Option<u32>,
    line: Option<u32>,
    col: Option<u32>,
    lit: Option<String>,
    seq: Option<Vec<TemplateToken>>,
    map: Option<Vec<WireEntry>>,
    expr: Option<String>,
    directive: Option<String>,
    #[serde(rename = "bool")]
    boolean: Option<bool>,
    num: Option<f64>,
}

impl WireToken {
    fn into_token<E: de::Error>(self) -> Result<TemplateToken, E> {
        let entries = |map: Option<Vec<WireEntry>>| {
            map.unwrap_or_default()
                .into_iter()
                .map(|entry| (entry.key, entry.value))
                .collect()
        };
        let kind = match self.kind {
            kind::STRING => TokenKind::String(self.lit.unwrap_or_default()),
            kind::SEQUENCE => TokenKind::Sequence(self.seq.unwrap_or_default()),
            kind::MAPPING => TokenKind::Mapping(entries(self.map)),
            kind::EXPRESSION => TokenKind::Expression(
                self.expr
                    .ok_or_else(|| E::custom("token: an expression without `expr`"))?,
            ),
            kind::INSERT => match self.directive.as_deref() {
                None | Some("insert") => TokenKind::Insert,
                Some(other) => {
                    return Err(E::custom(format_args!(
                        "token: unknown directive `{other}`"
                    )));
                }
            },
            kind::BOOL => TokenKind::Bool(self.boolean.unwrap_or_default()),
            kind::NUMBER => TokenKind::Number(self.num.unwrap_or_default()),
            kind::NULL => TokenKind::Null,
            other => {
                return Err(E::custom(format_args!(
                    "token: unknown type {other}, expected 0 to 7"
                )));
            }
        };
        let at = Position {
            file: self.file,
            line: self.line,
            column: self.col,
        };
        Ok(TemplateToken::new(at, kind))
    }
}

impl<'de> Deserialize<'de> for TemplateToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TokenVisitor)
    }
}

struct TokenVisitor;

impl TokenVisitor {
    fn bare<E>(kind: TokenKind) -> Result<TemplateToken, E> {
        Ok(TemplateToken::new(Position::default(), kind))
    }
}

impl<'de> Visitor<'de> for TokenVisitor {
    type Value = TemplateToken;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a template token: null, a bool, a number, a string or an object with `type`")
    }

    fn visit_unit<E: de::Error>(self) -> Result<TemplateToken, E> {
        Self::bare(TokenKind::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<TemplateToken, E> {
        Self::bare(TokenKind::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<TemplateToken, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<TemplateToken, E> {
        Self::bare(TokenKind::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<TemplateToken, E> {
        Self::bare(TokenKind::Number(value as f64))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<TemplateToken, E> {
        Self::bare(TokenKind::Number(value as f64))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<TemplateToken, E> {
        Self::bare(TokenKind::Number(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<TemplateToken, E> {
        Self::bare(TokenKind::String(value.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TemplateToken, A::Error> {
        WireToken::deserialize(MapAccessDeserializer::new(map))?.into_token()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> TemplateToken {
        serde_json::from_str(json).unwrap()
    }

    /// The step of a message captured from GitHub.
    const INPUTS: &str = r#"{"type":2,"map":[{"Key":{"type":0,"lit":"script"},"Value":{"type":0,"file":1,"line":12,"col":14,"lit":"echo \"acquired at $(date -u)\""}}]}"#;

    #[test]
    fn a_token_from_github_survives_a_round_trip() {
        let token = parse(INPUTS);
        let script = token.get("script").unwrap();
        assert_eq!(script.as_str(), Some("echo \"acquired at $(date -u)\""));
        let at = Position {
            file: Some(1),
            line: Some(12),
            column: Some(14),
        };
        assert_eq!(script.at, at);
        assert_eq!(serde_json::to_string(&token).unwrap(), INPUTS);
    }

    #[test]
    fn every_kind_survives_a_round_trip() {
        let json = r#"{"type":1,"line":3,"seq":[{"type":3,"expr":"a.b"},{"type":5,"bool":true},{"type":6,"num":1.5},{"type":6,"num":10},{"type":7},{"type":2,"map":[{"Key":{"type":4,"directive":"insert"},"Value":{"type":3,"expr":"x"}}]}]}"#;
        assert_eq!(serde_json::to_string(&parse(json)).unwrap(), json);
    }

    #[test]
    fn bare_scalars_and_objects_without_a_type_are_tokens() {
        assert_eq!(parse("\"x\"").kind, TokenKind::String("x".into()));
        assert_eq!(parse("true").kind, TokenKind::Bool(true));
        assert_eq!(parse("-2").kind, TokenKind::Number(-2.0));
        assert!(parse("null").is_null());
        assert_eq!(parse(r#"{"lit":"x"}"#).kind, TokenKind::String("x".into()));
    }

    #[test]
    fn unknown_types_and_directives_are_refused() {
        for json in [
            r#"{"type":8}"#,
            r#"{"type":3}"#,
            r#"{"type":4,"directive":"each"}"#,
            "[]",
        ] {
            assert!(
                serde_json::from_str::<TemplateToken>(json).is_err(),
                "{json}"
            );
        }
    }
}
