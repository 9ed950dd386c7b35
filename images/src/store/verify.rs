//! Proves that an image's files are those that its manifest names.
//!
//! Reading gigabytes at each start would cost more than a restore. So a full check leaves a stamp
//! (size, modification and change time, inode of each part); while all of it is unchanged the
//! files are taken to be unchanged too. A change time cannot be set back without the clock.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{Image, StoreError, publish::write_whole, read_limited};
use crate::{digest::Digest, manifest::Part};

/// File name of the stamp in an image's directory. It is no part of the image.
const STAMP_FILE: &str = "verified";

/// What must be unchanged for a file to be taken as unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    digest: Digest,
    size: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(part: &Part, metadata: &Metadata) -> Self {
        Self {
            digest: part.digest,
            size: metadata.size(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Why an image is not what its manifest says.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A part cannot be read.
    #[error("image {image}: cannot read {}: {error}; {}", path.display(), next(image))]
    Io {
        /// Name or digest of the image.
        image: String,
        /// The part.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// A part has another length.
    #[error(
        "image {image}: {} has {found} bytes instead of {expected}; {}",
        path.display(), next(image)
    )]
    Size {
        /// Name or digest of the image.
        image: String,
        /// The part.
        path: PathBuf,
        /// Bytes that the manifest names.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// A part has other content.
    #[error(
        "image {image}: {} was changed: expected {expected}, found {found}; {}",
        path.display(), next(image)
    )]
    Digest {
        /// Name or digest of the image.
        image: String,
        /// The part.
        path: PathBuf,
        /// The digest that the manifest names.
        expected: Digest,
        /// The digest of what is there.
        found: Digest,
    },
}

fn next(image: &str) -> String {
    format!("build it again with `mayfly image build {image} --rebuild`")
}

impl Image {
    /// Proves that every part is the one the manifest names. Parts that are unchanged since the
    /// last full check are not read again. `progress` hears the bytes read of all parts' bytes.
    ///
    /// # Errors
    /// [`VerifyError`] of the first part that is missing, short, long or different.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), VerifyError> {
        let known = self.stamps();
        let total = self.manifest.parts.all().iter().map(|part| part.size).sum();
        let mut stamps = BTreeMap::new();
        let mut done = 0;
        for part in self.manifest.parts.all() {
            let stamp = self.verify_part(part, known.get(&part.file), &mut |bytes| {
                progress(done + bytes, total);
            })?;
            done += part.size;
            stamps.insert(part.file.clone(), stamp);
        }
        if stamps != known {
            self.write_stamps(&stamps);
        }
        Ok(())
    }

    /// Stamps parts whose digests were taken while they were written.
    pub(crate) fn stamp(&self) {
        let stamps = self.manifest.parts.all().map(|part| {
            let metadata = fs::metadata(self.directory.join(&part.file)).ok()?;
            Some((part.file.clone(), Stamp::of(part, &metadata)))
        });
        self.write_stamps(&stamps.into_iter().flatten().collect());
    }

    /// Only a shortcut for the next time: a store that cannot be written to works too.
    fn write_stamps(&self, stamps: &BTreeMap<String, Stamp>) {
        let path = self.directory.join(STAMP_FILE);
        let written = serde_json::to_vec(stamps).map_err(io::Error::other);
        if let Err(error) = written.and_then(|bytes| write_whole(&path, &bytes)) {
            tracing::debug!(path = %path.display(), %error, "stamp not written");
        }
    }

    /// Checks one part and gives its stamp, which was taken before its content was read.
    fn verify_part(
        &self,
        part: &Part,
        known: Option<&Stamp>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Stamp, VerifyError> {
        let path = self.directory.join(&part.file);
        let image = self.label();
        let failed = |error| VerifyError::Io {
            image: self.label(),
            path: path.clone(),
            error,
        };
        let file = File::open(&path).map_err(failed)?;
        let stamp = Stamp::of(part, &file.metadata().map_err(failed)?);
        if stamp.size != part.size {
            let (expected, found) = (part.size, stamp.size);
            return Err(VerifyError::Size {
                image,
                path,
                expected,
                found,
            });
        }
        if known == Some(&stamp) {
            return Ok(stamp);
        }
        let found = part.hash.file(&file, progress).map_err(failed)?;
        if found != part.digest {
            let expected = part.digest;
            return Err(VerifyError::Digest {
                image,
                path,
                expected,
                found,
            });
        }
        Ok(stamp)
    }

    /// The stamps of the last full check; none if there are none that can be read.
    fn stamps(&self) -> BTreeMap<String, Stamp> {
        let bytes: Result<Vec<u8>, StoreError> =
            read_limited(&self.directory.join(STAMP_FILE), 64 << 10);
        bytes
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }
}
