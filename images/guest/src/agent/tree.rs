//! Trees as tar streams: packing one, and unpacking one whose author may be hostile.
//!
//! Unpacking resolves every path with `RESOLVE_BENEATH`, so neither `..`, an absolute name nor a
//! symbolic link (of the archive, of the directory before, or made meanwhile) leads out of the
//! directory. Memory is bounded: names by [`MAX_PATH`], extension headers by [`MAX_EXTENSION`],
//! directories (their times are set last) by [`MAX_DIRECTORIES`].

use std::{
    collections::HashMap,
    ffi::{CStr, OsStr},
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps},
    io::Errno,
};
use tar::{Archive, Builder, EntryType, Header};
use thiserror::Error;

use super::files::{
    self, FileError, MAX_DEPTH, Owner, Root, make_directories, open_in, split_last,
};
use crate::wire::MAX_PATH;

/// Longest extension header of an archive, in bytes.
const MAX_EXTENSION: u64 = 64 << 10;
/// Most directory entries of an archive.
const MAX_DIRECTORIES: usize = 1 << 18;
/// Most files with several names that are recognised as one when packing.
const MAX_LINKED: usize = 1 << 16;

/// Why a tree was not packed or unpacked whole.
#[derive(Debug, Error)]
pub enum TreeError {
    /// A step in the file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The stream failed or is no tar archive.
    #[error("the tar stream: {0}")]
    Stream(io::Error),
    /// An entry's name or link leads out of the directory.
    #[error("the archive's entry {0:?} leads out of the directory")]
    Escape(String),
    /// An entry of a kind that does not belong in a tree of files.
    #[error("the archive's entry {0:?} is of kind {1:?}, which is not unpacked")]
    Kind(String, EntryType),
    /// A name or extension header is too long, or empty.
    #[error(
        "the archive's entry {0:?} has a name, link or extension header that is too long or empty"
    )]
    TooLong(String),
    /// An extension header says another size than the header.
    #[error("the archive's entry {0:?} has two sizes")]
    TwoSizes(String),
    /// Too many directories.
    #[error("the archive holds more than {MAX_DIRECTORIES} directories")]
    Directories,
}

/// Unpacks a tar stream below `directory`, which is created.
///
/// Files replace files; modes, times, symbolic and hard links are kept; everything belongs to
/// `owner` (or to this process's user). What was unpacked before an error stays.
///
/// # Errors
/// One of [`TreeError`], naming the entry.
pub fn unpack(
    root: &Root,
    directory: &str,
    owner: Option<&str>,
    stream: impl Read,
) -> Result<(), TreeError> {
    let owner = root.owner(owner)?;
    let base = root.make_directory(directory, owner)?;
    let mut unpacker = Unpacker {
        base,
        owner,
        directories: Vec::new(),
    };
    let mut archive = Archive::new(stream);
    let mut extension = Extension::default();
    // Raw: the library would read a name of any length into memory.
    for entry in archive.entries().map_err(TreeError::Stream)?.raw(true) {
        let mut entry = entry.map_err(TreeError::Stream)?;
        if !extension.take(&mut entry)? {
            unpacker.entry(&mut entry, std::mem::take(&mut extension))?;
        }
    }
    unpacker.finish()
}

