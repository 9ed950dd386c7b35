//! Modes, and the levels at which a policy speaks.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much a section of the policy holds a job to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// All passes but what a deny rule names.
    Open,
    /// All passes; what `enforce` would deny is written down as such.
    Audit,
    /// Only what an allow rule names passes.
    Enforce,
}

impl Mode {
    /// The word in files.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Where a section stands, the widest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All jobs of the pool.
    Pool,
    /// All jobs of one workflow.
    Workflow,
    /// One job.
    Job,
    /// One step.
    Step,
}
