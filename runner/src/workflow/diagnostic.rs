//! What is wrong with a workflow file, shown like a compiler does: place, line, caret, next step.

use std::fmt;

use super::source::{Place, Source};

/// Longest part of a line that is shown.
const MAX_SHOWN: usize = 160;

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The workflow cannot run.
    Error,
    /// Likely not what is meant.
    Warning,
    /// Has no effect here.
    Notice,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Notice => "notice",
        }
    }
}

/// A finding in a workflow file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How grave it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// Where; `None` for the file as a whole.
    pub place: Option<Place>,
    /// What to do about it.
    pub help: String,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(place: Place, message: impl Into<String>, help: impl Into<String>) -> Self {
        let (message, help) = (message.into(), help.into());
        Self {
            severity: Severity::Error,
            message,
            place: Some(place),
            help,
        }
    }

    /// An error of the file as a whole.
    pub fn file(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            place: None,
            ..Self::error(Place::default(), message, help)
        }
    }

    /// The same finding with another severity.
    pub fn with_severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    /// The finding as text of several lines, with the file's line and a caret under it.
    pub fn render<'a>(&'a self, source: &'a Source) -> impl fmt::Display + 'a {
        Rendered {
            diagnostic: self,
            source,
        }
    }
}

struct Rendered<'a> {
    diagnostic: &'a Diagnostic,
    source: &'a Source,
}

impl fmt::Display for Rendered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic {
            severity,
            message,
            place,
            help,
        } = self.diagnostic;
        writeln!(f, "{}: {}", severity.name(), printable(message))?;
        let path = printable(&self.source.path().display().to_string());
        let margin = match place {
            None => {
                writeln!(f, " --> {path}")?;
                1
            }
            Some(place) => {
                let margin = place.line.to_string().len() + 1;
                writeln!(
                    f,
                    "{:>margin$}--> {path}:{}:{}",
                    "", place.line, place.column
                )?;
                self.excerpt(f, *place, margin)?;
                margin
            }
        };
        if !help.is_empty() {
            writeln!(f, "{:>margin$} = help: {}", "", printable(help))?;
        }
        Ok(())
    }
}

impl Rendered<'_> {
    fn excerpt(&self, f: &mut fmt::Formatter<'_>, place: Place, margin: usize) -> fmt::Result {
        let line: Vec<char> = printable(self.source.line(place.line)).chars().collect();
        let column = (place.column as usize).saturating_sub(1).min(line.len());
        // A long line is cut so that the place stays in sight.
        let from = if column < MAX_SHOWN {
            0
        } else {
            column - MAX_SHOWN / 2
        };
        let to = line.len().min(from + MAX_SHOWN);
        let shown: String = line[from..to].iter().collect();
        let length = (place.length as usize).clamp(1, (to - column).max(1));
        writeln!(f, "{:>margin$} |", "")?;
        writeln!(
            f,
            "{:>width$} | {}",
            place.line,
            shown.trim_end(),
            width = margin
        )?;
        writeln!(
            f,
            "{:>margin$} | {:>indent$}{}",
            "",
            "",
            "^".repeat(length),
            indent = column - from
        )
    }
}

/// Text of a file as it may be shown on a terminal: one column for each character, no control codes.
fn printable(text: &str) -> String {
    let safe = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        // Marks that turn the direction of text could make a line read as another.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => '\u{fffd}',
        c => c,
    };
    text.chars().map(safe).collect()
}

/// The candidate that is nearest to a word, if one is near enough to be meant.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    /// Candidates looked at: a file may have very many jobs.
    const LOOKED_AT: usize = 200;
    let word = word.to_ascii_lowercase();
    if word.len() > 60 {
        return None;
    }
    let limit = (word.chars().count() / 3).min(3);
    let distance = |candidate: &str| {
        let candidate = candidate.to_ascii_lowercase();
        let begun = word.len() >= 4 && candidate.starts_with(&word);
        if begun {
            limit
        } else {
            edit_distance(&word, &candidate)
        }
    };
    candidates
        .into_iter()
        .take(LOOKED_AT)
        .map(|candidate| (distance(candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn edit_distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut rows = vec![vec![0; right.len() + 1]; left.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=left.len() {
        for j in 1..=right.len() {
            let differs = usize::from(left[i - 1] != right[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1)
                .min(rows[i - 1][j - 1] + differs);
            let swapped =
                i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1];
            if swapped {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_shown_with_its_line_and_a_caret() {
        let source = Source::new("a.yml", "jobs:\n\tb: \u{1b}[31mx\r\nc: d\n");
        let place = Place {
            line: 2,
            column: 5,
            length: 3,
        };
        let shown = Diagnostic::error(place, "bad \u{202e}value", "mend it")
            .render(&source)
            .to_string();
        assert_eq!(
            shown,
            "error: bad \u{fffd}value\n  --> a.yml:2:5\n   |\n 2 |  b: \u{fffd}[31mx\n   |     ^^^\n   = help: mend it\n"
        );
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let source = Source::new(
            "a.yml",
            format!("{}here{}", "x".repeat(5000), "y".repeat(5000)),
        );
        let place = Place {
            line: 1,
            column: 5001,
            length: 4,
        };
        let shown = Diagnostic::error(place, "m", "")
            .render(&source)
            .to_string();
        assert!(shown.lines().all(|line| line.len() < 200), "{shown}");
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[3].find("here"), lines[4].find("^^^^"));
    }

    #[test]
    fn places_beyond_the_text_are_shown_without_panic() {
        let source = Source::new("a.yml", "x");
        for (line, column) in [(0, 0), (1, 99), (99, 1), (u32::MAX, u32::MAX)] {
            let place = Place {
                line,
                column,
                length: u32::MAX,
            };
            let _ = Diagnostic::error(place, "m", "h")
                .render(&source)
                .to_string();
        }
    }

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let keys = ["runs-on", "steps", "needs", "if"];
        assert_eq!(nearest("run-on", keys), Some("runs-on"));
        assert_eq!(nearest("setps", keys), Some("steps"));
        assert_eq!(nearest("Steps", keys), Some("steps"));
        assert_eq!(nearest("container", keys), None);
        assert_eq!(
            nearest("working-dir", ["working-directory"]),
            Some("working-directory")
        );
    }
}
