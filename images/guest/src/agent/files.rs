//! File requests, confined to one root: every path is resolved by the kernel (openat2) inside it.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
};
use thiserror::Error;

use super::users::{self, UserError};

/// Deepest tree that is walked: each level holds a descriptor.
pub(super) const MAX_DEPTH: usize = 900;

/// Why a file request failed.
#[derive(Debug, Error)]
pub enum FileError {
    /// The kernel refused a step.
    #[error("{action} {path}: {source}")]
    Kernel {
        /// What was tried, as "opening".
        action: &'static str,
        /// On what.
        path: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The content cannot come from or go to a file of that kind.
    #[error("reading {0}: it is not a regular file")]
    NotRegular(String),
    /// Larger than asked for.
    #[error("reading {path}: it is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// A path that names no file.
    #[error("{0} does not name a file")]
    NoName(String),
    /// A tree that is too deep to walk.
    #[error("{0} is a tree of more than {MAX_DEPTH} levels")]
    TooDeep(String),
    /// The owner is unknown.
    #[error(transparent)]
    Owner(Box<UserError>),
    /// The stream that carries the content failed.
    #[error("carrying the content of {0}: {1}")]
    Stream(String, io::Error),
}

impl FileError {
    pub(super) fn kernel(
        action: &'static str,
        path: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Kernel {
            action,
            path: path.into(),
            source: source.into(),
        }
    }
}

/// A directory that is `/` to every path given here, symbolic links in them included.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
}

impl Root {
    /// Opens the directory that shall be the root.
    ///
    /// # Errors
    /// The kernel's, with the path.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        opened
            .map(|directory| Self { directory })
            .map_err(|errno| FileError::kernel("opening", path.to_string_lossy(), errno))
    }

    pub(super) fn open_at(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        open_in(self.directory.as_fd(), path, flags, ResolveFlags::IN_ROOT)
    }

    /// Opens a directory, which is created with its parents if missing.
    pub(super) fn make_directory(
        &self,
        path: &str,
        owner: Option<Owner>,
    ) -> Result<OwnedFd, FileError> {
        let bytes = path.as_bytes();
        make_directories(self.directory.as_fd(), bytes, ResolveFlags::IN_ROOT, owner)
            .map_err(|errno| FileError::kernel("making the directory", path, errno))
    }

    pub(super) fn owner(&self, owner: Option<&str>) -> Result<Option<Owner>, FileError> {
        let user = owner.map(|owner| users::lookup(self, owner)).transpose();
        let user = user.map_err(|error| FileError::Owner(Box::new(error)))?;
        Ok(user.map(|user| Owner {
            uid: Uid::from_raw(user.uid),
            gid: Gid::from_raw(user.gid),
        }))
    }

    /// Writes a file whole or not at all: beside its place first, then renamed into it.
    pub(super) fn write(
        &self,
        path: &str,
        mode: u32,
        owner: Option<&str>,
        content: &mut impl Read,
    ) -> Result<(), FileError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let owner = self.owner(owner)?;
        let (parent, name) = split(path)?;
        let directory = self.make_directory(parent, owner)?;
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = format!(".mayfly-{}-{number}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let created = rustix::fs::openat(&directory, &*temporary, flags, Mode::RUSR | Mode::WUSR);
        let file = created.map_err(|errno| FileError::kernel("creating", path, errno))?;
        let written = fill(File::from(file), path, mode, owner, content).and_then(|()| {
            rustix::fs::renameat(&directory, &*temporary, &directory, name)
                .map_err(|errno| FileError::kernel("replacing", path, errno))
        });
        if written.is_err() {
            // What went wrong is told already; a leftover in a throw-away guest harms nobody.
            let _ = rustix::fs::unlinkat(&directory, &*temporary, AtFlags::empty());
        }
        written
    }

    /// Opens a regular file of at most `limit` bytes; `None` when there is none.
    pub(super) fn open_to_read(&self, path: &str, limit: u64) -> Result<Option<File>, FileError> {
        // Without NONBLOCK a named pipe in the file's place would hold us up.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match self.open_at(path, flags) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(FileError::kernel("opening", path, errno)),
        };
        let meta = file.metadata();
        let meta = meta.map_err(|error| FileError::kernel("inspecting", path, error))?;
        if !meta.is_file() {
            return Err(FileError::NotRegular(path.to_owned()));
        }
        if meta.len() > limit {
            return Err(too_large(path, limit));
        }
        Ok(Some(file))
    }

    /// A regular file's content, at most `limit` bytes of it; `None` when there is none.
    pub(super) fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
        let Some(file) = self.open_to_read(path, limit)? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        copy_limited(&file, &mut content, path, limit)?;
        Ok(Some(content))
    }

    /// Removes a file or a tree; one that is not there is no error.
    pub(super) fn remove(&self, path: &str) -> Result<(), FileError> {
        let (parent, name) = split(path)?;
        let directory = match self.open_at(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => return Err(FileError::kernel("opening", parent, errno)),
        };
        let name = CString::new(name).map_err(|_| FileError::NoName(path.to_owned()))?;
        remove_at(directory.as_fd(), &name, path, 0)
    }
}

