//! Checked access to the fields of a lock file, with messages that name file, line and next step.

use super::document::{DocumentError, Map, Value};

/// Why a lock file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}:{line}: {message}; {help}")]
pub struct LockfileError {
    /// The file.
    pub path: String,
    /// 1-based line.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: &'static str,
}

/// What to do about a broken lock file.
const HELP: &str =
    "take the file from the history of the repository, or remove it and run `mayfly pin`";

impl LockfileError {
    /// An error in a file.
    pub fn new(path: &str, error: DocumentError) -> Self {
        let (path, help) = (path.to_owned(), HELP);
        Self {
            path,
            line: error.line,
            message: error.message,
            help,
        }
    }

    /// The same error with another next step.
    #[must_use]
    pub fn with_help(self, help: &'static str) -> Self {
        Self { help, ..self }
    }
}

/// Fields of one entry, for reading.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    /// What the entry is called in messages.
    pub name: &'a str,
    /// Its line.
    pub line: usize,
    /// Its fields.
    pub map: &'a Map,
}

type Read<T> = Result<T, DocumentError>;

impl<'a> Fields<'a> {
    /// The entry of a map of entries.
    pub fn entry(map: &'a Map, name: &'a str) -> Option<Read<Self>> {
        let line = map.line(name);
        let value = map.get(name)?;
        let wrong = || DocumentError::at(line, format!("`{name}` must have fields"));
        Some(
            value
                .as_map()
                .map(|map| Self { name, line, map })
                .ok_or_else(wrong),
        )
    }

    fn wrong(&self, field: &str, why: &str) -> DocumentError {
        let line = self.map.line(field).max(self.line);
        DocumentError::at(line, format!("`{}`: the field `{field}` {why}", self.name))
    }

    /// A text that must be there and pass a check.
    pub fn text(&self, field: &str, check: fn(&str) -> bool, shape: &str) -> Read<&'a str> {
        match self.map.get(field).and_then(Value::as_text) {
            Some(text) if check(text) => Ok(text),
            Some(_) => Err(self.wrong(field, &format!("is not {shape}"))),
            None => Err(self.wrong(field, &format!("is missing; it holds {shape}"))),
        }
    }

    /// A text that may be left out.
    pub fn optional(
        &self,
        field: &str,
        check: fn(&str) -> bool,
        shape: &str,
    ) -> Read<Option<&'a str>> {
        match self.map.get(field) {
            None => Ok(None),
            Some(_) => self.text(field, check, shape).map(Some),
        }
    }

    /// A positive whole number that must be there.
    pub fn number(&self, field: &str) -> Read<u64> {
        let text = self.text(field, |_| true, "a number")?;
        match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(self.wrong(field, "is not a positive whole number")),
        }
    }

    /// A list of keys, each read by a function; empty where the field is not there.
    pub fn keys<T>(&self, field: &str, read: fn(&str) -> Option<T>) -> Read<Vec<T>> {
        match self.map.get(field) {
            None => Ok(Vec::new()),
            Some(value) => {
                keys(value, read).ok_or_else(|| self.wrong(field, "is not a list of keys"))
            }
        }
    }
}

/// A list of keys.
pub fn keys<T>(value: &Value, read: fn(&str) -> Option<T>) -> Option<Vec<T>> {
    value.as_texts()?.into_iter().map(read).collect()
}

/// The entries of a field that maps names to entries; none where the field is not there or empty.
pub fn section<'a>(root: &'a Map, name: &str) -> Read<Option<&'a Map>> {
    match root.get(name) {
        None => Ok(None),
        Some(Value::Scalar(scalar)) if scalar.text.is_empty() && !scalar.quoted => Ok(None),
        Some(Value::Map(map)) => Ok(Some(map)),
        Some(_) => Err(DocumentError::at(
            root.line(name),
            format!("`{name}` must have fields"),
        )),
    }
}

/// Whether a path of a workflow is one below the repository: who reads the lock opens it.
pub fn is_safe_path(path: &str) -> bool {
    let part = |part: &str| !matches!(part, "" | "." | "..");
    !path.starts_with('/') && path.split('/').all(part) && !path.chars().any(char::is_control)
}

/// Whether a text is a digest as lock files write it: the algorithm, a dash, and its digits.
pub fn is_lock_digest(text: &str) -> bool {
    let length = match text.split_once('-') {
        Some(("sha1", digits)) => (40, digits),
        Some(("sha256", digits)) => (64, digits),
        _ => return false,
    };
    length.1.len() == length.0
        && length
            .1
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
