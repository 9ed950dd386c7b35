//! The actions on this machine, each under the digest of its content: `<state>/actions/`.
//!
//! What is in an entry is the tar stream that [`archive::verify`] wrote. An entry is made beside its
//! place while the archive is verified, and moved there when it was found to be what is expected. It
//! is verified again whenever it is read.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tempfile::NamedTempFile;

use super::{
    archive::{self, ArchiveError, Expected, Layout, Limits, Verified},
    digest::ContentDigest,
};

mod bytes;
mod commits;
mod picking;
mod reading;

pub use bytes::StoredBytes;
pub use commits::Proven;
pub use reading::Reading;

/// What the names of files begin with that are being written.
const ADDING: &str = ".adding-";
/// What the name of an entry ends with.
const ENTRY: &str = ".tar";
/// Held shared by who adds, and alone by who sweeps what a crash left.
const LOCK: &str = ".lock";
/// Bytes written at once.
const BUFFER: usize = 256 << 10;

/// What this machine could not do.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}: {cause}; is there room, and does the state folder belong to you?", .path.display())]
pub struct HostError {
    step: &'static str,
    path: PathBuf,
    #[source]
    cause: io::Error,
}

/// Why an action was not added. The store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The archive is not what is expected.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The machine failed.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Why an action could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not there.
    #[error("no action {0} is stored; `mayfly action ls` shows those that are")]
    Missing(ContentDigest),
    /// It is not what its name says.
    #[error("the stored action {digest} is damaged: {why}; remove {}", .path.display())]
    Damaged {
        /// Its name.
        digest: ContentDigest,
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        why: Box<ArchiveError>,
    },
    /// A file of it is too long for what it is.
    #[error("`{name}` of the stored action {digest} is longer than {limit} bytes")]
    Long {
        /// The action.
        digest: ContentDigest,
        /// The file.
        name: String,
        /// The limit.
        limit: u64,
    },
    /// The machine failed.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// An action that is there, not verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub digest: ContentDigest,
    /// Size of its file.
    pub bytes: u64,
    /// When it was added or read last.
    pub used: SystemTime,
}

/// What was removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// The actions.
    pub entries: Vec<Entry>,
    /// Number of files that a crash left, `None` while another process adds an action: its file
    /// cannot be told from one that was left.
    pub leftovers: Option<usize>,
}

/// The store of one state folder; processes share it.
#[derive(Debug, Clone)]
pub struct ActionStore {
    folder: PathBuf,
}

impl ActionStore {
    /// The store in this folder, which is made when the first action is added.
    #[must_use]
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Verifies an archive while it streams, and keeps it if it is what is expected. One that is there
    /// already is replaced by the same, so that a damaged one is mended.
    ///
    /// # Errors
    /// [`AddError`]; the store is then as it was.
    pub fn add(
        &self,
        input: impl Read,
        layout: Layout,
        expected: &Expected,
        limits: Limits,
    ) -> Result<Verified, AddError> {
        self.make()?;
        self.sweep()?;
        let lock = self.lock()?;
        lock.lock_shared()
            .map_err(|cause| self.failed("lock", LOCK, cause))?;
        let mut file = tempfile::Builder::new()
            .prefix(ADDING)
            .tempfile_in(&self.folder)
            .map_err(|cause| self.failed("make a file in", "", cause))?;
        let sink = BufWriter::with_capacity(BUFFER, file.as_file_mut());
        let verified = archive::verify(input, layout, expected, limits, sink)?;
        self.keep(file, verified.content)?;
        Ok(verified)
    }

