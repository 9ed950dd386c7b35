//! Artifacts of a run as files of the host: each is there whole or not at all, and none replaces
//! another file. Their names come from a sandbox.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::artifacts::{self, Artifact};

/// Longest name of a file, in bytes.
const MAX_FILE_NAME: usize = 255;

/// Why a folder is none for artifacts.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Something is in it.
    #[error(
        "{0} is not empty; give --artifacts a folder that is new or empty, nothing is overwritten"
    )]
    NotEmpty(PathBuf),
    /// It cannot be made or read.
    #[error("cannot use {folder} for artifacts: {cause}")]
    Io {
        /// The folder.
        folder: PathBuf,
        /// The cause.
        cause: io::Error,
    },
}

/// Why an artifact was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Its name is none of a file.
    #[error("its name cannot be the name of a file; upload it under another one")]
    Name,
    /// There is such a file.
    #[error("{0} is there already, and nothing is overwritten; upload it under another name")]
    Exists(PathBuf),
    /// The disk.
    #[error("cannot write {path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
}

/// Makes the folder where it is not there, and refuses one that is not empty.
///
/// # Errors
/// [`FolderError`].
pub fn prepare(folder: &Path) -> Result<(), FolderError> {
    let at = |cause| FolderError::Io {
        folder: folder.to_owned(),
        cause,
    };
    fs::create_dir_all(folder).map_err(at)?;
    match fs::read_dir(folder).map_err(at)?.next() {
        Some(_) => Err(FolderError::NotEmpty(folder.to_owned())),
        None => Ok(()),
    }
}

/// Writes an artifact into the folder, as it was uploaded: `NAME.zip`, or `NAME` where it is no
/// archive. Gives the path of the file.
///
/// # Errors
/// [`WriteError`].
pub fn write(folder: &Path, artifact: &Artifact) -> Result<PathBuf, WriteError> {
    let name = file_name(&artifact.name, &artifact.mime).ok_or(WriteError::Name)?;
    let path = folder.join(name);
    let at = |cause| WriteError::Io {
        path: path.clone(),
        cause,
    };
    let mut file = tempfile::Builder::new()
        .prefix(".mayfly-artifact-")
        // As any file that is made anew; the umask takes from it.
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(at)?;
    let content = &artifact.content;
    let copied = io::copy(&mut content.reader(0, content.size()), &mut file).map_err(at)?;
    if copied != content.size() {
        return Err(at(io::ErrorKind::UnexpectedEof.into()));
    }
    file.as_file().sync_all().map_err(at)?;
    match file.persist_noclobber(&path) {
        Ok(_) => Ok(path),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(WriteError::Exists(path))
        }
        Err(error) => Err(at(error.error)),
    }
}

/// The name of an artifact's file, if it can be one.
fn file_name(name: &str, mime: &str) -> Option<String> {
    let archive = mime == artifacts::ZIP && !name.to_ascii_lowercase().ends_with(".zip");
    let file = name.to_owned() + if archive { ".zip" } else { "" };
    let plain = artifacts::is_name(name) && !matches!(file.as_str(), "." | "..");
    (plain && file.len() <= MAX_FILE_NAME).then_some(file)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Arc};

    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::results::blobs::Blob;

    fn artifact(name: &str, mime: &str, content: &str, size: u64) -> Artifact {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        Artifact {
            id: 1,
            name: name.to_owned(),
            mime: mime.to_owned(),
            job: Uuid::nil(),
            created: Timestamp::UNIX_EPOCH,
            digest: String::new(),
            content: Arc::new(Blob::of(file, size)),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_archive_is_written_as_it_is_with_its_ending_and_another_file_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        for (name, mime, file) in [
            ("report", artifacts::ZIP, "report.zip"),
            ("raw.ZIP", artifacts::ZIP, "raw.ZIP"),
            ("note.txt", "text/plain", "note.txt"),
        ] {
            let path = write(
                folder.path(),
                &artifact(name, mime, name, name.len() as u64),
            );
            assert_eq!(path.unwrap(), folder.path().join(file));
            assert_eq!(fs::read_to_string(folder.path().join(file)).unwrap(), name);
        }
        assert_eq!(names(folder.path()), ["note.txt", "raw.ZIP", "report.zip"]);
    }

    #[test]
    fn a_name_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("in");
        prepare(&inner).unwrap();
        let long = "x".repeat(256);
        for name in [
            "../up", "/etc/up", "a/b", "a\\b", "..", ".", "", "a\nb", "a\0b", &long,
        ] {
            let refused = write(&inner, &artifact(name, "text/plain", "x", 1));
            assert!(matches!(refused, Err(WriteError::Name)), "{name:?}");
        }
        assert!(names(&inner).is_empty());
        assert_eq!(names(folder.path()), ["in"]);
    }

    #[test]
    fn a_file_that_is_there_stays_and_half_an_artifact_is_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.zip"), "first").unwrap();
        let second = write(folder.path(), &artifact("a", artifacts::ZIP, "second", 6));
        assert!(matches!(second, Err(WriteError::Exists(_))), "{second:?}");
        let half = write(folder.path(), &artifact("b", artifacts::ZIP, "half", 8));
        assert!(matches!(half, Err(WriteError::Io { .. })), "{half:?}");
        assert_eq!(names(folder.path()), ["a.zip"]);
        let kept = fs::read_to_string(folder.path().join("a.zip"));
        assert_eq!(kept.unwrap(), "first");
    }

    #[test]
    fn the_folder_is_made_and_must_be_empty() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("deep/er");
        prepare(&deep).unwrap();
        prepare(&deep).unwrap();
        fs::write(deep.join("file"), "").unwrap();
        assert!(matches!(prepare(&deep), Err(FolderError::NotEmpty(_))));
        let file = prepare(&deep.join("file"));
        assert!(matches!(file, Err(FolderError::Io { .. })));
    }
}
