//! The values expressions work on, and their form in a job message (`contextData`).
//!
//! A value is cheap to clone: strings, arrays and objects are shared. Objects keep the order of
//! insertion and find keys without regard to case, as GitHub's dictionaries do. `Debug` never shows
//! the text of a string, because the `secrets` context is made of these values too.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value of an expression.
///
/// `PartialEq` compares structure, for tests and caches; the `==` of the language is
/// another relation (it coerces, and objects are equal by identity only).
#[derive(Clone, PartialEq, Default)]
pub enum Value {
    /// `null`, also what a missing property gives.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A double; NaN and the infinities included.
    Number(f64),
    /// Text.
    String(Arc<str>),
    /// A list.
    Array(Arc<Vec<Value>>),
    /// A dictionary.
    Object(Arc<Object>),
}

impl Value {
    /// A string value.
    pub fn string(text: impl AsRef<str>) -> Self {
        Value::String(Arc::from(text.as_ref()))
    }

    /// An array value.
    pub fn array(items: Vec<Value>) -> Self {
        Value::Array(Arc::new(items))
    }

    /// The value of a property if this is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Object(object) => object.get(key),
            _ => None,
        }
    }

    /// The text if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The object if this is one.
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The items if this is an array.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Number(value) => write!(f, "{value}"),
            Value::String(text) => write!(f, "string of {} bytes", text.len()),
            Value::Array(items) => f.debug_list().entries(items.iter()).finish(),
            Value::Object(object) => object.fmt(f),
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Value::Number(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::string(value)
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::String(value.into())
    }
}

impl From<Vec<Value>> for Value {
    fn from(value: Vec<Value>) -> Self {
        Value::array(value)
    }
}

impl From<Object> for Value {
    fn from(value: Object) -> Self {
        Value::Object(Arc::new(value))
    }
}

impl From<Option<&str>> for Value {
    fn from(value: Option<&str>) -> Self {
        value.map_or(Value::Null, Value::string)
    }
}

/// A dictionary in order of insertion.
#[derive(Clone, Default)]
pub struct Object {
    entries: Vec<(Arc<str>, Value)>,
    index: HashMap<String, usize>,
    case_sensitive: bool,
}

impl Object {
    /// An empty dictionary whose keys ignore case.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty dictionary whose keys differ by case (type 5 of a job message).
    pub fn case_sensitive() -> Self {
        Self {
            case_sensitive: true,
            ..Self::default()
        }
    }

    /// Whether keys that differ in case only are different keys.
    pub fn is_case_sensitive(&self) -> bool {
        self.case_sensitive
    }

    /// Sets a key. An existing key keeps its place and spelling.
    pub fn insert(&mut self, key: impl AsRef<str>, value: impl Into<Value>) {
        let key = key.as_ref();
        let folded = self.fold_key(key);
        match self.index.get(&folded) {
            Some(&at) => self.entries[at].1 = value.into(),
            None => {
                self.index.insert(folded, self.entries.len());
                self.entries.push((Arc::from(key), value.into()));
            }
        }
    }

    /// Takes a key out, with its value.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.index.remove(&self.fold_key(key))?;
        for place in self.index.values_mut().filter(|place| **place > at) {
            *place -= 1;
        }
        Some(self.entries.remove(at).1)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let at = *self.index.get(&self.fold_key(key))?;
        Some(&self.entries[at].1)
    }

    /// The key as it was first spelt and its value.
    pub fn get_key_value(&self, key: &str) -> Option<(&str, &Value)> {
        let at = *self.index.get(&self.fold_key(key))?;
        let (key, value) = &self.entries[at];
        Some((key, value))
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (&**key, value))
    }

    /// Values in order.
    pub fn values(&self) -> impl Iterator<Item = &Value> {
        self.entries.iter().map(|(_, value)| value)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn fold_key(&self, key: &str) -> String {
        if self.case_sensitive {
            key.to_owned()
        } else {
            fold(key)
        }
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.case_sensitive == other.case_sensitive && self.entries == other.entries
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: AsRef<str>, V: Into<Value>> FromIterator<(K, V)> for Object {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(iter: T) -> Self {
        let mut object = Object::new();
        for (key, value) in iter {
            object.insert(key, value);
        }
        object
    }
}

/// Text in the form in which it is compared: upper case, one character for one character, as .NET's
/// `OrdinalIgnoreCase` does (so `ß` stays, and the dotless `ı` is not `I`).
pub fn fold(text: &str) -> String {
    text.chars().map(fold_char).collect()
}

fn fold_char(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_uppercase();
    }
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        // A letter outside ASCII never becomes one inside it.
        (Some(single), None) if !single.is_ascii() => single,
        _ => c,
    }
}

