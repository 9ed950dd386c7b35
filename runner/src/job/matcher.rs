//! Problem matchers: patterns by which lines of a step's output become annotations.
//!
//! A job keeps the matchers that its steps added ([`Matchers`]); each step looks at its own lines
//! with them ([`StepMatchers`]), and what a pattern of several lines found so far ends with the
//! step. The rules, down to which matcher forgets what, are those of the official runner.

mod config;
mod ecmascript;
mod list;
mod pattern;
mod place;
mod step;

pub(super) use list::Matchers;
pub(super) use place::GuestFiles;
pub(super) use step::{MatcherError, StepMatchers};

use config::{MatcherConfig, PatternConfig};
use pattern::{Found, Line, TooManySteps};
use std::sync::Arc;

/// What the patterns of a matcher said about a problem; empty where a group found nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Match {
    file: Option<String>,
    line: Option<String>,
    column: Option<String>,
    severity: Option<String>,
    code: Option<String>,
    message: Option<String>,
    from_path: Option<String>,
}

impl Match {
    /// What `running` says, and `pattern` where that says nothing.
    fn new(running: Option<&Self>, pattern: &PatternConfig, found: &Found) -> Self {
        let running = running.cloned().unwrap_or_default();
        let value = |known: Option<String>, group: Option<usize>| {
            known.or_else(|| group.and_then(|group| found.group(group)))
        };
        Self {
            file: value(running.file, pattern.file),
            line: value(running.line, pattern.line),
            column: value(running.column, pattern.column),
            severity: value(running.severity, pattern.severity),
            code: value(running.code, pattern.code),
            message: value(running.message, pattern.message),
            from_path: value(running.from_path, pattern.from_path),
        }
    }
}

/// A matcher while a step runs: what its patterns found in the lines so far.
#[derive(Debug)]
struct Matcher {
    config: Arc<MatcherConfig>,
    /// For each pattern but the last, what it and those before it found.
    state: Vec<Option<Match>>,
}

impl Matcher {
    fn new(config: Arc<MatcherConfig>) -> Self {
        let state = vec![None; config.patterns.len().saturating_sub(1)];
        Self { config, state }
    }

    /// Forgets what it found.
    fn reset(&mut self) {
        self.state.fill(None);
    }

    /// Looks at a line: the problem that it completes, if it does.
    async fn read(&mut self, line: &Line<'_>) -> Result<Option<Match>, TooManySteps> {
        let last = self.state.len();
        for index in (0..=last).rev() {
            let before = index.checked_sub(1);
            let running = before.and_then(|before| self.state[before].clone());
            if before.is_some() && running.is_none() {
                continue;
            }
            let pattern = &self.config.patterns[index];
            let found = pattern.pattern.find(line).await?;
            let found = found.map(|found| Match::new(running.as_ref(), pattern, &found));
            if index < last {
                self.state[index] = found;
            } else if let Some(mut found) = found {
                let looped = pattern.looped;
                self.reset();
                if let (true, Some(before)) = (looped, before) {
                    self.state[before] = running;
                }
                if found.severity.as_deref().unwrap_or_default().is_empty() {
                    found.severity = Some(self.config.severity.clone());
                }
                return Ok(Some(found));
            } else if let Some(before) = before {
                self.state[before] = None;
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
