//! GitHub's REST API as the supervisor needs it: who we are, runners, just-in-time configurations.
//!
//! Requests go through octocrab. Authentication is done here, so that the App's key is in memory that
//! is cleared when it is dropped.

mod app;
mod error;
mod place;
mod runners;

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{
    HeaderMap, Method, StatusCode,
    header::{AUTHORIZATION, HeaderValue, USER_AGENT},
    http::request::Builder,
};
use jiff::Timestamp;
use octocrab::Octocrab;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value as Json;
use tokio::sync::Mutex as AsyncMutex;

pub use app::{AppKey, AppKeyError};
pub use error::{RateLimit, RestError};
pub use place::{Place, Scope};
pub use runners::{JitRunner, Removed, Runner};

use super::pause::between;
use crate::web::causes;

/// Most bytes of an answer.
const MAX_ANSWER: usize = 8 << 20;
/// Longest wait for a connection, and for the next bytes.
const PATIENCE: Duration = Duration::from_secs(60);
/// A token is replaced so long before its end, or at half its life if that is shorter.
const BEFORE_END: i64 = 300;

/// Who asks.
#[derive(Debug)]
pub enum Who {
    /// A GitHub App, by its id or client id.
    App {
        /// The id.
        id: String,
        /// Its installation; looked up without it.
        installation: Option<u64>,
        /// Its key.
        key: AppKey,
    },
    /// Whoever has this token.
    Token(SecretString),
}

/// The API of one GitHub, for one scope.
#[derive(Debug)]
pub struct Rest {
    place: Place,
    scope: Scope,
    who: Who,
    agent: HeaderValue,
    octocrab: Octocrab,
    token: AsyncMutex<Option<InstallationToken>>,
    rate_limit: Mutex<Option<RateLimit>>,
    /// Until when GitHub wants not to be asked.
    closed_until: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct InstallationToken {
    token: SecretString,
    replace_at: Timestamp,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: SecretString,
    expires_at: Timestamp,
}

#[derive(Deserialize)]
struct Numbered {
    id: u64,
}

/// An answer that is a success.
struct Answer {
    endpoint: &'static str,
    body: Bytes,
}

impl Rest {
    /// A client that has not asked anything yet. Made within a tokio runtime.
    ///
    /// # Errors
    /// [`RestError::Setup`].
    pub fn new(place: Place, scope: Scope, who: Who, user_agent: &str) -> Result<Self, RestError> {
        let setup = |cause: &dyn std::error::Error| RestError::Setup(causes(cause));
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(PATIENCE)
            .read_timeout(PATIENCE)
            .build()
            .map_err(|error| setup(&error))?;
        let octocrab = Octocrab::builder()
            .base_uri(place.api.as_str())
            .map_err(|error| setup(&error))?
            .build_with_reqwest(client)
            .map_err(|error| setup(&error))?;
        let agent = HeaderValue::from_str(user_agent).map_err(|error| setup(&error))?;
        Ok(Self {
            place,
            scope,
            who,
            agent,
            octocrab,
            token: AsyncMutex::new(None),
            rate_limit: Mutex::new(None),
            closed_until: Mutex::new(None),
        })
    }

