//! The broker: a runner's session, and the long poll by which it hears of jobs.

use std::sync::Arc;

use reqwest::{Client, RequestBuilder, StatusCode};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use url::Url;
use uuid::Uuid;

use super::{
    http::{Answer, Http, Refusal, TransportError},
    jit::RunnerSettings,
    key::RunnerKey,
    message::{Envelope, JobOffer, Message},
    session_key::{SealedError, SessionKey},
    token::{TokenError, TokenSource},
};
use crate::tolerant::{FieldError, Fields};

/// Longest wait for the answer to an acknowledgement.
const ACKNOWLEDGE: std::time::Duration = std::time::Duration::from_secs(5);

/// What a runner says of itself.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The version of the official runner whose protocol is spoken.
    pub version: String,
    /// The owner of the session, as GitHub shows it in a conflict.
    pub owner: String,
    /// The operating system in words.
    pub os_description: String,
}

/// Whether the runner has a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It waits for one.
    Online,
    /// It runs one; only cancellations are heard.
    Busy,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Online => "Online",
            Self::Busy => "Busy",
        }
    }
}

/// A session at the broker. There is one per runner.
#[derive(Debug, Clone)]
pub struct Session {
    id: String,
    /// What its messages are encrypted with, by old services.
    key: Option<Arc<SessionKey>>,
}

/// A call did not come to an answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The runner has no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The service was not reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Another process holds a session of this runner.
    #[error("another process has a session of this runner: {0}")]
    Conflict(Refusal),
    /// The runner may not have one.
    #[error(
        "GitHub denies this runner a session: {0}; is it still registered, and its group allowed?"
    )]
    Denied(Refusal),
    /// The version that is reported is too old.
    #[error(
        "GitHub takes no runner of version {version} any more: {refusal}; name the newest release of actions/runner (`--runner-version`, MAYFLY_RUNNER_VERSION, or `runner_version` in the configuration)"
    )]
    VersionTooOld {
        /// The version that was reported.
        version: String,
        /// What the service said.
        refusal: Refusal,
    },
    /// Another refusal; it may pass.
    #[error("GitHub gives this runner no session now: {0}")]
    Refused(Refusal),
    /// Bodies of messages would be encrypted with a key that cannot be read.
    #[error("the key of the session cannot be read: {0}")]
    Key(#[from] SealedError),
    /// An answer that is not understood.
    #[error("the answer about the session cannot be read: {0}")]
    Answer(String),
}

/// Why a poll brought neither a message nor silence.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// No answer; it may pass.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The session is over: a new one is needed.
    #[error("the session is not known any more: {0}")]
    SessionInvalid(Refusal),
    /// The runner was removed.
    #[error("GitHub does not know this runner any more: {0}")]
    RunnerGone(Refusal),
    /// The version that is reported is too old.
    #[error(
        "GitHub gives no job to version {version}: {refusal}; name the newest release of actions/runner (`--runner-version`, MAYFLY_RUNNER_VERSION, or `runner_version` in the configuration)"
    )]
    VersionTooOld {
        /// The version that was reported.
        version: String,
        /// What the service said.
        refusal: Refusal,
    },
    /// Another refusal; it may pass.
    #[error("the poll for jobs was refused: {0}")]
    Refused(Refusal),
    /// A message that is not understood. It will not come again.
    #[error("a message cannot be read: {0}")]
    Message(String),
}

/// Why an offer was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum AcknowledgeError {
    /// No answer; the offer stands.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The job of the offer is not there any more.
    #[error("the offered job is gone: {0}")]
    Gone(Refusal),
    /// Another refusal; the offer stands.
    #[error("the acknowledgement was refused: {0}")]
    Refused(Refusal),
}

