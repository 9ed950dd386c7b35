//! `K=V` arguments, where `K` alone takes its value from this process's environment.

use std::{env, fmt};

/// An argument as it was given; its value may be a secret.
#[derive(Clone)]
pub struct Argument(String);

impl From<String> for Argument {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Argument {
    /// Shows the name only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.split('=').next().unwrap_or_default();
        write!(f, "{name}=…")
    }
}

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
pub fn parse_all(arguments: &[Argument]) -> Result<Vec<(String, String)>, PairError> {
    arguments.iter().map(|Argument(text)| parse(text)).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{PairError, parse};
    use crate::{cli::Cli, job::Options, sandbox::ExecInput};

    #[test]
    fn no_value_is_in_what_a_developer_prints() {
        let line = "mayfly run -s A=hunter2 -e B=hunter2";
        let run = Cli::parse_from(line.split(' '));
        let exec = Cli::parse_from("mayfly exec -e C=hunter2 -- true".split(' '));
        let mut options = Options::default();
        options.environment.push(("D".into(), "hunter2".into()));
        let stdin = ExecInput::Stdin(b"hunter2".to_vec());
        let shown = format!("{run:?} {exec:?} {options:?} {stdin:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("104, 117"),
            "{shown}"
        );
        for name in ["A=…", "B=…", "C=…", "\"D\""] {
            assert!(shown.contains(name), "{name} in {shown}");
        }
    }

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
