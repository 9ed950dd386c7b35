//! What can go wrong in a build.

use std::{io, path::PathBuf};

use super::AgentError;
use crate::{
    archive::ArchiveError, disk::DiskError, kernel::KernelError, node::NodeError,
    store::StoreError, tool::ToolError,
};

/// Why an image was not built. The store is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Mayfly's own program cannot be read.
    #[error("cannot read {}, which steps are to call as `mayfly`: {error}", path.display())]
    Program {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The guest agent cannot be used.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A tool is missing or failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The kernel package cannot be used.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A Node.js runtime cannot be used.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The archive cannot be used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The writable disk cannot be made.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// No room, or no right, for temporary files.
    #[error("cannot keep temporary files in {}: {error}", path.display())]
    Temporary {
        /// The directory.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// A part cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// The part.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// Whoever builds is not root, and may not do what packages need.
    #[error("cannot install packages as an ordinary user: {0}")]
    Ordinary(String),
    /// The packages do not make a root file system.
    #[error("cannot make the root file system: {0}")]
    Root(String),
    /// The recipe wants what its packages do not bring.
    #[error("user {user}: {why}")]
    User {
        /// The user.
        user: String,
        /// What is missing, and what to do.
        why: String,
    },
    /// The kernel package cannot be unpacked.
    #[error("cannot unpack the kernel package: {0}")]
    KernelPackage(String),
}
