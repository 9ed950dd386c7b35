//! Runner scale sets: GitHub says how many runners it wants, and each is made for one job.
//!
//! Names and behaviour are those of actions/scaleset. An administration token, which the REST API's
//! registration token earns, is for all but the messages; those have a token of their session.

mod session;
mod wire;

use std::sync::Arc;

use jiff::Timestamp;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use tokio::sync::Mutex as AsyncMutex;
use url::Url;

pub use session::{Polled, Session};
pub use wire::{JobEntry, QueueMessage, ScaleSet, Statistics};

use super::{
    http::{Answer, Http, Refusal, TransportError},
    jit,
    rest::{JitRunner, Removed, Rest, RestError},
};
use wire::{Agent, Group, JitAnswer, Listed, Registered};

/// Version of the interface.
const API_VERSION: &str = "6.0-preview";
/// Where scale sets are.
const SETS: &str = "_apis/runtime/runnerscalesets";
/// Where groups are.
const GROUPS: &str = "_apis/runtime/runnergroups/";
/// Where runners are.
const AGENTS: &str = "_apis/distributedtask/pools/0/agents";
/// An administration token is replaced so long before its end, in seconds.
const BEFORE_END: i64 = 60;
/// How long one is kept that does not say when it ends, in seconds.
const UNSAID: i64 = 600;

/// The scale sets of a scope.
#[derive(Debug)]
pub struct ScaleSets {
    http: Http,
    rest: Arc<Rest>,
    subsystem: String,
    admin: AsyncMutex<Option<Admin>>,
}

/// Who administrates, and where.
#[derive(Clone)]
struct Admin {
    base: Url,
    token: SecretString,
    replace_at: Timestamp,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

/// Why a scale set did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ScaleSetError {
    /// No administration token.
    #[error(transparent)]
    Rest(#[from] RestError),
    /// Not reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The token is not accepted.
    #[error("{endpoint}: the token is not accepted: {refusal}")]
    Unauthorized {
        /// The endpoint.
        endpoint: &'static str,
        /// GitHub's words.
        refusal: Refusal,
    },
    /// Another process has the session, or the name.
    #[error("{endpoint}: {refusal}; another process has it, or had it a moment ago")]
    Conflict {
        /// The endpoint.
        endpoint: &'static str,
        /// GitHub's words.
        refusal: Refusal,
    },
    /// There is no such thing.
    #[error("{endpoint}: not found: {refusal}")]
    NotFound {
        /// The endpoint.
        endpoint: &'static str,
        /// GitHub's words.
        refusal: Refusal,
    },
    /// Anything else.
    #[error("{endpoint}: {refusal}")]
    Refused {
        /// The endpoint.
        endpoint: &'static str,
        /// GitHub's words.
        refusal: Refusal,
    },
    /// The answer cannot be understood.
    #[error("{endpoint}: {why}")]
    Answer {
        /// The endpoint.
        endpoint: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl ScaleSetError {
    /// Its kind, as metrics name it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Rest(error) => error.kind(),
            Self::Transport(_) => "transport",
            Self::Unauthorized { .. } => "unauthorized",
            Self::Conflict { .. } => "conflict",
            Self::NotFound { .. } => "not_found",
            Self::Refused { refusal, .. } if refusal.status >= 500 => "server",
            Self::Refused { refusal, .. } if refusal.status == 429 => "limited",
            Self::Refused { .. } => "refused",
            Self::Answer { .. } => "answer",
        }
    }

    /// How long GitHub wants not to be asked.
    #[must_use]
    pub fn wait(&self) -> Option<std::time::Duration> {
        match self {
            Self::Rest(error) => error.wait(),
            _ => None,
        }
    }
}

impl ScaleSets {
    /// A client that has not asked anything yet.
    ///
    /// # Errors
    /// [`TransportError::Setup`].
    pub fn new(rest: Arc<Rest>, version: &str) -> Result<Self, TransportError> {
        // The service reads who asks from a JSON object.
        let subsystem = json!({
            "system": "mayfly", "version": version, "commit_sha": "", "scale_set_id": 0,
            "subsystem": "serve", "build_version": version, "build_commit_sha": "", "kind": "scaleset",
        })
        .to_string();
        Ok(Self {
            http: Http::new(&subsystem)?,
            rest,
            subsystem,
            admin: AsyncMutex::new(None),
        })
    }

    /// What the client calls itself.
    #[must_use]
    pub fn user_agent(&self) -> &str {
        &self.subsystem
    }

