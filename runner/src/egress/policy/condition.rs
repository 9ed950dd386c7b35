//! What else a rule may ask of a request, besides host and address.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::egress::Transport;

use super::path::Path;

/// A protocol, as far as the beginning of a connection tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Any TCP.
    Tcp,
    /// Any UDP.
    Udp,
    /// TLS over TCP, HTTPS above all.
    #[serde(alias = "https")]
    Tls,
    /// HTTP without TLS.
    Http,
    /// QUIC, HTTP/3: UDP to port 443.
    Quic,
    /// Time: UDP to port 123.
    Ntp,
}

impl Protocol {
    /// What carries it.
    #[must_use]
    pub fn transport(self) -> Transport {
        match self {
            Self::Tcp | Self::Tls | Self::Http => Transport::Tcp,
            Self::Udp | Self::Quic | Self::Ntp => Transport::Udp,
        }
    }

    /// The word in files.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Quic => "quic",
            Self::Ntp => "ntp",
        }
    }
}

/// One port or a range: `443`, `"8000-8010"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ports(RangeInclusive<u16>);

/// Why a value says no ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no port: write a number from 1 to 65535, or a range as \"8000-8010\"")]
pub struct PortsError(String);

impl Ports {
    /// One port.
    #[must_use]
    pub fn one(port: u16) -> Self {
        Self(port..=port)
    }

    /// Whether `port` is among them.
    #[must_use]
    pub fn contain(&self, port: u16) -> bool {
        self.0.contains(&port)
    }
}

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let port = plain.then(|| digits.parse().ok()).flatten();
            port.filter(|port| *port > 0)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self(first..=last)),
            _ => Err(PortsError(text.to_owned())),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.start() == self.0.end() {
            return write!(f, "{}", self.0.start());
        }
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(i64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A method of HTTP. Methods are compared letter for letter, as HTTP has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Method(String);

/// Why a text is no method.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no method of HTTP: write upper case letters, as GET")]
pub struct MethodError(String);

impl Method {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Method {
    type Error = MethodError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
        if text.is_empty() || text.len() > 32 || !text.bytes().all(fits) {
            return Err(MethodError(text));
        }
        Ok(Self(text))
    }
}

impl From<Method> for String {
    fn from(method: Method) -> Self {
        method.0
    }
}

/// A repository at GitHub that a request is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Repository {
    /// The job's own.
    Own,
    /// This one, as `owner/name`.
    Named(String),
}

/// Why a text is no repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no repository: write \"own\" for the job's own, or owner/name")]
pub struct RepositoryError(String);

impl TryFrom<String> for Repository {
    type Error = RepositoryError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = |part: &str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !part.is_empty() && part.bytes().all(known) && part != "." && part != ".."
        };
        match text.split_once('/') {
            None if text == "own" => Ok(Self::Own),
            Some((owner, name)) if fits(owner) && fits(name) => Ok(Self::Named(text)),
            _ => Err(RepositoryError(text)),
        }
    }
}

impl From<Repository> for String {
    fn from(repository: Repository) -> Self {
        match repository {
            Repository::Own => "own".into(),
            Repository::Named(name) => name,
        }
    }
}

/// Hosts whose paths name a repository, and where.
const PLACES: [(&str, Place); 5] = [
    ("github.com", Place::First),
    ("codeload.github.com", Place::First),
    ("raw.githubusercontent.com", Place::First),
    ("api.github.com", Place::AfterRepos),
    ("uploads.github.com", Place::AfterRepos),
];

#[derive(Clone, Copy)]
enum Place {
    /// `/OWNER/NAME/…`.
    First,
    /// `/repos/OWNER/NAME/…`.
    AfterRepos,
}

/// Hosts for which a rule may name repositories.
pub(super) fn hosts_with_repositories() -> impl Iterator<Item = &'static str> {
    PLACES.iter().map(|(host, _)| *host)
}

/// The repository that a path of `host` is about, as `owner/name`; GraphQL and lists are about none.
pub(super) fn repository_of(host: &str, path: &Path) -> Option<String> {
    let (_, place) = PLACES.iter().find(|(known, _)| *known == host)?;
    let (owner, name) = match place {
        Place::First => {
            let [owner, name] = path.agreed([0, 1])?;
            (owner, name)
        }
        Place::AfterRepos => {
            let [repos, owner, name] = path.agreed([0, 1, 2])?;
            if repos != "repos" {
                return None;
            }
            (owner, name)
        }
    };
    // Git's own addresses may end so; repositories' names do not.
    let name = name.strip_suffix(".git").unwrap_or(name);
    Some(format!("{owner}/{name}"))
}
