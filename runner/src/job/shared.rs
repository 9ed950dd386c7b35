//! What all steps of a job share and none of them changes.

use std::sync::atomic::AtomicUsize;

use jiff::Timestamp;

use super::{
    Options,
    actions::Actions,
    cancel::JobClock,
    containers::Containers,
    log::StepLog,
    masking::Masker,
    matcher::Matchers,
    reporter::{Event, EventKind, Reporter},
    request::JobRequest,
    steps::Programs,
};

/// The job's surroundings.
pub(super) struct Shared<'a, S, R> {
    pub(super) request: &'a JobRequest,
    pub(super) options: &'a Options,
    pub(super) sandbox: &'a S,
    pub(super) reporter: &'a R,
    pub(super) masker: Masker,
    pub(super) clock: JobClock,
    pub(super) programs: Programs,
    /// Problem matchers that steps added.
    pub(super) matchers: Matchers,
    pub(super) actions: Actions,
    pub(super) containers: Containers,
    /// Bytes of names and values that the job's steps set so far.
    pub(super) set: AtomicUsize,
    /// Whether debug messages are logged.
    pub(super) debug: bool,
}

impl<S, R: Reporter> Shared<'_, S, R> {
    /// The log of record `number`; files of its annotations are named relative to `workspace`.
    pub(super) fn log(&self, number: u32, workspace: &str) -> StepLog<'_, R> {
        let log = StepLog::new(
            self.reporter,
            &self.masker,
            &self.request.job_id,
            number,
            self.debug,
            workspace,
        );
        match self.containers.paths() {
            Some(paths) => log.called(paths),
            None => log,
        }
    }

    /// Whether steps of the job may run at the same time.
    pub(super) fn has_background_steps(&self) -> bool {
        self.request.steps.iter().any(|step| step.background)
    }

    /// Reports what is about the job as a whole.
    pub(super) async fn report(&self, kind: EventKind<'_>) {
        let (time, job) = (Timestamp::now(), self.request.job_id.as_str());
        self.reporter.report(&Event { time, job, kind }).await;
    }
}
