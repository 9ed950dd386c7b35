//! Requests to GitHub's API, with its refusals said clearly.

use bytes::Bytes;
use http_body_util::{BodyExt, Limited, combinators::BoxBody};
use hyper::header::{HeaderMap, LOCATION, RETRY_AFTER};
use hyper::{Response, StatusCode};
use octocrab::Octocrab;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use tokio::io::AsyncRead;
use tokio::sync::OnceCell;
use url::Url;

use super::body::BodyReader;
use crate::action::digest::CommitId;
use crate::action::reference::RepositoryName;
use crate::action::source::SourceError;
use crate::printable;
use crate::web::{causes, is_loopback};

/// Most bytes of one answer but an archive.
const MAX_ANSWER: usize = 16 << 20;
/// How often an answer may lead elsewhere.
const MAX_REDIRECTS: usize = 5;
/// Longest wait for a connection, and for the next bytes.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
/// What stays as it is in a part of a path.
const PART: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');

type Answered = Response<BoxBody<Bytes, octocrab::Error>>;

/// The API at one URL.
pub(super) struct Api {
    base: String,
    token: Option<SecretString>,
    client: OnceCell<Octocrab>,
}

/// A text as a part of a path; slashes stay.
pub(super) fn path(text: &str) -> String {
    utf8_percent_encode(text, PART).to_string()
}

impl Api {
    pub(super) fn new(base: &str, token: Option<SecretString>) -> Result<Self, SourceError> {
        let url = Url::parse(base).ok();
        let good = url.filter(|url| {
            let plain = url.scheme() == "http" && is_loopback(url);
            (url.scheme() == "https" || plain) && url.username().is_empty() && url.query().is_none()
        });
        good.ok_or_else(|| SourceError::Api(base.to_owned()))?;
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            token,
            client: OnceCell::new(),
        })
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// What the API tells of a repository; nothing if it is not there.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        name: &RepositoryName,
        path: &str,
    ) -> Result<Option<T>, SourceError> {
        let Some(answer) = self.follow(name, path).await? else {
            return Ok(None);
        };
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body
            .map_err(|error| self.failed(name, &error.to_string()))?
            .to_bytes();
        let found = serde_json::from_slice(&body).map_err(|error| {
            self.failed(name, &format!("its answer is not as documented: {error}"))
        })?;
        Ok(Some(found))
    }

    /// An archive of a repository.
    pub(super) async fn stream(
        &self,
        name: &RepositoryName,
        path: &str,
    ) -> Result<Box<dyn AsyncRead + Send + Unpin>, SourceError> {
        let answer = self
            .follow(name, path)
            .await?
            .ok_or_else(|| self.missing(name))?;
        Ok(Box::new(BodyReader::new(answer.into_body())))
    }

    /// Asks, and follows where the answer leads. The token goes to the API only.
    async fn follow(
        &self,
        name: &RepositoryName,
        path: &str,
    ) -> Result<Option<Answered>, SourceError> {
        let client = self.client().await?;
        let mut url = format!("{}/repos/{name}{path}", self.base);
        for _ in 0..=MAX_REDIRECTS {
            let answer = client._get(url.as_str()).await;
            let answer = answer.map_err(|error| self.failed(name, &causes(&error)))?;
            let status = answer.status();
            if status.is_success() {
                return Ok(Some(answer));
            }
            if !status.is_redirection() {
                return self.refused(name, status, answer.headers());
            }
            let next = answer
                .headers()
                .get(LOCATION)
                .and_then(|next| next.to_str().ok());
            let next = next.and_then(|next| Url::parse(&url).ok()?.join(next).ok());
            let next = next.filter(|next| next.scheme() == "https" || is_loopback(next));
            url = next
                .ok_or_else(|| self.failed(name, "its answer leads nowhere"))?
                .into();
        }
        Err(self.failed(name, "its answers lead in a circle"))
    }

    fn refused(
        &self,
        name: &RepositoryName,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<Option<Answered>, SourceError> {
        let number = |name: &str| headers.get(name)?.to_str().ok()?.parse::<i64>().ok();
        let with = match self.token {
            Some(_) => "with this token",
            None => "without a token; give one in GITHUB_TOKEN or with `--token-file`",
        };
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::UNPROCESSABLE_ENTITY => Ok(None),
            StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
                if number("x-ratelimit-remaining") == Some(0) =>
            {
                let reset = number("x-ratelimit-reset").unwrap_or_default();
                let until = jiff::Timestamp::from_second(reset).unwrap_or_default();
                let why = format!("no more requests until {until} {with}");
                Err(self.failed(name, &why))
            }
            StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
                if headers.contains_key(RETRY_AFTER) =>
            {
                let seconds = number(RETRY_AFTER.as_str()).unwrap_or_default();
                let why = format!(
                    "too many requests at once; run the command again after {seconds} seconds"
                );
                Err(self.failed(name, &why))
            }
            StatusCode::UNAUTHORIZED => Err(self.failed(
                name,
                "the token is refused: it is expired, revoked or of another server",
            )),
            StatusCode::FORBIDDEN => Err(self.failed(
                name,
                &format!("the answer is 403: it may not be read {with}"),
            )),
            status => Err(self.failed(name, &format!("the answer is {status}; try again later"))),
        }
    }

    /// The client; it lives in the runtime that asks first.
    async fn client(&self) -> Result<&Octocrab, SourceError> {
        let make = || async {
            let client = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(PATIENCE)
                .read_timeout(PATIENCE)
                .build()
                .map_err(|error| SourceError::Run(std::io::Error::other(error)))?;
            // Only its server: octocrab would put the path of an Enterprise Server's API before that of
            // the servers that its answers lead to.
            let wrong = || SourceError::Api(self.base.clone());
            let server = Url::parse(&self.base).map_err(|_| wrong())?.origin();
            let mut builder = Octocrab::builder()
                .base_uri(server.ascii_serialization())
                .map_err(|_| wrong())?;
            if let Some(token) = &self.token {
                builder = builder.personal_token(token.clone());
            }
            builder
                .build_with_reqwest(client)
                .map_err(|error| SourceError::Run(std::io::Error::other(error)))
        };
        self.client.get_or_try_init(make).await
    }

    pub(super) fn id(&self, name: &RepositoryName, text: &str) -> Result<CommitId, SourceError> {
        text.parse()
            .map_err(|_| self.failed(name, "its answer has an id that is none"))
    }

    /// A repository that is not there, as far as this token can see.
    pub(super) fn missing(&self, name: &RepositoryName) -> SourceError {
        SourceError::Missing {
            repository: name.to_string(),
            from: self.base.clone(),
        }
    }

    pub(super) fn failed(&self, name: &RepositoryName, why: &str) -> SourceError {
        SourceError::GitHub {
            repository: name.to_string(),
            from: self.base.clone(),
            why: printable::line(why),
        }
    }
}