/// Longer names that an archive gives before the entry they belong to.
#[derive(Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extension {
    /// Takes an entry that is an extension header; `false` if it is not one.
    fn take(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<bool, TreeError> {
        let kind = entry.header().entry_type();
        match kind {
            EntryType::XGlobalHeader => return Ok(true),
            EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader => {}
            _ => return Ok(false),
        }
        if entry.size() > MAX_EXTENSION {
            return Err(TreeError::TooLong(display(&entry.path_bytes())));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(TreeError::Stream)?;
        match kind {
            EntryType::GNULongName => self.path = Some(until_nul(content)),
            EntryType::GNULongLink => self.link = Some(until_nul(content)),
            _ => self.take_pax(&content)?,
        }
        Ok(true)
    }

    fn take_pax(&mut self, content: &[u8]) -> Result<(), TreeError> {
        for record in tar::PaxExtensions::new(content) {
            let record = record.map_err(TreeError::Stream)?;
            match record.key_bytes() {
                b"path" => self.path = Some(record.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(record.value_bytes().to_vec()),
                b"size" => self.size = record.value().ok().and_then(|text| text.parse().ok()),
                _ => {}
            }
        }
        Ok(())
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    bytes
}

struct Unpacker {
    base: OwnedFd,
    owner: Option<Owner>,
    directories: Vec<(Vec<u8>, Mode, Timestamps)>,
}

impl Unpacker {
    fn entry(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        extension: Extension,
    ) -> Result<(), TreeError> {
        let name = extension
            .path
            .unwrap_or_else(|| entry.path_bytes().into_owned());
        let path = checked(&name)?;
        if extension.size.is_some_and(|size| size != entry.size()) {
            return Err(TreeError::TwoSizes(display(&path)));
        }
        if path.is_empty() {
            return Ok(());
        }
        let header = entry.header().clone();
        let mode = Mode::from_raw_mode(header.mode().map_err(TreeError::Stream)? & 0o7777);
        let times = times(&header)?;
        let link = || {
            extension
                .link
                .or_else(|| entry.link_name_bytes().map(Into::into))
        };
        match header.entry_type() {
            EntryType::Directory => self.directory(path, mode, times),
            EntryType::Symlink => self.symlink(&path, &link().unwrap_or_default(), &times),
            EntryType::Link => self.hard_link(&path, &link().unwrap_or_default()),
            EntryType::Regular | EntryType::Continuous => self.file(&path, mode, &times, entry),
            kind => Err(TreeError::Kind(display(&path), kind)),
        }
    }

    /// Opens the directory in which `path` lies, and says its last name.
    fn parent<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), TreeError> {
        let (parent, name) = split_last(path);
        let made = make_directories(self.base.as_fd(), parent, ResolveFlags::BENEATH, self.owner);
        let directory = made.map_err(|errno| failed("making the directory of", path, errno))?;
        Ok((directory, name))
    }

    fn file(
        &self,
        path: &[u8],
        mode: Mode,
        times: &Timestamps,
        content: &mut impl Read,
    ) -> Result<(), TreeError> {
        let (directory, name) = self.parent(path)?;
        make_room(&directory, name, path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let private = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&directory, name, flags, private);
        let mut file = File::from(file.map_err(|errno| failed("creating", path, errno))?);
        files::copy(content, &mut file, &display(path))?;
        self.settle(file.as_fd(), mode, times)
            .map_err(|errno| failed("setting mode and times of", path, errno))
    }

    fn directory(&mut self, path: Vec<u8>, mode: Mode, times: Timestamps) -> Result<(), TreeError> {
        if self.directories.len() == MAX_DIRECTORIES {
            return Err(TreeError::Directories);
        }
        let made = make_directories(self.base.as_fd(), &path, ResolveFlags::BENEATH, self.owner);
        made.map_err(|errno| failed("making the directory", &path, errno))?;
        self.directories.push((path, mode, times));
        Ok(())
    }

    fn symlink(&self, path: &[u8], target: &[u8], times: &Timestamps) -> Result<(), TreeError> {
        if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) {
            return Err(TreeError::TooLong(display(path)));
        }
        let (directory, name) = self.parent(path)?;
        make_room(&directory, name, path)?;
        // Any target is fine to make: no path is ever resolved through it to the outside.
        let set = || {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::symlinkat(OsStr::from_bytes(target), &directory, name)?;
            if let Some(Owner { uid, gid }) = self.owner {
                rustix::fs::chownat(&directory, name, Some(uid), Some(gid), flags)?;
            }
            rustix::fs::utimensat(&directory, name, times, flags)
        };
        set().map_err(|errno| failed("making the symbolic link", path, errno))
    }

    fn hard_link(&self, path: &[u8], target: &[u8]) -> Result<(), TreeError> {
        let target = checked(target)?;
        let (from_parent, from) = split_last(&target);
        let from_parent = if from_parent.is_empty() {
            b"."
        } else {
            from_parent
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let source = open_in(self.base.as_fd(), from_parent, flags, ResolveFlags::BENEATH);
        let source = source.map_err(|errno| failed("linking to", &target, errno))?;
        let (directory, name) = self.parent(path)?;
        make_room(&directory, name, path)?;
        rustix::fs::linkat(&source, from, &directory, name, AtFlags::empty())
            .map_err(|errno| failed("making the hard link", path, errno))
    }

    fn settle(&self, file: BorrowedFd<'_>, mode: Mode, times: &Timestamps) -> Result<(), Errno> {
        if let Some(Owner { uid, gid }) = self.owner {
            rustix::fs::fchown(file, Some(uid), Some(gid))?;
        }
        rustix::fs::fchmod(file, mode)?;
        rustix::fs::futimens(file, times)
    }

    /// Gives directories their modes and times, the deepest first: writing into them is over.
    fn finish(mut self) -> Result<(), TreeError> {
        let directories = std::mem::take(&mut self.directories);
        for (path, mode, times) in directories.iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let opened = open_in(self.base.as_fd(), &**path, flags, ResolveFlags::BENEATH);
            opened
                .and_then(|directory| self.settle(directory.as_fd(), *mode, times))
                .map_err(|errno| failed("setting mode and times of", path, errno))?;
        }
        Ok(())
    }
}

/// Removes a file that is in the way; a directory stays and makes the next step fail.
fn make_room(directory: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), TreeError> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
        Err(errno) => Err(failed("replacing", path, errno)),
    }
}