/// The broker's client.
#[derive(Debug)]
pub struct Broker {
    http: Http,
    tokens: Arc<TokenSource>,
    key: Arc<RunnerKey>,
    base: Url,
    runner: RunnerSettings,
    identity: Identity,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Opened {
    session_id: String,
    encryption_key: Option<serde_json::Value>,
    broker_migration_message: Option<Migration>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Migration {
    broker_base_url: String,
}

impl Broker {
    /// A client without a session.
    #[must_use]
    pub fn new(
        http: Http,
        tokens: Arc<TokenSource>,
        key: Arc<RunnerKey>,
        runner: RunnerSettings,
        identity: Identity,
    ) -> Self {
        Self {
            http,
            tokens,
            key,
            base: runner.server.clone(),
            runner,
            identity,
        }
    }

    /// From now on asks the broker at another place.
    pub fn migrate(&mut self, base: Url) {
        self.base = base;
    }

    /// Opens the session.
    ///
    /// # Errors
    /// [`SessionError`]; which of them pass, its variants say.
    pub async fn open(&mut self) -> Result<Session, SessionError> {
        let body = json!({
            "sessionId": Uuid::nil().to_string(),
            "ownerName": self.identity.owner,
            "agent": {
                "id": self.runner.agent_id,
                "name": self.runner.agent_name,
                "version": self.identity.version,
                "osDescription": self.identity.os_description,
                "ephemeral": self.runner.ephemeral,
                "status": 0,
            },
            "useFipsEncryption": true,
        });
        let url = self.at("session");
        let answer = self.call(|client| client.post(url.clone()).json(&body));
        let answer = answer.await?;
        if !answer.status.is_success() {
            return Err(self.no_session(answer.refusal()));
        }
        let opened: Opened = answer.json().map_err(SessionError::Answer)?;
        let key = opened.encryption_key.filter(|key| !key.is_null());
        let key = key.map(|key| {
            let fields = Fields::new(key, String::new()).map_err(SealedError::from);
            fields.and_then(|fields| SessionKey::read(fields, &self.key))
        });
        let key = key.transpose()?.map(Arc::new);
        if let Some(migration) = opened.broker_migration_message {
            let base = super::jit::base(&migration.broker_base_url);
            let base = base.map_err(|why| SessionError::Answer(format!("brokerBaseUrl {why}")))?;
            self.migrate(base);
        }
        Ok(Session {
            id: opened.session_id,
            key,
        })
    }

    fn no_session(&self, refusal: Refusal) -> SessionError {
        if too_old(&refusal) {
            let version = self.identity.version.clone();
            return SessionError::VersionTooOld { version, refusal };
        }
        match refusal.status {
            401 | 403 => SessionError::Denied(refusal),
            409 => SessionError::Conflict(refusal),
            _ => SessionError::Refused(refusal),
        }
    }

    /// Waits (about 50 s) for a message; nothing came if there is none.
    ///
    /// Dropping the future gives the poll up: that is how a change of the status is made known.
    ///
    /// # Errors
    /// [`PollError`]; which of them pass, its variants say.
    pub async fn poll(
        &self,
        session: &Session,
        status: Status,
    ) -> Result<Option<Message>, PollError> {
        let url = self.about("message", session, status);
        let answer = self.call(|client| client.get(url.clone())).await?;
        if !answer.status.is_success() {
            return Err(self.no_message(answer.refusal()));
        }
        let silent = [StatusCode::ACCEPTED, StatusCode::NO_CONTENT].contains(&answer.status);
        if silent || answer.bytes().is_empty() {
            return Ok(None);
        }
        let envelope = answer.json().map_err(PollError::Message)?;
        let message = read(session, envelope).map_err(PollError::Message)?;
        Ok(Some(message))
    }

    fn no_message(&self, refusal: Refusal) -> PollError {
        if too_old(&refusal) {
            let version = self.identity.version.clone();
            return PollError::VersionTooOld { version, refusal };
        }
        match refusal.kind.as_deref() {
            Some("RunnerSessionInvalid") => PollError::SessionInvalid(refusal),
            Some("RunnerNotFound" | "HostedRunnerDeprovisioned") => PollError::RunnerGone(refusal),
            _ => PollError::Refused(refusal),
        }
    }

    /// Tells the broker that an offer arrived. Delivery does not depend on it.
    ///
    /// # Errors
    /// [`AcknowledgeError`]; only that the job is gone means anything.
    pub async fn acknowledge(
        &self,
        session: &Session,
        status: Status,
        offer: &JobOffer,
    ) -> Result<(), AcknowledgeError> {
        let url = self.about("acknowledge", session, status);
        let body = json!({"runnerRequestId": offer.request_id});
        let post = |client: &Client| client.post(url.clone()).timeout(ACKNOWLEDGE).json(&body);
        let answer = self.call(post).await?;
        if answer.status.is_success() {
            return Ok(());
        }
        let refusal = answer.refusal();
        Err(match refusal.kind.as_deref() {
            Some("AcknowledgeJobNotFound") => AcknowledgeError::Gone(refusal),
            _ => AcknowledgeError::Refused(refusal),
        })
    }

    /// Ends the session.
    ///
    /// # Errors
    /// [`CallError`]; the session then ends by itself after a while.
    pub async fn close(&self, _session: Session) -> Result<(), CallError> {
        let url = self.at("session");
        self.call(|client| client.delete(url.clone()))
            .await
            .map(|_| ())
    }

    fn at(&self, name: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{name}", self.base.path()));
        url
    }

    fn about(&self, name: &str, session: &Session, status: Status) -> Url {
        let mut url = self.at(name);
        url.query_pairs_mut()
            .append_pair("sessionId", &session.id)
            .append_pair("status", status.name())
            .append_pair("runnerVersion", &self.identity.version)
            .append_pair("os", "Linux")
            .append_pair("architecture", "X64")
            .append_pair("disableUpdate", "true");
        url
    }

    /// Sends a request with the runner's token; with a new token once more if that was refused.
    async fn call(&self, request: impl Fn(&Client) -> RequestBuilder) -> Result<Answer, CallError> {
        authorized(&self.http, &self.tokens, request).await
    }
}

/// A message of a session, opened if it is encrypted.
fn read(session: &Session, envelope: Json) -> Result<Message, String> {
    let text = |why: FieldError| why.to_string();
    let mut envelope = Envelope::read(envelope).map_err(text)?;
    if let Some(iv) = envelope.iv.take() {
        let key = session.key.as_ref();
        let key = key.ok_or("body is encrypted, though the session has no key")?;
        let opened = key.open(&envelope.body, &iv);
        envelope.body = opened.map_err(|why| why.to_string())?;
    }
    envelope.open().map_err(text)
}

/// Sends a request with the runner's token; with a new token once more if that was refused.
pub(super) async fn authorized(
    http: &Http,
    tokens: &TokenSource,
    request: impl Fn(&Client) -> RequestBuilder,
) -> Result<Answer, CallError> {
    let send = async || -> Result<Answer, CallError> {
        let token = tokens.token().await?;
        let sent = request(http.client()).bearer_auth(token.expose_secret());
        Ok(http.send(sent).await?)
    };
    let answer = send().await?;
    if answer.status != StatusCode::UNAUTHORIZED {
        return Ok(answer);
    }
    tokens.forget().await;
    send().await
}

/// Whether a refusal is about the version that is reported.
fn too_old(refusal: &Refusal) -> bool {
    let kind = refusal.kind.as_deref();
    kind == Some("RunnerVersionTooOld")
        || (matches!(refusal.status, 400 | 403)
            && refusal
                .message
                .contains("is deprecated and cannot receive messages"))
}
