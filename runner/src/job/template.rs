//! Evaluates the tokens of a job request: strings, mappings with `insert`, conditions.

use indexmap::IndexMap;

use crate::{
    expression::{
        CONTEXTS, Expression, ExpressionError, Function, HashFiles, Names, Scope,
        coerce::{to_text, truthy},
        value::{Object, Value},
    },
    workflow::token::{Position, TemplateToken, TokenKind},
};

use super::{contexts::Secrets, hash_files::WorkspaceFiles, outcome::Conclusion};

/// Functions of steps that are not part of the language itself.
const FUNCTIONS: [&str; 5] = [
    "hashFiles(1,255)",
    "success(0,0)",
    "failure(0,0)",
    "always(0,0)",
    "cancelled(0,0)",
];

/// Why a token could not be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("The template is not valid. {place}{message}")]
pub struct TemplateError {
    /// `file (Line: 3, Col: 5): `, or nothing.
    place: String,
    /// What is wrong.
    message: String,
}

/// Evaluates tokens against the contexts of one moment of a job.
pub struct Evaluator<'a> {
    /// Contexts by name, all but `secrets`.
    pub values: Object,
    /// The `secrets` context; it becomes values only for expressions that name it.
    pub secrets: &'a Secrets,
    /// What `success()`, `failure()` and `cancelled()` look at.
    pub status: Conclusion,
    /// What `success()` and `failure()` look at instead in the main steps of a composite action.
    pub action_status: Option<Conclusion>,
    /// What `hashFiles()` looks at, or why it cannot; without it, the function is an error.
    pub(super) workspace: Option<&'a WorkspaceFiles>,
    /// Files that places refer to.
    pub files: &'a [String],
}