/// Type numbers of section "ContextData" of the job message.
mod kind {
    pub const STRING: u8 = 0;
    pub const ARRAY: u8 = 1;
    pub const DICTIONARY: u8 = 2;
    pub const BOOL: u8 = 3;
    pub const NUMBER: u8 = 4;
    pub const CASE_SENSITIVE_DICTIONARY: u8 = 5;
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Number(value) => serialize_number(*value, serializer),
            Value::String(text) => serializer.serialize_str(text),
            Value::Array(items) => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("t", &kind::ARRAY)?;
                map.serialize_entry("a", &**items)?;
                map.end()
            }
            Value::Object(object) => {
                let kind = if object.case_sensitive {
                    kind::CASE_SENSITIVE_DICTIONARY
                } else {
                    kind::DICTIONARY
                };
                let entries: Vec<_> = object.iter().map(|(k, v)| WireEntryRef { k, v }).collect();
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("t", &kind)?;
                map.serialize_entry("d", &entries)?;
                map.end()
            }
        }
    }
}

/// JSON has no NaN and no infinity: those are written as text in the typed form.
fn serialize_number<S: Serializer>(value: f64, serializer: S) -> Result<S::Ok, S::Error> {
    if !value.is_finite() {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("t", &kind::NUMBER)?;
        map.serialize_entry("n", &value.to_string())?;
        return map.end();
    }
    match exact_integer(value) {
        Some(integer) => serializer.serialize_i64(integer),
        None => serializer.serialize_f64(value),
    }
}

/// The number as an integer when it is one that a double holds exactly.
pub fn exact_integer(value: f64) -> Option<i64> {
    const LIMIT: f64 = 9_007_199_254_740_992.0;
    (value.fract() == 0.0 && value.abs() <= LIMIT).then_some(value as i64)
}

#[derive(Serialize)]
struct WireEntryRef<'a> {
    k: &'a str,
    v: &'a Value,
}

#[derive(Deserialize)]
struct WireEntry {
    k: String,
    #[serde(default)]
    v: Value,
}

