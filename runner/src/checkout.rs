//! The checkout at hand as a tar stream: what `mayfly run` copies into `GITHUB_WORKSPACE`.
//!
//! Git decides what belongs to it: tracked files and untracked ones that no ignore rule names. The
//! `.git` folder stays on the host, because its configuration may hold credentials.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read as _},
    os::unix::{ffi::OsStringExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{Mode, OFlags};

/// Most files of a folder that is listed without git.
const MAX_FILES: usize = 200_000;

/// Files of a checkout, as git lists them.
#[derive(Debug)]
pub struct Checkout {
    root: PathBuf,
    files: Vec<PathBuf>,
    submodules: Vec<PathBuf>,
}

/// Why a checkout could not be listed or packed.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// The folder is not inside a git work tree, or git itself failed.
    #[error(
        "{folder} is not a git checkout ({why}); run mayfly inside one, or run `git init` there"
    )]
    NotGit {
        /// The folder asked about.
        folder: PathBuf,
        /// What git said.
        why: String,
    },
    /// git is not installed.
    #[error("git cannot be started: {0}; install the package git")]
    NoGit(#[source] io::Error),
    /// A file could not be read into the tar stream.
    #[error("cannot pack {file}: {cause}")]
    Pack {
        /// The file, relative to the checkout.
        file: PathBuf,
        /// The cause.
        cause: io::Error,
    },
    /// The receiver of the tar stream went away.
    #[error("the copy of the checkout was cut off: {0}")]
    Sink(#[source] io::Error),
}

impl Checkout {
    /// Lists the checkout that contains `folder`.
    ///
    /// # Errors
    /// [`CheckoutError::NotGit`] outside a work tree.
    pub fn containing(folder: &Path) -> Result<Self, CheckoutError> {
        let top = git(folder, &["rev-parse", "--show-toplevel"])?;
        let root = PathBuf::from(OsString::from_vec(top.trim_ascii_end().to_vec()));
        let listed = git(
            &root,
            &[
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
                "--deduplicate",
            ],
        )?;
        let mut checkout = Self {
            root,
            files: Vec::new(),
            submodules: Vec::new(),
        };
        for name in listed
            .split(|&byte| byte == 0)
            .filter(|name| !name.is_empty())
        {
            let path = PathBuf::from(OsString::from_vec(name.to_vec()));
            match checkout.metadata(&path) {
                Ok(metadata) if metadata.is_dir() => checkout.submodules.push(path),
                Ok(metadata) if metadata.is_file() || metadata.is_symlink() => {
                    checkout.files.push(path);
                }
                // Deleted in the work tree but still in the index, or a socket or a fifo.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(checkout)
    }

    /// All files of a folder, as the workspace of a job has them whose `.git` was not copied.
    ///
    /// # Errors
    /// Whatever keeps a folder from being listed, and that there are too many files.
    pub fn workspace(root: &Path) -> io::Result<Self> {
        let mut checkout = Self {
            root: root.canonicalize()?,
            files: Vec::new(),
            submodules: Vec::new(),
        };
        let mut open = vec![PathBuf::new()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(checkout.root.join(&folder))? {
                let entry = entry?;
                let path = folder.join(entry.file_name());
                match entry.file_type()? {
                    kind if kind.is_dir() && entry.file_name() != ".git" => open.push(path),
                    kind if kind.is_file() || kind.is_symlink() => checkout.files.push(path),
                    _ => {}
                }
            }
            if checkout.files.len() > MAX_FILES {
                let why = format!("there are more than {MAX_FILES} files");
                return Err(io::Error::other(why));
            }
        }
        checkout.files.sort();
        Ok(checkout)
    }

    /// What `file` is. A file behind a symbolic link that has taken the place of its folder is not
    /// there: git sees it so, too, and the link may lead to anything on this machine.
    fn metadata(&self, file: &Path) -> io::Result<fs::Metadata> {
        let folders = file
            .ancestors()
            .skip(1)
            .filter(|path| *path != Path::new(""));
        for folder in folders {
            if fs::symlink_metadata(self.root.join(folder))?.is_symlink() {
                return Err(io::ErrorKind::NotFound.into());
            }
        }
        fs::symlink_metadata(self.root.join(file))
    }

    /// Top folder of the work tree.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Number of files that will be copied.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// The files, by their paths from the top.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// A file of at most `limit` bytes; `None` if there is none of this name. No symbolic link is
    /// followed.
    ///
    /// # Errors
    /// Whatever keeps it from being read.
    pub fn read(&self, file: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        match self.metadata(file) {
            Ok(metadata) if metadata.is_file() => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(_) | Err(_) => return Ok(None),
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(self.root.join(file), flags, Mode::empty())?;
        let mut bytes = Vec::new();
        io::Read::take(fs::File::from(opened), limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            let why = format!("it is longer than {limit} bytes");
            return Err(io::Error::other(why));
        }
        Ok(Some(bytes))
    }

    /// Whether there is nothing to copy.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Submodules and nested repositories, which are not copied.
    #[must_use]
    pub fn submodules(&self) -> &[PathBuf] {
        &self.submodules
    }

    /// Writes the files as a tar stream owned by root, with the modes and times that they have.
    ///
    /// # Errors
    /// [`CheckoutError::Pack`] names the file that could not be read; a file that vanished since
    /// it was listed is left out.
    pub fn write_tar(&self, sink: impl io::Write) -> Result<(), CheckoutError> {
        let mut tar = tar::Builder::new(sink);
        tar.follow_symlinks(false);
        for file in &self.files {
            self.append(&mut tar, file)
                .map_err(|cause| CheckoutError::Pack {
                    file: file.clone(),
                    cause,
                })?;
        }
        tar.into_inner()
            .and_then(|mut sink| sink.flush())
            .map_err(CheckoutError::Sink)
    }

    fn append(&self, tar: &mut tar::Builder<impl io::Write>, file: &Path) -> io::Result<()> {
        let path = self.root.join(file);
        let metadata = match self.metadata(file) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&metadata);
        header.set_uid(0);
        header.set_gid(0);
        if metadata.is_symlink() {
            header.set_size(0);
            return tar.append_link(&mut header, file, fs::read_link(&path)?);
        }
        header.set_mode(metadata.permissions().mode() & 0o777);
        let content = open(&path)?;
        // The header states the length: a file that grows or shrinks meanwhile must not shift the
        // entries after it.
        let length = metadata.len();
        header.set_size(length);
        tar.append_data(
            &mut header,
            file,
            io::Read::take(PaddedFile(content), length),
        )
    }
}

/// Opens what was a regular file a moment ago, without following or waiting for what took its place.
fn open(path: &Path) -> io::Result<fs::File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, OFlags::RDONLY | flags, Mode::empty())?.into())
}

