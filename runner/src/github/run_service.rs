//! The run service: acquires a job, keeps it, and says how it ended.

use std::sync::Arc;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use reqwest::{Client, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;

use super::{
    broker::{CallError, authorized},
    http::{Answer, Http, Refusal, TransportError},
    jit::base,
    message::JobOffer,
    token::TokenSource,
};
use crate::job::request::{self, DecodeError, JobRequest};

/// Why a job was not acquired.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// No answer; it may pass.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Somebody else has it, or it is gone. The offer is to be skipped.
    #[error("the job cannot be had any more: {0}")]
    Lost(Refusal),
    /// Another refusal; it may pass.
    #[error("the job was not given: {0}")]
    Refused(Refusal),
    /// The job message is not understood.
    #[error(transparent)]
    Message(#[from] DecodeError),
}

/// Acquires the job of an offer: from then on this runner has to complete it.
///
/// # Errors
/// [`AcquireError`]; which of them pass, its variants say.
pub async fn acquire(
    http: &Http,
    tokens: &TokenSource,
    offer: &JobOffer,
) -> Result<JobRequest, AcquireError> {
    let url = below(&offer.run_service, "acquirejob");
    let body = json!({
        "jobMessageId": offer.request_id,
        "runnerOS": "Linux",
        "billingOwnerId": offer.billing_owner_id,
    });
    let answer = authorized(http, tokens, |client| client.post(url.clone()).json(&body)).await?;
    if answer.status.is_success() {
        return Ok(request::decode(answer.bytes())?);
    }
    let refusal = answer.refusal();
    Err(match refusal.status {
        404 | 409 | 422 => AcquireError::Lost(refusal),
        _ => AcquireError::Refused(refusal),
    })
}

/// Calls about one job, with the job's own token.
#[derive(Debug, Clone)]
pub struct JobService {
    http: Http,
    base: Url,
    token: Arc<SecretString>,
    plan_id: String,
    job_id: String,
    billing_owner_id: Option<String>,
}

/// Why nothing can be said about a job.
#[derive(Debug, thiserror::Error)]
#[error("the job message has no usable SystemVssConnection: {0}")]
pub struct NoConnection(&'static str);

/// Why a call about a job failed.
#[derive(Debug, thiserror::Error)]
pub enum JobCallError {
    /// No answer; it may pass.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The service does not know the job any more: whatever runs for it is to end.
    #[error("GitHub has given the job up: {0}")]
    Lost(Refusal),
    /// The job's token is not taken.
    #[error("GitHub does not take the job's token: {0}")]
    Denied(Refusal),
    /// Another refusal; it may pass.
    #[error("the call about the job was refused: {0}")]
    Refused(Refusal),
    /// An answer that is not understood.
    #[error("the answer about the job cannot be read: {0}")]
    Answer(String),
}

/// How a job or a step ended, in the run service's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Conclusion {
    /// It did what it should.
    Succeeded,
    /// Something in it failed that may fail.
    SucceededWithIssues,
    /// It failed.
    Failed,
    /// It was cancelled.
    Canceled,
    /// It was not run.
    Skipped,
    /// It was lost.
    Abandoned,
}

/// An output of a job.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// Its value.
    pub value: String,
    /// Whether the value holds a secret; such an output is not passed on.
    pub is_secret: bool,
}

/// A notice, warning or error about the workflow's files or the machine.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Annotation {
    /// `notice`, `warning` or `failure`.
    pub level: String,
    /// What it says.
    pub message: String,
    /// Its title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The file it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whether the machine is to blame, not the job.
    pub is_infrastructure_issue: bool,
    /// First line, 1-based; 0 for none.
    pub start_line: u64,
    /// Last line.
    pub end_line: u64,
    /// First column, 1-based; 0 for none.
    pub start_column: u64,
    /// Last column.
    pub end_column: u64,
    /// Number of the step, 1-based; 0 for none.
    pub step_number: u64,
}

