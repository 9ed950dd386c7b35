//! Where a job's progress goes: a terminal, JSON lines, later GitHub's results service.
//!
//! Everything in an [`Event`] is masked already. Reporting is awaited, so a slow reporter slows the
//! step down instead of filling memory.

mod escapes;
mod json;
mod summaries;
mod table;
mod terminal;

use std::{future::Future, time::Duration};

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::{
    commands::Annotation,
    outcome::{Conclusion, StepRecord},
    request::StepAction,
};

pub use json::JsonReporter;
pub use table::{JobRow, table};
pub use terminal::{TerminalOptions, TerminalReporter};

/// Takes the events of jobs, of several at the same time if they run so.
pub trait Reporter: Send + Sync + 'static {
    /// Takes one event; returns when there is room for the next.
    fn report(&self, event: &Event<'_>) -> impl Future<Output = ()> + Send;
}

/// Something that happened in a job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event<'a> {
    /// When.
    #[serde(serialize_with = "text")]
    pub time: Timestamp,
    /// The job's identity ([`super::request::JobRequest::job_id`]).
    pub job: &'a str,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind<'a>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(
    tag = "event",
    rename_all = "snake_case",
    rename_all_fields = "camelCase"
)]
pub enum EventKind<'a> {
    /// A job began.
    JobStarted {
        /// The job's name as people see it.
        name: &'a str,
    },
    /// A record of the job's log began.
    StepStarted {
        /// Its place, from 1.
        step: u32,
        /// Its name as people see it.
        name: &'a str,
        /// What it is about.
        #[serde(skip)]
        origin: Origin<'a>,
    },
    /// The steps that are to come, in the order in which they will begin.
    StepsPlanned {
        /// These.
        steps: &'a [PlannedStep],
    },
    /// A line of a record's log, without its time. Markers (`##[group]`, `##[error]`, …) as in
    /// GitHub's log files.
    Log {
        /// The record.
        step: u32,
        /// The line.
        line: &'a str,
    },
    /// A message about the job. Its line of the log comes separately.
    Annotation {
        /// The record.
        step: u32,
        /// The message.
        #[serde(flatten)]
        annotation: &'a Annotation,
    },
    /// Markdown that a step wrote for the job's page.
    Summary {
        /// The record.
        step: u32,
        /// The text.
        markdown: &'a str,
    },
    /// A record of the job's log ended.
    StepFinished {
        /// The record.
        #[serde(flatten)]
        record: &'a StepRecord,
    },
    /// A job ended.
    JobFinished {
        /// The job's name as people see it.
        name: &'a str,
        /// How it ended.
        result: Conclusion,
        /// Its outputs.
        #[serde(serialize_with = "map")]
        outputs: &'a [(String, String)],
        /// How long it took.
        #[serde(serialize_with = "seconds", rename = "seconds")]
        duration: Duration,
    },
}

/// What a record of the log is about. All is empty for the runner's own, like "Set up job".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin<'a> {
    /// The identity of the request's step, where the record is that step's own and not one before or
    /// after all steps.
    pub id: Option<&'a str>,
    /// What the step runs.
    pub action: Option<&'a StepAction>,
    /// For records after all steps: how many of them come after this one.
    pub to_come: Option<u32>,
}

/// A step that is to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedStep {
    /// The number of its record.
    pub step: u32,
    /// The identity of the request's step; none for what is run before all steps.
    #[serde(skip)]
    pub id: Option<String>,
    /// Its name as far as it is known now, secrets masked.
    pub name: String,
}

/// A line of a log as GitHub writes it: time with seven digits of a second, blank, text.
#[must_use]
pub fn log_line(time: Timestamp, text: &str) -> String {
    format!("{time:.7} {text}")
}

/// Serializes a duration as seconds with milliseconds.
pub(super) fn seconds<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(value.as_millis() as f64 / 1000.0)
}

fn text<S: Serializer>(value: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn map<S: Serializer>(value: &&[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(value.iter().map(|(name, value)| (name, value)))
}

/// A reporter that keeps everything, for tests.
#[cfg(test)]
pub mod recording {
    use std::sync::Mutex;

    use super::*;

    /// Keeps the log as lines `step|text` and the other events as JSON.
    #[derive(Debug, Default)]
    pub struct Recording {
        /// Log lines, `step|text`.
        pub log: Mutex<Vec<String>>,
        /// All other events.
        pub events: Mutex<Vec<serde_json::Value>>,
        /// What was said of steps to come. Their names are as they are known at the beginning: a value
        /// that a step masks later is not hidden in them, as at GitHub.
        pub planned: Mutex<Vec<PlannedStep>>,
        /// What records are about.
        pub origins: Mutex<Vec<Origins>>,
    }

    /// A record, the id of its step, and the number of records to come.
    pub type Origins = (u32, Option<String>, Option<u32>);

    impl Recording {
        /// The lines of one record.
        pub fn lines(&self, step: u32) -> Vec<String> {
            let prefix = format!("{step}|");
            let log = self.log.lock().unwrap();
            let of_step = log.iter().filter_map(|line| line.strip_prefix(&prefix));
            of_step.map(str::to_owned).collect()
        }

        /// All that was reported, as one text.
        pub fn everything(&self) -> String {
            format!(
                "{:?}{:?}",
                self.log.lock().unwrap(),
                self.events.lock().unwrap()
            )
        }

        /// The events of one kind.
        pub fn events(&self, kind: &str) -> Vec<serde_json::Value> {
            let events = self.events.lock().unwrap();
            events
                .iter()
                .filter(|event| event["event"] == kind)
                .cloned()
                .collect()
        }
    }

    impl Reporter for Recording {
        async fn report(&self, event: &Event<'_>) {
            if let EventKind::Log { step, line } = &event.kind {
                assert!(!line.contains('\n'), "a log line holds a line feed");
                self.log.lock().unwrap().push(format!("{step}|{line}"));
            } else if let EventKind::StepsPlanned { steps } = &event.kind {
                self.planned.lock().unwrap().extend_from_slice(steps);
            } else {
                if let EventKind::StepStarted { step, origin, .. } = &event.kind {
                    let id = origin.id.map(str::to_owned);
                    let mut origins = self.origins.lock().unwrap();
                    origins.push((*step, id, origin.to_come));
                }
                let json = serde_json::to_value(event).unwrap();
                self.events.lock().unwrap().push(json);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_begins_with_the_time_in_seven_digits() {
        let time: Timestamp = "2026-11-23T09:00:01.5Z".parse().unwrap();
        assert_eq!(log_line(time, "hi"), "2026-11-23T09:00:01.5000000Z hi");
    }
}
