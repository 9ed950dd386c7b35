//! The message session of a scale set: one process at a time has it, and polls.

use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use url::Url;

use super::{
    API_VERSION, SETS, ScaleSetError, ScaleSets, Statistics, accepted, json_of, sensitive,
    wire::{Listed, QueueMessage, SessionAnswer},
};
use crate::github::jit;

/// A session.
#[derive(Debug)]
pub struct Session {
    /// Its id.
    pub id: String,
    /// How the set stood when it was opened or refreshed.
    pub statistics: Statistics,
    set: u64,
    queue: Url,
    token: SecretString,
    /// The number of the last message that was seen.
    last: Option<i64>,
}

/// What a poll led to.
#[derive(Debug)]
pub enum Polled {
    /// A message.
    Message(QueueMessage),
    /// Nothing new.
    Nothing,
    /// The token has ended: the session is to be refreshed.
    Expired,
}

impl ScaleSets {
    /// Opens the session of a set.
    ///
    /// # Errors
    /// [`ScaleSetError::Conflict`] while another process has it, and all others.
    pub async fn open_session(&self, set: u64, owner: &str) -> Result<Session, ScaleSetError> {
        let endpoint = "sessions";
        let path = format!("{SETS}/{set}/sessions");
        let body = json!({"ownerName": owner});
        let answer = self
            .ask(endpoint, Method::POST, &path, &[], Some(&body))
            .await?;
        session(set, json_of(endpoint, &answer)?)
    }

    /// Gives a session a new token.
    ///
    /// # Errors
    /// [`ScaleSetError::NotFound`] if it is over, and all others.
    pub async fn refresh_session(&self, open: &mut Session) -> Result<(), ScaleSetError> {
        let endpoint = "sessions";
        let path = format!("{SETS}/{}/sessions/{}", open.set, open.id);
        let answer = self.ask(endpoint, Method::PATCH, &path, &[], None).await?;
        let fresh = session(open.set, json_of(endpoint, &answer)?)?;
        let last = open.last;
        *open = Session { last, ..fresh };
        Ok(())
    }

    /// Ends a session by its id, also one of a process that is gone.
    ///
    /// # Errors
    /// [`ScaleSetError`].
    pub async fn end_session(&self, set: u64, id: &str) -> Result<(), ScaleSetError> {
        let path = format!("{SETS}/{set}/sessions/{id}");
        let ended = self.ask("sessions", Method::DELETE, &path, &[], None).await;
        match ended {
            Ok(_) | Err(ScaleSetError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits for a message, most of a minute.
    ///
    /// # Errors
    /// [`ScaleSetError`].
    pub async fn poll(&self, open: &Session, capacity: u32) -> Result<Polled, ScaleSetError> {
        let endpoint = "scaleset-message";
        let mut url = open.queue.clone();
        if let Some(last) = open.last {
            url.query_pairs_mut()
                .append_pair("lastMessageId", &last.to_string());
        }
        let request = self.http.client().get(url);
        let request = request
            .header("authorization", self.bearer(open, endpoint)?)
            .header(
                "accept",
                format!("application/json; api-version={API_VERSION}"),
            )
            .header("x-scalesetmaxcapacity", capacity);
        let answer = self.http.send(request).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            return Ok(Polled::Expired);
        }
        let answer = accepted(endpoint, answer)?;
        if answer.status != StatusCode::OK || answer.bytes().is_empty() {
            return Ok(Polled::Nothing);
        }
        json_of(endpoint, &answer).map(Polled::Message)
    }

    /// Says that a message was heeded: it does not come again.
    ///
    /// # Errors
    /// [`ScaleSetError`]; it then comes again, which does no harm.
    pub async fn acknowledge(&self, open: &mut Session, message: i64) -> Result<(), ScaleSetError> {
        let endpoint = "scaleset-message";
        open.last = Some(message);
        let mut url = open.queue.clone();
        let path = format!("{}/{message}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let request = self.http.client().delete(url);
        let request = request
            .header("authorization", self.bearer(open, endpoint)?)
            .header(
                "accept",
                format!("application/json; api-version={API_VERSION}"),
            );
        let answer = accepted(endpoint, self.http.send(request).await?);
        match answer {
            Ok(_) | Err(ScaleSetError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Acquires jobs where the server wants that: an Enterprise Server does, github.com assigns them by
    /// itself and knows no such call.
    ///
    /// # Errors
    /// [`ScaleSetError`].
    pub async fn acquire(
        &self,
        open: &Session,
        requests: &[i64],
    ) -> Result<Vec<i64>, ScaleSetError> {
        let endpoint = "acquirejobs";
        let admin = self.admin().await?;
        let path = format!("{SETS}/{}/acquirejobs", open.set);
        let joined = admin.base.join(&path);
        let mut url = joined.map_err(|error| ScaleSetError::Answer {
            endpoint,
            why: format!("its address cannot be made: {error}"),
        })?;
        url.query_pairs_mut()
            .append_pair("api-version", API_VERSION);
        let request = self.http.client().post(url);
        let request = request
            .header("authorization", self.bearer(open, endpoint)?)
            .json(requests);
        match accepted(endpoint, self.http.send(request).await?) {
            Ok(answer) => Ok(json_of::<Listed<i64>>(endpoint, &answer)?.value),
            Err(ScaleSetError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn bearer(
        &self,
        open: &Session,
        endpoint: &'static str,
    ) -> Result<reqwest::header::HeaderValue, ScaleSetError> {
        sensitive(&format!("Bearer {}", open.token.expose_secret()), endpoint)
    }
}

fn session(set: u64, answer: SessionAnswer) -> Result<Session, ScaleSetError> {
    let queue = jit::web(&answer.message_queue_url).map_err(|why| ScaleSetError::Answer {
        endpoint: "sessions",
        why: format!("its messageQueueUrl {why}"),
    })?;
    Ok(Session {
        id: answer.session_id,
        statistics: answer.statistics.unwrap_or_default(),
        set,
        queue,
        token: answer.message_queue_access_token,
        last: None,
    })
}
