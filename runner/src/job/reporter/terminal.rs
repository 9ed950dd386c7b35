//! Events for a person: reads like a GitHub log, with groups, colours and a table at the end.
//!
//! What a step prints is hostile; [`super::escapes`] lets only its colours through.

use std::{
    collections::{BTreeMap, HashMap},
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
use crate::job::outcome::{Conclusion, StepRecord};

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
    /// The steps of each job that are running, by number.
    running: HashMap<String, BTreeMap<u32, Running>>,
    summaries: Summaries,
}

/// A step that is running.
struct Running {
    name: String,
    /// How many of its groups are open.
    depth: usize,
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
            running: HashMap::new(),
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
            EventKind::StepStarted { name, step, .. } => {
                let running = state.running.entry(event.job.to_owned()).or_default();
                let name_of = (*name).to_owned();
                running.insert(
                    *step,
                    Running {
                        name: name_of,
                        depth: 0,
                    },
                );
                let sign = self.paint(colour(AnsiColor::Cyan), "▶");
                let text = format!("{sign} {}", self.paint(BOLD, &clean(name)));
                self.line(&mut state, event, &text)?;
            }
            EventKind::Log { line, step } => self.log(&mut state, event, *step, line)?,
            EventKind::Annotation { .. } | EventKind::StepsPlanned { .. } => return Ok(()),
            EventKind::Summary { markdown, .. } => {
                state.summaries.add(event.job, markdown);
                return Ok(());
            }
            EventKind::StepFinished { record } => {
                if let Some(running) = state.running.get_mut(event.job) {
                    running.remove(&record.number);
                }
                if let Some(row) = row(&mut state, event.job) {
                    let before = |other: &StepRecord| other.number < record.number;
                    let place = row.steps.partition_point(before);
                    row.steps.insert(place, (*record).clone());
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
    fn log(
        &self,
        state: &mut State<W>,
        event: &Event<'_>,
        step: u32,
        line: &str,
    ) -> io::Result<()> {
        let marked = marker(line);
        let (mut depth, mut head) = (0, String::new());
        if let Some(running) = state.running.get_mut(event.job) {
            let several = running.len() > 1;
            if let Some(own) = running.get_mut(&step) {
                depth = own.depth;
                if several {
                    head = self.paint(DIM, &format!("[{}] ", clean(&own.name)));
                }
                match marked.0 {
                    "group" => own.depth += 1,
                    "endgroup" => own.depth = own.depth.saturating_sub(1),
                    _ => {}
                }
            }
        }
        let indent = "  ".repeat(depth.min(4) + 1);
        let tagged = |c: AnsiColor, tag: &str, rest: &str| {
            self.paint(colour(c), &format!("{tag}{}", clean(rest)))
        };
        let text = match marked {
            ("endgroup", "") => return Ok(()),
            ("group", rest) => format!("▼ {}", clean(rest)),
            ("error", rest) => tagged(AnsiColor::Red, "Error: ", rest),
            ("warning", rest) => tagged(AnsiColor::Yellow, "Warning: ", rest),
            ("notice", rest) => tagged(AnsiColor::Blue, "Notice: ", rest),
            ("debug", rest) => self.paint(DIM, &format!("Debug: {}", clean(rest))),
            ("command" | "section", rest) => tagged(AnsiColor::Blue, "", rest),
            _ if self.options.colour => coloured(line),
            _ => clean(line),
        };
        self.line(state, event, &format!("{head}{indent}{text}"))
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
    use crate::job::{outcome::AnnotationCounts, reporter::Origin};

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
                origin: Origin::default(),
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
    async fn lines_carry_the_steps_name_while_several_steps_run() {
        let started = |step, name| EventKind::StepStarted {
            step,
            name,
            origin: Origin::default(),
        };
        let said = |step, line| EventKind::Log { step, line };
        let record = StepRecord {
            number: 2,
            name: "serve".into(),
            outcome: Conclusion::Success,
            conclusion: Conclusion::Success,
            duration: Duration::from_secs(1),
            annotations: AnnotationCounts::default(),
        };
        let kinds = vec![
            EventKind::JobStarted { name: "build" },
            started(2, "serve"),
            said(2, "##[group]Run serve"),
            said(2, "alone"),
            started(3, "test"),
            said(2, "both"),
            said(3, "both"),
            EventKind::StepFinished { record: &record },
            said(3, "alone"),
        ];
        let text = write(TerminalOptions::default(), kinds).await;
        let expected = "Job build\n▶ serve\n  ▼ Run serve\n    alone\n▶ test\n[serve]     both\n\
                        [test]   both\n  alone\n";
        assert!(text.starts_with(expected), "{text}");
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
