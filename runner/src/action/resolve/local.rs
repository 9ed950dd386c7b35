//! Actions of the checkout itself, by the digest of their folders.

use std::io;
use std::path::Path;

use crate::action::digest::ContentDigest;
use crate::action::tree::{Blob, Submodules, TreeBuilder};
use crate::checkout::Checkout;

/// Longest file of a folder, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// The digest of a folder of the checkout, over the files that belong to it; nothing for the root,
/// which holds the lock file that would hold the digest.
pub(super) fn digest(checkout: &Checkout, folder: &str) -> io::Result<Option<ContentDigest>> {
    if folder.is_empty() {
        return Ok(None);
    }
    let mut tree = TreeBuilder::new();
    for path in checkout.files() {
        let Ok(below) = path.strip_prefix(folder) else {
            continue;
        };
        let name = below.as_os_str().as_encoded_bytes();
        let full = checkout.root().join(path);
        let found = std::fs::symlink_metadata(&full)?;
        let added = if found.is_symlink() {
            let target = std::fs::read_link(&full)?;
            tree.symlink(name, target.as_os_str().as_encoded_bytes())
        } else {
            let content = checkout.read(path, MAX_FILE)?;
            let content = content.ok_or(io::ErrorKind::NotFound)?;
            tree.file(name, is_executable(&found), Blob::of(&content))
        };
        added.map_err(io::Error::other)?;
    }
    let digests = tree.finish(&Submodules::new()).map_err(io::Error::other)?;
    Ok(Some(digests.content))
}

fn is_executable(found: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    found.permissions().mode() & 0o100 != 0
}

/// A file of the checkout.
pub(super) fn read(checkout: &Checkout, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
    checkout.read(Path::new(path), limit)
}
