//! `strategy.matrix`: vectors, `exclude` and `include` become the combinations that jobs run with.

use std::collections::VecDeque;

use crate::expression::coerce::equals;
use crate::expression::value::{Object, Value};

/// Most jobs that one matrix may make.
pub const MAX_JOBS: usize = 256;

/// A matrix that makes no jobs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// The matrix is no mapping.
    #[error("the matrix must be a mapping of names to lists")]
    NotMapping,
    /// A vector is no list.
    #[error("the matrix vector `{0}` must be a list")]
    NotList(String),
    /// A vector has no value.
    #[error("the matrix vector `{0}` has no values; give it at least one")]
    EmptyVector(String),
    /// Neither vectors nor `include`.
    #[error("the matrix is empty; give it at least one vector or `include`")]
    Empty,
    /// An item of `include` or `exclude` is no mapping.
    #[error("an item of `{0}` must be a mapping of names to values")]
    NotFilter(&'static str),
    /// `exclude` names what is no vector.
    #[error("`exclude` names `{0}`, which is no vector of the matrix")]
    UnknownExclude(String),
    /// Too many combinations.
    #[error("the matrix makes more than {MAX_JOBS} jobs; split it into several jobs")]
    TooMany,
}

/// The combinations of an evaluated matrix, in GitHub's order.
pub fn expand(matrix: &Value) -> Result<Vec<Object>, MatrixError> {
    let matrix = matrix.as_object().ok_or(MatrixError::NotMapping)?;
    let include = filters(matrix.get("include"), "include")?;
    let exclude = filters(matrix.get("exclude"), "exclude")?;
    let vectors = vectors(matrix)?;
    if vectors.is_empty() && include.is_empty() {
        return Err(MatrixError::Empty);
    }
    for filter in &exclude {
        let known = |key: &str| {
            vectors
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case(key))
        };
        if let Some((key, _)) = filter.iter().find(|(key, _)| !known(key)) {
            return Err(MatrixError::UnknownExclude(key.to_owned()));
        }
    }
    let mut combinations = product(&vectors, &exclude)?;
    let originals = combinations.clone();
    for filter in include {
        let mut added = false;
        for (combination, original) in combinations.iter_mut().zip(&originals) {
            if overwrites_nothing(filter, original) {
                added = true;
                filter
                    .iter()
                    .for_each(|(key, value)| combination.insert(key, value.clone()));
            }
        }
        if !added {
            combinations.push(filter.clone());
        }
        if combinations.len() > MAX_JOBS {
            return Err(MatrixError::TooMany);
        }
    }
    Ok(combinations)
}

fn filters<'a>(value: Option<&'a Value>, of: &'static str) -> Result<Vec<&'a Object>, MatrixError> {
    let items = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(value) => value
            .as_array()
            .ok_or_else(|| MatrixError::NotList(of.to_owned()))?,
    };
    items
        .iter()
        .map(|item| item.as_object().ok_or(MatrixError::NotFilter(of)))
        .collect()
}

fn vectors(matrix: &Object) -> Result<Vec<(&str, &[Value])>, MatrixError> {
    let mut vectors = Vec::new();
    for (name, value) in matrix.iter() {
        if name.eq_ignore_ascii_case("include") || name.eq_ignore_ascii_case("exclude") {
            continue;
        }
        let items = value
            .as_array()
            .ok_or_else(|| MatrixError::NotList(name.to_owned()))?;
        if items.is_empty() {
            return Err(MatrixError::EmptyVector(name.to_owned()));
        }
        vectors.push((name, items));
    }
    Ok(vectors)
}

/// All combinations but the excluded ones, the last vector turning fastest.
fn product(vectors: &[(&str, &[Value])], exclude: &[&Object]) -> Result<Vec<Object>, MatrixError> {
    let mut kept = Vec::new();
    if vectors.is_empty() {
        return Ok(kept);
    }
    // Excluded combinations count too, or a huge product would be walked to keep a few.
    let all = vectors
        .iter()
        .try_fold(1_usize, |all, (_, items)| all.checked_mul(items.len()));
    if all.is_none_or(|all| all > MAX_JOBS * 64) {
        return Err(MatrixError::TooMany);
    }
    let mut open: VecDeque<Object> = VecDeque::from([Object::new()]);
    for (name, items) in vectors {
        for _ in 0..open.len() {
            let Some(begun) = open.pop_front() else { break };
            for item in *items {
                let mut combination = begun.clone();
                combination.insert(name, item.clone());
                open.push_back(combination);
            }
        }
    }
    for combination in open {
        let excluded = |filter: &&Object| {
            filter
                .iter()
                .all(|(key, value)| combination.get(key).is_some_and(|own| matches(own, value)))
        };
        if !exclude.iter().any(excluded) {
            kept.push(combination);
        }
    }
    if kept.len() > MAX_JOBS {
        Err(MatrixError::TooMany)
    } else {
        Ok(kept)
    }
}

