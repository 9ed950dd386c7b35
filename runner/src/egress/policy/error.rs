//! Why a policy cannot be used.

use std::{io, path::PathBuf};

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("cannot read the egress policy {}: {cause}; name a file, or one of the modes open, audit, enforce", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// It is larger than any policy.
    #[error("the egress policy {} is larger than {} KiB: split it up", .path.display(), .limit / 1024)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound in bytes.
        limit: u64,
    },
    /// A key or value is wrong.
    #[error("the egress policy {origin} is wrong: {cause}")]
    Wrong {
        /// The file.
        origin: String,
        /// What is wrong, with its place.
        #[source]
        cause: Box<toml::de::Error>,
    },
    /// A rule contradicts itself.
    #[error("the egress policy {origin} is wrong at line {line}: {what}")]
    Rule {
        /// The file.
        origin: String,
        /// The line at which the rule begins.
        line: usize,
        /// What is wrong, and what to write instead.
        what: String,
    },
}
