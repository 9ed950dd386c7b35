//! A snapshot on disk: `memory`, `state`, `disk` and `manifest.json` in one directory, which is
//! there whole or not at all.
//!
//! Files are checked by digest before use. A full check reads them all; so that a restore need not,
//! a stamp beside the manifest remembers device, inode, size and times of the files that were
//! checked, and any other value makes the next opening check in full again. The kernel changes
//! `ctime` at each write and nobody can set it back.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use serde::{Deserialize, Serialize};

use super::{
    digest::{ContentDigest, digest_file},
    manifest::{SNAPSHOT_VERSION, SnapshotKey, SnapshotManifest},
};

const MANIFEST: &str = "manifest.json";
const STAMP: &str = "checked.json";
const FILES: [&str; 3] = ["memory", "state", "disk"];
/// Prefix of directories that are still being written.
const DRAFT: &str = ".draft-";

/// A snapshot directory that is being written; dropped without [`Self::commit`] it vanishes.
#[derive(Debug)]
pub struct SnapshotDraft {
    directory: PathBuf,
    committed: bool,
    /// Guest memory, empty.
    pub memory: File,
    /// Machine state, empty.
    pub state: File,
    /// Writable disk, empty.
    pub disk: File,
}

/// A checked snapshot, its files open.
#[derive(Debug)]
pub struct Snapshot {
    /// Where it is.
    pub directory: PathBuf,
    /// What it is made of.
    pub manifest: SnapshotManifest,
    /// Guest memory, read-only.
    pub memory: File,
    /// Machine state, read-only.
    pub state: File,
    /// Writable disk's base, read-only.
    pub disk: File,
}

/// How much of a snapshot is read when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Everything, unless no file changed since the last full check.
    Changed,
    /// Everything.
    Full,
}

/// Why a snapshot could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write a snapshot: {step} {path}: {cause}{next}", next = next_step(cause))]
pub struct WriteSnapshotError {
    step: &'static str,
    path: PathBuf,
    #[source]
    cause: io::Error,
}

/// Why a snapshot cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum OpenSnapshotError {
    /// There is none.
    #[error("there is no snapshot in {0}")]
    Missing(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {path} of the snapshot: {cause}; remove the snapshot and make it again")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// The manifest is no manifest.
    #[error("{path} is damaged: {cause}; remove the snapshot and make it again")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        cause: serde_json::Error,
    },
    /// It was made by another version of Mayfly.
    #[error(
        "the snapshot in {path} has format {found}, this VMM reads format {expected}; make it again"
    )]
    Version {
        /// The directory.
        path: PathBuf,
        /// The snapshot's format.
        found: u32,
        /// The VMM's format.
        expected: u32,
    },
    /// It belongs to another image, machine, CPU or VMM.
    #[error("the snapshot in {path} does not fit: {differences}; make one for this machine")]
    Key {
        /// The directory.
        path: PathBuf,
        /// Each difference, both sides named.
        differences: String,
    },
    /// A file's content is not what the manifest says.
    #[error(
        "{path} of the snapshot was changed or damaged: the manifest says {} bytes {}, the file has {} bytes {}; \
         remove the snapshot and make it again",
        expected.length, expected.digest, found.length, found.digest
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// What the manifest says.
        expected: ContentDigest,
        /// What was found.
        found: ContentDigest,
    },
}

fn next_step(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some disk, or set MAYFLY_STATE to a folder on a larger one"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; set MAYFLY_STATE to a folder that this user can write"
        }
        _ => "",
    }
}

