//! `--copy-in` and `--copy-out`: files and folders over the border of a sandbox.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use tokio_util::io::SyncIoBridge;

use super::unpack::{UnpackError, unpack};
use crate::sandbox::{Sandbox, SandboxError};

/// Bytes that may wait between the tar stream and the sandbox.
const PIPE_BYTES: usize = 256 * 1024;

/// `SRC:DST`; the first is where the bytes come from.
#[derive(Debug, Clone)]
pub struct CopySpec {
    source: String,
    destination: String,
}

/// Why something was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The host's side of a copy in is not there or cannot be read.
    #[error("cannot copy {path} in: {cause}")]
    Source {
        /// The path on the host.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
    /// The path in the sandbox is relative or names no entry.
    #[error("{0} is not a path in the sandbox; write an absolute one, like /src")]
    GuestPath(String),
    /// The host's side of a copy out exists already.
    #[error("{0} exists; copy out to a name that does not, nothing is overwritten")]
    Exists(PathBuf),
    /// The folder for the host's side of a copy out cannot be used.
    #[error("cannot copy out to {path}: {cause}")]
    Destination {
        /// The path on the host.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
    /// The sandbox sent nothing.
    #[error("copying {0} out of the sandbox: the stream ended before it began")]
    Empty(String),
    /// The sandbox sent something that is not kept.
    #[error("copying {path} out of the sandbox: {why}")]
    Hostile {
        /// The path in the sandbox.
        path: String,
        /// What was refused.
        why: String,
    },
    /// The sandbox did not take or give it.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

impl FromStr for CopySpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((source, destination)) if !source.is_empty() && !destination.is_empty() => {
                Ok(Self {
                    source: source.to_owned(),
                    destination: destination.to_owned(),
                })
            }
            _ => Err(format!("`{text}` is not SRC:DST")),
        }
    }
}

/// A checked copy into a sandbox.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    /// Folder in the sandbox, and the name below it; no name when the copy is the root folder itself.
    folder: String,
    name: Option<String>,
}

impl Source {
    /// Checks both sides before any machine is started.
    pub fn open(spec: &CopySpec) -> Result<Self, CopyError> {
        let path = PathBuf::from(&spec.source);
        let metadata = fs::metadata(&path).map_err(|cause| CopyError::Source {
            path: path.clone(),
            cause,
        })?;
        let (folder, name) = guest_path(&spec.destination)?;
        if name.is_none() && !metadata.is_dir() {
            return Err(CopyError::GuestPath(spec.destination.clone()));
        }
        Ok(Self { path, folder, name })
    }

    /// Streams the file or folder into the sandbox.
    pub async fn send(self, sandbox: &impl Sandbox) -> Result<(), CopyError> {
        let (writer, reader) = tokio::io::duplex(PIPE_BYTES);
        let folder = self.folder.clone();
        let writer = SyncIoBridge::new(writer);
        let packer = tokio::task::spawn_blocking(move || self.pack(writer));
        let sent = sandbox.copy_in(&folder, reader).await;
        match packer.await {
            // A packer that failed cuts the stream off; its cause is the one to tell, unless the
            // sandbox hung up first.
            Ok(Err(error)) if sent.is_ok() || !is_broken_pipe(&error) => Err(error),
            _ => Ok(sent?),
        }
    }

    fn pack(self, sink: impl io::Write) -> Result<(), CopyError> {
        let fail = |cause| CopyError::Source {
            path: self.path.clone(),
            cause,
        };
        let mut tar = tar::Builder::new(sink);
        tar.follow_symlinks(false);
        let name = self.name.as_deref().unwrap_or(".");
        // The source itself may be a symbolic link; what lies below it is copied as it is.
        let path = fs::canonicalize(&self.path).map_err(fail)?;
        if path.is_dir() {
            tar.append_dir_all(name, &path).map_err(fail)?;
        } else {
            tar.append_path_with_name(&path, name).map_err(fail)?;
        }
        tar.into_inner()
            .and_then(|mut sink| sink.flush())
            .map_err(fail)
    }
}

