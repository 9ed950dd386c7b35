//! When a running step is stopped: its own time, or a cancellation that its condition does not outlive.

use std::time::Duration;

use indexmap::IndexMap;
use tokio::time::sleep;

use super::{cancel::JobClock, contexts::JobContext, outcome::Conclusion, process::Stop};

/// The rule for one step.
pub(super) struct StopRule<'a> {
    pub(super) clock: &'a JobClock,
    pub(super) context: &'a JobContext<'a>,
    pub(super) env: &'a IndexMap<String, String>,
    pub(super) condition: &'a str,
    pub(super) timeout: Option<Duration>,
}

impl StopRule<'_> {
    /// Returns when the step is to be stopped.
    pub(super) async fn wait(&self) -> Stop {
        let timeout = async {
            match self.timeout {
                Some(time) => sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = timeout => Stop::TimedOut,
            () = self.cancelled() => Stop::Cancelled,
        }
    }

    /// Returns when the job's time to end by itself after a cancellation is over.
    pub(super) async fn grace_over(&self) {
        self.clock.grace_over().await;
    }

    /// Returns when the job is cancelled, unless the step's condition holds even then: a step that
    /// began after the cancellation is there to clean up.
    async fn cancelled(&self) {
        self.clock.cancelled().await;
        if self.holds_when_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    fn holds_when_cancelled(&self) -> bool {
        let mut evaluator = self.context.evaluator(self.env);
        evaluator.set_status(Conclusion::Cancelled);
        evaluator.condition(self.condition).unwrap_or(false)
    }
}
