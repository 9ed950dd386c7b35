//! JSON of services that are not strict about it: keys in any case, numbers and bools as text.

use serde_json::{Map, Value as Json};

use crate::workflow::token::TemplateToken;

/// A field that has another type or value than it can have. Its value is not part of the error.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{path} {problem}")]
pub struct FieldError {
    /// The field, as a path from the top: `steps[2].reference.type`.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

/// The fields of one JSON object, found without regard to case; `null` is as good as absent.
pub struct Fields {
    path: String,
    map: Map<String, Json>,
}

impl Fields {
    /// The fields of an object; `path` is where it stands, empty for the top.
    ///
    /// # Errors
    /// [`FieldError`] if it is no object.
    pub fn new(json: Json, path: String) -> Result<Self, FieldError> {
        match json {
            Json::Object(map) => Ok(Self { path, map }),
            _ => Err(FieldError {
                path: if path.is_empty() {
                    "top level".to_owned()
                } else {
                    path
                },
                problem: "is not an object".to_owned(),
            }),
        }
    }

    fn path(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// An error about a field.
    #[must_use]
    pub fn wrong(&self, name: &str, problem: impl Into<String>) -> FieldError {
        FieldError {
            path: self.path(name),
            problem: problem.into(),
        }
    }

    /// Takes a field that is not `null`.
    pub fn take(&mut self, name: &str) -> Option<Json> {
        let key = if self.map.contains_key(name) {
            name.to_owned()
        } else {
            let same = |key: &&String| key.eq_ignore_ascii_case(name);
            self.map.keys().find(same)?.clone()
        };
        self.map.remove(&key).filter(|json| !json.is_null())
    }

    /// A text, or a number or bool as text.
    ///
    /// # Errors
    /// [`FieldError`] if it is something else.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, FieldError> {
        match self.take(name) {
            None => Ok(None),
            Some(Json::String(text)) => Ok(Some(text)),
            Some(Json::Number(number)) => Ok(Some(number.to_string())),
            Some(Json::Bool(flag)) => Ok(Some(flag.to_string())),
            Some(_) => Err(self.wrong(name, "is not text")),
        }
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// [`FieldError`] if it is something else.
    pub fn required(&mut self, name: &str) -> Result<String, FieldError> {
        self.text(name)?
            .ok_or_else(|| self.wrong(name, "is missing"))
    }

    /// A bool, or text or a number that stands for one.
    ///
    /// # Errors
    /// [`FieldError`] if it is something else.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, FieldError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(Some(true)),
            "false" | "0" | "" => Ok(Some(false)),
            _ => Err(self.wrong(name, "is neither true nor false")),
        }
    }

    /// A whole number, or text that is one.
    ///
    /// # Errors
    /// [`FieldError`] if it is something else.
    pub fn integer(&mut self, name: &str) -> Result<Option<i64>, FieldError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let number = text.trim().parse();
        number
            .map(Some)
            .map_err(|_| self.wrong(name, "is not a whole number"))
    }

    /// A list; empty where there is none.
    ///
    /// # Errors
    /// [`FieldError`] if it is something else.
    pub fn list(&mut self, name: &str) -> Result<Vec<Json>, FieldError> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Json::Array(items)) => Ok(items),
            Some(_) => Err(self.wrong(name, "is not a list")),
        }
    }

    /// A list of texts.
    ///
    /// # Errors
    /// [`FieldError`] if it is something else.
    pub fn texts(&mut self, name: &str) -> Result<Vec<String>, FieldError> {
        let mut texts = Vec::new();
        for item in self.list(name)? {
            match item {
                Json::String(text) => texts.push(text),
                _ => return Err(self.wrong(name, "holds something else than text")),
            }
        }
        Ok(texts)
    }

    /// An object, read by `read`.
    ///
    /// # Errors
    /// [`FieldError`] if it is something else.
    pub fn object<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Fields) -> Result<T, FieldError>,
    ) -> Result<Option<T>, FieldError> {
        let path = self.path(name);
        self.take(name)
            .map(|json| read(Fields::new(json, path)?))
            .transpose()
    }

    /// A list of objects, each read by `read`.
    ///
    /// # Errors
    /// [`FieldError`] if it is something else.
    pub fn objects<T>(
        &mut self,
        name: &str,
        read: impl Fn(Fields) -> Result<T, FieldError>,
    ) -> Result<Vec<T>, FieldError> {
        let path = self.path(name);
        let items = self.list(name)?.into_iter().enumerate();
        items
            .map(|(i, json)| read(Fields::new(json, format!("{path}[{i}]"))?))
            .collect()
    }

    /// An object of objects, by key in the order of the text.
    ///
    /// # Errors
    /// [`FieldError`] if it is something else.
    pub fn map(&mut self, name: &str) -> Result<Vec<(String, Fields)>, FieldError> {
        let Some(fields) = self.object(name, Ok)? else {
            return Ok(Vec::new());
        };
        let Fields { path, map } = fields;
        let entry = |(key, json): (String, Json)| {
            let path = format!("{path}.{key}");
            Ok((key, Fields::new(json, path)?))
        };
        map.into_iter().map(entry).collect()
    }

    /// An object of texts, by key in the order of the text.
    ///
    /// # Errors
    /// [`FieldError`] if it is something else.
    pub fn text_map(&mut self, name: &str) -> Result<Vec<(String, String)>, FieldError> {
        let Some(mut fields) = self.object(name, Ok)? else {
            return Ok(Vec::new());
        };
        let keys: Vec<String> = fields.map.keys().cloned().collect();
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let text = fields.text(&key)?.unwrap_or_default();
            found.push((key, text));
        }
        Ok(found)
    }

    /// A template token that is not null.
    ///
    /// # Errors
    /// [`FieldError`] if it is something else.
    pub fn token(&mut self, name: &str) -> Result<Option<TemplateToken>, FieldError> {
        let Some(json) = self.take(name) else {
            return Ok(None);
        };
        let token = serde_json::from_value::<TemplateToken>(json);
        let token = token.map_err(|error| self.wrong(name, format!("cannot be read: {error}")))?;
        Ok(Some(token).filter(|token| !token.is_null()))
    }

    /// A list of template tokens.
    ///
    /// # Errors
    /// [`FieldError`] if it is something else.
    pub fn tokens(&mut self, name: &str) -> Result<Vec<TemplateToken>, FieldError> {
        let mut found = Vec::new();
        for (index, json) in self.list(name)?.into_iter().enumerate() {
            let token = serde_json::from_value::<TemplateToken>(json).map_err(|error| {
                self.wrong(
                    &format!("{name}[{index}]"),
                    format!("cannot be read: {error}"),
                )
            })?;
            found.push(token);
        }
        Ok(found)
    }
}