#[derive(Deserialize)]
struct WireValue {
    #[serde(default)]
    t: u8,
    s: Option<String>,
    a: Option<Vec<Value>>,
    d: Option<Vec<WireEntry>>,
    b: Option<bool>,
    n: Option<WireNumber>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireNumber {
    Number(f64),
    Text(String),
}

impl WireValue {
    fn into_value<E: de::Error>(self) -> Result<Value, E> {
        Ok(match self.t {
            kind::STRING => Value::from(self.s.unwrap_or_default()),
            kind::ARRAY => Value::array(self.a.unwrap_or_default()),
            kind::DICTIONARY => dictionary(Object::new(), self.d),
            kind::CASE_SENSITIVE_DICTIONARY => dictionary(Object::case_sensitive(), self.d),
            kind::BOOL => Value::Bool(self.b.unwrap_or_default()),
            kind::NUMBER => match self.n {
                None => Value::Number(0.0),
                Some(WireNumber::Number(number)) => Value::Number(number),
                Some(WireNumber::Text(text)) => Value::Number(
                    text.parse()
                        .map_err(|_| E::custom("context data: `n` is not a number"))?,
                ),
            },
            other => {
                return Err(E::custom(format_args!(
                    "context data: unknown type {other}, expected 0 to 5"
                )));
            }
        })
    }
}

fn dictionary(mut object: Object, entries: Option<Vec<WireEntry>>) -> Value {
    for entry in entries.unwrap_or_default() {
        object.insert(entry.k, entry.v);
    }
    object.into()
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("context data: null, a bool, a number, a string or an object with `t`")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value as f64))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value as f64))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::string(value))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        WireValue::deserialize(MapAccessDeserializer::new(map))?.into_value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn context_data_reads_bare_scalars_and_every_typed_form() {
        let value = parse(
            r#"{"t":2,"d":[
                {"k":"text","v":"x"},{"k":"typed","v":{"t":0,"s":"y"}},{"k":"absent type","v":{"s":"z"}},
                {"k":"list","v":{"t":1,"a":[1,2.5,null,true]}},{"k":"empty list","v":{"t":1}},
                {"k":"yes","v":{"t":3,"b":true}},{"k":"n","v":{"t":4,"n":7}},{"k":"nan","v":{"t":4,"n":"NaN"}},
                {"k":"exact","v":{"t":5,"d":[{"k":"a","v":1},{"k":"A","v":2}]}},{"k":"nothing"}]}"#,
        );
        assert_eq!(value.get("TEXT").unwrap().as_str(), Some("x"));
        assert_eq!(value.get("typed").unwrap().as_str(), Some("y"));
        assert_eq!(value.get("absent type").unwrap().as_str(), Some("z"));
        let list = value.get("list").unwrap().as_array().unwrap();
        assert_eq!(list, [1.0.into(), 2.5.into(), Value::Null, true.into()]);
        assert_eq!(
            value.get("empty list").unwrap().as_array().unwrap().len(),
            0
        );
        assert_eq!(value.get("yes"), Some(&Value::Bool(true)));
        assert_eq!(value.get("n"), Some(&Value::Number(7.0)));
        assert!(matches!(value.get("nan"), Some(Value::Number(n)) if n.is_nan()));
        let exact = value.get("exact").unwrap();
        assert_eq!(exact.get("a"), Some(&Value::Number(1.0)));
        assert_eq!(exact.get("A"), Some(&Value::Number(2.0)));
        assert_eq!(value.get("nothing"), Some(&Value::Null));
    }

    #[test]
    fn context_data_survives_a_round_trip() {
        let json = r#"{"t":2,"d":[{"k":"a","v":null},{"k":"b","v":{"t":1,"a":[true,-3,1.25,"s"]}},{"k":"c","v":{"t":5,"d":[]}},{"k":"d","v":{"t":4,"n":"inf"}}]}"#;
        assert_eq!(serde_json::to_string(&parse(json)).unwrap(), json);
    }

    #[test]
    fn context_data_of_an_unknown_type_is_refused() {
        let error = serde_json::from_str::<Value>(r#"{"t":9}"#).unwrap_err();
        assert!(error.to_string().contains("unknown type 9"), "{error}");
    }

    #[test]
    fn keys_ignore_case_keep_their_first_spelling_and_their_order() {
        let mut object = Object::new();
        object.insert("Path", "1");
        object.insert("other", "2");
        object.insert("PATH", "3");
        let seen: Vec<_> = object
            .iter()
            .map(|(k, v)| (k, v.as_str().unwrap()))
            .collect();
        assert_eq!(seen, [("Path", "3"), ("other", "2")]);
        assert_eq!(object.remove("path").unwrap().as_str(), Some("3"));
        assert_eq!(object.get("OTHER").unwrap().as_str(), Some("2"));
        assert_eq!(object.len(), 1);
    }

    #[test]
    fn folding_is_one_character_for_one_and_leaves_the_dotless_i() {
        assert_eq!(fold("aéß"), "AÉß");
        assert_eq!(fold("ı"), "ı");
        assert_eq!(fold("ſ"), "ſ");
    }

    #[test]
    fn debug_output_never_shows_text() {
        let value = Value::from(Object::from_iter([("token", "hunter2")]));
        let shown = format!("{value:?}");
        assert!(
            !shown.contains("hunter2") && shown.contains("token"),
            "{shown}"
        );
    }
}
