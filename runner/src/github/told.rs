//! What a worker tells its supervisor of its dealings with GitHub: names and kinds, nothing else.

use serde_json::Value as Json;

use super::{
    broker::{AcknowledgeError, CallError, PollError, SessionError},
    run_service::{AcquireError, JobCallError},
    token::TokenError,
};
use crate::{
    job::request::JobRequest,
    notice::{JobNames, Notice, Notices},
};

/// A failed call to GitHub.
pub(super) trait Failure {
    /// Its kind, as metrics name it.
    fn kind(&self) -> &'static str;
}

impl Failure for CallError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Token(token) => token.kind(),
            Self::Transport(_) => "transport",
        }
    }
}

impl Failure for TokenError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Transport(_) => "transport",
            Self::Key(_) => "setup",
            Self::Gone(_) => "runner_gone",
            Self::Clock(_) => "clock",
            Self::Refused(refusal) => of_status(refusal.status),
            Self::Answer(_) => "answer",
        }
    }
}

impl Failure for SessionError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Call(call) => call.kind(),
            Self::Conflict(_) => "conflict",
            Self::Denied(_) => "forbidden",
            Self::VersionTooOld { .. } => "version_too_old",
            Self::Refused(refusal) => of_status(refusal.status),
            _ => "answer",
        }
    }
}

impl Failure for PollError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Call(call) => call.kind(),
            Self::SessionInvalid(_) => "session_invalid",
            Self::RunnerGone(_) => "runner_gone",
            Self::VersionTooOld { .. } => "version_too_old",
            Self::Refused(refusal) => of_status(refusal.status),
            Self::Message(_) => "answer",
        }
    }
}

impl Failure for AcknowledgeError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Call(call) => call.kind(),
            Self::Gone(_) => "lost",
            Self::Refused(refusal) => of_status(refusal.status),
        }
    }
}

impl Failure for AcquireError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Call(call) => call.kind(),
            Self::Lost(_) => "lost",
            Self::Refused(refusal) => of_status(refusal.status),
            Self::Message(_) => "answer",
        }
    }
}

impl Failure for JobCallError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Transport(_) => "transport",
            Self::Lost(_) => "lost",
            Self::Denied(_) => "unauthorized",
            Self::Refused(refusal) => of_status(refusal.status),
            Self::Answer(_) => "answer",
        }
    }
}

fn of_status(status: u16) -> &'static str {
    match status {
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not_found",
        409 => "conflict",
        429 => "limited",
        500.. => "server",
        _ => "refused",
    }
}

/// Tells of a failed call.
pub(super) fn failed(notices: &Notices, endpoint: &str, failure: &impl Failure) {
    notices.tell(&Notice::ProtocolError {
        endpoint: endpoint.to_owned(),
        kind: failure.kind().to_owned(),
    });
}

/// The names of a job.
pub(super) fn names(job: &JobRequest) -> JobNames {
    let github = job.context_data.get("github");
    let github = github.and_then(|github| github.as_object());
    let text = |name: &str| -> String {
        let value = github.and_then(|github| github.get(name));
        value
            .and_then(|value| value.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let names = JobNames {
        request_id: job.request_id.try_into().unwrap_or_default(),
        job_id: job.job_id.clone(),
        repository: text("repository"),
        job_name: job.job_display_name.clone(),
        job_workflow_ref: text("workflow_ref"),
        event_name: text("event_name"),
        run_id: text("run_id").parse().unwrap_or_default(),
    };
    names.shortened()
}

/// A word of the service, as it is written in its JSON.
pub(super) fn word(conclusion: impl serde::Serialize) -> String {
    match serde_json::to_value(conclusion) {
        Ok(Json::String(word)) => word,
        _ => String::new(),
    }
}
