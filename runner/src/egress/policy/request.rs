//! What is asked of a policy, and what it answers.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::egress::Transport;

use super::condition::Protocol;

/// What is known of a connection. What is not known yet is `None` or [`Seen::Nothing`].
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// What carries it.
    pub transport: Option<Transport>,
    /// Where it goes.
    pub address: Option<IpAddr>,
    /// The port there.
    pub port: Option<u16>,
    /// Whether the address is one of the host's side: loopback, link-local, private, its own, metadata.
    pub host_side: bool,
    /// Names, normalised, that the gateway's DNS gave for this address.
    pub names: &'a [String],
    /// What the beginning of the stream says.
    pub seen: Seen<'a>,
    /// The steps that run; each by its id and its name.
    pub steps: &'a [Vec<String>],
}

/// What the beginning of a stream says. Names are normalised; none is proven by being said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// Nothing was read yet.
    Nothing,
    /// A TLS ClientHello.
    Tls {
        /// The name that it asks for.
        name: Option<&'a str>,
        /// Whether it holds an encrypted one.
        encrypted: bool,
    },
    /// A request of HTTP, without TLS or out of a TLS stream that the worker ended.
    Http {
        /// The name of the TLS stream around it.
        tls: Option<&'a str>,
        /// Its host.
        host: Option<&'a str>,
        /// Its method.
        method: &'a str,
        /// Its target: a path, perhaps with a query.
        target: &'a str,
    },
    /// Something else, or nothing within the time.
    Other,
}

impl Seen<'_> {
    /// The protocol that this is, of TCP.
    pub(super) fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Nothing => None,
            Self::Tls { .. } | Self::Http { tls: Some(_), .. } => Some(Protocol::Tls),
            Self::Http { tls: None, .. } => Some(Protocol::Http),
            Self::Other => Some(Protocol::Tcp),
        }
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It passes because the policy only audits; `enforce` would deny it.
    Audit,
    /// It does not pass.
    Deny,
}

impl Verdict {
    /// Whether the connection passes.
    #[must_use]
    pub fn passes(self) -> bool {
        self != Self::Deny
    }

    /// The word in records.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Deny => "deny",
        }
    }
}

/// What more must be known before the verdict is the last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// The beginning of the stream.
    Beginning,
    /// The requests within TLS.
    Requests,
}

/// The answer of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of it.
    pub verdict: Verdict,
    /// The rule that said so, with its place; `None` if it is the absence of one.
    pub rule: Option<String>,
    /// The reason in words.
    pub why: String,
    /// A verdict that passes holds only until this is known.
    pub needs: Needs,
}

impl Decision {
    pub(super) fn deny(rule: Option<String>, why: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Deny,
            rule,
            why: why.into(),
            needs: Needs::Nothing,
        }
    }
}
