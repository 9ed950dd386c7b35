//! How an image enters the store and leaves it: whole or not at all.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::TempDir;

use super::{Image, ImageStore, StoreError, TEMPORARY};
use crate::{
    digest::Digest,
    manifest::{MANIFEST_FILE, Manifest},
};

/// File names of kernel, initramfs, root and disk.
pub(crate) const FILES: [&str; 4] = ["vmlinux", "initramfs", "root.erofs", "disk.ext4"];

/// An image in the making: a private directory in the store that vanishes unless it is published.
/// Holds the store's lock.
#[derive(Debug)]
pub struct Draft {
    pub(super) directory: TempDir,
    pub(super) lock: File,
}

impl Draft {
    /// Where the parts are written.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

/// Checks that `name` can name an image: it becomes a file name and must not look like a digest.
///
/// # Errors
/// [`StoreError::BadName`].
pub fn check_name(name: &str) -> Result<(), StoreError> {
    let shape = name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
    let digest = name.len() >= 4 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if shape && !digest {
        Ok(())
    } else {
        Err(StoreError::BadName(name.to_owned()))
    }
}

impl ImageStore {
    /// Begins an image: takes the store's lock (`waiting` is called once if somebody else has it)
    /// and clears away what crashed builds left.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn draft(&self, waiting: &mut dyn FnMut()) -> Result<Draft, StoreError> {
        let lock = self.lock(waiting)?;
        for entry in self.entries(&self.root)? {
            if entry.starts_with(TEMPORARY) {
                let path = self.root.join(entry);
                fs::remove_dir_all(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        let directory = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempdir_in(&self.root)
            .map_err(StoreError::io("create a directory in", &self.root))?;
        Ok(Draft { directory, lock })
    }

    /// Puts a finished image into the store under `name`, which from then on stands for it.
    ///
    /// # Errors
    /// [`StoreError::BadName`], [`StoreError::Io`].
    pub fn publish(
        &self,
        draft: Draft,
        manifest: &Manifest,
        name: &str,
    ) -> Result<Image, StoreError> {
        check_name(name)?;
        let Draft {
            directory: temporary,
            lock,
        } = draft;
        let directory = temporary.path();
        let path = directory.join(MANIFEST_FILE);
        fs::write(&path, manifest.to_bytes()).map_err(StoreError::io("write", &path))?;
        for file in FILES.iter().chain([&MANIFEST_FILE]) {
            let path = directory.join(file);
            seal(&path).map_err(StoreError::io("write", &path))?;
        }
        fs::set_permissions(directory, Permissions::from_mode(0o755))
            .and_then(|()| sync(directory))
            .map_err(StoreError::io("write", directory))?;
        let digest = manifest.digest();
        let target = self.path(&digest);
        if target.exists() {
            // What was just made is known to be whole; what was there goes with the draft.
            renameat_with(CWD, directory, CWD, &target, RenameFlags::EXCHANGE)
                .map_err(|error| StoreError::io("replace", &target)(error.into()))?;
        } else {
            fs::rename(directory, &target).map_err(StoreError::io("create", &target))?;
        }
        sync(&self.root).map_err(StoreError::io("write", &self.root))?;
        self.name(name, &digest)?;
        drop((temporary, lock));
        self.get(&digest.to_string())
    }

    /// Makes `name` stand for the image with this digest. Needs the lock, which a [`Draft`] holds.
    pub(crate) fn name(&self, name: &str, digest: &Digest) -> Result<(), StoreError> {
        check_name(name)?;
        let directory = self.root.join("names");
        let path = directory.join(name);
        write_whole(&path, format!("{digest}\n").as_bytes())
            .and_then(|()| sync(&directory))
            .map_err(StoreError::io("write", &path))
    }

    /// Takes a directory out of sight in one step, then deletes it.
    pub(super) fn discard(&self, directory: &Path) -> Result<(), StoreError> {
        let trash = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempdir_in(&self.root)
            .map_err(StoreError::io("create a directory in", &self.root))?;
        fs::rename(directory, trash.path().join("image"))
            .map_err(StoreError::io("remove", directory))?;
        trash.close().map_err(StoreError::io("remove", directory))
    }
}

/// Makes a part read-only and durable.
fn seal(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.set_permissions(Permissions::from_mode(0o444))?;
    file.sync_all()
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Replaces a small file in one step.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent: PathBuf = path.parent().map(Path::to_owned).unwrap_or_default();
    let mut file = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(parent)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
