//! One regular expression of a problem matcher, compiled, and its search in bounded time.
//!
//! A pattern that neither looks around nor back is searched in time linear in the line. The others
//! backtrack, away from the threads that serve the job, and give up after so many steps.

use std::{borrow::Cow, sync::Arc};

use super::ecmascript::{SyntaxError, translate};

/// Largest compiled size of one pattern, in bytes.
const MAX_COMPILED: usize = 1 << 20;

/// How often a pattern that backtracks may do so on one line.
const MAX_STEPS: usize = 200_000;

/// Longest line, in bytes, that patterns look at.
const MAX_LINE: usize = 64 << 10;

/// The same for patterns that backtrack: a step of theirs may look at all of the line.
const MAX_LINE_HARD: usize = 4 << 10;

/// Why a regular expression cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::job) enum PatternError {
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    #[error("{0}")]
    Engine(String),
}

/// A search that gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pattern took more than {MAX_STEPS} steps on one line")]
pub(super) struct TooManySteps;

/// A line of output as patterns see it.
#[derive(Debug)]
pub(super) struct Line<'a> {
    text: &'a str,
    /// The same without colours, if it has any.
    bare: Option<String>,
}

impl<'a> Line<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let bare = text.contains("\x1b[").then(|| without_colours(text));
        Self { text, bare }
    }
}

/// What the groups of a pattern found, by the author's numbers.
#[derive(Debug, Clone)]
pub(super) struct Found(Vec<String>);

impl Found {
    /// The text of a group, empty if it took no part.
    pub(super) fn group(&self, number: usize) -> Option<String> {
        self.0.get(number).cloned()
    }
}

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    engine: Engine,
    groups: Vec<usize>,
}

#[derive(Debug)]
enum Engine {
    Linear(regex::Regex),
    Backtracking(Arc<fancy_regex::Regex>),
}

impl Pattern {
    pub(super) fn new(pattern: &str) -> Result<Self, PatternError> {
        let translated = translate(pattern)?;
        let engine = if translated.hard {
            let built = fancy_regex::RegexBuilder::new(&translated.text)
                .backtrack_limit(MAX_STEPS)
                .delegate_size_limit(MAX_COMPILED)
                .delegate_dfa_size_limit(MAX_COMPILED)
                .max_prog_size(MAX_COMPILED / 64)
                .build();
            Engine::Backtracking(Arc::new(built.map_err(|error| engine_error(&error))?))
        } else {
            let built = regex::RegexBuilder::new(&translated.text)
                .size_limit(MAX_COMPILED)
                .dfa_size_limit(MAX_COMPILED)
                .build();
            Engine::Linear(built.map_err(|error| engine_error(&error))?)
        };
        let groups = translated.groups;
        Ok(Self { engine, groups })
    }

    /// How many groups there are, the whole match included.
    pub(super) fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// Searches in a line as it is, which is what GitHub does, and then without its colours, which
    /// is what GitHub's documents say.
    pub(super) async fn find(&self, line: &Line<'_>) -> Result<Option<Found>, TooManySteps> {
        if let Some(found) = self.search(line.text).await? {
            return Ok(Some(found));
        }
        match &line.bare {
            Some(bare) => self.search(bare).await,
            None => Ok(None),
        }
    }

    async fn search(&self, line: &str) -> Result<Option<Found>, TooManySteps> {
        match &self.engine {
            Engine::Linear(regex) if line.len() <= MAX_LINE => {
                Ok(regex.captures(line).map(|captures| {
                    let group = |group: &usize| captures.get(*group).map(|m| m.as_str());
                    self.found(group)
                }))
            }
            Engine::Backtracking(regex) if line.len() <= MAX_LINE_HARD => {
                let (regex, line) = (Arc::clone(regex), line.to_owned());
                let groups = self.groups.clone();
                let search = tokio::task::spawn_blocking(move || {
                    let captures = regex.captures(line.as_str()).map_err(|_| TooManySteps)?;
                    Ok(captures.map(|captures| {
                        let group = |group: &usize| captures.get(*group).map(|m| m.as_str());
                        Found(texts(&groups, group))
                    }))
                });
                search.await.unwrap_or(Err(TooManySteps))
            }
            Engine::Linear(_) | Engine::Backtracking(_) => Ok(None),
        }
    }

    fn found<'t>(&self, group: impl Fn(&usize) -> Option<&'t str>) -> Found {
        Found(texts(&self.groups, group))
    }
}

fn texts<'t>(groups: &[usize], group: impl Fn(&usize) -> Option<&'t str>) -> Vec<String> {
    let text = |number: &usize| group(number).unwrap_or_default().to_owned();
    groups.iter().map(text).collect()
}

/// The engine's words on one line: its messages draw the pattern.
fn engine_error(error: &dyn std::fmt::Display) -> PatternError {
    let text = error.to_string();
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    let last = last.unwrap_or_default().trim();
    PatternError::Engine(last.strip_prefix("error: ").unwrap_or(last).to_owned())
}

/// `text` without the sequences that colour it.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[").map(Cow::Borrowed);
    let mut out = parts.next().unwrap_or_default().into_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        out.push_str(rest.strip_prefix('m').unwrap_or(rest));
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    async fn find(pattern: &str, line: &str) -> Result<Option<Vec<String>>, TooManySteps> {
        let pattern = Pattern::new(pattern).unwrap();
        let found = pattern.find(&Line::new(line)).await?;
        Ok(found.map(|found| found.0))
    }

    #[tokio::test]
    async fn a_coloured_line_is_looked_at_as_it_is_and_without_its_colours() {
        let line = "\x1b[1;31mERROR\x1b[0m: \x1b[mboom";
        let plain = find(r"^(ERROR): (.+)$", line).await.unwrap().unwrap();
        assert_eq!(plain[1..], ["ERROR", "boom"]);
        let aware = find(r"^\x1b\[1;31m(ERROR)\e", line).await.unwrap().unwrap();
        assert_eq!(aware[1], "ERROR");
        assert_eq!(without_colours("a\x1b[Kb\x1b["), "aKb");
    }

    #[tokio::test]
    async fn a_pattern_that_would_take_forever_is_given_up() {
        let started = Instant::now();
        let line = format!("{}!", "a".repeat(4000));
        // In linear time, whatever it looks like.
        assert_eq!(find("^(a+)+$", &line).await, Ok(None));
        let line = format!("{}!c", "a".repeat(60));
        let found = find(r"^(?:(a|aa)+)+\1c", &line).await;
        assert_eq!(found, Err(TooManySteps));
        assert!(started.elapsed() < Duration::from_secs(60));
    }

    #[tokio::test]
    async fn lines_that_are_too_long_are_not_looked_at() {
        assert!(find("x$", &"x".repeat(MAX_LINE)).await.unwrap().is_some());
        assert_eq!(find("x$", &"x".repeat(MAX_LINE + 1)).await, Ok(None));
        let long = "x".repeat(MAX_LINE_HARD + 1);
        assert_eq!(find("(?!y)x$", &long).await, Ok(None));
    }

    #[test]
    fn patterns_that_compile_to_too_much_are_refused() {
        for pattern in ["(?:(?:a{999}){999}){999}", "(?=(?:(?:a{999}){999}){999})"] {
            let error = Pattern::new(pattern).unwrap_err().to_string();
            assert!(!error.is_empty() && !error.contains('\n'), "{error}");
        }
    }
}
