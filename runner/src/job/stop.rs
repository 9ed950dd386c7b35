//! When a running step is stopped: its own time, or a cancellation that its condition does not outlive.

use std::{future::Future, pin::Pin};

use indexmap::IndexMap;
use tokio::time::{Instant, sleep_until};

use super::{
    cancel::{Cancellation, JobClock},
    contexts::JobContext,
    outcome::Conclusion,
    process::Stop,
};

/// The rule for one step.
pub(super) struct StopRule<'a> {
    pub(super) clock: &'a JobClock,
    pub(super) context: &'a JobContext<'a>,
    pub(super) env: &'a IndexMap<String, String>,
    pub(super) condition: &'a str,
    pub(super) deadline: Option<Instant>,
    /// Asks a step in the background to stop; none for a step in the foreground.
    pub(super) asked: Option<&'a Cancellation>,
    /// The rule of the composite action that the step belongs to: what stops that, stops this.
    pub(super) around: Option<&'a StopRule<'a>>,
}

impl StopRule<'_> {
    /// Returns when the step is to be stopped.
    pub(super) fn wait(&self) -> Pin<Box<dyn Future<Output = Stop> + Send + '_>> {
        Box::pin(async {
            let timeout = async {
                match self.deadline {
                    Some(time) => sleep_until(time).await,
                    None => std::future::pending().await,
                }
            };
            let around = async {
                match self.around {
                    Some(rule) => rule.wait().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                stop = around => stop,
                () = timeout => Stop::TimedOut,
                () = self.cancelled() => Stop::Cancelled,
            }
        })
    }

    /// Why the step is to be stopped, if it is to be by now.
    pub(super) async fn is_stopped(&self) -> Option<Stop> {
        tokio::select! {
            biased;
            stop = self.wait() => Some(stop),
            () = std::future::ready(()) => None,
        }
    }

    /// The same of the composite action around the step.
    pub(super) async fn is_stopped_around(&self) -> Option<Stop> {
        self.around?.is_stopped().await
    }

    /// Returns when the job's time to end by itself after a cancellation is over.
    pub(super) async fn grace_over(&self) {
        self.clock.grace_over().await;
    }

    /// Returns when the job is cancelled, unless the step's condition holds even then: a step that
    /// began after the cancellation is there to clean up. A step in the background outlives no
    /// cancellation, as at GitHub.
    async fn cancelled(&self) {
        if let Some(asked) = self.asked {
            tokio::select! {
                () = asked.requested() => {}
                () = self.clock.cancelled() => {}
            }
            return;
        }
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
