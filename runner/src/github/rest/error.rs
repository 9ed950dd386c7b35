//! Why GitHub's REST API did not do what it was asked, and how long it wants to be left alone.

use std::time::Duration;

use hyper::{HeaderMap, StatusCode, header::RETRY_AFTER};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::app::AppKeyError;
use crate::printable;

/// How long to wait where GitHub limits and does not say for how long: its own advice.
const UNSAID: Duration = Duration::from_secs(60);
/// The longest wait that is believed: limits are set anew every hour.
const LONGEST: Duration = Duration::from_secs(3700);
/// Most characters of GitHub's own words in a message.
const MAX_WORDS: usize = 300;

/// What GitHub says of the requests that it still allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Requests in an hour.
    pub limit: u64,
    /// Requests that are left.
    pub remaining: u64,
    /// When they are as many as at first again.
    pub reset: Timestamp,
}

impl RateLimit {
    /// What an answer says of it.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        Some(Self {
            limit: number(headers, "x-ratelimit-limit")?,
            remaining: number(headers, "x-ratelimit-remaining")?,
            reset: Timestamp::from_second(number(headers, "x-ratelimit-reset")?.try_into().ok()?)
                .ok()?,
        })
    }
}

/// Why there is no answer, or not the one that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// The client cannot be set up.
    #[error(
        "cannot set up the client of GitHub's API: {0}; are the ca-certificates of the system installed?"
    )]
    Setup(String),
    /// The exchange failed.
    #[error(
        "cannot reach {host}: {cause}; look at the network, the proxy variables and githubstatus.com"
    )]
    Transport {
        /// The address.
        host: String,
        /// The cause.
        cause: String,
    },
    /// GitHub limits the requests.
    #[error("{endpoint}: GitHub allows no more requests for {} s{words}", .wait.as_secs())]
    Limited {
        /// The endpoint.
        endpoint: &'static str,
        /// How long.
        wait: Duration,
        /// GitHub's words, after a colon.
        words: String,
    },
    /// The credentials are not accepted.
    #[error("{endpoint}: GitHub does not accept the credentials{words}; {next}")]
    Unauthorized {
        /// The endpoint.
        endpoint: &'static str,
        /// GitHub's words, after a colon.
        words: String,
        /// What to do.
        next: &'static str,
    },
    /// The credentials do not reach that far.
    #[error("{endpoint}: GitHub does not allow it{words}; {next}")]
    Forbidden {
        /// The endpoint.
        endpoint: &'static str,
        /// GitHub's words, after a colon.
        words: String,
        /// What to do.
        next: &'static str,
    },
    /// It is not there, or these credentials do not see it.
    #[error(
        "{endpoint}: not found{words}; is the scope written right, and may these credentials see it?"
    )]
    NotFound {
        /// The endpoint.
        endpoint: &'static str,
        /// GitHub's words, after a colon.
        words: String,
    },
    /// It is there already.
    #[error("{endpoint}: it exists already{words}")]
    Conflict {
        /// The endpoint.
        endpoint: &'static str,
        /// GitHub's words, after a colon.
        words: String,
    },
    /// GitHub is not well.
    #[error("{endpoint}: HTTP {status}{words}; look at githubstatus.com if it lasts")]
    Server {
        /// The endpoint.
        endpoint: &'static str,
        /// The status.
        status: u16,
        /// GitHub's words, after a colon.
        words: String,
    },
    /// Anything else.
    #[error("{endpoint}: HTTP {status}{words}")]
    Refused {
        /// The endpoint.
        endpoint: &'static str,
        /// The status.
        status: u16,
        /// GitHub's words, after a colon.
        words: String,
    },
    /// The answer cannot be understood.
    #[error("{endpoint}: {why}")]
    Answer {
        /// The endpoint.
        endpoint: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The App's key fails.
    #[error(transparent)]
    Key(#[from] AppKeyError),
}

impl RestError {
    /// Its kind, as metrics name it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Setup(_) | Self::Key(_) => "setup",
            Self::Transport { .. } => "transport",
            Self::Limited { .. } => "limited",
            Self::Unauthorized { .. } => "unauthorized",
            Self::Forbidden { .. } => "forbidden",
            Self::NotFound { .. } => "not_found",
            Self::Conflict { .. } => "conflict",
            Self::Server { .. } => "server",
            Self::Refused { .. } => "refused",
            Self::Answer { .. } => "answer",
        }
    }

    /// How long GitHub wants not to be asked.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::Limited { wait, .. } => Some(*wait),
            _ => None,
        }
    }

    /// What an answer that is no success means.
    pub(super) fn of(
        endpoint: &'static str,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        now: Timestamp,
    ) -> Self {
        let words = words(body);
        match status {
            StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
                if limited(status, headers, &words) =>
            {
                let wait = wait(headers, now);
                Self::Limited {
                    endpoint,
                    wait,
                    words,
                }
            }
            StatusCode::UNAUTHORIZED => Self::Unauthorized {
                endpoint,
                words,
                next: "the App's key or the token is wrong, expired or revoked, or this clock is wrong",
            },
            StatusCode::FORBIDDEN => Self::Forbidden {
                endpoint,
                words,
                next: "for a repository the App needs Administration (read and write), for an organization Self-hosted runners (read and write)",
            },
            StatusCode::NOT_FOUND => Self::NotFound { endpoint, words },
            StatusCode::CONFLICT => Self::Conflict { endpoint, words },
            status if status.is_server_error() => Self::Server {
                endpoint,
                status: status.as_u16(),
                words,
            },
            status => Self::Refused {
                endpoint,
                status: status.as_u16(),
                words,
            },
        }
    }
}

