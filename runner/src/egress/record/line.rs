//! One line of the record.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::egress::{Transport, policy::Verdict};

/// Longest text of a line that the sandbox chose.
const LONGEST: usize = 1 << 10;

/// One connection, one question to the gateway's DNS that was refused, or one request in a connection
/// that the worker looked into.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// When it began.
    pub time: String,
    /// Counts the connections of the job.
    pub connection: u64,
    /// For a request: the connection that it came in, `connection` being the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<u64>,
    /// Steps that ran, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
    /// The command that asked, where the guest can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// What carries it.
    pub transport: Transport,
    /// The name that it is for: what the stream said and DNS confirmed, else what DNS said of the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The port there.
    pub port: u16,
    /// `tls`, `http`, `tcp`, `udp`, `quic`, `ntp`, `dns`.
    pub protocol: String,
    /// Of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Of a request, without its query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Bytes to the outside.
    pub sent: u64,
    /// Bytes from the outside.
    pub received: u64,
    /// How long it lasted, in seconds.
    pub seconds: f64,
    /// What became of it.
    pub verdict: Verdict,
    /// The rule that said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The reason in words.
    pub why: String,
    /// How it went on, if that is worth a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
}

/// How a connection that passed went on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "text", rename_all = "snake_case")]
pub enum Answer {
    /// The host could not be reached.
    Unreachable(String),
    /// One side broke it off.
    Broken(String),
    /// Its step ended.
    StepEnded,
    /// Interception had something to say: an injection, a leak, a certificate.
    Note(String),
}

impl Line {
    /// Applies `hide` to what the sandbox chose, and cuts what is too long.
    pub(super) fn hide(&mut self, hide: &dyn Fn(&str) -> String) {
        let texts = [
            &mut self.name,
            &mut self.method,
            &mut self.path,
            &mut self.command,
        ];
        for text in texts.into_iter().flatten() {
            *text = cut(hide(text));
        }
        self.why = cut(hide(&self.why));
        match &mut self.answer {
            Some(Answer::Unreachable(text) | Answer::Broken(text) | Answer::Note(text)) => {
                *text = cut(hide(text));
            }
            Some(Answer::StepEnded) | None => {}
        }
    }

    /// The host as people see it.
    #[must_use]
    pub fn host(&self) -> String {
        match (&self.name, self.address) {
            (Some(name), _) => name.clone(),
            (None, Some(address)) => address.to_string(),
            (None, None) => "?".into(),
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > LONGEST {
        let mut end = LONGEST;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}
