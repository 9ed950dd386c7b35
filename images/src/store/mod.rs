//! The image store: finished images by digest, names for them, and their removal.
//!
//! ```text
//! <state>/images/sha256-<hex>/{manifest.json, vmlinux, initramfs, root.erofs, disk.ext4, verified}
//! <state>/images/names/<name>     one line: the digest
//! <state>/images/lock             held by whoever builds, renames or removes
//! ```
//!
//! An image appears by one rename of a complete and synced directory, and goes by another.

mod error;
mod publish;
mod verify;

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

pub use error::StoreError;
pub(crate) use publish::FILES;
pub use publish::{Draft, check_name};
use serde::Serialize;
pub use verify::VerifyError;

use crate::{
    digest::Digest,
    manifest::{MANIFEST_FILE, MANIFEST_VERSION, Manifest},
};

/// Largest manifest that is read, in bytes.
const MANIFEST_LIMIT: u64 = 4 << 20;

/// Prefix of directories that are being made or thrown away.
const TEMPORARY: &str = ".tmp-";

/// The images of one state directory.
#[derive(Debug, Clone)]
pub struct ImageStore {
    root: PathBuf,
}

/// A finished image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The image's digest.
    pub digest: Digest,
    /// Its names, sorted; often one, sometimes none.
    pub names: Vec<String>,
    /// Where its parts are.
    pub directory: PathBuf,
    /// What it is made of.
    pub manifest: Manifest,
}

impl Image {
    /// Path of the kernel, an ELF file.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.directory.join(&self.manifest.parts.kernel.file)
    }

    /// Path of the initramfs.
    #[must_use]
    pub fn initramfs(&self) -> PathBuf {
        self.directory.join(&self.manifest.parts.initramfs.file)
    }

    /// Path of the EROFS root.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.join(&self.manifest.parts.root.file)
    }

    /// Path of the empty ext4 file system.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.directory.join(&self.manifest.parts.disk.file)
    }

    /// What people call it: a name, else the short digest.
    #[must_use]
    pub fn label(&self) -> String {
        self.names
            .first()
            .cloned()
            .unwrap_or_else(|| self.digest.short())
    }

    /// Keeps the image from being removed until the guard is dropped.
    ///
    /// # Errors
    /// [`StoreError::Io`], also when the image has just been removed.
    pub fn hold(&self) -> Result<ImageGuard, StoreError> {
        let path = self.directory.join(MANIFEST_FILE);
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        file.lock_shared().map_err(StoreError::io("lock", &path))?;
        Ok(ImageGuard { _file: file })
    }
}

/// Keeps an image in the store. See [`Image::hold`].
#[derive(Debug)]
pub struct ImageGuard {
    _file: File,
}

/// One line of `mayfly image ls`.
#[derive(Debug, Clone, Serialize)]
pub struct ImageSummary {
    /// The image's digest.
    pub digest: Digest,
    /// Its names.
    pub names: Vec<String>,
    /// Bytes on disk of all parts: holes are not counted.
    pub disk_bytes: u64,
    /// When it was put into the store, in seconds since 1970.
    pub created: u64,
    /// Version of the kernel package.
    pub kernel: String,
    /// How many Debian packages the root holds.
    pub packages: usize,
}

/// What `mayfly image inspect` prints.
#[derive(Debug, Clone, Serialize)]
pub struct ImageDetails {
    /// The line of `mayfly image ls`.
    #[serde(flatten)]
    pub summary: ImageSummary,
    /// Where its parts are.
    pub directory: PathBuf,
    /// What it is made of.
    pub manifest: Manifest,
}