    /// Moves a whole file to its place, so that it stays there through a crash of the machine.
    fn keep(&self, file: NamedTempFile, digest: ContentDigest) -> Result<(), HostError> {
        let path = self.path(digest);
        let failed = |cause| HostError {
            step: "write",
            path: path.clone(),
            cause,
        };
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)
    }

    /// Whether an action is there; it is not verified.
    #[must_use]
    pub fn contains(&self, digest: ContentDigest) -> bool {
        self.path(digest).is_file()
    }

    /// An action as a tar stream for a sandbox, verified while it is read: it fails instead of ending
    /// if it is damaged. Whoever reads must take nothing for an action before the stream has ended.
    ///
    /// # Errors
    /// [`ReadError`]; those of damage come from the stream.
    ///
    /// # Panics
    /// Outside of an asynchronous runtime, whose threads verify.
    pub fn read(&self, digest: ContentDigest) -> Result<Reading, ReadError> {
        let (path, file) = self.open(digest)?;
        Ok(Reading::start(file, digest, path))
    }

    /// Reads an action to its end and compares it with its name.
    ///
    /// # Errors
    /// [`ReadError`] if it is not there or damaged.
    pub fn verify(&self, digest: ContentDigest) -> Result<Verified, ReadError> {
        let path = self.path(digest);
        let file = File::open(&path).map_err(|cause| self.unread(digest, cause))?;
        whole(file, digest, &path, io::sink())
    }

    fn open(&self, digest: ContentDigest) -> Result<(PathBuf, File), ReadError> {
        let path = self.path(digest);
        let file = File::open(&path).map_err(|cause| self.unread(digest, cause))?;
        // Where the time cannot be set, it only goes earlier from the store than it should.
        let _ = file.set_modified(SystemTime::now());
        Ok((path, file))
    }

    fn unread(&self, digest: ContentDigest, cause: io::Error) -> ReadError {
        if cause.kind() == io::ErrorKind::NotFound {
            return ReadError::Missing(digest);
        }
        let path = self.path(digest);
        let step = "read";
        HostError { step, path, cause }.into()
    }

    /// The actions that are there, by their names.
    ///
    /// # Errors
    /// [`HostError`] if the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, HostError> {
        let mut entries = Vec::new();
        for (name, path) in self.files()? {
            let digest = name.strip_suffix(ENTRY);
            let digest = digest.and_then(|digits| format!("sha256:{digits}").parse().ok());
            // One that is removed meanwhile is not there.
            let (Some(digest), Ok(found)) = (digest, path.symlink_metadata()) else {
                continue;
            };
            if found.is_file() {
                entries.push(Entry {
                    digest,
                    bytes: found.len(),
                    used: found.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                });
            }
        }
        entries.sort_by_key(|entry| entry.digest);
        Ok(entries)
    }

    /// Removes actions that were not used for some time, and what crashes left. A job that reads one
    /// reads it to its end.
    ///
    /// # Errors
    /// [`HostError`] if one cannot be removed.
    pub fn collect(&self, unused_for: Duration) -> Result<Collected, HostError> {
        let mut collected = Collected {
            leftovers: self.sweep()?,
            ..Collected::default()
        };
        let now = SystemTime::now();
        for entry in self.list()? {
            let age = now.duration_since(entry.used).unwrap_or_default();
            if age >= unused_for && remove(&self.path(entry.digest))? {
                collected.entries.push(entry);
            }
        }
        self.forget()?;
        Ok(collected)
    }

    /// Removes what crashes left unless another process adds an action now.
    fn sweep(&self) -> Result<Option<usize>, HostError> {
        let left = |(name, _): &(String, PathBuf)| name.starts_with(ADDING);
        let files: Vec<_> = self.files()?.into_iter().filter(left).collect();
        if files.is_empty() {
            return Ok(Some(0));
        }
        let lock = self.lock()?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(cause)) => return Err(self.failed("lock", LOCK, cause)),
        }
        let mut removed = 0;
        for (_, path) in files {
            removed += usize::from(remove(&path)?);
        }
        Ok(Some(removed))
    }

    fn files(&self) -> Result<Vec<(String, PathBuf)>, HostError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(self.failed("read", "", cause)),
        };
        entries
            .map(|entry| {
                let entry = entry.map_err(|cause| self.failed("read", "", cause))?;
                Ok((
                    entry.file_name().to_string_lossy().into_owned(),
                    entry.path(),
                ))
            })
            .collect()
    }

    fn make(&self) -> Result<(), HostError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(|cause| self.failed("make", "", cause))
    }

    fn lock(&self) -> Result<File, HostError> {
        // Whoever can open a file can lock it, and so hold up everybody else.
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.folder.join(LOCK))
            .map_err(|cause| self.failed("lock", LOCK, cause))
    }

    fn path(&self, digest: ContentDigest) -> PathBuf {
        self.folder.join(digest.hex() + ENTRY)
    }

    fn failed(&self, step: &'static str, name: &str, cause: io::Error) -> HostError {
        let path = self.folder.join(name);
        HostError { step, path, cause }
    }
}

/// Writes a stored action to `sink`, and the end of the stream only if it is whole.
fn whole(
    file: File,
    digest: ContentDigest,
    path: &Path,
    sink: impl Write,
) -> Result<Verified, ReadError> {
    archive::verify_content(file, digest, sink).map_err(|why| {
        let (path, why) = (path.to_owned(), Box::new(why));
        ReadError::Damaged { digest, path, why }
    })
}

/// Removes a file; `false` if somebody else did.
fn remove(path: &Path) -> Result<bool, HostError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(HostError {
            step: "remove",
            path: path.to_owned(),
            cause,
        }),
    }
}

#[cfg(test)]
mod tests;
