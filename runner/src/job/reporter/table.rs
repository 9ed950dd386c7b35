//! The table of jobs, steps, results and times at the end of a run.

use std::{fmt::Write, time::Duration};

use anstyle::Style;

use super::{escapes::clean, terminal::mark};
use crate::job::outcome::{Conclusion, StepRecord};

/// Widest name, in characters; longer ones are cut.
const MAX_NAME: usize = 72;

/// A job for the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// The job's name.
    pub name: String,
    /// How it ended.
    pub result: Conclusion,
    /// How long it took, if it ran.
    pub duration: Option<Duration>,
    /// Its steps.
    pub steps: Vec<StepRecord>,
}

impl JobRow {
    /// A job without steps yet.
    #[must_use]
    pub fn new(name: &str, result: Conclusion) -> Self {
        Self {
            name: name.to_owned(),
            result,
            duration: None,
            steps: Vec::new(),
        }
    }
}

/// One line of the table.
struct Line {
    name: String,
    outcome: Conclusion,
    conclusion: Conclusion,
    duration: Option<Duration>,
}

/// The table as text, with colours if asked for.
#[must_use]
pub fn table(jobs: &[&JobRow], colour: bool) -> String {
    let lines: Vec<Line> = jobs.iter().flat_map(|job| lines_of(job)).collect();
    let width = lines.iter().map(|line| line.name.chars().count());
    let width = width.max().unwrap_or_default();
    let mut out = String::from("\n");
    for line in &lines {
        let (sign, style) = mark(line.outcome);
        let style = if colour { style } else { Style::new() };
        let mut result = line.outcome.as_str().to_owned();
        if line.outcome != line.conclusion {
            result.push_str(" (continued)");
        }
        let name = &line.name;
        let time = line.duration.map(time).unwrap_or_default();
        let row = format!(
            "{style}{sign}{style:#} {name:<width$}  {style}{result:<19}{style:#} {time:>8}"
        );
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}", row.trim_end());
    }
    out
}

fn lines_of(job: &JobRow) -> Vec<Line> {
    let mut lines = vec![Line {
        name: shorten(&job.name),
        outcome: job.result,
        conclusion: job.result,
        duration: job.duration,
    }];
    lines.extend(job.steps.iter().map(|step| Line {
        name: format!("  {}", shorten(&step.name)),
        outcome: step.outcome,
        conclusion: step.conclusion,
        duration: Some(step.duration),
    }));
    lines
}

fn shorten(text: &str) -> String {
    let text = clean(text);
    if text.chars().count() <= MAX_NAME {
        return text;
    }
    text.chars().take(MAX_NAME - 1).chain(['…']).collect()
}

/// A duration for people: `0.42s`, `12.3s`, `3m 05s`, `2h 03m`.
fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let whole = duration.as_secs();
    match whole {
        0..10 => format!("{seconds:.2}s"),
        10..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        _ => format!("{}h {:02}m", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::outcome::AnnotationCounts;

    #[test]
    fn jobs_and_steps_stand_in_columns() {
        let step = |name: &str, outcome, conclusion, millis| StepRecord {
            number: 1,
            name: name.into(),
            outcome,
            conclusion,
            duration: Duration::from_millis(millis),
            annotations: AnnotationCounts::default(),
        };
        let mut build = JobRow::new("build", Conclusion::Success);
        build.duration = Some(Duration::from_secs(65));
        build.steps = vec![
            step("Set up job", Conclusion::Success, Conclusion::Success, 420),
            step("lint", Conclusion::Failure, Conclusion::Success, 12_340),
        ];
        let deploy = JobRow::new("deploy", Conclusion::Skipped);
        assert_eq!(
            table(&[&build, &deploy], false),
            "\n✓ build         success               1m 05s\
             \n✓   Set up job  success                0.42s\
             \n✗   lint        failure (continued)    12.3s\
             \n○ deploy        skipped\n"
        );
        assert!(table(&[&build], true).contains("\x1b[32m✓\x1b[0m build"));
    }

    #[test]
    fn a_name_cannot_break_the_table() {
        let job = JobRow::new(&"\x1b[2Jn\né".repeat(100), Conclusion::Success);
        let text = table(&[&job], false);
        assert!(!text.contains('\x1b') && text.contains('…'), "{text}");
        assert_eq!(text.lines().count(), 2);
    }
}