/// Whether an `include` agrees with a combination in every name that both have, and they share one or
/// the combination has none of its names.
fn overwrites_nothing(filter: &Object, original: &Object) -> bool {
    filter
        .iter()
        .all(|(key, value)| original.get(key).is_none_or(|own| matches(own, value)))
}

/// Whether a value has all that a filter asks for: leaves are equal as `==` has it, a mapping may
/// have more keys than the filter.
fn matches(own: &Value, filter: &Value) -> bool {
    match (own, filter) {
        (Value::Object(own), Value::Object(filter)) => filter
            .iter()
            .all(|(key, value)| own.get(key).is_some_and(|own| matches(own, value))),
        (Value::Array(own), Value::Array(filter)) => {
            own.len() == filter.len()
                && own
                    .iter()
                    .zip(filter.iter())
                    .all(|(own, filter)| matches(own, filter))
        }
        _ => equals(own, filter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::json::{from_json, to_json};

    fn lines(matrix: &str) -> Vec<String> {
        let combinations = expand(&from_json(matrix).unwrap()).unwrap();
        let line = |object: Object| {
            to_json(&object.into())
                .split_whitespace()
                .collect::<String>()
        };
        combinations.into_iter().map(line).collect()
    }

    fn error(matrix: &str) -> MatrixError {
        expand(&from_json(matrix).unwrap()).unwrap_err()
    }

    #[test]
    fn the_last_vector_turns_fastest() {
        assert_eq!(
            lines(r#"{"os": ["a", "b"], "n": [1, 2]}"#),
            [
                r#"{"os":"a","n":1}"#,
                r#"{"os":"a","n":2}"#,
                r#"{"os":"b","n":1}"#,
                r#"{"os":"b","n":2}"#
            ]
        );
    }

    #[test]
    fn exclude_takes_out_what_matches_in_part() {
        let matrix = r#"{"os": ["a", "b"], "v": [{"n": 1, "x": 9}, {"n": 2}], "exclude": [{"os": "A", "v": {"n": 1}}]}"#;
        assert_eq!(lines(matrix).len(), 3);
        assert!(lines(r#"{"os": ["a"], "exclude": [{"os": "a"}]}"#).is_empty());
        assert_eq!(
            error(r#"{"os": ["a"], "exclude": [{"x": 1}]}"#),
            MatrixError::UnknownExclude("x".into())
        );
    }

    /// The example of GitHub's documentation.
    #[test]
    fn include_adds_to_combinations_it_does_not_overwrite_else_makes_a_new_one() {
        let matrix = r#"{"fruit": ["apple", "pear"], "animal": ["cat", "dog"], "include": [
            {"color": "green"}, {"color": "pink", "animal": "cat"}, {"fruit": "apple", "shape": "circle"},
            {"fruit": "banana"}, {"fruit": "banana", "animal": "cat"}]}"#;
        assert_eq!(
            lines(matrix),
            [
                r#"{"fruit":"apple","animal":"cat","color":"pink","shape":"circle"}"#,
                r#"{"fruit":"apple","animal":"dog","color":"green","shape":"circle"}"#,
                r#"{"fruit":"pear","animal":"cat","color":"pink"}"#,
                r#"{"fruit":"pear","animal":"dog","color":"green"}"#,
                r#"{"fruit":"banana"}"#,
                r#"{"fruit":"banana","animal":"cat"}"#,
            ]
        );
    }

    #[test]
    fn include_alone_makes_one_job_each() {
        assert_eq!(
            lines(r#"{"include": [{"a": 1}, {"a": 2}]}"#),
            [r#"{"a":1}"#, r#"{"a":2}"#]
        );
    }

    #[test]
    fn a_matrix_has_at_most_256_jobs() {
        let list = |count: usize| {
            (0..count)
                .map(|n| n.to_string())
                .collect::<Vec<_>>()
                .join(",")
        };
        assert_eq!(lines(&format!(r#"{{"n": [{}]}}"#, list(256))).len(), 256);
        assert_eq!(
            error(&format!(r#"{{"n": [{}]}}"#, list(257))),
            MatrixError::TooMany
        );
        let huge = list(400);
        let vectors: Vec<_> = (0..20).map(|v| format!(r#""v{v}": [{huge}]"#)).collect();
        assert_eq!(
            error(&format!("{{{}}}", vectors.join(","))),
            MatrixError::TooMany
        );
        let include: Vec<_> = (0..257).map(|n| format!(r#"{{"a": {n}}}"#)).collect();
        assert_eq!(
            error(&format!(r#"{{"include": [{}]}}"#, include.join(","))),
            MatrixError::TooMany
        );
    }

    #[test]
    fn broken_matrices_are_told_apart() {
        assert_eq!(error("[]"), MatrixError::NotMapping);
        assert_eq!(error("{}"), MatrixError::Empty);
        assert_eq!(error(r#"{"a": 1}"#), MatrixError::NotList("a".into()));
        assert_eq!(error(r#"{"a": []}"#), MatrixError::EmptyVector("a".into()));
        assert_eq!(
            error(r#"{"include": [1]}"#),
            MatrixError::NotFilter("include")
        );
    }
}