/// The kernel answers EXDEV when RESOLVE_BENEATH would leave the directory.
fn failed(action: &'static str, path: &[u8], errno: Errno) -> TreeError {
    match errno {
        Errno::XDEV => TreeError::Escape(display(path)),
        errno => FileError::kernel(action, display(path), errno).into(),
    }
}

/// An entry's name without `./` and doubled slashes; empty for the directory itself.
fn checked(name: &[u8]) -> Result<Vec<u8>, TreeError> {
    if name.len() > MAX_PATH || name.contains(&0) {
        return Err(TreeError::TooLong(display(name)));
    }
    let parts = name.split(|byte| *byte == b'/');
    if name.starts_with(b"/") || parts.clone().any(|part| part == b"..") {
        return Err(TreeError::Escape(display(name)));
    }
    let parts: Vec<&[u8]> = parts.filter(|part| !matches!(*part, b"" | b".")).collect();
    Ok(parts.join(&b'/'))
}

fn display(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned()
}

fn times(header: &Header) -> Result<Timestamps, TreeError> {
    let seconds = header.mtime().map_err(TreeError::Stream)?;
    let time = Timespec {
        tv_sec: i64::try_from(seconds).unwrap_or(0),
        tv_nsec: 0,
    };
    Ok(Timestamps {
        last_access: time,
        last_modification: time,
    })
}

/// What is to be packed, opened.
#[derive(Debug)]
pub struct Source {
    file: OwnedFd,
    stat: Stat,
    name: PathBuf,
}

impl Source {
    /// Opens a file or directory, through symbolic links.
    ///
    /// # Errors
    /// The kernel's, with the path; it is neither a regular file nor a directory.
    pub fn open(root: &Root, path: &str) -> Result<Self, TreeError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = root.open_at(path, flags);
        let file = file.map_err(|errno| FileError::kernel("opening", path, errno))?;
        let stat = rustix::fs::fstat(&file);
        let stat = stat.map_err(|errno| FileError::kernel("inspecting", path, errno))?;
        let kind = files::file_type(&stat);
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return Err(FileError::NotRegular(path.to_owned()).into());
        }
        let name = Path::new(path).file_name().unwrap_or(OsStr::new("root"));
        Ok(Self {
            file,
            stat,
            name: name.into(),
        })
    }
}

