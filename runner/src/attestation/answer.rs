//! Signed statements, and what is asked of one before it is believed.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::{HostKey, PublicKey, Sandbox, Statement, VERSION};

/// Longest answer that is looked at, in bytes.
pub const MAX_BYTES: usize = 64 << 10;
/// Lengths of a nonce: shorter ones could be guessed or come twice.
const NONCE: std::ops::RangeInclusive<usize> = 16..=128;
/// What is signed before the statement, so that no other signature of this key is one of a statement.
const CONTEXT: &[u8] = b"mayfly-sandbox-v1\n";

/// A statement and its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The statement's bytes (JSON), in base64.
    pub payload: String,
    /// The signature of `mayfly-sandbox-v1`, a line feed, and these bytes; in base64.
    pub signature: String,
    /// What the key is called that signed.
    pub key: String,
}

/// What an answer must say; what is not given is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The nonce of the question.
    pub nonce: Option<String>,
    /// The sandbox's UUID.
    pub sandbox: Option<String>,
    /// The run's id.
    pub run: Option<String>,
    /// The job's name.
    pub job: Option<String>,
    /// The repository.
    pub repository: Option<String>,
    /// The image's digest.
    pub image: Option<String>,
    /// Whether all pins must be right.
    pub pins: bool,
}

/// Why an answer is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The nonce is none.
    #[error("a nonce has 16 to 128 letters, digits, `-` and `_`; draw one anew for each question")]
    Nonce,
    /// It has not the form of an answer.
    #[error("this is no answer of a sandbox: {0}")]
    Shape(&'static str),
    /// Another key signed it.
    #[error("{found} signed this, and the key at hand is {expected}; is it the key of this host?")]
    OtherKey {
        /// The key that it names.
        found: String,
        /// The key at hand.
        expected: String,
    },
    /// The signature is not one of the statement.
    #[error("the signature is not of this statement by this key: it was made up or altered")]
    Signature,
    /// The statement is of another version.
    #[error("the statement has version {0}; this Mayfly knows version {VERSION}")]
    Version(u32),
    /// It says something else than it must.
    #[error(
        "the answer says `{found}` for the {what}, and `{expected}` is expected: it is of another {what}"
    )]
    Other {
        /// What.
        what: &'static str,
        /// What it says.
        found: String,
        /// What it must say.
        expected: String,
    },
    /// Pins were violated.
    #[error("the answer says that pins were violated")]
    Pins,
}

/// A statement that is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What it says.
    pub statement: Statement,
}

impl Answer {
    pub(super) fn sign(statement: &Statement, key: &HostKey) -> Self {
        // Strings and numbers: this cannot fail.
        let payload = serde_json::to_vec(statement).unwrap_or_default();
        Self {
            signature: STANDARD.encode(key.sign(&message(&payload))),
            payload: STANDARD.encode(payload),
            key: key.public().id(),
        }
    }
}

/// Reads an answer and believes it only if the key signed it and it says what is expected.
///
/// # Errors
/// [`Refused`] says what is wrong.
pub fn verify(text: &[u8], key: &PublicKey, expected: &Expected) -> Result<Verified, Refused> {
    if text.len() > MAX_BYTES {
        return Err(Refused::Shape("it is too long"));
    }
    let answer: Answer =
        serde_json::from_slice(text).map_err(|_| Refused::Shape("it is not the JSON of one"))?;
    if answer.key != key.id() {
        return Err(Refused::OtherKey {
            found: answer.key.chars().take(80).collect(),
            expected: key.id(),
        });
    }
    let decoded = |text: &str| {
        let bytes = STANDARD.decode(text);
        bytes.map_err(|_| Refused::Shape("a field is not base64"))
    };
    let payload = decoded(&answer.payload)?;
    if !key.signed(&message(&payload), &decoded(&answer.signature)?) {
        return Err(Refused::Signature);
    }
    let statement: Statement = serde_json::from_slice(&payload)
        .map_err(|_| Refused::Shape("its statement is not the JSON of one"))?;
    if statement.version != VERSION {
        return Err(Refused::Version(statement.version));
    }
    expected.check(&statement)?;
    Ok(Verified { statement })
}

impl Expected {
    fn check(&self, statement: &Statement) -> Result<(), Refused> {
        let Sandbox {
            sandbox,
            run,
            job,
            repository,
            image,
            pins,
            ..
        } = &statement.sandbox;
        for (what, expected, found) in [
            ("nonce", &self.nonce, &statement.nonce),
            ("sandbox", &self.sandbox, sandbox),
            ("run", &self.run, run),
            ("job", &self.job, job),
            ("repository", &self.repository, repository),
            ("image", &self.image, &image.digest),
        ] {
            if let Some(expected) = expected.as_ref().filter(|expected| *expected != found) {
                return Err(Refused::Other {
                    what,
                    found: found.clone(),
                    expected: expected.clone(),
                });
            }
        }
        match self.pins && !pins.ok {
            true => Err(Refused::Pins),
            false => Ok(()),
        }
    }
}

/// Whether a text may be a nonce.
pub(super) fn is_nonce(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    NONCE.contains(&text.len()) && text.bytes().all(legal)
}

fn message(payload: &[u8]) -> Vec<u8> {
    [CONTEXT, payload].concat()
}