    /// Who administrates now; asked for anew shortly before the token's end.
    async fn admin(&self) -> Result<Admin, ScaleSetError> {
        let mut held = self.admin.lock().await;
        let now = Timestamp::now();
        if let Some(admin) = held.as_ref().filter(|admin| now < admin.replace_at) {
            return Ok(admin.clone());
        }
        let admin = self.register(now).await?;
        *held = Some(admin.clone());
        Ok(admin)
    }

    async fn register(&self, now: Timestamp) -> Result<Admin, ScaleSetError> {
        let endpoint = "runner-registration";
        let registration = self.rest.registration_token().await?;
        let place = self.rest.place();
        let url = format!("{}/actions/runner-registration", place.api);
        let body = json!({"url": place.of(self.rest.scope()), "runner_event": "register"});
        let remote = format!("RemoteAuth {}", registration.expose_secret());
        let request = self.http.client().post(url).json(&body);
        let request = request.header("authorization", sensitive(&remote, endpoint)?);
        let answer = accepted(endpoint, self.http.send(request).await?)?;
        let registered: Registered = json_of(endpoint, &answer)?;
        let base = jit::base(&registered.url).map_err(|why| ScaleSetError::Answer {
            endpoint,
            why: format!("its url {why}"),
        })?;
        let end = end_of(registered.token.expose_secret());
        let end = end.unwrap_or(now.as_second() + UNSAID) - BEFORE_END;
        Ok(Admin {
            base,
            token: registered.token,
            replace_at: Timestamp::from_second(end.max(now.as_second() + 1)).unwrap_or(now),
        })
    }

    /// Asks as the administrator, once more with a new token if the one at hand is not accepted.
    async fn ask(
        &self,
        endpoint: &'static str,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Json>,
    ) -> Result<Answer, ScaleSetError> {
        let mut again = true;
        loop {
            let admin = self.admin().await?;
            let request = self.request(&admin, method.clone(), endpoint, path, query, body)?;
            match accepted(endpoint, self.http.send(request).await?) {
                Err(ScaleSetError::Unauthorized { .. }) if again => {
                    again = false;
                    *self.admin.lock().await = None;
                }
                answer => return answer,
            }
        }
    }

    fn request(
        &self,
        admin: &Admin,
        method: Method,
        endpoint: &'static str,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Json>,
    ) -> Result<RequestBuilder, ScaleSetError> {
        let mut url = admin
            .base
            .join(path)
            .map_err(|error| ScaleSetError::Answer {
                endpoint,
                why: format!("its address cannot be made: {error}"),
            })?;
        url.query_pairs_mut()
            .extend_pairs(query)
            .append_pair("api-version", API_VERSION);
        let client: &Client = self.http.client();
        let bearer = format!("Bearer {}", admin.token.expose_secret());
        let request = client.request(method, url);
        let request = request.header("authorization", sensitive(&bearer, endpoint)?);
        Ok(match body {
            Some(body) => request.json(body),
            None => request,
        })
    }

    /// The number of a runner group.
    ///
    /// # Errors
    /// [`ScaleSetError`]; there may be none of this name.
    pub async fn group(&self, name: &str) -> Result<u64, ScaleSetError> {
        let endpoint = "runnergroups";
        let query = [("groupName", name)];
        let answer = self
            .ask(endpoint, Method::GET, GROUPS, &query, None)
            .await?;
        let groups: Listed<Group> = json_of(endpoint, &answer)?;
        let found = groups
            .value
            .into_iter()
            .find(|g| g.name.eq_ignore_ascii_case(name));
        found
            .map(|group| group.id)
            .ok_or_else(|| ScaleSetError::Answer {
                endpoint,
                why: format!(
                    "there is no runner group `{name}`; make it, or take runner_group out"
                ),
            })
    }

    /// The scale set of this name in a group; it is made where it is missing.
    ///
    /// # Errors
    /// [`ScaleSetError`].
    pub async fn ensure(&self, name: &str, group: u64) -> Result<ScaleSet, ScaleSetError> {
        let endpoint = "runnerscalesets";
        let number = group.to_string();
        let query = [("runnerGroupId", number.as_str()), ("name", name)];
        let answer = self.ask(endpoint, Method::GET, SETS, &query, None).await?;
        let found: Listed<ScaleSet> = json_of(endpoint, &answer)?;
        if let Some(set) = found.value.into_iter().find(|set| set.name == name) {
            return Ok(set);
        }
        let body = json!({
            "name": name, "runnerGroupId": group,
            "labels": [{"name": name, "type": "System"}],
            "RunnerSetting": {"disableUpdate": true},
        });
        let answer = self
            .ask(endpoint, Method::POST, SETS, &[], Some(&body))
            .await?;
        json_of(endpoint, &answer)
    }

