//! What can go wrong in the store itself.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    digest::{Digest, DigestSyntax},
    manifest::MANIFEST_VERSION,
};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("cannot {verb} {}: {error}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// No image goes by this name or digest.
    #[error("there is no image {reference:?}{}", known_images(known))]
    Unknown {
        /// What was asked for.
        reference: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A short digest that more than one image begins with.
    #[error("{reference:?} is the start of several digests, write more of it: {}", matches.join(", "))]
    Ambiguous {
        /// What was asked for.
        reference: String,
        /// The digests it could mean.
        matches: Vec<String>,
    },
    /// Somebody holds the image.
    #[error("image {0} is in use: wait for the sandboxes that run from it, or stop them")]
    InUse(String),
    /// A manifest is not the one its directory is named by.
    #[error(
        "{} was changed after it was made: expected {expected}, found {found}; remove the directory and build the image again",
        path.display()
    )]
    Damaged {
        /// The manifest.
        path: PathBuf,
        /// The digest that the directory is named by.
        expected: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// A manifest that cannot be understood.
    #[error("{} is no image manifest: {error}; remove the directory and build the image again", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The place and the cause.
        error: serde_json::Error,
    },
    /// A manifest of another version of Mayfly.
    #[error(
        "{} has version {version}, this Mayfly reads {MANIFEST_VERSION}; build the image again",
        path.display()
    )]
    Version {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A manifest that names other files than an image has.
    #[error("{} names files that no image has; remove the directory and build the image again", path.display())]
    Parts {
        /// The manifest.
        path: PathBuf,
    },
    /// A file that is larger than it can rightly be.
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// A name's file does not hold a digest.
    #[error("{} does not name an image: {error}; remove the file", path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// What it holds.
        error: DigestSyntax,
    },
    /// Another user can write into the state folder.
    #[error(
        "other users can change what is in {}, so nothing in it can be trusted; take their right \
         away with `chmod o-w`, or set MAYFLY_STATE to a folder of your own",
        .0.display()
    )]
    Shared(PathBuf),
    /// The state folder is another user's.
    #[error(
        "{} belongs to another user (uid {owner}), so nothing in it can be trusted; set \
         MAYFLY_STATE to a folder of your own",
        path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Text that cannot name an image.
    #[error(
        "{0:?} cannot name an image: use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter, and not only hex digits"
    )]
    BadName(String),
}

impl StoreError {
    /// An adapter for `map_err`: `verb` on `path` failed.
    pub(crate) fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |error| Self::Io { verb, path, error }
    }
}

fn known_images(known: &[String]) -> String {
    if known.is_empty() {
        "; build one with `mayfly image build minimal`".to_owned()
    } else {
        format!("; there are: {}", known.join(", "))
    }
}