impl ImageStore {
    /// The store of a state directory, which is made, for this user alone, if it is not there.
    ///
    /// # Errors
    /// [`StoreError::Shared`] or [`StoreError::Foreign`] where another user could put things in the
    /// place of what was checked; else [`StoreError::Io`].
    pub fn open(state: &Path) -> Result<Self, StoreError> {
        let root = state.join("images");
        let names = root.join("names");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&names)
            .map_err(StoreError::io("create", &names))?;
        for directory in [state, &root, &names] {
            check_owner(directory)?;
        }
        Ok(Self { root })
    }

    /// The store's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.root
    }

    /// All images, ordered by name and then by digest.
    ///
    /// # Errors
    /// [`StoreError`] of the first image that cannot be read.
    pub fn images(&self) -> Result<Vec<Image>, StoreError> {
        let names = self.names()?;
        let mut images = Vec::new();
        for entry in self.entries(&self.root)? {
            if let Some(digest) = directory_digest(&entry) {
                images.push(self.load(digest, &names)?);
            }
        }
        images.sort_by(|a, b| {
            (a.names.is_empty(), &a.names, a.digest).cmp(&(b.names.is_empty(), &b.names, b.digest))
        });
        Ok(images)
    }

    /// The lines of `mayfly image ls`.
    ///
    /// # Errors
    /// Those of [`ImageStore::images`].
    pub fn list(&self) -> Result<Vec<ImageSummary>, StoreError> {
        self.images()?.iter().map(summary).collect()
    }

    /// The image with this name, digest (`sha256:…`) or unambiguous start of a digest (four hex
    /// digits or more). A name comes first.
    ///
    /// # Errors
    /// [`StoreError::Unknown`], [`StoreError::Ambiguous`], or what reading it gives.
    pub fn get(&self, reference: &str) -> Result<Image, StoreError> {
        let names = self.names()?;
        if let Some((_, digest)) = names.iter().find(|(name, _)| name == reference) {
            return self.load(*digest, &names);
        }
        let digits = reference.strip_prefix("sha256:").unwrap_or(reference);
        let mut found = Vec::new();
        for entry in self.entries(&self.root)? {
            if let Some(digest) = directory_digest(&entry)
                && digits.len() >= 4
                && digest.hex().starts_with(digits)
            {
                found.push(digest);
            }
        }
        match found[..] {
            [digest] => self.load(digest, &names),
            [] => Err(StoreError::Unknown {
                reference: reference.to_owned(),
                known: names.into_iter().map(|(name, _)| name).collect(),
            }),
            _ => Err(StoreError::Ambiguous {
                reference: reference.to_owned(),
                matches: found.iter().map(Digest::to_string).collect(),
            }),
        }
    }

    /// What `mayfly image inspect` prints of the image that `reference` names.
    ///
    /// # Errors
    /// Those of [`ImageStore::get`].
    pub fn inspect(&self, reference: &str) -> Result<ImageDetails, StoreError> {
        let image = self.get(reference)?;
        Ok(ImageDetails {
            summary: summary(&image)?,
            directory: image.directory,
            manifest: image.manifest,
        })
    }

    /// Removes an image and its names.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while somebody [holds](Image::hold) it; those of [`ImageStore::get`].
    pub fn remove(&self, reference: &str) -> Result<ImageSummary, StoreError> {
        let _lock = self.lock(&mut || ())?;
        let image = self.get(reference)?;
        let summary = summary(&image)?;
        let path = image.directory.join(MANIFEST_FILE);
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(image.label())),
            Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
        }
        for name in &image.names {
            let path = self.root.join("names").join(name);
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
        self.discard(&image.directory)?;
        Ok(summary)
    }

    /// The store's exclusive lock; `waiting` is called once if somebody else has it.
    pub(crate) fn lock(&self, waiting: &mut dyn FnMut()) -> Result<File, StoreError> {
        let path = self.root.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => waiting(),
            Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
        }
        file.lock().map_err(StoreError::io("lock", &path))?;
        Ok(file)
    }

    /// Reads the image with this digest and proves that its manifest is the one it is named by.
    fn load(&self, digest: Digest, names: &[(String, Digest)]) -> Result<Image, StoreError> {
        let directory = self.path(&digest);
        let path = directory.join(MANIFEST_FILE);
        let bytes = read_limited(&path, MANIFEST_LIMIT)?;
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(StoreError::Damaged {
                path,
                expected: digest,
                found,
            });
        }
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| StoreError::Manifest {
                path: path.clone(),
                error,
            })?;
        if manifest.version != MANIFEST_VERSION {
            let version = manifest.version;
            return Err(StoreError::Version { path, version });
        }
        let known = manifest
            .parts
            .all()
            .iter()
            .all(|part| FILES.contains(&&*part.file));
        if !known {
            return Err(StoreError::Parts { path });
        }
        let names = names
            .iter()
            .filter(|(_, named)| *named == digest)
            .map(|(name, _)| name.clone())
            .collect();
        Ok(Image {
            digest,
            names,
            directory,
            manifest,
        })
    }

    /// All names and what they stand for, sorted.
    fn names(&self) -> Result<Vec<(String, Digest)>, StoreError> {
        let directory = self.root.join("names");
        let mut names = Vec::new();
        for name in self.entries(&directory)? {
            if name.starts_with('.') {
                continue;
            }
            let path = directory.join(&name);
            let text = String::from_utf8_lossy(&read_limited(&path, 200)?).into_owned();
            let digest = text.trim_end().parse().map_err(|error| StoreError::Name {
                path: path.clone(),
                error,
            })?;
            names.push((name, digest));
        }
        names.sort();
        Ok(names)
    }

    fn entries(&self, directory: &Path) -> Result<Vec<String>, StoreError> {
        let error = StoreError::io("list", directory);
        let entries: Result<Vec<_>, _> = fs::read_dir(directory)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
        Ok(entries
            .map_err(error)?
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .collect())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(format!("sha256-{}", digest.hex()))
    }
}

/// Refuses a directory that another user can write into. Root may use a directory of whoever it
/// likes, as containers do with those that are mounted into them.
fn check_owner(directory: &Path) -> Result<(), StoreError> {
    let metadata = fs::metadata(directory).map_err(StoreError::io("read", directory))?;
    if metadata.mode() & 0o002 != 0 {
        return Err(StoreError::Shared(directory.to_owned()));
    }
    let (owner, own) = (metadata.uid(), rustix::process::geteuid());
    if owner != 0 && !own.is_root() && owner != own.as_raw() {
        let path = directory.to_owned();
        return Err(StoreError::Foreign { path, owner });
    }
    Ok(())
}

/// The digest that a directory of the store is named by; other entries have none.
fn directory_digest(name: &str) -> Option<Digest> {
    format!("sha256:{}", name.strip_prefix("sha256-")?)
        .parse()
        .ok()
}

fn summary(image: &Image) -> Result<ImageSummary, StoreError> {
    let mut disk_bytes = 0;
    for part in image.manifest.parts.all() {
        let path = image.directory.join(&part.file);
        let metadata = fs::metadata(&path).map_err(StoreError::io("read", &path))?;
        disk_bytes += metadata.blocks() * 512;
    }
    let path = image.directory.join(MANIFEST_FILE);
    let metadata = fs::metadata(&path).map_err(StoreError::io("read", &path))?;
    Ok(ImageSummary {
        digest: image.digest,
        names: image.names.clone(),
        disk_bytes,
        created: u64::try_from(metadata.mtime()).unwrap_or(0),
        kernel: image.manifest.kernel.version.clone(),
        packages: image.manifest.packages.len(),
    })
}

fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, StoreError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(StoreError::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(StoreError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
