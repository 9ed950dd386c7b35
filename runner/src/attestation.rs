//! What a sandbox says of itself: which job it is for, from which image it was made, and what was found
//! of the job's pins, signed by the worker with a key of this host.
//!
//! A step asks at a socket in its sandbox and brings a nonce; the worker answers for the job whose sandbox
//! that is and for no other. The key never enters a sandbox, so a step can pass an answer on and can
//! neither alter it nor make one for another job. `docs/sandbox.md` defines the format.

mod answer;
mod key;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use answer::{Answer, Expected, Refused, Verified, verify};
pub use key::{HostKey, KeyError, PublicKey};

use crate::{action::policy::PinPolicy, sandbox::SandboxError};

/// The version of statements.
pub const VERSION: u32 = 1;
/// The file in a sandbox by which steps know that they are in one.
pub const SANDBOX_FILE: &str = "/run/mayfly/sandbox.json";
/// The variable that names this file.
pub const SANDBOX_VARIABLE: &str = "MAYFLY_SANDBOX";
/// The path of the question, at the socket.
pub const PROOF_PATH: &str = "/sandbox/v1/proof";

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// [`VERSION`].
    pub version: u32,
    /// As it was asked.
    pub nonce: String,
    /// When it was answered, RFC 3339 in UTC.
    pub issued: String,
    /// The job.
    #[serde(flatten)]
    pub sandbox: Sandbox,
}

/// A job and the machine that it has for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The sandbox, a UUID that no other one has.
    pub sandbox: String,
    /// The run's id, as the job knows it (`github.run_id`).
    pub run: String,
    /// The job's name as it is shown.
    pub job: String,
    /// `owner/name`.
    pub repository: String,
    /// The image that it was made from.
    pub image: ImageName,
    /// What was found of the job's references before its first step.
    pub pins: Pins,
    /// Version of the worker.
    pub mayfly: String,
}

/// An image of sandboxes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageName {
    /// What it was called.
    pub name: String,
    /// Its digest.
    pub digest: String,
}

/// What was found of references.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pins {
    /// What had to be known of them.
    pub policy: PinPolicy,
    /// Whether all of them are what is locked.
    pub ok: bool,
    /// How many are not, by kind.
    pub violations: BTreeMap<String, usize>,
}

/// What stands in [`SANDBOX_FILE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxFile {
    /// [`VERSION`].
    pub version: u32,
    /// Unix socket at which the worker answers, by HTTP.
    pub socket: String,
    /// The path to ask at, with `?nonce=` behind it.
    pub proof: String,
    /// The host's public key, PEM. Whoever checks an answer must have it from the host itself.
    pub public_key: String,
    /// The job.
    #[serde(flatten)]
    pub sandbox: Sandbox,
}

impl SandboxFile {
    /// The file of a sandbox.
    #[must_use]
    pub fn new(sandbox: Sandbox, key: &PublicKey) -> Self {
        Self {
            version: VERSION,
            socket: mayfly_guest::SANDBOX_SOCKET.to_owned(),
            proof: PROOF_PATH.to_owned(),
            public_key: key.to_pem(),
            sandbox,
        }
    }
}

/// Answers questions of one sandbox.
#[derive(Debug)]
pub struct Witness {
    key: HostKey,
    sandbox: Sandbox,
}

impl Witness {
    /// A witness of a sandbox, with the key of this host.
    #[must_use]
    pub fn new(key: HostKey, sandbox: Sandbox) -> Self {
        Self { key, sandbox }
    }

    /// What [`SANDBOX_FILE`] is to hold.
    #[must_use]
    pub fn file(&self) -> SandboxFile {
        SandboxFile::new(self.sandbox.clone(), &self.key.public())
    }

    /// Tells a sandbox what it is, before any step runs in it.
    ///
    /// # Errors
    /// The sandbox did not take the file.
    pub async fn introduce<S: crate::sandbox::Sandbox>(
        &self,
        sandbox: &S,
    ) -> Result<(), SandboxError> {
        // Strings and numbers: this cannot fail.
        let text = serde_json::to_vec_pretty(&self.file()).unwrap_or_default();
        sandbox.write_file(SANDBOX_FILE, 0o644, &text).await
    }

    /// The signed answer to a question with this nonce.
    ///
    /// # Errors
    /// [`Refused::Nonce`] for a nonce that is none.
    pub fn answer(&self, nonce: &str) -> Result<Answer, Refused> {
        if !answer::is_nonce(nonce) {
            return Err(Refused::Nonce);
        }
        let now = jiff::Timestamp::now();
        let now = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
        let statement = Statement {
            version: VERSION,
            nonce: nonce.to_owned(),
            issued: now.to_string(),
            sandbox: self.sandbox.clone(),
        };
        Ok(Answer::sign(&statement, &self.key))
    }
}