impl SnapshotDraft {
    /// Begins a snapshot below `parent`, which is created. What crashed writers left there goes.
    ///
    /// # Errors
    /// [`WriteSnapshotError`] names the file and what the system said.
    pub fn create(parent: &Path) -> Result<Self, WriteSnapshotError> {
        let failed = |step, path: &Path| {
            let path = path.to_owned();
            move |cause| WriteSnapshotError { step, path, cause }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(failed("create", parent))?;
        remove_abandoned(parent);
        let random = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_nsec;
        let directory = parent.join(format!("{DRAFT}{}-{random}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(failed("create", &directory))?;
        let open = |name: &str| {
            let path = directory.join(name);
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(failed("create", &path))
        };
        let files = (open(FILES[0]), open(FILES[1]), open(FILES[2]));
        match files {
            (Ok(memory), Ok(state), Ok(disk)) => Ok(Self {
                directory,
                committed: false,
                memory,
                state,
                disk,
            }),
            (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) => {
                let _ = fs::remove_dir_all(&directory);
                Err(error)
            }
        }
    }

    /// Makes the snapshot durable and gives it its name below the parent; what had that name goes.
    ///
    /// # Errors
    /// [`WriteSnapshotError`]; then nothing is left of the draft.
    pub fn commit(
        mut self,
        key: SnapshotKey,
        memory: ContentDigest,
        state: ContentDigest,
        disk: ContentDigest,
    ) -> Result<PathBuf, WriteSnapshotError> {
        let directory = self.directory.clone();
        let failed = |step| {
            let path = directory.clone();
            move |cause| WriteSnapshotError { step, path, cause }
        };
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        let target = directory.with_file_name(key.name());
        let manifest = SnapshotManifest {
            version: SNAPSHOT_VERSION,
            key,
            created,
            memory,
            state,
            disk,
        };
        for file in [&self.memory, &self.state, &self.disk] {
            file.sync_all()
                .and_then(|()| {
                    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o400))
                })
                .map_err(failed("flush a file of"))?;
        }
        let json = serde_json::to_vec_pretty(&manifest)
            .map_err(io::Error::other)
            .map_err(failed("describe"))?;
        write_durably(&directory.join(MANIFEST), &json).map_err(failed("describe"))?;
        sync_directory(&directory).map_err(failed("flush"))?;
        let replaced = directory.with_extension("replaced");
        let had_one = fs::rename(&target, &replaced).is_ok();
        fs::rename(&directory, &target).map_err(failed("name"))?;
        self.committed = true;
        if had_one {
            let _ = fs::remove_dir_all(&replaced);
        }
        sync_directory(target.parent().unwrap_or(Path::new("/")))
            .map_err(failed("flush the folder of"))?;
        Ok(target)
    }
}

impl Drop for SnapshotDraft {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// Removes drafts whose writer is gone.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(DRAFT)) else {
            continue;
        };
        let writer = rest
            .split(['-', '.'])
            .next()
            .and_then(|id| id.parse::<i32>().ok())
            .and_then(Pid::from_raw);
        // Not by a look into /proc, where a service may see no process but its own. Whatever the kernel
        // says but "no such process" means that there is one.
        let gone = |id| test_kill_process(id) == Err(Errno::SRCH);
        if writer.is_none_or(gone) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Snapshot {
    /// Opens a snapshot and proves that it is whole and fits `key`.
    ///
    /// # Errors
    /// [`OpenSnapshotError`]; a mismatch names both sides.
    pub fn open(
        directory: &Path,
        key: &SnapshotKey,
        verify: Verify,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, OpenSnapshotError> {
        let snapshot = Self::open_unchecked(directory)?;
        let differences = snapshot.manifest.key.differences(key);
        if !differences.is_empty() {
            let said: Vec<_> = differences.iter().map(ToString::to_string).collect();
            return Err(OpenSnapshotError::Key {
                path: directory.to_owned(),
                differences: said.join("; "),
            });
        }
        snapshot.verify(verify, progress)?;
        Ok(snapshot)
    }

    /// Opens a snapshot of whatever machine, checking only its format: for listing and checking.
    ///
    /// # Errors
    /// [`OpenSnapshotError`] when it is no snapshot of this format.
    pub fn open_unchecked(directory: &Path) -> Result<Self, OpenSnapshotError> {
        let path = directory.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                return Err(OpenSnapshotError::Missing(directory.to_owned()));
            }
            Err(cause) => return Err(OpenSnapshotError::Read { path, cause }),
        };
        let manifest = parse_manifest(&text, directory, &path)?;
        let open = |name: &str| {
            let path = directory.join(name);
            File::open(&path).map_err(|cause| OpenSnapshotError::Read { path, cause })
        };
        Ok(Self {
            directory: directory.to_owned(),
            manifest,
            memory: open(FILES[0])?,
            state: open(FILES[1])?,
            disk: open(FILES[2])?,
        })
    }