/// Whether an answer means that there were too many requests, and not that something is forbidden.
fn limited(status: StatusCode, headers: &HeaderMap, words: &str) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || headers.contains_key(RETRY_AFTER)
        || number(headers, "x-ratelimit-remaining") == Some(0)
        || words.to_ascii_lowercase().contains("rate limit")
}

/// How long to wait: what `Retry-After` says, else until the limit is set anew.
fn wait(headers: &HeaderMap, now: Timestamp) -> Duration {
    let after = number(headers, RETRY_AFTER.as_str()).map(Duration::from_secs);
    let reset = || {
        let spent = number(headers, "x-ratelimit-remaining") == Some(0);
        let reset = i64::try_from(number(headers, "x-ratelimit-reset")?).ok()?;
        let seconds = reset.saturating_sub(now.as_second()).max(1);
        spent.then(|| Duration::from_secs(seconds.unsigned_abs()))
    };
    after.or_else(reset).unwrap_or(UNSAID).min(LONGEST)
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// GitHub's own words, after a colon.
fn words(body: &[u8]) -> String {
    let json: Json = serde_json::from_slice(body).unwrap_or_default();
    let text = json["message"].as_str().unwrap_or_default();
    if text.is_empty() {
        return String::new();
    }
    let short: String = text.chars().take(MAX_WORDS).collect();
    format!(": {}", printable::line(&short))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, headers: &[(&'static str, &str)], body: &str) -> RestError {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        let now = Timestamp::from_second(1000).unwrap();
        RestError::of("runners", status, &map, body.as_bytes(), now)
    }

    #[test]
    fn limits_are_told_from_what_is_forbidden_and_say_how_long() {
        let seconds = |error: RestError| error.wait().map(|wait| wait.as_secs());
        let spent = [
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "1090"),
        ];
        assert_eq!(seconds(error(403, &spent, "{}")), Some(90));
        assert_eq!(seconds(error(429, &spent, "{}")), Some(90));
        assert_eq!(seconds(error(403, &[("retry-after", "7")], "{}")), Some(7));
        assert_eq!(seconds(error(429, &[], "{}")), Some(60));
        let words = r#"{"message": "You have exceeded a secondary rate limit."}"#;
        assert_eq!(seconds(error(403, &[], words)), Some(60));
        let far = [("retry-after", "99999999")];
        assert_eq!(seconds(error(429, &far, "")), Some(3700));
        let left = [
            ("x-ratelimit-remaining", "17"),
            ("x-ratelimit-reset", "1090"),
        ];
        let forbidden = error(403, &left, "{}");
        assert_eq!((forbidden.kind(), forbidden.wait()), ("forbidden", None));
    }

    #[test]
    fn each_failure_has_its_kind_and_says_what_github_said() {
        for (status, kind) in [
            (401, "unauthorized"),
            (404, "not_found"),
            (409, "conflict"),
            (422, "refused"),
            (502, "server"),
        ] {
            let error = error(status, &[], "{\"message\": \"no\\u001b such thing\"}");
            assert_eq!(error.kind(), kind);
            let said = error.to_string();
            assert!(
                said.starts_with("runners: ") && said.contains(": no  such thing"),
                "{said}"
            );
        }
    }
}
