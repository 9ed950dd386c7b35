//! What interception asks of the policy and tells the record: plain types, no policy.

use std::fmt;

use super::leak::Leak;

/// Where an intercepted connection goes, as the policy let it pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The host's name in lower case without a dot at its end, or an address literal.
    name: String,
    /// The port.
    port: u16,
}

impl Target {
    /// A target; `name` is brought into its form.
    #[must_use]
    pub fn new(name: &str, port: u16) -> Self {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let inner = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
        Self {
            name: inner.unwrap_or(&name).to_owned(),
            port,
        }
    }

    /// The host's name, or an address literal without brackets.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// One request of a guest, before anything of it went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// Host that it goes to; the same as the connection's.
    pub host: &'a str,
    /// Port of the connection.
    pub port: u16,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2.0`.
    pub version: &'static str,
    /// The method as it was sent; methods know upper and lower case.
    pub method: &'a str,
    /// The path as it was sent, without query: percent-encoding and dot segments are in it.
    pub path: &'a str,
    /// What follows the question mark. It may hold secrets and belongs into no record.
    pub query: Option<&'a str>,
    /// The protocol that it wants to change to, as `websocket`.
    pub upgrade: Option<&'a str>,
}

/// What the policy says to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may go out.
    Allow,
    /// It may not; the guest gets these words in an answer 403.
    Deny(String),
}

/// Something that happened in an intercepted connection and belongs into the record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// The value of the secret of this name was put into a request.
    Injected {
        /// The secret's name.
        secret: String,
    },
    /// A secret or its placeholder was on its way to where it must not go; the connection was stopped.
    Leak(Leak),
    /// The answer held the value of a secret, in this place; the guest does not see it.
    Echo {
        /// The secret's name.
        secret: String,
        /// Whether it was replaced; otherwise the answer was cut off before it.
        replaced: bool,
    },
    /// A request was not passed on for its form: smuggling, another host than the connection's, ….
    Refused(String),
    /// The server has no certificate that proves the host's name, or speaks no TLS that Mayfly does.
    Upstream(String),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Injected { secret } => write!(f, "secret {secret} put into a request"),
            Self::Leak(leak) => leak.fmt(f),
            Self::Echo { secret, replaced } => {
                let how = if *replaced { "replaced" } else { "cut off" };
                write!(f, "the answer held the value of secret {secret}; {how}")
            }
            Self::Refused(why) => write!(f, "request refused: {why}"),
            Self::Upstream(why) => f.write_str(why),
        }
    }
}

/// The policy's and the record's side of one intercepted connection.
pub trait Judge: Send + Sync + 'static {
    /// Asked for each request, before anything of it went out.
    fn request(&self, head: &RequestHead<'_>) -> Verdict;

    /// Told what happened.
    fn note(&self, note: Note);
}