/// A file that reads as zeros past its end.
pub(crate) struct PaddedFile(pub(crate) fs::File);

impl io::Read for PaddedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => {
                buffer.fill(0);
                Ok(buffer.len())
            }
            read => Ok(read),
        }
    }
}

fn git(folder: &Path, arguments: &[&str]) -> Result<Vec<u8>, CheckoutError> {
    // No program that the checkout's own configuration names is run.
    let output = Command::new("git")
        .args(["-c", "core.fsmonitor=false", "-C"])
        .arg(folder)
        .args(arguments)
        .output()
        .map_err(CheckoutError::NoGit)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(CheckoutError::NotGit {
        folder: folder.to_owned(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, io::Read, os::unix::fs::symlink, path::Path};

    use super::{Checkout, CheckoutError, git};

    fn repository() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        git(folder.path(), &["init", "-q"]).unwrap();
        folder
    }

    fn packed(folder: &Path) -> BTreeMap<String, String> {
        let mut bytes = Vec::new();
        Checkout::containing(folder)
            .unwrap()
            .write_tar(&mut bytes)
            .unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                let mut content = String::new();
                entry.read_to_string(&mut content).unwrap();
                let link = entry
                    .link_name()
                    .unwrap()
                    .map(|link| link.display().to_string());
                (path, link.unwrap_or(content))
            })
            .collect()
    }

    #[test]
    fn tracked_and_untracked_files_are_packed_ignored_ones_and_git_are_not() {
        let folder = repository();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("tracked", "1");
        write("untracked", "2");
        write("ignored", "3");
        write(".gitignore", "ignored\n");
        symlink("tracked", folder.path().join("link")).unwrap();
        git(folder.path(), &["add", "tracked"]).unwrap();

        let files = packed(folder.path());

        assert_eq!(
            files.keys().collect::<Vec<_>>(),
            [".gitignore", "link", "tracked", "untracked"]
        );
        assert_eq!((&*files["tracked"], &*files["link"]), ("1", "tracked"));
    }

    #[test]
    fn a_tracked_file_that_was_deleted_is_left_out() {
        let folder = repository();
        fs::write(folder.path().join("gone"), "x").unwrap();
        git(folder.path(), &["add", "gone"]).unwrap();
        fs::remove_file(folder.path().join("gone")).unwrap();
        assert!(packed(folder.path()).is_empty());
    }

    #[test]
    fn what_lies_behind_a_link_in_the_place_of_a_folder_stays_here() {
        let (folder, outside) = (repository(), tempfile::tempdir().unwrap());
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/file"), "tracked").unwrap();
        git(folder.path(), &["add", "a"]).unwrap();
        fs::create_dir(outside.path().join("b")).unwrap();
        fs::write(outside.path().join("b/file"), "private").unwrap();
        fs::remove_dir_all(folder.path().join("a")).unwrap();
        symlink(outside.path(), folder.path().join("a")).unwrap();

        let files = packed(folder.path());

        assert_eq!(files.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(Path::new(&files["a"]), outside.path());
    }

    #[test]
    fn no_program_of_the_checkouts_configuration_is_run() {
        let folder = repository();
        let mark = folder.path().join("ran");
        fs::write(folder.path().join("file"), "x").unwrap();
        git(folder.path(), &["add", "file"]).unwrap();
        let hook = format!("touch {}; false", mark.display());
        git(folder.path(), &["config", "core.fsmonitor", &hook]).unwrap();

        packed(folder.path());

        assert!(!mark.exists());
    }

    #[test]
    fn a_folder_outside_git_is_refused_with_the_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let error = Checkout::containing(folder.path()).unwrap_err();
        assert!(matches!(error, CheckoutError::NotGit { .. }));
        assert!(error.to_string().contains("git init"), "{error}");
    }
}
