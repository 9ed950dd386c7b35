//! Which hosts a secret is bound to, and how the worker puts it in on the way there.

use std::str::FromStr;

use serde::Deserialize;

use super::{
    document::several,
    host::{HostPattern, HostPatternError},
};

/// Hosts of github.com that take a job's token, besides itself and its API.
const GITHUB: [&str; 5] = [
    "uploads.github.com",
    "codeload.github.com",
    "raw.githubusercontent.com",
    "ghcr.io",
    "*.pkg.github.com",
];

/// `[secrets.NAME]`: the guest gets a placeholder, the worker puts the value in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretBinding {
    /// The hosts that get the value; TLS to them is ended by the worker.
    #[serde(deserialize_with = "several")]
    pub hosts: Vec<HostPattern>,
    /// Where the value goes; without it, wherever the placeholder is in a request's head.
    #[serde(default, deserialize_with = "several")]
    pub inject: Vec<Inject>,
}

impl SecretBinding {
    /// The binding of a job's own token: the hosts `server` and `api` of its GitHub, and what belongs to
    /// github.com, for its API, git over HTTPS and packages.
    ///
    /// # Errors
    /// A host that is none.
    pub fn of_job_token(server: &str, api: &str) -> Result<Self, HostPatternError> {
        let mut hosts = vec![server.parse()?, api.parse()?];
        if server == "github.com" {
            for own in GITHUB {
                hosts.push(own.parse()?);
            }
        }
        let authorization = |scheme: &str| Inject::Header {
            name: "authorization".to_owned(),
            template: format!("{scheme} {{}}"),
        };
        let basic = Inject::Basic {
            user: "*".to_owned(),
        };
        Ok(Self {
            hosts,
            inject: vec![authorization("Bearer"), authorization("token"), basic],
        })
    }

    /// Whether steps get a placeholder instead of the value.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        !self.inject.contains(&Inject::Nowhere)
    }

    /// Whether `host`, which is normalised, gets the value.
    #[must_use]
    pub fn is_bound_to(&self, host: &str) -> bool {
        self.hosts.iter().any(|pattern| pattern.matches(host))
    }
}

/// Where a secret's value goes in a request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Inject {
    /// `header:NAME: VALUE`, `{}` in the value's place.
    Header {
        /// The header's name, lower case.
        name: String,
        /// Its value, with `{}`.
        template: String,
    },
    /// `basic:USER:{}`: HTTP's Basic, as git does it.
    Basic {
        /// The user's name; `*` is any, and the value may be the user too.
        user: String,
    },
    /// `query:NAME={}`: a parameter in the query.
    Query {
        /// The parameter's name.
        name: String,
    },
    /// `nowhere`: steps get the value itself, and it is only watched that it goes to no other host.
    Nowhere,
}

/// Why a text does not say where a secret goes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// Neither form.
    #[error(
        "`{0}` does not say where the secret goes: write \"header:Authorization: Bearer {{}}\", \"basic:x-access-token:{{}}\", \"query:key={{}}\", or \"nowhere\" if it is only watched"
    )]
    Form(String),
    /// A header that frames the message.
    #[error("the header {0} says where a request ends or goes: no secret goes there")]
    Framing(String),
}

/// Headers that say where a request ends, or to whom it goes.
const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl FromStr for Inject {
    type Err = InjectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || InjectError::Form(text.to_owned());
        if let Some(rest) = text.strip_prefix("basic:") {
            let user = rest.strip_suffix(":{}").ok_or_else(wrong)?;
            let plain = user
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b':');
            return plain
                .then(|| Self::Basic {
                    user: user.to_owned(),
                })
                .ok_or_else(wrong);
        }
        if let Some(rest) = text.strip_prefix("query:") {
            let name = rest.strip_suffix("={}").ok_or_else(wrong)?;
            let plain = |byte: u8| byte.is_ascii_graphic() && !b"&=#%+{}".contains(&byte);
            return (!name.is_empty() && name.bytes().all(plain))
                .then(|| Self::Query {
                    name: name.to_owned(),
                })
                .ok_or_else(wrong);
        }
        if text == "nowhere" {
            return Ok(Self::Nowhere);
        }
        let rest = text.strip_prefix("header:").ok_or_else(wrong)?;
        let (name, template) = rest.split_once(':').ok_or_else(wrong)?;
        let (name, template) = (name.trim().to_ascii_lowercase(), template.trim());
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let plain = template
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if name.is_empty()
            || !name.bytes().all(token)
            || !plain
            || template.matches("{}").count() != 1
        {
            return Err(wrong());
        }
        if FRAMING.contains(&name.as_str()) {
            return Err(InjectError::Framing(name));
        }
        Ok(Self::Header {
            name,
            template: template.to_owned(),
        })
    }
}

impl TryFrom<String> for Inject {
    type Error = InjectError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}
