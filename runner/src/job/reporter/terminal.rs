//! Events for a person: reads like a GitHub log, with groups, colours and a table at the end.
//!
//! What a step prints is hostile; [`super::escapes`] lets only its colours through.

use std::{
    collections::HashMap,
    io::{self, Write},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anstyle::{AnsiColor, Style};

use super::{
    Event, EventKind, JobRow, Reporter,
    escapes::{clean, coloured},
    summaries::Summaries,
    table,
};
use crate::job::outcome::Conclusion;

/// How a terminal is written to.
#[derive(Debug, Clone, Copy, Default)]
pub struct TerminalOptions {
    /// Whether to use colours: on a terminal, unless `NO_COLOR` is set.
    pub colour: bool,
    /// Whether lines begin with the job's name, because several jobs run at the same time.
    pub job_prefix: bool,
    /// Whether lines begin with their time.
    pub timestamps: bool,
}

/// Writes events for a person.
pub struct TerminalReporter<W> {
    options: TerminalOptions,
    state: Mutex<State<W>>,
}

struct State<W> {
    out: W,
    jobs: Vec<(String, JobRow)>,
    /// How many groups are open in a job's current step.
    depth: HashMap<String, usize>,
    summaries: Summaries,
}

impl<W> std::fmt::Debug for TerminalReporter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TerminalReporter")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

fn colour(colour: AnsiColor) -> Style {
    Style::new().fg_color(Some(colour.into()))
}

/// The sign and the style for a conclusion.
pub(super) fn mark(conclusion: Conclusion) -> (&'static str, Style) {
    match conclusion {
        Conclusion::Success => ("✓", colour(AnsiColor::Green)),
        Conclusion::Failure => ("✗", colour(AnsiColor::Red)),
        Conclusion::Cancelled => ("■", colour(AnsiColor::Yellow)),
        Conclusion::Skipped => ("○", DIM),
    }
}

impl<W: Write> TerminalReporter<W> {
    /// A reporter that writes to `out`.
    pub fn new(out: W, options: TerminalOptions) -> Self {
        let state = State {
            out,
            jobs: Vec::new(),
            depth: HashMap::new(),
            summaries: Summaries::default(),
        };
        Self {
            options,
            state: Mutex::new(state),
        }
    }

    /// Adds a job that was never started, for the table.
    pub fn add_job(&self, name: &str, result: Conclusion) {
        let row = JobRow::new(name, result);
        self.lock().jobs.push((String::new(), row));
    }

    /// Writes the summaries of steps, and the table of jobs and steps with their results and times.
    ///
    /// # Errors
    /// What writing gives.
    pub fn finish(&self) -> io::Result<()> {
        let mut state = self.lock();
        let rows: Vec<&JobRow> = state.jobs.iter().map(|(_, row)| row).collect();
        let heading = |job: &str| {
            let row = state.jobs.iter().find(|(id, _)| id == job);
            let name = row.map_or_else(String::new, |(_, row)| clean(&row.name));
            self.paint(BOLD, &format!("Summary of {name}"))
        };
        let text = state.summaries.text(heading) + &table(&rows, self.options.colour);
        state.out.write_all(text.as_bytes())?;
        state.out.flush()
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, event: &Event<'_>) -> io::Result<()> {
        let mut state = self.lock();
        match &event.kind {
            EventKind::JobStarted { name } => {
                let row = JobRow::new(name, Conclusion::Cancelled);
                state.jobs.push((event.job.to_owned(), row));
                let text = self.paint(BOLD, &format!("Job {}", clean(name)));
                self.line(&mut state, event, &text)?;
            }
            EventKind::StepStarted { name, .. } => {
                state.depth.remove(event.job);
                let sign = self.paint(colour(AnsiColor::Cyan), "▶");
                let text = format!("{sign} {}", self.paint(BOLD, &clean(name)));
                self.line(&mut state, event, &text)?;
            }
            EventKind::Log { line, .. } => self.log(&mut state, event, line)?,
            EventKind::Annotation { .. } => return Ok(()),
            EventKind::Summary { markdown, .. } => {
                state.summaries.add(event.job, markdown);
                return Ok(());
            }
            EventKind::StepFinished { record } => {
                if let Some(row) = row(&mut state, event.job) {
                    row.steps.push((*record).clone());
                }
                if record.outcome != Conclusion::Success {
                    let name = clean(&record.name);
                    self.result(&mut state, event, &name, record.outcome)?;
                }
            }
            EventKind::JobFinished {
                name,
                result,
                duration,
                ..
            } => {
                if let Some(row) = row(&mut state, event.job) {
                    row.result = *result;
                    row.duration = Some(*duration);
                }
                self.result(&mut state, event, &format!("Job {}", clean(name)), *result)?;
            }
        }
        state.out.flush()
    }

    fn result(
        &self,
        state: &mut State<W>,
        event: &Event<'_>,
        name: &str,
        conclusion: Conclusion,
    ) -> io::Result<()> {
        let (sign, style) = mark(conclusion);
        let text = format!("{sign} {name}: {}", conclusion.as_str());
        self.line(state, event, &self.paint(style, &text))
    }

    /// One line of a step's log: markers become colours and indentation.
    fn log(&self, state: &mut State<W>, event: &Event<'_>, line: &str) -> io::Result<()> {
        if line == "##[endgroup]" {
            let depth = state.depth.entry(event.job.to_owned()).or_default();
            *depth = depth.saturating_sub(1);
            return Ok(());
        }
        let depth = state.depth.get(event.job).copied().unwrap_or_default();
        let indent = "  ".repeat(depth.min(4) + 1);
        let tagged = |c: AnsiColor, tag: &str, rest: &str| {
            self.paint(colour(c), &format!("{tag}{}", clean(rest)))
        };
        let text = match marker(line) {
            ("group", rest) => {
                *state.depth.entry(event.job.to_owned()).or_default() += 1;
                format!("▼ {}", clean(rest))
            }
            ("error", rest) => tagged(AnsiColor::Red, "Error: ", rest),
            ("warning", rest) => tagged(AnsiColor::Yellow, "Warning: ", rest),
            ("notice", rest) => tagged(AnsiColor::Blue, "Notice: ", rest),
            ("debug", rest) => self.paint(DIM, &format!("Debug: {}", clean(rest))),
            ("command" | "section", rest) => tagged(AnsiColor::Blue, "", rest),
            _ if self.options.colour => coloured(line),
            _ => clean(line),
        };
        self.line(state, event, &format!("{indent}{text}"))
    }

    fn line(&self, state: &mut State<W>, event: &Event<'_>, text: &str) -> io::Result<()> {
        let mut head = String::new();
        if self.options.job_prefix
            && let Some(row) = row(state, event.job)
        {
            head = self.paint(DIM, &format!("[{}] ", clean(&row.name)));
        }
        if self.options.timestamps {
            head.push_str(&self.paint(DIM, &format!("{:.3} ", event.time)));
        }
        writeln!(state.out, "{head}{text}")
    }

    fn paint(&self, style: Style, text: &str) -> String {
        if self.options.colour {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }
}

impl<W: Write + Send + 'static> Reporter for TerminalReporter<W> {
    async fn report(&self, event: &Event<'_>) {
        // A reader that went away (`| head`) is no reason to fail the job.
        let _ = self.write(event);
    }
}

fn row<'a, W>(state: &'a mut State<W>, job: &str) -> Option<&'a mut JobRow> {
    let mut jobs = state.jobs.iter_mut().rev();
    jobs.find(|(id, _)| id == job).map(|(_, row)| row)
}

