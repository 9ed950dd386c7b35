//! The guest kernel: from a Debian package to an ELF file and the modules that it needs.

mod modinfo;
mod modules;
mod vmlinux;

use std::io;

use modules::Modules;

use crate::tree::{Content, Kind, NodeId, Spool, Tree};

/// Largest kernel or module that is read, in bytes.
const FILE_LIMIT: u64 = 256 << 20;

/// Why a package does not give a guest kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The package is laid out in another way.
    #[error("the kernel package holds no {0}")]
    Missing(&'static str),
    /// It cannot be read back.
    #[error("cannot read {path} of the kernel package: {error}")]
    Read {
        /// The file.
        path: String,
        /// The cause.
        error: io::Error,
    },
    /// The kernel is not packed as expected.
    #[error("the kernel image {0}")]
    Image(String),
    /// A module that nobody has.
    #[error("the kernel package has no module {name}, which {needed_by} needs")]
    NoModule {
        /// The module.
        name: String,
        /// A module, or the recipe.
        needed_by: String,
    },
    /// A module is not packed as expected.
    #[error("the kernel module {name} {why}")]
    Module {
        /// The module.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// A kernel package in memory.
pub(crate) struct KernelPackage {
    /// `uname -r`
    pub(crate) release: String,
    /// The kernel as an ELF file.
    pub(crate) vmlinux: Vec<u8>,
    /// Its modules.
    pub(crate) modules: Modules,
}

impl KernelPackage {
    /// Reads an unpacked package.
    pub(crate) fn read(tree: &Tree, spool: &Spool) -> Result<Self, KernelError> {
        let (image, bytes) = tree
            .find("boot")
            .and_then(|boot| tree.children(boot))
            .into_iter()
            .flatten()
            .find(|(name, _)| name.starts_with(b"vmlinuz-"))
            .ok_or(KernelError::Missing("boot/vmlinuz-…"))?;
        let release = String::from_utf8_lossy(&image[b"vmlinuz-".len()..]).into_owned();
        let bytes = read(tree, spool, *bytes, "boot/vmlinuz")?;
        let vmlinux = vmlinux::extract(&bytes).map_err(KernelError::Image)?;
        let directory = ["lib/modules", "usr/lib/modules"]
            .iter()
            .find_map(|path| tree.find(&format!("{path}/{release}")))
            .ok_or(KernelError::Missing("lib/modules/… of its own release"))?;
        let modules = Modules::read(tree, spool, directory)?;
        Ok(Self {
            release,
            vmlinux,
            modules,
        })
    }
}

/// The content of a regular file.
fn content(tree: &Tree, id: NodeId) -> Option<Content> {
    match tree.node(id).kind {
        Kind::File(content) => Some(content),
        _ => None,
    }
}

fn read(tree: &Tree, spool: &Spool, id: NodeId, path: &str) -> Result<Vec<u8>, KernelError> {
    let failed = |error| KernelError::Read {
        path: path.to_owned(),
        error,
    };
    let content = content(tree, id).ok_or_else(|| failed(io::ErrorKind::NotADirectory.into()))?;
    spool.read(content, FILE_LIMIT).map_err(failed)
}
