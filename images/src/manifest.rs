//! The manifest: what an image is made of, and so what its digest stands for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hash};

/// Version of [`Manifest`]; any other is refused.
pub const MANIFEST_VERSION: u32 = 1;

/// Raised whenever the builder makes other bytes from the same inputs, so that an image that was
/// built before is not taken for what would be built now.
pub const BUILDER_REVISION: u32 = 2;

/// File name of the manifest in an image's directory.
pub const MANIFEST_FILE: &str = "manifest.json";

/// An image: the digest of each part and what went into it. Holds no time and no host name, so
/// the same inputs give the same bytes; its SHA-256 is the image's digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// [`BUILDER_REVISION`] of the builder.
    pub builder: u32,
    /// What the root file system was made from.
    pub source: Source,
    /// Digest of the recipe that gave the kernel, the disk and, unless imported, the root.
    pub recipe: Digest,
    /// Digest of the guest agent in the initramfs.
    pub agent: Digest,
    /// Digest of Mayfly's program in the root, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Digest>,
    /// The guest kernel.
    pub kernel: Kernel,
    /// The four files.
    pub parts: Parts,
    /// Defaults of the processes that run in it.
    pub config: ImageConfig,
    /// Debian packages of the root and their exact versions.
    pub packages: BTreeMap<String, String>,
    /// Node.js runtimes.
    pub node: Vec<NodeRuntime>,
}

/// What a root file system was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// Debian packages, as a recipe says.
    Recipe {
        /// The recipe's name.
        name: String,
    },
    /// An OCI or Docker archive.
    Archive {
        /// Digest of the image configuration: Docker's image id.
        config: Digest,
        /// Digests of the uncompressed layers, lowest first.
        layers: Vec<Digest>,
    },
}

/// The guest kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Debian package that carries it.
    pub package: String,
    /// Exact version of that package.
    pub version: String,
    /// The kernel's own name for itself (`uname -r`).
    pub release: String,
    /// Command line, without what the VMM adds.
    pub command_line: String,
    /// Modules in the initramfs, in load order.
    pub modules: Vec<String>,
}

/// The four files of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// The kernel as an ELF file.
    pub kernel: Part,
    /// Agent and modules.
    pub initramfs: Part,
    /// The read-only root, EROFS.
    pub root: Part,
    /// The empty writable file system, ext4.
    pub disk: Part,
}

impl Parts {
    /// All parts, in the order in which they are checked.
    #[must_use]
    pub fn all(&self) -> [&Part; 4] {
        [&self.kernel, &self.initramfs, &self.root, &self.disk]
    }
}

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// File name in the image's directory.
    pub file: String,
    /// Length in bytes.
    pub size: u64,
    /// How the digest is computed.
    pub hash: Hash,
    /// Digest of the content.
    pub digest: Digest,
}

/// Defaults of the processes that run in an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    /// User (name, number, or either with a group after a colon); none is root.
    pub user: Option<String>,
    /// Working directory, absolute.
    pub working_directory: Option<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
}

/// A Node.js runtime of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRuntime {
    /// Major version, as in `using: node24`.
    pub major: u32,
    /// Exact version.
    pub version: String,
    /// Subresource integrity of its npm package.
    pub integrity: String,
    /// Where its `bin/node` is, e.g. `/opt/node/24`.
    pub path: String,
    /// Version of the npm beside it, if any.
    pub npm: Option<String>,
}

impl Manifest {
    /// The bytes that are stored and hashed.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .expect("every field serializes: no map has a key that is not a string");
        bytes.push(b'\n');
        bytes
    }

    /// The image's digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }
}
