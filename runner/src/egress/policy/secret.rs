//! Which hosts a secret is bound to, and how the worker puts it in on the way there.

use std::str::FromStr;

use serde::Deserialize;

use super::{document::several, host::HostPattern};

/// `[secrets.NAME]`: the guest gets a placeholder, the worker puts the value in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretBinding {
    /// The hosts that get the value; TLS to them is ended by the worker.
    #[serde(deserialize_with = "several")]
    pub hosts: Vec<HostPattern>,
    /// Where the value goes; without it, wherever the placeholder is in a request's head.
    pub inject: Option<Inject>,
}

impl SecretBinding {
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
        /// The user's name.
        user: String,
    },
}

/// Why a text does not say where a secret goes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// Neither form.
    #[error(
        "`{0}` does not say where the secret goes: write \"header:Authorization: Bearer {{}}\" or \"basic:x-access-token:{{}}\""
    )]
    Form(String),
    /// A header that frames the message.
    #[error("the header {0} says where a request ends or goes: no secret goes there")]
    Framing(String),
}

/// Headers that say where a request ends, or to whom it goes.
const FRAMING: [&str; 7] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "te",
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