/// How a step ended.
#[derive(Debug, Clone, Serialize)]
pub struct StepResult {
    /// Identity of the step (a GUID).
    pub external_id: String,
    /// Its place in the job, 1-based.
    pub number: u64,
    /// Its name.
    pub name: String,
    /// The action it ran, if it ran one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action_name: Option<String>,
    /// Branch, tag or commit of that action.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// `run`, `repository` or `docker`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// `pending`, `inProgress` or `completed`.
    pub status: &'static str,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conclusion: Option<Conclusion>,
    /// When it began (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<String>,
    /// Lines of its log.
    pub completed_log_lines: u64,
    /// What it said.
    pub annotations: Vec<Annotation>,
}

/// How a job ended.
#[derive(Debug, Clone)]
pub struct Completion {
    /// In a word.
    pub conclusion: Conclusion,
    /// The outputs of the job, by name.
    pub outputs: indexmap::IndexMap<String, Output>,
    /// Its steps.
    pub steps: Vec<StepResult>,
    /// What is about no step.
    pub annotations: Vec<Annotation>,
    /// The evaluated `environment.url`.
    pub environment_url: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Renewed {
    locked_until: String,
}

impl JobService {
    /// The service of an acquired job.
    ///
    /// # Errors
    /// [`NoConnection`].
    pub fn of(http: Http, job: &JobRequest) -> Result<Self, NoConnection> {
        let connection = job.system_connection();
        let connection = connection.ok_or(NoConnection("there is none"))?;
        let token = connection.access_token.as_ref();
        let token = token.ok_or(NoConnection("it has no token"))?;
        Ok(Self {
            http,
            base: base(&connection.url).map_err(NoConnection)?,
            token: Arc::new(token.clone()),
            plan_id: job.plan.plan_id.clone(),
            job_id: job.job_id.clone(),
            billing_owner_id: job.billing_owner_id.clone(),
        })
    }

    /// Keeps the job for about ten minutes more; returns until when.
    ///
    /// # Errors
    /// [`JobCallError`].
    pub async fn renew(&self) -> Result<Timestamp, JobCallError> {
        let body = json!({"planId": self.plan_id, "jobId": self.job_id});
        let answer = self.call("renewjob", |post| post.json(&body)).await?;
        let renewed: Renewed = answer.json().map_err(JobCallError::Answer)?;
        time(&renewed.locked_until).ok_or_else(|| {
            let what = "lockedUntil is not a time of RFC 3339";
            JobCallError::Answer(what.to_owned())
        })
    }

    /// Says how the job ended. Nothing can be said of it afterwards.
    ///
    /// # Errors
    /// [`JobCallError`].
    pub async fn complete(&self, completion: &Completion) -> Result<(), JobCallError> {
        let body = json!({
            "planId": self.plan_id,
            "jobId": self.job_id,
            "conclusion": completion.conclusion,
            "outputs": completion.outputs,
            "stepResults": completion.steps,
            "annotations": completion.annotations,
            "telemetry": [],
            "environmentUrl": completion.environment_url,
            "billingOwnerId": self.billing_owner_id,
        });
        self.call("completejob", |post| post.json(&body))
            .await
            .map(|_| ())
    }

    async fn call(
        &self,
        name: &str,
        fill: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, JobCallError> {
        let client: &Client = self.http.client();
        let post = client.post(below(&self.base, name));
        let answer = fill(post).bearer_auth(self.token.expose_secret());
        let answer = self.http.send(answer).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let refusal = answer.refusal();
        Err(match refusal.status {
            404 => JobCallError::Lost(refusal),
            401 | 403 => JobCallError::Denied(refusal),
            _ => JobCallError::Refused(refusal),
        })
    }
}

/// A time as services write it: RFC 3339, or without an offset in UTC.
fn time(text: &str) -> Option<Timestamp> {
    let utc = || text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok();
    text.parse()
        .ok()
        .or_else(|| utc().map(|zoned| zoned.timestamp()))
}

/// An address below a base.
fn below(base: &Url, name: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{name}", base.path()));
    url
}