/// Who shall own what is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
}

fn fill(
    mut file: File,
    path: &str,
    mode: u32,
    owner: Option<Owner>,
    content: &mut impl Read,
) -> Result<(), FileError> {
    copy(content, &mut file, path)?;
    let set = || {
        if let Some(owner) = owner {
            rustix::fs::fchown(&file, Some(owner.uid), Some(owner.gid))?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777))
    };
    set().map_err(|errno| FileError::kernel("setting mode and owner of", path, errno))
}

/// Copies a stream into a file, telling failures of the one from those of the other.
pub(super) fn copy(content: &mut impl Read, file: &mut File, path: &str) -> Result<(), FileError> {
    let mut piece = vec![0; 64 << 10];
    loop {
        let read = match content.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(FileError::Stream(path.to_owned(), error)),
        };
        file.write_all(&piece[..read])
            .map_err(|error| FileError::kernel("writing", path, error))?;
    }
}

/// Copies a file to `sink`, at most `limit` bytes: it may grow, or (in /proc) not tell its size.
pub(super) fn copy_limited(
    mut file: &File,
    sink: &mut impl Write,
    path: &str,
    limit: u64,
) -> Result<(), FileError> {
    let mut piece = vec![0; 64 << 10];
    let mut left = limit;
    loop {
        let read = match file.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(FileError::kernel("reading", path, error)),
        };
        left = left
            .checked_sub(read as u64)
            .ok_or_else(|| too_large(path, limit))?;
        let sent = sink.write_all(&piece[..read]);
        sent.map_err(|error| FileError::Stream(path.to_owned(), error))?;
    }
}

fn too_large(path: &str, limit: u64) -> FileError {
    FileError::TooLarge {
        path: path.to_owned(),
        limit,
    }
}

/// A path's parent and its last name.
fn split(path: &str) -> Result<(&str, &str), FileError> {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some((_, "" | "." | "..")) | None => Err(FileError::NoName(path.to_owned())),
        Some(("", name)) => Ok(("/", name)),
        Some(found) => Ok(found),
    }
}

