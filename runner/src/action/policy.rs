//! What must be known of actions and images before anything of them runs.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A policy, by its name in configuration and on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PinPolicy {
    /// Everything must be known before: by a lock file, or by the commit or digest that it names.
    #[default]
    Require,
    /// What is not known before is known from its first use on, and must stay the same.
    LockOnFirstUse,
    /// As lock-on-first-use, but what is wrong is told and stops nothing.
    Audit,
}

impl PinPolicy {
    /// Whether a job fails for what is wrong.
    #[must_use]
    pub fn fails(self) -> bool {
        self != Self::Audit
    }
}

impl fmt::Display for PinPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Require => "require",
            Self::LockOnFirstUse => "lock-on-first-use",
            Self::Audit => "audit",
        })
    }
}
