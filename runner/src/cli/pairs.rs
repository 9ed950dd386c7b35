//! `K=V` arguments, where `K` alone takes its value from this process's environment.

use std::env;

/// Why an argument is not a `K=V` pair.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PairError {
    /// There is nothing before the `=`.
    #[error("`{0}` names no variable; write NAME=VALUE")]
    NoName(String),
    /// A bare name that is not set here. The value of a pair is never repeated in a message.
    #[error("{0} is not set in this environment; write {0}=VALUE or set it")]
    NotSet(String),
}

/// Parses `K=V` or `K`.
///
/// # Errors
/// [`PairError`]; no message repeats a value, which may be a secret.
pub fn parse(argument: &str) -> Result<(String, String), PairError> {
    match argument.split_once('=') {
        Some(("", _)) => Err(PairError::NoName("=…".to_owned())),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None if argument.is_empty() => Err(PairError::NoName(String::new())),
        None => env::var(argument)
            .map(|value| (argument.to_owned(), value))
            .map_err(|_| PairError::NotSet(argument.to_owned())),
    }
}

/// Parses all of them, in order.
///
/// # Errors
/// That of the first argument that is no pair.
pub fn parse_all(arguments: &[String]) -> Result<Vec<(String, String)>, PairError> {
    arguments.iter().map(|argument| parse(argument)).collect()
}

#[cfg(test)]
mod tests {
    use super::{PairError, parse};

    #[test]
    fn a_value_may_hold_equal_signs_and_a_bare_name_comes_from_the_environment() {
        assert_eq!(parse("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(parse("A="), Ok(("A".into(), String::new())));
        assert_eq!(parse("PATH").map(|(name, _)| name), Ok("PATH".into()));
    }

    #[test]
    fn a_pair_without_a_name_is_refused_without_repeating_the_value() {
        let error = parse("=hunter2").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
        assert_eq!(
            parse("MAYFLY_NOT_SET"),
            Err(PairError::NotSet("MAYFLY_NOT_SET".into()))
        );
    }
}