/// openat2 that asks again when a rename elsewhere made the kernel unsure (EAGAIN).
pub(super) fn open_in(
    base: rustix::fd::BorrowedFd<'_>,
    path: impl rustix::path::Arg + Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let mut result = Err(Errno::AGAIN);
    for _ in 0..64 {
        result = rustix::fs::openat2(base, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        if !matches!(result, Err(Errno::AGAIN)) {
            break;
        }
    }
    result
}

/// Opens `path` below `base`, making what is missing of it with mode 0755.
pub(super) fn make_directories(
    base: rustix::fd::BorrowedFd<'_>,
    path: &[u8],
    resolve: ResolveFlags,
    owner: Option<Owner>,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let whole = if path.is_empty() { b"." } else { path };
    match open_in(base, whole, flags, resolve) {
        Err(Errno::NOENT) => {}
        done => return done,
    }
    let (parent, name) = split_last(path);
    let directory = make_directories(base, parent, resolve, owner)?;
    if name.is_empty() {
        return Ok(directory);
    }
    match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => {
            if let Some(owner) = owner {
                let (uid, gid) = (Some(owner.uid), Some(owner.gid));
                rustix::fs::chownat(&directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    open_in(base, whole, flags, resolve)
}

/// What is before the last slash (nothing without one), and what is behind it.
pub(super) fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn remove_at(
    directory: rustix::fd::BorrowedFd<'_>,
    name: &CStr,
    path: &str,
    depth: usize,
) -> Result<(), FileError> {
    let failed = |errno| FileError::kernel("removing", path, errno);
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(failed(errno)),
    }
    if depth == MAX_DEPTH {
        return Err(FileError::TooDeep(path.to_owned()));
    }
    // Something may write into the tree meanwhile; a few rounds are enough for an honest one.
    for _ in 0..8 {
        empty(directory, name, path, depth)?;
        match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Err(failed(Errno::NOTEMPTY))
}

fn empty(
    directory: rustix::fd::BorrowedFd<'_>,
    name: &CStr,
    path: &str,
    depth: usize,
) -> Result<(), FileError> {
    let failed = |errno| FileError::kernel("removing", path, errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    let mut entries = Dir::new(opened).map_err(failed)?;
    while let Some(entry) = entries.read() {
        let entry = entry.map_err(failed)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            let directory = entries.fd().map_err(failed)?;
            remove_at(directory, entry.file_name(), path, depth + 1)?;
        }
    }
    Ok(())
}

/// What kind of file an open descriptor is.
pub(super) fn file_type(stat: &rustix::fs::Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn root() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let root = Root::open(folder.path()).expect("opens");
        (folder, root)
    }

    #[test]
    fn a_written_file_has_its_mode_its_parents_and_no_leftover() {
        let (folder, root) = root();
        root.write("/a/b/c", 0o4750, None, &mut &b"text"[..])
            .expect("writes");
        root.write("/a/b/c", 0o640, None, &mut &b"new"[..])
            .expect("replaces");
        let meta = folder.path().join("a/b/c").metadata().expect("there");
        assert_eq!(meta.mode() & 0o7777, 0o640);
        assert_eq!(
            root.read("/a/b/c", 3).expect("reads"),
            Some(b"new".to_vec())
        );
        let names = std::fs::read_dir(folder.path().join("a/b"))
            .expect("lists")
            .count();
        assert_eq!(names, 1);
    }

    #[test]
    fn a_write_that_breaks_off_leaves_the_old_file() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("gone"))
            }
        }
        let (folder, root) = root();
        root.write("/f", 0o600, None, &mut &b"old"[..])
            .expect("writes");
        let mut broken = (&b"half"[..]).chain(Broken);
        assert!(root.write("/f", 0o600, None, &mut broken).is_err());
        assert_eq!(root.read("/f", 9).expect("reads"), Some(b"old".to_vec()));
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 1);
    }

    #[test]
    fn symbolic_links_do_not_lead_out_of_the_root() {
        let (folder, root) = root();
        let outside = tempfile::tempdir().expect("temporary folder");
        std::fs::write(outside.path().join("f"), "secret").expect("writes");
        symlink(outside.path(), folder.path().join("link")).expect("links");
        symlink("../../../../..", folder.path().join("up")).expect("links");
        let through_up = format!("/up{}/f", outside.path().display());
        for path in ["/link/f", "/../../link/f", &*through_up] {
            assert_eq!(root.read(path, 100).expect("resolves inside"), None);
        }
        root.remove("/link").expect("removes");
        assert!(outside.path().join("f").exists());
    }

    #[test]
    fn reading_is_limited_also_where_no_size_is_told() {
        let root = Root::open(Path::new("/")).expect("opens");
        let meminfo = root.read("/proc/meminfo", 10);
        assert!(matches!(
            meminfo,
            Err(FileError::TooLarge { limit: 10, .. })
        ));
        assert!(
            root.read("/proc/meminfo", 1 << 20)
                .expect("reads")
                .is_some()
        );
    }

    #[test]
    fn a_named_pipe_or_directory_is_not_read() {
        let (folder, root) = root();
        let fifo = CString::new(folder.path().join("p").to_str().expect("text")).expect("text");
        let kind = FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &*fifo, kind, Mode::RUSR, 0).expect("makes a pipe");
        assert!(matches!(root.read("/p", 1), Err(FileError::NotRegular(_))));
        assert!(matches!(root.read("/", 1), Err(FileError::NotRegular(_))));
    }

    #[test]
    fn a_tree_is_removed_and_what_its_links_point_to_is_not() {
        let (folder, root) = root();
        root.write("/keep/f", 0o600, None, &mut &b"x"[..])
            .expect("writes");
        root.write("/tree/a/b/c/f", 0o000, None, &mut &b"x"[..])
            .expect("writes");
        symlink("../keep", folder.path().join("tree/link")).expect("links");
        let locked = folder.path().join("tree/a/b");
        std::fs::set_permissions(locked, PermissionsExt::from_mode(0o500)).expect("locks");
        root.remove("/tree/").expect("removes");
        root.remove("/tree").expect("nothing there is no error");
        assert!(!folder.path().join("tree").exists() && folder.path().join("keep/f").exists());
        assert!(matches!(root.remove("/"), Err(FileError::NoName(_))));
        assert!(matches!(root.remove("/keep/.."), Err(FileError::NoName(_))));
    }
}
