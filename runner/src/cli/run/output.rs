//! Where a run's events go: a person's terminal, or JSON lines for a program.

use std::{
    env,
    io::{self, IsTerminal, Stdout},
};

use jiff::Timestamp;

use crate::job::{
    outcome::Conclusion,
    reporter::{Event, EventKind, JsonReporter, Reporter, TerminalOptions, TerminalReporter},
};

/// The reporter that the command line asked for.
#[derive(Debug)]
pub enum Output {
    /// For a person.
    Terminal(TerminalReporter<Stdout>),
    /// For a program.
    Json(JsonReporter<Stdout>),
}

impl Output {
    /// A reporter on standard output.
    pub fn new(json: bool, several_jobs: bool) -> Self {
        if json {
            return Self::Json(JsonReporter::new(io::stdout()));
        }
        let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self::Terminal(TerminalReporter::new(
            io::stdout(),
            TerminalOptions {
                colour: io::stdout().is_terminal() && !no_colour,
                job_prefix: several_jobs,
                timestamps: false,
            },
        ))
    }

    /// Tells of a job that never started.
    pub async fn not_started(&self, name: &str, result: Conclusion) {
        match self {
            Self::Terminal(terminal) => terminal.add_job(name, result),
            Self::Json(json) => {
                let kind = EventKind::JobFinished {
                    name,
                    result,
                    outputs: &[],
                    duration: std::time::Duration::ZERO,
                };
                json.report(&Event {
                    time: Timestamp::now(),
                    job: name,
                    kind,
                })
                .await;
            }
        }
    }

    /// Writes the table of jobs and steps for a person.
    pub fn finish(&self) -> io::Result<()> {
        match self {
            Self::Terminal(terminal) => terminal.finish(),
            Self::Json(_) => Ok(()),
        }
    }
}

impl Reporter for Output {
    async fn report(&self, event: &Event<'_>) {
        match self {
            Self::Terminal(terminal) => terminal.report(event).await,
            Self::Json(json) => json.report(event).await,
        }
    }
}
