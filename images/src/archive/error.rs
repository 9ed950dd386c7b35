//! Why an archive is refused.

use std::{io, path::PathBuf};

use crate::digest::Digest;

/// Why an archive does not become a root file system.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file cannot be opened.
    #[error("cannot open the archive {}: {error}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The file is no tar archive, or cut short.
    #[error("cannot read the archive: {0}; it must be an uncompressed tar file")]
    Read(io::Error),
    /// The tar archive holds no image.
    #[error(
        "the archive holds neither index.json (an OCI image layout) nor manifest.json (docker save)"
    )]
    NoImage,
    /// More than one image could be meant.
    #[error("the archive holds {count} images for linux/amd64: save only one of them")]
    ManyImages {
        /// How many.
        count: usize,
    },
    /// No image could be meant.
    #[error("the archive holds no image for linux/amd64, only for: {}", found.join(", "))]
    NoPlatform {
        /// What there is.
        found: Vec<String>,
    },
    /// The image is for another kind of machine.
    #[error("the image is for {os}/{architecture}: guests are linux/amd64")]
    Platform {
        /// Operating system.
        os: String,
        /// Processor.
        architecture: String,
    },
    /// A file that another one names is not there.
    #[error("the archive names {name} but does not hold it")]
    Missing {
        /// The file.
        name: String,
    },
    /// A document that cannot be understood.
    #[error("{name} in the archive: {error}")]
    Document {
        /// The file.
        name: String,
        /// Place and cause.
        error: serde_json::Error,
    },
    /// A document that is larger than it can rightly be.
    #[error("{name} in the archive is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        name: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// An index of indexes of indexes.
    #[error("the archive's indexes are nested too deeply")]
    TooDeep,
    /// A file is not the one it is named by.
    #[error(
        "{name} in the archive was changed: expected {expected}, found {found}; save the image again"
    )]
    Digest {
        /// The file.
        name: String,
        /// The digest that names it.
        expected: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// Configuration and manifest do not agree.
    #[error("the image configuration names {named} layers, the archive {found}")]
    LayerCount {
        /// In the configuration.
        named: usize,
        /// In the archive.
        found: usize,
    },
    /// A layer cannot be applied.
    #[error("layer {number} ({name}): {why}")]
    Layer {
        /// Number of the layer, from 1.
        number: usize,
        /// Its file.
        name: String,
        /// The cause.
        why: String,
    },
    /// The finished root lacks something.
    #[error("the image's root: {path}: {why}")]
    Root {
        /// The path.
        path: String,
        /// The cause.
        why: String,
    },
}