/// Packs a file under its own name, or a directory as `./` and what is in it under names relative to
/// it: so the reader can tell a file from a directory that holds only that file.
///
/// Devices, pipes and sockets are left out. A file that shrinks meanwhile is filled with zeros, one
/// that grows is cut, as every tar does.
///
/// # Errors
/// Reading failed, the tree is too deep, or the sink failed.
pub fn pack(source: Source, sink: impl Write) -> Result<(), TreeError> {
    let mut packer = Packer {
        builder: Builder::new(io::BufWriter::with_capacity(64 << 10, sink)),
        linked: HashMap::new(),
    };
    if files::file_type(&source.stat) == FileType::Directory {
        let mut header = header(&source.stat, EntryType::Directory);
        let top = packer.builder.append_data(&mut header, "./", io::empty());
        top.map_err(TreeError::Stream)?;
        packer.directory(source.file, Path::new(""), 0)?;
    } else {
        packer.content(source.file, &source.stat, &source.name)?;
    }
    let mut sink = packer.builder.into_inner().map_err(TreeError::Stream)?;
    sink.flush().map_err(TreeError::Stream)
}

struct Packer<W: Write> {
    builder: Builder<W>,
    linked: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn directory(&mut self, file: OwnedFd, path: &Path, depth: usize) -> Result<(), TreeError> {
        let failed = |errno| FileError::kernel("listing", path.to_string_lossy(), errno);
        if depth == MAX_DEPTH {
            return Err(FileError::TooDeep(path.display().to_string()).into());
        }
        let mut entries = Dir::new(file).map_err(failed)?;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                let path = path.join(OsStr::from_bytes(name.to_bytes()));
                self.entry(entries.fd().map_err(failed)?, name, &path, depth)?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        path: &Path,
        depth: usize,
    ) -> Result<(), TreeError> {
        let failed = |errno| FileError::kernel("reading", path.to_string_lossy(), errno);
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Removed since it was listed.
            Err(Errno::NOENT) => return Ok(()),
            stat => stat.map_err(failed)?,
        };
        match files::file_type(&stat) {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new()).map_err(failed)?;
                let target = OsStr::from_bytes(target.to_bytes());
                let mut header = header(&stat, EntryType::Symlink);
                self.builder
                    .append_link(&mut header, path, target)
                    .map_err(TreeError::Stream)
            }
            kind @ (FileType::Directory | FileType::RegularFile) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let opened = rustix::fs::openat(directory, name, flags, Mode::empty());
                let file = opened.map_err(failed)?;
                // It may have been replaced between the two calls.
                let stat = rustix::fs::fstat(&file).map_err(failed)?;
                if files::file_type(&stat) != kind {
                    return Ok(());
                }
                if kind == FileType::RegularFile {
                    return self.content(file, &stat, path);
                }
                let mut header = header(&stat, EntryType::Directory);
                let appended = self.builder.append_data(&mut header, path, io::empty());
                appended.map_err(TreeError::Stream)?;
                self.directory(file, path, depth + 1)
            }
            _ => Ok(()),
        }
    }

    fn content(&mut self, file: OwnedFd, stat: &Stat, path: &Path) -> Result<(), TreeError> {
        let identity = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&identity) {
                let mut header = header(stat, EntryType::Link);
                let appended = self.builder.append_link(&mut header, path, first);
                return appended.map_err(TreeError::Stream);
            }
            if self.linked.len() < MAX_LINKED {
                self.linked.insert(identity, path.to_owned());
            }
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut header = header(stat, EntryType::Regular);
        header.set_size(size);
        let content = File::from(file).chain(io::repeat(0)).take(size);
        self.builder
            .append_data(&mut header, path, content)
            .map_err(TreeError::Stream)
    }
}

fn header(stat: &Stat, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header
}