    /// Which GitHub it is.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Which part of it.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What GitHub said last about the requests that it allows.
    #[must_use]
    pub fn rate_limit(&self) -> Option<RateLimit> {
        *self
            .rate_limit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks as who we are, once more with a new token if the one at hand is not accepted.
    async fn ask(
        &self,
        endpoint: &'static str,
        method: Method,
        path: &str,
        body: Option<&Json>,
    ) -> Result<Answer, RestError> {
        let token = self.bearer().await?;
        let first = self
            .send(endpoint, method.clone(), path, body, &token)
            .await;
        match (first, &self.who) {
            (Err(RestError::Unauthorized { .. }), Who::App { .. }) => {
                *self.token.lock().await = None;
                let token = self.bearer().await?;
                self.send(endpoint, method, path, body, &token).await
            }
            (answer, _) => answer,
        }
    }

    /// The token that says who we are.
    async fn bearer(&self) -> Result<SecretString, RestError> {
        let (id, installation, key) = match &self.who {
            Who::Token(token) => return Ok(token.clone()),
            Who::App {
                id,
                installation,
                key,
            } => (id, *installation, key),
        };
        let mut held = self.token.lock().await;
        let now = Timestamp::now();
        if let Some(token) = held.as_ref().filter(|token| now < token.replace_at) {
            return Ok(token.token.clone());
        }
        let assertion = SecretString::from(key.assertion(id, now)?);
        let installation = match installation {
            Some(installation) => installation,
            None => self.installation(&assertion).await?,
        };
        let path = format!("/app/installations/{installation}/access_tokens");
        let answer = self
            .send("access_tokens", Method::POST, &path, None, &assertion)
            .await?;
        let answer: TokenAnswer = answer.json()?;
        let life = answer.expires_at.as_second() - now.as_second();
        let keep = jiff::SignedDuration::from_secs((life - BEFORE_END).max(life / 2));
        *held = Some(InstallationToken {
            token: answer.token.clone(),
            replace_at: now.saturating_add(keep).unwrap_or(now),
        });
        Ok(answer.token)
    }

    /// The App's installation in the scope.
    async fn installation(&self, assertion: &SecretString) -> Result<u64, RestError> {
        let path = format!("{}/installation", self.scope.path());
        let answer = self
            .send("installation", Method::GET, &path, None, assertion)
            .await?;
        Ok(answer.json::<Numbered>()?.id)
    }

    async fn send(
        &self,
        endpoint: &'static str,
        method: Method,
        path: &str,
        body: Option<&Json>,
        token: &SecretString,
    ) -> Result<Answer, RestError> {
        self.open(endpoint)?;
        let setup = |cause: &dyn std::error::Error| RestError::Setup(causes(cause));
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
            .map_err(|_| RestError::Unauthorized {
                endpoint,
                words: String::new(),
                next: "the token has characters that no token has; look at its file",
            })?;
        bearer.set_sensitive(true);
        let request = Builder::new().method(method).uri(path);
        let request = request.header(AUTHORIZATION, bearer);
        // Octocrab adds its own name to every request; ours comes first.
        let request = request.header(USER_AGENT, &self.agent);
        let request = self.octocrab.build_request(request, body);
        let request = request.map_err(|error| setup(&error))?;
        let failed = |cause: String| RestError::Transport {
            host: self.place.api.clone(),
            cause,
        };
        let answer = self.octocrab.execute(request).await;
        let answer = answer.map_err(|error| failed(causes(&error)))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| failed(error.to_string()))?.to_bytes();
        self.heed(&head.headers);
        if head.status.is_success() {
            return Ok(Answer { endpoint, body });
        }
        Err(self.refused(endpoint, head.status, &head.headers, &body))
    }

    /// Whether GitHub may be asked now.
    fn open(&self, endpoint: &'static str) -> Result<(), RestError> {
        let until = *self
            .closed_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let wait = until.map(|until| until.saturating_duration_since(Instant::now()));
        match wait.filter(|wait| !wait.is_zero()) {
            Some(wait) => Err(RestError::Limited {
                endpoint,
                wait,
                words: String::new(),
            }),
            None => Ok(()),
        }
    }

    /// Takes note of what an answer says about limits.
    fn heed(&self, headers: &HeaderMap) {
        if let Some(limit) = RateLimit::of(headers) {
            *self
                .rate_limit
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(limit);
        }
    }

    fn refused(
        &self,
        endpoint: &'static str,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> RestError {
        let mut error = RestError::of(endpoint, status, headers, body, Timestamp::now());
        if let RestError::Limited { wait, .. } = &mut error {
            // Whoever was limited at the same moment does not return at the same moment.
            *wait += between(Duration::ZERO..=*wait / 4);
            let until = Instant::now() + *wait;
            *self
                .closed_until
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(until);
        }
        error
    }
}

impl Answer {
    fn json<T: DeserializeOwned>(&self) -> Result<T, RestError> {
        serde_json::from_slice(&self.body).map_err(|error| RestError::Answer {
            endpoint: self.endpoint,
            // Without the value that it quotes: answers hold tokens.
            why: format!(
                "the answer is not of the known form (line {}, column {})",
                error.line(),
                error.column()
            ),
        })
    }
}