/// The marker a line begins with, and the rest.
fn marker(line: &str) -> (&str, &str) {
    let marked = line
        .strip_prefix("##[")
        .and_then(|rest| rest.split_once(']'));
    marked.unwrap_or(("", line))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::job::outcome::{AnnotationCounts, StepRecord};

    async fn write(options: TerminalOptions, kinds: Vec<EventKind<'_>>) -> String {
        let reporter = TerminalReporter::new(Vec::new(), options);
        for kind in kinds {
            let time = "2026-11-23T09:00:01Z".parse().unwrap();
            let job = "j";
            reporter.report(&Event { time, job, kind }).await;
        }
        reporter.finish().unwrap();
        String::from_utf8(reporter.state.into_inner().unwrap().out).unwrap()
    }

    fn log(line: &str) -> EventKind<'_> {
        EventKind::Log { step: 2, line }
    }

    #[tokio::test]
    async fn a_job_reads_like_a_log_and_ends_with_a_table() {
        let failed = StepRecord {
            number: 2,
            name: "Run make".into(),
            outcome: Conclusion::Failure,
            conclusion: Conclusion::Failure,
            duration: Duration::from_millis(1234),
            annotations: AnnotationCounts::default(),
        };
        let kinds = vec![
            EventKind::JobStarted { name: "build" },
            EventKind::StepStarted {
                step: 2,
                name: "Run make",
            },
            log("##[group]Run make"),
            log("\x1b[36;1mmake\x1b[0m"),
            log("##[endgroup]"),
            log("out"),
            log("##[error]Process completed with exit code 2."),
            EventKind::StepFinished { record: &failed },
            EventKind::JobFinished {
                name: "build",
                result: Conclusion::Failure,
                outputs: &[],
                duration: Duration::from_secs(2),
            },
        ];
        let text = write(TerminalOptions::default(), kinds).await;
        let expected = "Job build\n▶ Run make\n  ▼ Run make\n    make\n  out\n  Error: Process \
                        completed with exit code 2.\n✗ Run make: failure\n✗ Job build: failure\n";
        assert!(text.starts_with(expected), "{text}");
        let table = &text[expected.len()..];
        assert!(table.contains("✗   Run make  failure"), "{text}");
    }

    #[tokio::test]
    async fn lines_of_parallel_jobs_carry_the_jobs_name() {
        let options = TerminalOptions {
            job_prefix: true,
            ..TerminalOptions::default()
        };
        let text = write(options, vec![EventKind::JobStarted { name: "a" }, log("x")]).await;
        assert!(text.contains("[a]   x\n"), "{text}");
    }

    #[tokio::test]
    async fn summaries_are_shown_once_the_run_is_over() {
        let markdown = "# Report";
        let kinds = vec![
            EventKind::JobStarted { name: "build" },
            EventKind::Summary { step: 2, markdown },
            log("later"),
        ];
        let text = write(TerminalOptions::default(), kinds).await;
        let expected = "Job build\n  later\n\nSummary of build\n# Report\n\n";
        assert!(text.starts_with(expected), "{text}");
    }

    #[tokio::test]
    async fn errors_are_red_only_where_colours_are_wanted() {
        for (colour, expected) in [
            (true, "  \x1b[31mError: boom\x1b[0m\n"),
            (false, "  Error: boom\n"),
        ] {
            let options = TerminalOptions {
                colour,
                ..TerminalOptions::default()
            };
            let text = write(options, vec![log("##[error]boom")]).await;
            assert!(text.contains(expected), "{text:?}");
        }
    }
}
