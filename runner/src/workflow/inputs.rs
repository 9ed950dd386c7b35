//! Inputs given to a workflow, checked against what it declares, as values of the `inputs` context.

use super::diagnostic::nearest;
use super::evaluate::{EvaluateError, evaluate};
use super::triggers::{Input, InputType};
use crate::expression::value::{Object, Value};
use crate::expression::{Names, Scope, coerce::parse_number, coerce::to_text};

/// Why inputs do not fit.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// No input of that name.
    #[error("the workflow has no input `{name}`; {help}")]
    Unknown {
        /// The name.
        name: String,
        /// What there is.
        help: String,
    },
    /// A required input is not given.
    #[error("the input `{0}` is required; give it with `--input {0}=VALUE`")]
    Missing(String),
    /// The value is not of the input's type.
    #[error("the input `{name}` must be {expected}, it is `{found}`")]
    Type {
        /// The name.
        name: String,
        /// What it must be.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The default cannot be evaluated.
    #[error("the default of the input `{name}`: {source}")]
    Default {
        /// The name.
        name: String,
        /// What is wrong.
        source: Box<EvaluateError>,
    },
}

/// The `inputs` context of given texts; `contexts` are what defaults may read.
///
/// # Errors
/// [`InputError`] for the first input that does not fit.
pub fn resolve(
    declared: &[Input],
    given: &[(String, Value)],
    contexts: &Object,
) -> Result<Object, InputError> {
    for (name, _) in given {
        if !declared
            .iter()
            .any(|input| input.name.eq_ignore_ascii_case(name))
        {
            return Err(unknown(name, declared));
        }
    }
    let mut values = Object::new();
    for input in declared {
        let own = |(name, _): &&(String, Value)| input.name.eq_ignore_ascii_case(name);
        let value = match given.iter().rev().find(own) {
            Some((_, value)) => typed(input, value)?,
            None => default(input, contexts)?,
        };
        values.insert(&input.name, value);
    }
    Ok(values)
}

fn unknown(name: &str, declared: &[Input]) -> InputError {
    let names = || declared.iter().map(|input| input.name.as_str());
    let help = match nearest(name, names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if declared.is_empty() => "it declares none".to_owned(),
        None => format!("its inputs are {}", names().collect::<Vec<_>>().join(", ")),
    };
    let name = name.to_owned();
    InputError::Unknown { name, help }
}

/// The value of an input of a called workflow. Unlike what a person gives, it has the type already.
///
/// # Errors
/// [`InputError::Type`] if it is of another type.
pub(super) fn given(input: &Input, value: &Value) -> Result<Value, InputError> {
    let expected = match (input.kind, value) {
        (InputType::Boolean, Value::Bool(_)) | (InputType::Number, Value::Number(_)) => {
            return Ok(value.clone());
        }
        (InputType::Boolean, _) => "true or false",
        (InputType::Number, _) => "a number",
        (_, Value::Array(_) | Value::Object(_)) => "text",
        _ => return Ok(Value::string(to_text(value))),
    };
    Err(InputError::Type {
        name: input.name.clone(),
        expected: expected.to_owned(),
        found: to_text(value),
    })
}

/// The value of an input that is not given.
///
/// # Errors
/// [`InputError`] if it is required, or its default does not fit.
pub(super) fn default(input: &Input, contexts: &Object) -> Result<Value, InputError> {
    if let Some(token) = &input.default {
        let value = evaluate(token, &Names::everything(), &Scope::new(contexts));
        let value = value.map_err(|source| InputError::Default {
            name: input.name.clone(),
            source: Box::new(source),
        })?;
        return typed(input, &value);
    }
    if input.required {
        return Err(InputError::Missing(input.name.clone()));
    }
    Ok(match input.kind {
        InputType::Boolean => Value::Bool(false),
        InputType::Number => Value::Number(0.0),
        _ => Value::string(""),
    })
}

fn typed(input: &Input, value: &Value) -> Result<Value, InputError> {
    let text = to_text(value);
    let wrong = |expected: &str| InputError::Type {
        name: input.name.clone(),
        expected: expected.to_owned(),
        found: text.clone(),
    };
    match input.kind {
        InputType::Boolean => match text.as_str() {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(wrong("true or false")),
        },
        InputType::Number => Some(parse_number(&text))
            .filter(|number| number.is_finite() && !text.trim().is_empty())
            .map(Value::Number)
            .ok_or_else(|| wrong("a number")),
        InputType::Choice if !input.options.contains(&text) => {
            Err(wrong(&format!("one of {}", input.options.join(", "))))
        }
        _ => Ok(Value::string(&text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, kind: InputType, required: bool) -> Input {
        Input {
            name: name.to_owned(),
            kind,
            required,
            default: None,
            options: vec!["a".to_owned(), "b".to_owned()],
        }
    }

    fn resolved(given: &[(&str, &str)]) -> Result<Object, String> {
        let declared = [
            input("Name", InputType::String, true),
            input("fast", InputType::Boolean, false),
            input("count", InputType::Number, false),
            input("level", InputType::Choice, false),
        ];
        let given: Vec<_> = given
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value::string(value)))
            .collect();
        resolve(&declared, &given, &Object::new()).map_err(|error| error.to_string())
    }

    #[test]
    fn values_have_the_declared_types() {
        let inputs = resolved(&[
            ("name", "x"),
            ("fast", "true"),
            ("count", "2.5"),
            ("level", "b"),
        ])
        .unwrap();
        assert_eq!(inputs.get("Name"), Some(&Value::string("x")));
        assert_eq!(inputs.get("fast"), Some(&Value::Bool(true)));
        assert_eq!(inputs.get("count"), Some(&Value::Number(2.5)));
        let inputs = resolved(&[("name", "x")]).unwrap();
        assert_eq!(inputs.get("fast"), Some(&Value::Bool(false)));
        assert_eq!(inputs.get("level"), Some(&Value::string("")));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (given, error) in [
            (
                &[][..],
                "the input `Name` is required; give it with `--input Name=VALUE`",
            ),
            (
                &[("name", "x"), ("fats", "true")],
                "the workflow has no input `fats`; did you mean `fast`?",
            ),
            (
                &[("name", "x"), ("fast", "yes")],
                "the input `fast` must be true or false, it is `yes`",
            ),
            (
                &[("name", "x"), ("count", "many")],
                "the input `count` must be a number, it is `many`",
            ),
            (
                &[("name", "x"), ("level", "c")],
                "the input `level` must be one of a, b, it is `c`",
            ),
        ] {
            assert_eq!(resolved(given).unwrap_err(), error);
        }
    }
}
