//! Calls of the results service: Twirp over JSON, with the job's token.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use url::Url;

use crate::{
    github::{
        http::{Http, Refusal, TransportError},
        jit::base,
    },
    job::request::{JobRequest, Variable},
};

const RECEIVER: &str = "twirp/results.services.receiver.Receiver/";
const STEPS_UPDATE: &str =
    "twirp/github.actions.results.api.v1.WorkflowStepUpdateService/WorkflowStepsUpdate";

/// Which file of the job is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Document {
    /// The log of a step, by the step's identity.
    StepLog(Arc<str>),
    /// The log of the whole job.
    JobLog,
    /// What a step wrote for the job's page.
    Summary(Arc<str>),
}

/// Where a document goes.
#[derive(Debug)]
pub struct Place {
    /// The address, which carries its own permission.
    pub url: Url,
    /// Whether it takes the headers of Azure's blobs.
    pub azure: bool,
    /// Most bytes it should have, where the service says so.
    pub limit: Option<u64>,
}

/// The results service of one job.
#[derive(Debug, Clone)]
pub struct ResultsService {
    pub(super) http: Http,
    base: Url,
    token: Arc<SecretString>,
    plan_id: String,
    job_id: String,
}

/// Why the job's page cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the job message names no usable results service: {0}")]
pub struct NoResults(&'static str);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// No answer; it may pass.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A refusal.
    #[error("the results service refused {call}: {refusal}")]
    Refused {
        /// The call.
        call: &'static str,
        /// What the service said.
        refusal: Refusal,
    },
    /// An answer that is not understood.
    #[error("the results service's answer to {call} cannot be read: {why}")]
    Answer {
        /// The call.
        call: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl ResultsError {
    /// Whether another try may help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Transport(TransportError::Exchange { .. }) => true,
            Self::Transport(_) | Self::Answer { .. } => false,
            Self::Refused { refusal, .. } => {
                matches!(refusal.status, 408 | 429) || refusal.status >= 500
            }
        }
    }
}

/// A number that protobuf's JSON may write as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Long {
    Number(u64),
    Text(String),
}

#[derive(Deserialize)]
struct Signed {
    #[serde(alias = "logs_url", alias = "summary_url")]
    url: String,
    #[serde(default)]
    blob_storage_type: String,
    soft_size_limit: Option<Long>,
}

impl ResultsService {
    /// The service that the job message names.
    ///
    /// # Errors
    /// [`NoResults`].
    pub fn of(http: Http, job: &JobRequest) -> Result<Self, NoResults> {
        let connection = job.system_connection();
        let connection = connection.ok_or(NoResults("it has no SystemVssConnection"))?;
        let endpoint = job.variables.get("system.github.results_endpoint");
        let endpoint = endpoint.map(Variable::expose);
        let endpoint = endpoint.or_else(|| connection.get("ResultsServiceUrl"));
        let endpoint = endpoint.ok_or(NoResults("system.github.results_endpoint is missing"))?;
        let token = connection.access_token.clone();
        Ok(Self {
            http,
            base: base(endpoint).map_err(NoResults)?,
            token: Arc::new(token.ok_or(NoResults("the job has no token"))?),
            plan_id: job.plan.plan_id.clone(),
            job_id: job.job_id.clone(),
        })
    }

    /// Asks where a document goes. Each place is good for one request.
    ///
    /// # Errors
    /// [`ResultsError`].
    pub async fn place(&self, document: &Document) -> Result<Place, ResultsError> {
        let call = match document {
            Document::StepLog(_) => "GetStepLogsSignedBlobURL",
            Document::JobLog => "GetJobLogsSignedBlobURL",
            Document::Summary(_) => "GetStepSummarySignedBlobURL",
        };
        let answer = self.receiver(call, document, json!({})).await?;
        let wrong = |why: String| ResultsError::Answer { call, why };
        let signed: Signed = serde_json::from_value(answer)
            .map_err(|_| wrong("it is not of the known form".to_owned()))?;
        let url = crate::github::jit::web(&signed.url);
        Ok(Place {
            url: url.map_err(|why| wrong(format!("the place {why}")))?,
            azure: signed.blob_storage_type == "BLOB_STORAGE_TYPE_AZURE",
            limit: signed.soft_size_limit.and_then(|limit| match limit {
                Long::Number(number) => Some(number),
                Long::Text(text) => text.parse().ok(),
            }),
        })
    }

    /// Says that a document is whole: a log of `size` lines, or a summary of `size` bytes.
    ///
    /// # Errors
    /// [`ResultsError`].
    pub async fn is_whole(&self, document: &Document, size: u64) -> Result<(), ResultsError> {
        let (call, unit) = match document {
            Document::StepLog(_) => ("CreateStepLogsMetadata", "line_count"),
            Document::JobLog => ("CreateJobLogsMetadata", "line_count"),
            Document::Summary(_) => ("CreateStepSummaryMetadata", "size"),
        };
        let uploaded_at = super::timestamp(jiff::Timestamp::now());
        let body = json!({"uploaded_at": uploaded_at, unit: size});
        let answer = self.receiver(call, document, body).await?;
        match answer.get("ok").and_then(Json::as_bool) {
            Some(false) => Err(ResultsError::Answer {
                call,
                why: "it is not ok".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Tells how steps go. `change_order` grows with every call.
    ///
    /// # Errors
    /// [`ResultsError`].
    pub async fn update_steps(
        &self,
        steps: &[Json],
        change_order: u64,
    ) -> Result<(), ResultsError> {
        let body = json!({"steps": steps, "change_order": change_order});
        self.call("WorkflowStepsUpdate", STEPS_UPDATE, body)
            .await
            .map(|_| ())
    }

    async fn receiver(
        &self,
        call: &'static str,
        document: &Document,
        mut body: Json,
    ) -> Result<Json, ResultsError> {
        if let Document::StepLog(step) | Document::Summary(step) = document {
            body["step_backend_id"] = json!(&**step);
        }
        self.call(call, &format!("{RECEIVER}{call}"), body).await
    }

    async fn call(
        &self,
        call: &'static str,
        path: &str,
        mut body: Json,
    ) -> Result<Json, ResultsError> {
        body["workflow_run_backend_id"] = json!(self.plan_id);
        body["workflow_job_run_backend_id"] = json!(self.job_id);
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        let post = self.http.client().post(url).json(&body);
        let answer = self.http.send(post.bearer_auth(self.token.expose_secret()));
        let answer = answer.await?;
        if !answer.status.is_success() {
            let refusal = answer.refusal();
            return Err(ResultsError::Refused { call, refusal });
        }
        answer
            .json()
            .map_err(|why| ResultsError::Answer { call, why })
    }
}