    /// Compares every file with the manifest.
    ///
    /// # Errors
    /// [`OpenSnapshotError::Content`] names the file, both lengths and both digests.
    pub fn verify(
        &self,
        verify: Verify,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), OpenSnapshotError> {
        let stamp = self.stamp()?;
        if verify == Verify::Changed && self.known_stamp().as_ref() == Some(&stamp) {
            return Ok(());
        }
        let mut before = 0;
        for (name, file, expected) in self.files() {
            let path = self.directory.join(name);
            let found =
                digest_file(file, &mut |bytes| progress(before + bytes)).map_err(|cause| {
                    OpenSnapshotError::Read {
                        path: path.clone(),
                        cause,
                    }
                })?;
            before += found.length;
            if found != *expected {
                let _ = fs::remove_file(self.directory.join(STAMP));
                return Err(OpenSnapshotError::Content {
                    path,
                    expected: expected.clone(),
                    found,
                });
            }
        }
        // The stamp was taken before the content was read: a write in between shows the next time.
        // It only saves work; a folder that cannot be written is no error.
        if let Ok(json) = serde_json::to_vec(&stamp) {
            let _ = write_durably(&self.directory.join(STAMP), &json);
        }
        Ok(())
    }

    /// Bytes that the files take on disk; holes take none.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        let blocks = |file: &File| file.metadata().map_or(0, |metadata| metadata.blocks());
        self.files()
            .iter()
            .map(|(_, file, _)| blocks(file) * 512)
            .sum()
    }

    fn files(&self) -> [(&'static str, &File, &ContentDigest); 3] {
        [
            (FILES[0], &self.memory, &self.manifest.memory),
            (FILES[1], &self.state, &self.manifest.state),
            (FILES[2], &self.disk, &self.manifest.disk),
        ]
    }

    fn stamp(&self) -> Result<Stamp, OpenSnapshotError> {
        let mut files = Vec::new();
        for (name, file, _) in self.files() {
            let path = self.directory.join(name);
            let metadata = file
                .metadata()
                .map_err(|cause| OpenSnapshotError::Read { path, cause })?;
            files.push(FileStamp::of(&metadata));
        }
        let path = self.directory.join(MANIFEST);
        let metadata =
            fs::metadata(&path).map_err(|cause| OpenSnapshotError::Read { path, cause })?;
        files.push(FileStamp::of(&metadata));
        Ok(Stamp { files })
    }

    fn known_stamp(&self) -> Option<Stamp> {
        serde_json::from_slice(&fs::read(self.directory.join(STAMP)).ok()?).ok()
    }
}

fn parse_manifest(
    text: &[u8],
    directory: &Path,
    path: &Path,
) -> Result<SnapshotManifest, OpenSnapshotError> {
    // The version is read alone first: another version may have other fields.
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let damaged = |cause| OpenSnapshotError::Manifest {
        path: path.to_owned(),
        cause,
    };
    let Version { version } = serde_json::from_slice(text).map_err(damaged)?;
    if version != SNAPSHOT_VERSION {
        return Err(OpenSnapshotError::Version {
            path: directory.to_owned(),
            found: version,
            expected: SNAPSHOT_VERSION,
        });
    }
    serde_json::from_slice(text).map_err(damaged)
}