impl std::fmt::Debug for Evaluator<'_> {
    /// Leaves out the contexts: secrets went into them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluator")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Evaluator<'_> {
    /// Looks at the job as if it stood like this.
    pub fn set_status(&mut self, status: Conclusion) {
        self.status = status;
        let job = self.values.get("job").and_then(Value::as_object);
        let mut job = job.cloned().unwrap_or_default();
        job.insert("status", status.as_str());
        self.values.insert("job", job);
    }

    /// The value of a token.
    ///
    /// # Errors
    /// [`TemplateError`] with the place of the innermost token at fault.
    pub fn value(&self, token: &TemplateToken) -> Result<Value, TemplateError> {
        Ok(match &token.kind {
            TokenKind::Null => Value::Null,
            TokenKind::Bool(flag) => Value::Bool(*flag),
            TokenKind::Number(number) => Value::Number(*number),
            TokenKind::String(text) => Value::string(text),
            TokenKind::Sequence(items) => Value::array(
                items
                    .iter()
                    .map(|i| self.value(i))
                    .collect::<Result<_, _>>()?,
            ),
            TokenKind::Mapping(entries) => self.mapping(entries)?.into(),
            TokenKind::Expression(text) => {
                let value = self.expression(text);
                value.map_err(|error| self.error(token.at, error.message))?
            }
            TokenKind::Insert => return Err(self.unexpected(token, "insert")),
        })
    }

    /// A token as text; null is empty.
    ///
    /// # Errors
    /// [`TemplateError`] also when the value is a list or a mapping.
    pub fn string(&self, token: &TemplateToken) -> Result<String, TemplateError> {
        let value = self.value(token)?;
        self.scalar(token, &value)
    }

    /// A token as a bool; null is none.
    ///
    /// # Errors
    /// [`TemplateError`] also when the value is something else.
    pub fn boolean(&self, token: &TemplateToken) -> Result<Option<bool>, TemplateError> {
        match self.value(token)? {
            Value::Null => Ok(None),
            Value::Bool(flag) => Ok(Some(flag)),
            other => Err(self.unexpected(token, &to_text(&other))),
        }
    }

    /// A token as a number; null is none.
    ///
    /// # Errors
    /// [`TemplateError`] also when the value is something else.
    pub fn number(&self, token: &TemplateToken) -> Result<Option<f64>, TemplateError> {
        match self.value(token)? {
            Value::Null => Ok(None),
            Value::Number(number) => Ok(Some(number)),
            other => Err(self.unexpected(token, &to_text(&other))),
        }
    }

    /// A mapping of texts, in order; of equal keys the last value wins.
    ///
    /// # Errors
    /// [`TemplateError`] also when the token is no mapping, or a value no text.
    pub fn strings(
        &self,
        token: &TemplateToken,
    ) -> Result<IndexMap<String, String>, TemplateError> {
        let mut found = IndexMap::new();
        match self.value(token)? {
            Value::Null => {}
            Value::Object(object) => {
                for (key, value) in object.iter() {
                    found.insert(key.to_owned(), self.scalar(token, value)?);
                }
            }
            other => return Err(self.unexpected(token, &to_text(&other))),
        }
        Ok(found)
    }

    /// Whether a step's condition holds; an empty one is `success()`.
    ///
    /// # Errors
    /// [`ExpressionError`] when it cannot be read or evaluated.
    pub fn condition(&self, condition: &str) -> Result<bool, ExpressionError> {
        let condition = condition.trim();
        let condition = if condition.is_empty() {
            "success()"
        } else {
            condition
        };
        Ok(truthy(&self.expression(condition)?))
    }

    fn expression(&self, source: &str) -> Result<Value, ExpressionError> {
        let names = Names::new(CONTEXTS.iter().copied().chain(FUNCTIONS));
        let expression = Expression::parse_unchecked(source, &names)?;
        let with_secrets = expression.reads("secrets").then(|| {
            let mut values = self.values.clone();
            values.insert("secrets", self.secrets.to_object());
            values
        });
        let status = |function: Function, _: &[Value]| match function {
            Function::Always => true,
            Function::Success => self.action_status.unwrap_or(self.status) == Conclusion::Success,
            Function::Failure => self.action_status.unwrap_or(self.status) == Conclusion::Failure,
            Function::Cancelled => self.status == Conclusion::Cancelled,
            _ => false,
        };
        let hash_files = |patterns: &[String]| match self.workspace {
            Some(Ok(index)) => index.hash(patterns),
            Some(Err(error)) => Err(error.clone()),
            None => Err("there is no workspace".to_owned()),
        };
        expression.evaluate(&Scope {
            contexts: with_secrets.as_ref().unwrap_or(&self.values),
            status: Some(&status),
            hash_files: self.workspace.map(|_| &hash_files as HashFiles<'_>),
        })
    }

    fn mapping(&self, entries: &[(TemplateToken, TemplateToken)]) -> Result<Object, TemplateError> {
        // Environment variables differ by case; mappings that do not are read without regard to it.
        let mut object = Object::case_sensitive();
        for (key, token) in entries {
            if key.kind == TokenKind::Insert {
                match self.value(token)? {
                    Value::Null => {}
                    Value::Object(inserted) => {
                        for (key, value) in inserted.iter() {
                            object.insert(key, value.clone());
                        }
                    }
                    other => return Err(self.unexpected(token, &to_text(&other))),
                }
                continue;
            }
            let name = self.string(key)?;
            object.insert(name, self.value(token)?);
        }
        Ok(object)
    }

    fn scalar(&self, token: &TemplateToken, value: &Value) -> Result<String, TemplateError> {
        match value {
            Value::Array(_) => Err(self.error(token.at, "A sequence was not expected")),
            Value::Object(_) => Err(self.error(token.at, "A mapping was not expected")),
            scalar => Ok(to_text(scalar)),
        }
    }

    fn unexpected(&self, token: &TemplateToken, value: &str) -> TemplateError {
        self.error(token.at, format!("Unexpected value '{value}'"))
    }

    fn error(&self, at: Position, message: impl Into<String>) -> TemplateError {
        TemplateError {
            place: self.place(at),
            message: message.into(),
        }
    }

    /// A place as messages begin with it: `a.yml (Line: 3, Col: 5): `, or nothing.
    pub(super) fn place(&self, at: Position) -> String {
        let index = at
            .file
            .and_then(|file| usize::try_from(file).ok()?.checked_sub(1));
        let file = index.and_then(|index| self.files.get(index));
        match (file, at.line, at.column) {
            (Some(file), Some(line), Some(column)) => {
                format!("{file} (Line: {line}, Col: {column}): ")
            }
            (None, Some(line), Some(column)) => format!("(Line: {line}, Col: {column}): "),
            (Some(file), ..) => format!("{file}: "),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(test: impl FnOnce(&Evaluator<'_>) -> T) -> T {
        let secrets = Secrets::new([("TOKEN".to_owned(), "hush".to_owned().into())]);
        let github = Object::from_iter([("ref", "main")]);
        let env = Object::from_iter([("A", "1"), ("B", "2")]);
        let values = Object::from_iter([("github", github), ("env", env)]);
        test(&Evaluator {
            values,
            secrets: &secrets,
            status: Conclusion::Failure,
            action_status: None,
            workspace: None,
            files: &["a.yml".to_owned()],
        })
    }

    fn token(json: &str) -> TemplateToken {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn mappings_take_expressions_as_keys_and_splice_inserts_in_place() {
        let env = token(
            r#"{"type":2,"map":[
                {"Key":"B","Value":"first"},
                {"Key":{"type":4},"Value":{"type":3,"expr":"env"}},
                {"Key":{"type":3,"expr":"format('K{0}', 1)"},"Value":true},
                {"Key":"b","Value":{"type":3,"expr":"secrets.token"}},
                {"Key":"N","Value":1.5},{"Key":"E"  ,"Value":null}]}"#,
        );
        let found = with(|e| e.strings(&env)).unwrap();
        let found: Vec<_> = found.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(found, ["B=2", "A=1", "K1=true", "b=hush", "N=1.5", "E="]);
        let whole = token(r#"{"type":3,"expr":"env"}"#);
        assert_eq!(with(|e| e.strings(&whole)).unwrap().len(), 2);
    }

    #[test]
    fn errors_say_where_the_token_stands() {
        for (json, expected) in [
            (
                r#"{"type":3,"file":1,"line":3,"col":7,"expr":"github"}"#,
                "The template is not valid. a.yml (Line: 3, Col: 7): A mapping was not expected",
            ),
            (
                r#"{"type":3,"line":3,"col":7,"expr":"nope.x"}"#,
                "The template is not valid. (Line: 3, Col: 7): Unrecognized named-value: 'nope'. \
                 Located at position 1 within expression: nope.x",
            ),
            (
                r#"{"type":3,"expr":"hashFiles('x')"}"#,
                "hashFiles cannot be used here",
            ),
        ] {
            let error = with(|e| e.string(&token(json))).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = with(|e| e.boolean(&token("\"yes\""))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "The template is not valid. Unexpected value 'yes'"
        );
        assert!(with(|e| e.number(&token("\"5\""))).is_err());
    }

    #[test]
    fn conditions_look_at_the_status_of_the_job() {
        for (condition, expected) in [
            ("", false),
            ("success()", false),
            ("failure()", true),
            ("always()", true),
            ("cancelled()", false),
            ("failure() && github.ref == 'MAIN'", true),
            ("!cancelled() && env.A == 1", true),
        ] {
            assert_eq!(
                with(|e| e.condition(condition)),
                Ok(expected),
                "{condition}"
            );
        }
        assert!(with(|e| e.condition("failure() &&")).is_err());
    }
}
