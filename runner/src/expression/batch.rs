//! Expressions as lines of JSON: how other implementations are compared with this one.
//!
//! A line asks `{"expr": "1 == x", "contexts": {"x": 1}}` and is answered with `{"value": true}` or
//! with `{"error": {"kind": "lexing", "message": "…"}}`. Only the contexts given may be named. NaN and
//! the infinities are written as text; negative zero is 0, as `JSON.stringify` writes it.

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};

use super::error::ExpressionError;
use super::json::Plain;
use super::value::{Object, Value, exact_integer};
use super::{Expression, Names, Scope};

/// Functions that an expression outside a workflow has, beside those of the language itself.
pub const FUNCTIONS: [&str; 5] = [
    "hashFiles(1,255)",
    "success(0,0)",
    "failure(0,0)",
    "always(0,0)",
    "cancelled(0,0)",
];

#[derive(Deserialize)]
struct Question {
    expr: String,
    #[serde(default)]
    contexts: Option<Plain>,
}

/// What became of an expression; serializes to the answer of a line.
#[derive(Debug)]
pub enum Answer {
    /// Its value.
    Value(Value),
    /// It was refused.
    Refused(ExpressionError),
    /// The line itself is none; the text says why.
    Input(String),
}

/// Answers one line of a batch.
pub fn answer(line: &[u8]) -> Answer {
    let question: Question = match serde_json::from_slice(line) {
        Ok(question) => question,
        Err(error) => return Answer::Input(format!("not a line of a batch: {error}")),
    };
    let contexts = match question.contexts.map_or(Value::Null, |plain| plain.0) {
        Value::Object(contexts) => contexts,
        Value::Null => Object::new().into(),
        _ => return Answer::Input("not a line of a batch: `contexts` is no object".to_owned()),
    };
    let names = Names::new(contexts.iter().map(|(name, _)| name).chain(FUNCTIONS));
    match evaluate(&question.expr, &names, &contexts) {
        Ok(value) => Answer::Value(value),
        Err(error) => Answer::Refused(error),
    }
}

/// The value of an expression, with or without `${{ }}` around it.
///
/// # Errors
/// [`ExpressionError`] of the stage that refused it.
pub fn evaluate(source: &str, names: &Names, contexts: &Object) -> Result<Value, ExpressionError> {
    let braced = source.trim().strip_prefix("${{");
    let inner = braced.and_then(|rest| rest.strip_suffix("}}"));
    let source = inner.map_or(source, str::trim);
    Expression::parse_unchecked(source, names)?.evaluate(&Scope::new(contexts))
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Error<'a> {
            kind: &'a str,
            message: &'a str,
        }
        let error = |kind, message| Error { kind, message };
        let mut map = serializer.serialize_map(Some(1))?;
        match self {
            Answer::Value(value) => map.serialize_entry("value", &PlainRef(value))?,
            Answer::Refused(refused) => {
                map.serialize_entry("error", &error(refused.kind.name(), &refused.message))?;
            }
            Answer::Input(why) => map.serialize_entry("error", &error("input", why))?,
        }
        map.end()
    }
}

/// A value as plain JSON.
struct PlainRef<'a>(&'a Value);

impl Serialize for PlainRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Number(value) if !value.is_finite() => {
                serializer.serialize_str(&super::coerce::format_number(*value))
            }
            Value::Number(value) => match exact_integer(*value) {
                Some(integer) => serializer.serialize_i64(integer),
                None => serializer.serialize_f64(*value),
            },
            Value::String(text) => serializer.serialize_str(text),
            Value::Array(items) => serializer.collect_seq(items.iter().map(PlainRef)),
            Value::Object(object) => {
                serializer.collect_map(object.iter().map(|(key, value)| (key, PlainRef(value))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_answered_with_a_value_or_with_the_stage_that_refused_it() {
        let rows: &[(&str, &str)] = &[
            (
                r#"{"expr":"1 + 1"}"#,
                r#"{"error":{"kind":"lexing","message":"Unexpected symbol: '+'. Located at position 3 within expression: 1 + 1"}}"#,
            ),
            (
                r#"{"expr":"x"}"#,
                r#"{"error":{"kind":"parsing","message":"Unrecognized named-value: 'x'. Located at position 1 within expression: x"}}"#,
            ),
            (
                r#"{"expr":"format('{0}')"}"#,
                r#"{"error":{"kind":"evaluation","message":"The following format string references more arguments than were supplied: {0}"}}"#,
            ),
            (
                r#"{"expr":"X.b","contexts":{"x":{"B":[1,-0.0,1.5,1e21]}},"result":0}"#,
                r#"{"value":[1,0,1.5,1e+21]}"#,
            ),
            (
                r#"{"expr":"${{ fromJSON('{\"z\":1,\"a\":null}') }}","contexts":null}"#,
                r#"{"value":{"z":1,"a":null}}"#,
            ),
            (r#"{"expr":"-Infinity"}"#, r#"{"value":"-Infinity"}"#),
            (r#"{"expr":"NaN"}"#, r#"{"value":"NaN"}"#),
            (r#"{"expr":"-0"}"#, r#"{"value":0}"#),
            (
                r#"{"expr":"success() && !cancelled()"}"#,
                r#"{"value":true}"#,
            ),
        ];
        for (line, expected) in rows {
            let answer = serde_json::to_string(&answer(line.as_bytes())).unwrap();
            assert_eq!(answer, *expected, "{line}");
        }
    }

    #[test]
    fn a_line_that_is_none_is_said_to_be_none() {
        for line in [
            "",
            "{",
            "[]",
            r#"{"expr":1}"#,
            r#"{"contexts":{}}"#,
            "{\"expr\":\"\u{fffd}",
            r#"{"expr":"1","contexts":[]}"#,
        ] {
            let answer = serde_json::to_string(&answer(line.as_bytes())).unwrap();
            assert!(
                answer.starts_with(r#"{"error":{"kind":"input","#),
                "{answer}"
            );
        }
        assert!(matches!(answer(b"{\"expr\":\"\xff\"}"), Answer::Input(_)));
    }
}