/// Which files were checked.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    files: Vec<FileStamp>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Writes a small file whole or not at all.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{FileExt, PermissionsExt},
        path::{Path, PathBuf},
    };

    use super::{OpenSnapshotError, Snapshot, SnapshotDraft, Verify};
    use crate::{
        config::MachineConfig,
        snapshot::{
            digest::{CHUNK, SparseWriter},
            manifest::SnapshotKey,
        },
    };

    fn key() -> SnapshotKey {
        SnapshotKey::here(
            "sha256:aa",
            MachineConfig {
                vcpus: 1,
                memory_mib: 128,
            },
        )
        .unwrap()
    }

    fn snapshot(parent: &Path) -> PathBuf {
        let draft = SnapshotDraft::create(parent).unwrap();
        let write = |file: &fs::File, byte: u8| {
            let mut writer = SparseWriter::new(file);
            writer.write(&vec![byte; CHUNK]).unwrap();
            writer.write(&[byte; 100]).unwrap();
            writer.finish().unwrap()
        };
        let (memory, state, disk) = (
            write(&draft.memory, 1),
            write(&draft.state, 2),
            write(&draft.disk, 0),
        );
        draft.commit(key(), memory, state, disk).unwrap()
    }

    fn open(path: &Path) -> Result<Snapshot, OpenSnapshotError> {
        Snapshot::open(path, &key(), Verify::Changed, &mut |_| ())
    }

    fn edit(path: &Path, change: impl FnOnce(&fs::File)) {
        fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
        change(
            &fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .unwrap(),
        );
    }

    #[test]
    fn a_committed_snapshot_opens_and_a_dropped_draft_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        drop(SnapshotDraft::create(parent.path()).unwrap());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        open(&snapshot(parent.path())).unwrap();
    }

    #[test]
    fn a_flipped_bit_is_found_in_every_file_even_after_a_good_check() {
        for name in ["memory", "state", "disk"] {
            let parent = tempfile::tempdir().unwrap();
            let path = snapshot(parent.path());
            open(&path).unwrap();
            edit(&path.join(name), |file| {
                let mut byte = [0];
                file.read_exact_at(&mut byte, 5000).unwrap();
                file.write_all_at(&[byte[0] ^ 1], 5000).unwrap();
            });
            let error = open(&path).unwrap_err();
            assert!(
                matches!(&error, OpenSnapshotError::Content { path, .. } if path.ends_with(name)),
                "{error}"
            );
        }
    }

    #[test]
    fn a_truncated_file_is_found_and_both_lengths_are_named() {
        let parent = tempfile::tempdir().unwrap();
        let path = snapshot(parent.path());
        edit(&path.join("memory"), |file| file.set_len(10).unwrap());
        let said = open(&path).unwrap_err().to_string();
        assert!(
            said.contains(&format!("says {} bytes", CHUNK + 100)) && said.contains("has 10 bytes"),
            "{said}"
        );
    }

    #[test]
    fn another_machine_is_refused_with_both_sides() {
        let parent = tempfile::tempdir().unwrap();
        let path = snapshot(parent.path());
        let mut other = key();
        other.machine.memory_mib = 256;
        let error = Snapshot::open(&path, &other, Verify::Changed, &mut |_| ()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("128 MiB, here it is 1 vCPUs, 256 MiB"),
            "{error}"
        );
    }

    #[test]
    fn another_format_is_refused_with_both_versions_and_garbage_by_name() {
        let parent = tempfile::tempdir().unwrap();
        let path = snapshot(parent.path());
        let manifest = path.join("manifest.json");
        fs::write(&manifest, r#"{"version": 99, "new": true}"#).unwrap();
        let said = open(&path).unwrap_err().to_string();
        assert!(
            said.contains("format 99") && said.contains("format 1"),
            "{said}"
        );
        fs::write(&manifest, "{").unwrap();
        assert!(
            open(&path)
                .unwrap_err()
                .to_string()
                .contains("manifest.json is damaged")
        );
    }

    #[test]
    fn a_new_snapshot_replaces_one_of_the_same_key() {
        let parent = tempfile::tempdir().unwrap();
        let first = snapshot(parent.path());
        assert_eq!(first, snapshot(parent.path()));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn drafts_of_writers_that_are_gone_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        // Process ids end below 2^22.
        let abandoned = parent.path().join(".draft-99999999-1");
        fs::create_dir(&abandoned).unwrap();
        drop(SnapshotDraft::create(parent.path()).unwrap());
        assert!(!abandoned.exists());
    }
}