fn is_broken_pipe(error: &CopyError) -> bool {
    matches!(error, CopyError::Source { cause, .. } if cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Splits an absolute path in the sandbox into its folder and its last name.
fn guest_path(text: &str) -> Result<(String, Option<String>), CopyError> {
    let path = Path::new(text);
    let normal = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !normal {
        return Err(CopyError::GuestPath(text.to_owned()));
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .map(str::to_owned);
    Ok((folder.to_string_lossy().into_owned(), name))
}

/// Refuses a copy out that would overwrite something, before any machine is started.
pub fn check_destination(spec: &CopySpec) -> Result<(), CopyError> {
    guest_path(&spec.source)?;
    let path = PathBuf::from(&spec.destination);
    if path.symlink_metadata().is_ok() {
        return Err(CopyError::Exists(path));
    }
    Ok(())
}

/// Brings a file or folder out of a sandbox, whole or not at all.
pub async fn receive(sandbox: &impl Sandbox, spec: &CopySpec) -> Result<(), CopyError> {
    let destination = PathBuf::from(&spec.destination);
    let (writer, reader) = tokio::io::duplex(PIPE_BYTES);
    let reader = SyncIoBridge::new(reader);
    let (path, target) = (spec.source.clone(), destination.clone());
    let unpacker = tokio::task::spawn_blocking(move || unpack_to(reader, &path, &target));
    let sent = sandbox.copy_out(&spec.source, writer).await;
    let unpacked = unpacker.await.map_err(|error| CopyError::Destination {
        path: destination.clone(),
        cause: io::Error::other(error),
    })?;
    // What the sandbox says is the cause, unless it was this side that gave up.
    match (sent, unpacked) {
        (Err(error), Err(CopyError::Empty(_))) => Err(error.into()),
        (_, Err(error)) => Err(error),
        (Err(error), Ok(())) => {
            let _ = remove(&destination);
            Err(error.into())
        }
        (Ok(()), Ok(())) => Ok(()),
    }
}

/// Unpacks beside the destination, and gives it its name when all of it is there.
fn unpack_to(stream: impl io::Read, source: &str, destination: &Path) -> Result<(), CopyError> {
    let at = |cause| CopyError::Destination {
        path: destination.to_owned(),
        cause,
    };
    let parent = match destination.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(at)?;
    let staging = tempfile::Builder::new()
        .prefix(".mayfly-copy-")
        .tempdir_in(parent)
        .map_err(at)?;
    let whole = unpack(stream, staging.path()).map_err(|error| match error {
        UnpackError::Host(cause) => at(cause),
        UnpackError::Empty => CopyError::Empty(source.to_owned()),
        UnpackError::Hostile(why) => CopyError::Hostile {
            path: source.to_owned(),
            why,
        },
    })?;
    fs::rename(whole, destination).map_err(at)
}

fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::{CopyError, CopySpec, Source, guest_path, unpack_to};

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn file(builder: &mut tar::Builder<Vec<u8>>, path: &str, content: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o4755);
        builder
            .append_data(&mut header, path, content.as_bytes())
            .unwrap();
    }

    fn top(builder: &mut tar::Builder<Vec<u8>>) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(0o700);
        builder.append_data(&mut header, "./", &[][..]).unwrap();
    }

    fn link(builder: &mut tar::Builder<Vec<u8>>, path: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, path, target).unwrap();
    }

    #[test]
    fn a_folder_arrives_under_its_new_name_without_setuid_bits_and_escaping_links() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("deep/out");
        let bytes = archive(|tar| {
            top(tar);
            file(tar, "a/file", "hello");
            link(tar, "good", "a/file");
            link(tar, "absolute", "/etc/passwd");
            link(tar, "up", "../etc/passwd");
        });

        unpack_to(bytes.as_slice(), "/src", &target).unwrap();

        assert_eq!(fs::read_to_string(target.join("good")).unwrap(), "hello");
        let mode = fs::metadata(target.join("a/file"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7000, 0);
        assert!(target.join("absolute").symlink_metadata().is_err());
        assert!(target.join("up").symlink_metadata().is_err());
        assert_eq!(
            fs::read_dir(target.parent().unwrap()).unwrap().count(),
            1,
            "nothing else is left"
        );
    }

    #[test]
    fn a_file_arrives_as_a_file_and_an_empty_folder_as_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (one, empty) = (folder.path().join("one"), folder.path().join("empty"));
        unpack_to(
            archive(|tar| file(tar, "name", "text")).as_slice(),
            "/name",
            &one,
        )
        .unwrap();
        unpack_to(archive(top).as_slice(), "/folder", &empty).unwrap();
        assert_eq!(fs::read_to_string(one).unwrap(), "text");
        assert_eq!(fs::read_dir(empty).unwrap().count(), 0);
    }

    #[test]
    fn a_stream_that_is_cut_off_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let bytes = archive(|tar| file(tar, "src", &"x".repeat(4000)));
        assert!(unpack_to(&bytes[..2000], "/src", &target).is_err());
        assert!(matches!(
            unpack_to(&[][..], "/src", &target),
            Err(CopyError::Empty(_))
        ));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn paths_in_the_sandbox_are_absolute_and_plain() {
        assert_eq!(
            guest_path("/a/b").unwrap(),
            ("/a".to_owned(), Some("b".to_owned()))
        );
        assert_eq!(guest_path("/").unwrap(), ("/".to_owned(), None));
        assert!(guest_path("a").is_err());
        assert!(guest_path("/a/../b").is_err());
    }

    #[test]
    fn a_source_that_is_not_there_is_named() {
        let spec: CopySpec = "/no/such/file:/x".parse().unwrap();
        assert!(
            Source::open(&spec)
                .unwrap_err()
                .to_string()
                .contains("/no/such/file")
        );
        assert!("justone".parse::<CopySpec>().is_err());
    }
}
