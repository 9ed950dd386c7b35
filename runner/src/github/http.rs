//! HTTP to GitHub's services: one client, answers of a bounded size, and what a failed one says.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, StatusCode, header::HeaderMap, redirect};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use url::Url;

use crate::web::causes;

/// Most bytes of an answer. Job messages are the largest: they hold the event of the run.
const MAX_ANSWER: usize = 32 << 20;
/// Most characters of a service's own words in an error.
const MAX_WORDS: usize = 500;
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(30);
/// How long a request may take, a long poll (about 50 s) included.
const REQUEST: Duration = Duration::from_secs(100);

/// A client of GitHub's services. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The client cannot be set up.
    #[error("cannot set up TLS: {0}; are the ca-certificates of the system installed?")]
    Setup(#[source] reqwest::Error),
    /// The exchange failed.
    #[error(
        "cannot reach {host}: {cause}; look at the network, the proxy variables and githubstatus.com"
    )]
    Exchange {
        /// The host.
        host: String,
        /// What went wrong, without the address.
        cause: String,
    },
    /// The answer is larger than any that is expected.
    #[error("{0} answered with more than {MAX_ANSWER} bytes")]
    Large(String),
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its whole body; it may hold secrets.
    body: Vec<u8>,
}

/// What a service says in an answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// `source` of the body, like `actions-broker-listener`.
    pub source: Option<String>,
    /// `errorKind` of the body, like `RunnerSessionInvalid`; or `error` of OAuth, like `invalid_client`.
    pub kind: Option<String>,
    /// The service's words, shortened; empty if it said nothing readable.
    pub message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HTTP {}", self.status)?;
        for part in [self.kind.as_deref(), Some(self.message.as_str())] {
            if let Some(part) = part.filter(|part| !part.is_empty()) {
                write!(f, ", {part}")?;
            }
        }
        Ok(())
    }
}

impl Http {
    /// A client that calls itself `user_agent`.
    ///
    /// Redirects are not followed: a token goes where it was sent, and nowhere else.
    ///
    /// # Errors
    /// [`TransportError::Setup`].
    pub fn new(user_agent: &str) -> Result<Self, TransportError> {
        let client = Client::builder()
            .user_agent(user_agent)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(REQUEST)
            .build()
            .map_err(TransportError::Setup)?;
        Ok(Self { client })
    }

    /// The client under it, to begin a request.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Sends a request and reads its whole answer.
    ///
    /// # Errors
    /// [`TransportError`]; an answer of any status is none.
    pub async fn send(&self, request: RequestBuilder) -> Result<Answer, TransportError> {
        let mut response = request.send().await.map_err(exchange)?;
        let host = response.url().host_str().unwrap_or_default().to_owned();
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(exchange)? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(TransportError::Large(host));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status,
            headers,
            body,
        })
    }
}

/// An error without its address: query strings are nobody's business.
fn exchange(error: reqwest::Error) -> TransportError {
    let host = error.url().and_then(Url::host_str).unwrap_or("the service");
    let host = host.to_owned();
    let error = error.without_url();
    let cause = causes(&error);
    TransportError::Exchange { host, cause }
}

impl Answer {
    /// The body without a byte order mark.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.body
            .strip_prefix(b"\xef\xbb\xbf")
            .unwrap_or(&self.body)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// Where it is not of this form; the message holds nothing of the body.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_slice(self.bytes()).map_err(|error| {
            format!(
                "the answer is not of the known form (line {}, column {})",
                error.line(),
                error.column()
            )
        })
    }

    /// What the answer says if it is no success.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let json: Json = serde_json::from_slice(self.bytes()).unwrap_or_default();
        let text = |names: &[&str]| {
            let fields = json.as_object()?.iter();
            let mut known =
                fields.filter(|(key, _)| names.iter().any(|n| key.eq_ignore_ascii_case(n)));
            known.find_map(|(_, value)| value.as_str().map(shortened))
        };
        Refusal {
            status: self.status.as_u16(),
            source: text(&["source"]),
            kind: text(&["errorKind", "error", "typeName"]),
            message: text(&["errorMessage", "error_description", "message"]).unwrap_or_default(),
        }
    }
}

/// A line of a service's words, without what a terminal would act on.
fn shortened(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(MAX_WORDS).collect()
}
