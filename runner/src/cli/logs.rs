//! What Mayfly logs, and how: lines for people or JSON for programs, on standard error.
//!
//! Libraries below Mayfly write whole requests when they are asked to trace: tokens and answers with secrets in
//! them. So a library is never heard below `info`, whatever `MAYFLY_LOG` says; Mayfly's own lines name
//! jobs, requests and endpoints.

use std::{
    env,
    io::{self, IsTerminal},
};

use clap::ValueEnum;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// The variable that names what is logged: `warn`, `debug`, `mayfly::github=trace`, ….
const FILTER: &str = "MAYFLY_LOG";

/// The form of lines in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// An object of JSON a line, with the names of job and request as fields of its spans.
    Json,
}

impl LogFormat {
    /// The word for it on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Logs to standard error from now on; `usual` where the environment does not say what.
pub(super) fn init(format: LogFormat, usual: &str, clock: bool) {
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new(usual));
    // The journal knows the time.
    let clock = clock && env::var_os("JOURNAL_STREAM").is_none();
    let layer = layer(format, filter, clock, io::stderr);
    tracing_subscriber::registry().with(layer).init();
}

/// The layer that writes lines, without what libraries say below `info`.
pub fn layer<S, W>(
    format: LogFormat,
    filter: EnvFilter,
    clock: bool,
    writer: W,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = filter.and(filter_fn(may_be_heard));
    let lines = fmt::layer().with_writer(writer);
    match (format, clock) {
        (LogFormat::Json, _) => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_filter(filter)
            .boxed(),
        (LogFormat::Text, true) => lines
            .with_ansi(io::stderr().is_terminal())
            .with_filter(filter)
            .boxed(),
        (LogFormat::Text, false) => lines
            .with_ansi(io::stderr().is_terminal())
            .without_time()
            .with_filter(filter)
            .boxed(),
    }
}

/// Mayfly's own lines, and of its libraries only those that are no details.
fn may_be_heard(line: &Metadata<'_>) -> bool {
    let own = line.target().starts_with("mayfly");
    own || *line.level() <= Level::INFO
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::{EnvFilter, layer::SubscriberExt};

    use super::{LogFormat, layer};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let into = lines.clone();
        let writer = move || into.clone();
        let layer = layer(format, EnvFilter::new(filter), false, writer);
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn libraries_are_not_heard_in_detail_and_mayfly_is() {
        let said = logged(LogFormat::Text, "trace", || {
            tracing::trace!("own detail");
            tracing::trace!(target: "hyper::proto", "Authorization: hunter2");
            tracing::debug!(target: "h2::codec", "hunter2");
            tracing::debug!(target: "log", "hunter2");
            tracing::warn!(target: "hyper::proto", "a library's warning");
        });
        assert!(said.contains("own detail"), "{said}");
        assert!(said.contains("a library's warning"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }

    #[test]
    fn json_has_the_ids_of_job_and_request() {
        let said = logged(LogFormat::Json, "info", || {
            let span = tracing::info_span!("job", job_id = "j-1", request_id = 7);
            span.in_scope(|| tracing::info!(step = 2, "begun"));
            tracing::debug!("unheard");
        });
        let line: serde_json::Value = serde_json::from_str(said.trim()).unwrap();
        assert_eq!(line["message"], "begun");
        assert_eq!(line["step"], 2);
        assert_eq!(line["spans"][0]["job_id"], "j-1");
        assert_eq!(line["spans"][0]["request_id"], 7);
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    }
}
