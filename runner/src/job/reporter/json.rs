//! Events as JSON, one object a line, for programs.

use std::{
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

use super::{Event, EventKind, Reporter};

/// Writes every event as a line of JSON.
pub struct JsonReporter<W> {
    out: Mutex<W>,
}

impl<W> std::fmt::Debug for JsonReporter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JsonReporter").finish_non_exhaustive()
    }
}

impl<W: Write> JsonReporter<W> {
    /// A reporter that writes to `out`.
    pub fn new(out: W) -> Self {
        Self {
            out: Mutex::new(out),
        }
    }

    fn write(&self, event: &Event<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.write_all(&line)?;
        out.flush()
    }
}

impl<W: Write + Send + 'static> Reporter for JsonReporter<W> {
    async fn report(&self, event: &Event<'_>) {
        // What is to come is for pages that show it; here it comes in its time.
        if let EventKind::StepsPlanned { .. } = event.kind {
            return;
        }
        // A reader that went away (`| head`) is no reason to fail the job.
        let _ = self.write(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{
        commands::{Annotation, Level},
        outcome::{AnnotationCounts, Conclusion, StepRecord},
        reporter::EventKind,
    };
    use std::time::Duration;

    #[tokio::test]
    async fn each_event_is_one_object_on_one_line() {
        let reporter = JsonReporter::new(Vec::new());
        let annotation = Annotation::new(Level::Warning, "a\nb");
        let record = StepRecord {
            number: 2,
            name: "Run x".into(),
            outcome: Conclusion::Failure,
            conclusion: Conclusion::Success,
            duration: Duration::from_millis(1500),
            annotations: AnnotationCounts::default(),
        };
        let outputs = [("o".to_owned(), "1".to_owned())];
        for kind in [
            EventKind::JobStarted { name: "build" },
            EventKind::Log {
                step: 2,
                line: "\"x\"",
            },
            EventKind::Annotation {
                step: 2,
                annotation: &annotation,
            },
            EventKind::StepFinished { record: &record },
            EventKind::JobFinished {
                name: "build",
                result: Conclusion::Failure,
                outputs: &outputs,
                duration: Duration::from_secs(2),
            },
        ] {
            let time = "2026-11-23T09:00:01Z".parse().unwrap();
            let job = "j";
            reporter.report(&Event { time, job, kind }).await;
        }
        let text = String::from_utf8(reporter.out.into_inner().unwrap()).unwrap();
        let head = r#"{"time":"2026-11-23T09:00:01Z","job":"j","event":"#;
        let bare = |line: &str| line.strip_prefix(head).unwrap().to_owned();
        let lines: Vec<_> = text.lines().map(bare).collect();
        assert_eq!(
            lines,
            [
                r#""job_started","name":"build"}"#,
                r#""log","step":2,"line":"\"x\""}"#,
                r#""annotation","step":2,"level":"warning","message":"a\nb"}"#,
                r#""step_finished","number":2,"name":"Run x","outcome":"failure","conclusion":"success","seconds":1.5,"annotations":{"error":0,"warning":0,"notice":0}}"#,
                r#""job_finished","name":"build","result":"failure","outputs":{"o":"1"},"seconds":2.0}"#,
            ]
        );
    }
}