    /// Registers a runner for one job of a set.
    ///
    /// # Errors
    /// [`ScaleSetError`]; [`ScaleSetError::Conflict`] if there is one of this name.
    pub async fn jit_config(&self, set: u64, name: &str) -> Result<JitRunner, ScaleSetError> {
        let endpoint = "generatejitconfig";
        let path = format!("{SETS}/{set}/generatejitconfig");
        let body = json!({"name": name, "workFolder": "_work"});
        let answer = self
            .ask(endpoint, Method::POST, &path, &[], Some(&body))
            .await?;
        let made: JitAnswer = json_of(endpoint, &answer)?;
        Ok(JitRunner {
            id: made.runner.id,
            config: made.config,
        })
    }

    /// The number of a runner.
    ///
    /// # Errors
    /// [`ScaleSetError`].
    pub async fn runner(&self, name: &str) -> Result<Option<u64>, ScaleSetError> {
        let endpoint = "agents";
        let query = [("agentName", name)];
        let answer = self
            .ask(endpoint, Method::GET, AGENTS, &query, None)
            .await?;
        let agents: Listed<Agent> = json_of(endpoint, &answer)?;
        let found = agents.value.into_iter().find(|agent| agent.name == name);
        Ok(found.map(|agent| agent.id))
    }

    /// Removes a runner, unless it has a job: GitHub knows for sure.
    ///
    /// # Errors
    /// [`ScaleSetError`].
    pub async fn remove(&self, runner: u64) -> Result<Removed, ScaleSetError> {
        let path = format!("{AGENTS}/{runner}");
        let asked = self.ask("remove-agent", Method::DELETE, &path, &[], None);
        let refusal = match asked.await {
            Ok(_) => return Ok(Removed::Yes),
            Err(ScaleSetError::NotFound { .. }) => return Ok(Removed::Gone),
            Err(
                ScaleSetError::Conflict { refusal, .. } | ScaleSetError::Refused { refusal, .. },
            ) => refusal,
            Err(error) => return Err(error),
        };
        let says = |name: &str| {
            refusal
                .kind
                .as_ref()
                .is_some_and(|kind| kind.contains(name))
        };
        if says("JobStillRunning") {
            Ok(Removed::Busy)
        } else if says("AgentNotFound") {
            Ok(Removed::Gone)
        } else {
            let endpoint = "remove-agent";
            Err(ScaleSetError::Refused { endpoint, refusal })
        }
    }
}

/// A header's value that is not shown anywhere.
fn sensitive(
    text: &str,
    endpoint: &'static str,
) -> Result<reqwest::header::HeaderValue, ScaleSetError> {
    let value = reqwest::header::HeaderValue::from_str(text);
    let mut value = value.map_err(|_| ScaleSetError::Answer {
        endpoint,
        why: "the token before it has characters that no token has".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The answer if it is a success.
fn accepted(endpoint: &'static str, answer: Answer) -> Result<Answer, ScaleSetError> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    let refusal = answer.refusal();
    let exists = refusal
        .kind
        .as_ref()
        .is_some_and(|kind| kind.contains("AgentExists"));
    Err(match answer.status {
        _ if exists => ScaleSetError::Conflict { endpoint, refusal },
        StatusCode::UNAUTHORIZED => ScaleSetError::Unauthorized { endpoint, refusal },
        StatusCode::CONFLICT => ScaleSetError::Conflict { endpoint, refusal },
        StatusCode::NOT_FOUND => ScaleSetError::NotFound { endpoint, refusal },
        _ => ScaleSetError::Refused { endpoint, refusal },
    })
}

fn json_of<T: DeserializeOwned>(
    endpoint: &'static str,
    answer: &Answer,
) -> Result<T, ScaleSetError> {
    answer
        .json()
        .map_err(|why| ScaleSetError::Answer { endpoint, why })
}

/// When a token ends, if it is a JWT that says so. It is not verified: it is not for us.
fn end_of(token: &str) -> Option<i64> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Json = serde_json::from_slice(&claims).ok()?;
    claims["exp"].as_i64()
}
