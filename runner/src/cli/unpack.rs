//! Unpacks the tar stream that a guest sends into a private folder of the host.
//!
//! The stream is hostile: entries are bounded in number and names in length, nothing is written or
//! linked through a symbolic link of the stream, and no link that is kept leads out of the copy,
//! however links are chained. So only leading `..` are allowed in a link's target, and as many as
//! the link has real folders above it in the copy.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    },
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tar::EntryType;

use crate::printable;

/// Most bytes that one copy may bring.
const BYTES: u64 = 16 << 30;
/// Most entries that one copy may have.
const ENTRIES: usize = 1_000_000;
/// Longest name, in bytes; the library would read one of any length into memory.
const NAME: u64 = 1 << 20;
/// Most entries that are named because they were left out.
const NAMED: usize = 20;
/// Rights that are kept: others never write what came from a guest, and nothing runs as its owner.
const MODE: u32 = 0o755;

/// Why a stream was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream ended before its first entry.
    #[error("the stream ended before it began")]
    Empty,
    /// The stream is not what an honest guest sends.
    #[error("{0}")]
    Hostile(String),
    /// The host's side failed.
    #[error(transparent)]
    Host(#[from] io::Error),
}

fn hostile(path: &Path, why: &str) -> UnpackError {
    let path = printable::line(&path.display().to_string());
    UnpackError::Hostile(format!("{path}: {why}"))
}

fn unreadable(error: &io::Error) -> UnpackError {
    UnpackError::Hostile(printable::line(&error.to_string()))
}

/// Unpacks all of `stream` into the empty folder `staging`, and says what in it is the copy: a file
/// there, or `staging` itself when the stream begins with an entry for a folder.
///
/// # Errors
/// [`UnpackError`]; what is in `staging` then can be removed by its owner.
pub fn unpack(stream: impl Read, staging: &Path) -> Result<PathBuf, UnpackError> {
    let mut archive = tar::Archive::new(stream.take(BYTES));
    let mut unpacker = Unpacker::new(staging);
    // Raw: long names come as entries of their own, to be read here.
    for entry in archive
        .entries()
        .map_err(|error| unreadable(&error))?
        .raw(true)
    {
        unpacker.entry(&mut entry.map_err(|error| unreadable(&error))?)?;
    }
    let whole = unpacker.finish()?;
    // What follows the last entry is read as well, or the sender would find nobody listening.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|error| unreadable(&error))?;
    Ok(whole)
}

struct Unpacker<'a> {
    staging: &'a Path,
    whole: Option<PathBuf>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    entries: usize,
    left_out: usize,
    /// Rights and times of folders, which they get when nothing is written into them any more.
    folders: Vec<(PathBuf, u32, SystemTime)>,
}

impl<'a> Unpacker<'a> {
    fn new(staging: &'a Path) -> Self {
        Self {
            staging,
            whole: None,
            long_name: None,
            long_link: None,
            entries: 0,
            left_out: 0,
            folders: Vec::new(),
        }
    }

    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > ENTRIES {
            let why = format!("there are more than {ENTRIES} files");
            return Err(UnpackError::Hostile(why));
        }
        match entry.header().entry_type() {
            EntryType::GNULongName => self.long_name = Some(long(entry)?),
            EntryType::GNULongLink => self.long_link = Some(long(entry)?),
            kind => {
                let name = self.long_name.take();
                let name = name.unwrap_or_else(|| entry.path_bytes().into_owned());
                let path = plain(&name)?;
                self.own(kind, &path)?;
                self.place(entry, kind, &path)?;
            }
        }
        Ok(())
    }

    /// Takes the first entry for what the copy is.
    fn own(&mut self, kind: EntryType, path: &Path) -> Result<(), UnpackError> {
        let folder = path == Path::new("");
        match &self.whole {
            None if folder && kind == EntryType::Directory => {
                self.whole = Some(self.staging.to_owned());
            }
            None if kind == EntryType::Regular && path.components().count() == 1 => {
                self.whole = Some(self.staging.join(path));
            }
            Some(whole) if whole == self.staging => {}
            _ => return Err(hostile(path, "it does not belong to what was asked for")),
        }
        Ok(())
    }

    fn place(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        kind: EntryType,
        path: &Path,
    ) -> Result<(), UnpackError> {
        let target = self.long_link.take();
        let target = || {
            target
                .or_else(|| entry.link_name_bytes().map(Into::into))
                .unwrap_or_default()
        };
        match kind {
            EntryType::Directory => self.folder(entry, path),
            EntryType::Regular => self.file(entry, path),
            EntryType::Symlink => self.symlink(path, &target()),
            EntryType::Link => self.hard_link(path, &target()),
            kind => {
                self.leave_out(path, &format!("{kind:?} is no kind of file that is copied"));
                Ok(())
            }
        }
    }

    fn folder(
        &mut self,
        entry: &tar::Entry<'_, impl Read>,
        path: &Path,
    ) -> Result<(), UnpackError> {
        self.make_folder(path)?;
        let mode = entry.header().mode().map_err(|error| unreadable(&error))? & MODE | 0o700;
        self.folders
            .push((self.staging.join(path), mode, modified(entry)));
        Ok(())
    }

    fn file(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        path: &Path,
    ) -> Result<(), UnpackError> {
        let place = self.free_place(path)?;
        let mode = entry.header().mode().map_err(|error| unreadable(&error))? & MODE;
        let (size, modified) = (entry.size(), modified(entry));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(place)?;
        if io::copy(entry, &mut file)? != size {
            return Err(hostile(path, "it was cut off"));
        }
        file.set_modified(modified)?;
        file.set_permissions(PermissionsExt::from_mode(mode))?;
        Ok(())
    }

    fn symlink(&mut self, path: &Path, target: &[u8]) -> Result<(), UnpackError> {
        let place = self.free_place(path)?;
        let target = Path::new(OsStr::from_bytes(target));
        if !stays_inside(path, target) {
            self.leave_out(path, "it is a link that leaves the copy");
            return Ok(());
        }
        Ok(symlink(target, place)?)
    }

    fn hard_link(&mut self, path: &Path, target: &[u8]) -> Result<(), UnpackError> {
        let place = self.free_place(path)?;
        let source = plain(target)?;
        self.check_parents(&source)?;
        let source = self.staging.join(source);
        // A second name for a symbolic link would be one that leads elsewhere.
        if !fs::symlink_metadata(&source).is_ok_and(|metadata| metadata.is_file()) {
            self.leave_out(path, "what it is another name of was not copied");
            return Ok(());
        }
        Ok(fs::hard_link(source, place)?)
    }

    /// The place of `path`, its folders made where they are missing.
    fn free_place(&self, path: &Path) -> Result<PathBuf, UnpackError> {
        let parent = path.parent();
        self.make_folder(parent.ok_or_else(|| hostile(path, "it names nothing"))?)?;
        Ok(self.staging.join(path))
    }

    fn make_folder(&self, path: &Path) -> Result<(), UnpackError> {
        self.check_parents(&path.join("_"))?;
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.staging.join(path));
        Ok(made?)
    }

    /// Everything above `path` that is there must be a real folder.
    fn check_parents(&self, path: &Path) -> Result<(), UnpackError> {
        let mut place = self.staging.to_owned();
        for part in path.parent().into_iter().flat_map(Path::components) {
            place.push(part);
            match fs::symlink_metadata(&place) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Err(hostile(path, "it lies behind a link or a file")),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, path: &Path, why: &str) {
        self.left_out += 1;
        if self.left_out <= NAMED {
            let path = printable::line(&path.display().to_string());
            eprintln!("mayfly: not copied out: {path}: {why}");
        }
    }

    fn finish(mut self) -> Result<PathBuf, UnpackError> {
        if self.left_out > NAMED {
            let more = self.left_out - NAMED;
            eprintln!("mayfly: not copied out: {more} more");
        }
        for (folder, mode, modified) in std::mem::take(&mut self.folders).into_iter().rev() {
            let folder = File::open(folder)?;
            folder.set_modified(modified)?;
            folder.set_permissions(PermissionsExt::from_mode(mode))?;
        }
        self.whole.ok_or(UnpackError::Empty)
    }
}

/// The content of an entry that is a long name.
fn long(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>, UnpackError> {
    if entry.size() > NAME {
        let why = format!("a name is longer than {NAME} bytes");
        return Err(UnpackError::Hostile(why));
    }
    let mut name = Vec::new();
    entry
        .read_to_end(&mut name)
        .map_err(|error| unreadable(&error))?;
    let end = name.iter().position(|byte| *byte == 0);
    name.truncate(end.unwrap_or(name.len()));
    Ok(name)
}

/// A name without `.` in it; empty for the folder itself.
fn plain(name: &[u8]) -> Result<PathBuf, UnpackError> {
    let name = Path::new(OsStr::from_bytes(name));
    let mut path = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            _ => return Err(hostile(name, "it leaves the copy")),
        }
    }
    Ok(path)
}

/// Whether a symbolic link at `path` leads to something in the copy, whatever else is a link there:
/// first up at most to the top, through folders that are real, then only down.
fn stays_inside(path: &Path, target: &Path) -> bool {
    let mut above = path.components().count().saturating_sub(1);
    let mut down = false;
    !target.as_os_str().is_empty()
        && target.components().all(|part| match part {
            Component::Normal(_) => {
                down = true;
                true
            }
            Component::CurDir => true,
            Component::ParentDir if !down && above > 0 => {
                above -= 1;
                true
            }
            _ => false,
        })
}

fn modified(entry: &tar::Entry<'_, impl Read>) -> SystemTime {
    // The largest that every file system can hold.
    let seconds = entry.header().mtime().unwrap_or(0).min(i32::MAX as u64);
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, os::unix::fs::PermissionsExt, path::Path};

    use tar::{Builder, EntryType, Header};

    use super::{UnpackError, stays_inside, unpack};

    type Tar = Builder<Vec<u8>>;

    fn archive(build: impl FnOnce(&mut Tar)) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    /// An entry with its name as it is: the library's own setters refuse what a guest may send.
    fn entry(tar: &mut Tar, kind: EntryType, path: &str, target: &str, mode: u32) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        let content = if kind == EntryType::Regular {
            "text"
        } else {
            ""
        };
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, content.as_bytes()).unwrap();
    }

    fn folder(tar: &mut Tar, path: &str) {
        entry(tar, EntryType::Directory, path, "", 0o755);
    }

    fn file(tar: &mut Tar, path: &str) {
        entry(tar, EntryType::Regular, path, "", 0o644);
    }

    fn symlink(tar: &mut Tar, path: &str, target: &str) {
        entry(tar, EntryType::Symlink, path, target, 0o777);
    }

    /// Unpacks into a new folder, and tells the names in it that are there.
    fn unpacked(bytes: &[u8]) -> (tempfile::TempDir, Result<(), String>) {
        let staging = tempfile::tempdir().unwrap();
        let done = unpack(bytes, staging.path());
        (staging, done.map(|_| ()).map_err(|error| error.to_string()))
    }

    #[test]
    fn chained_links_and_second_names_of_links_cannot_lead_out() {
        let bytes = archive(|tar| {
            folder(tar, "./");
            folder(tar, "a/b");
            // Each is inside by its text alone; together they climb as high as one likes.
            symlink(tar, "a/b/up", "../..");
            symlink(tar, "out", "a/b/up/..");
            symlink(tar, "deep", "a/b/../../..");
            // Moved up by two folders, this one would leave.
            symlink(tar, "a/b/fine", "../../a");
            entry(tar, EntryType::Link, "moved", "a/b/fine", 0o644);
        });
        let (staging, done) = unpacked(&bytes);
        done.unwrap();
        let there = |name: &str| staging.path().join(name).symlink_metadata().is_ok();
        assert!(there("a/b/up") && there("a/b/fine"));
        assert!(!there("out") && !there("deep") && !there("moved"));
    }

    #[test]
    fn nothing_is_written_behind_a_link() {
        for target in ["a", "../a"] {
            let bytes = archive(|tar| {
                folder(tar, "./");
                folder(tar, "a");
                folder(tar, "b");
                symlink(tar, "b/link", target);
                file(tar, "b/link/file");
            });
            let (staging, done) = unpacked(&bytes);
            if target == "a" {
                // It leads nowhere, and still is no folder.
                assert!(done.is_err());
            } else {
                assert!(done.unwrap_err().contains("behind a link"));
            }
            assert!(
                staging
                    .path()
                    .join("a")
                    .read_dir()
                    .unwrap()
                    .next()
                    .is_none()
            );
        }
        for path in ["../file", "/file", "a/../../file"] {
            let (_staging, done) = unpacked(&archive(|tar| {
                folder(tar, "./");
                file(tar, path);
            }));
            assert!(done.unwrap_err().contains("leaves the copy"), "{path}");
        }
    }

    #[test]
    fn a_copy_is_a_file_or_a_folder_and_nothing_beside_it() {
        for build in [
            (|tar: &mut Tar| symlink(tar, "name", "sibling")) as fn(&mut Tar),
            |tar| file(tar, "a/name"),
            |tar| {
                file(tar, "name");
                file(tar, "other");
            },
        ] {
            let (_staging, done) = unpacked(&archive(build));
            assert!(done.unwrap_err().contains("does not belong"));
        }
    }

    #[test]
    fn a_name_without_end_is_refused_before_it_is_read() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(8 << 30);
        header.set_cksum();
        let mut endless = header.as_bytes().chain(std::io::repeat(b'x'));
        let staging = tempfile::tempdir().unwrap();
        let error = unpack(&mut endless, staging.path()).unwrap_err();
        assert!(error.to_string().contains("a name is longer"), "{error}");
    }

    #[test]
    fn others_cannot_write_the_copy_and_its_owner_can_always_remove_it() {
        let bytes = archive(|tar| {
            entry(tar, EntryType::Directory, "./", "", 0o777);
            entry(tar, EntryType::Directory, "sealed", "", 0);
            file(tar, "sealed/inside");
            entry(tar, EntryType::Regular, "tool", "", 0o6777);
        });
        let (staging, done) = unpacked(&bytes);
        done.unwrap();
        let mode = |name: &str| {
            let metadata = fs::metadata(staging.path().join(name)).unwrap();
            metadata.permissions().mode() & 0o7777
        };
        assert_eq!((mode(""), mode("sealed")), (0o755, 0o700));
        assert_eq!((mode("tool"), mode("sealed/inside")), (0o755, 0o644));
    }

    #[test]
    fn long_names_arrive_and_the_stream_is_read_to_its_end() {
        let name = "n".repeat(150);
        let mut bytes = archive(|tar| {
            folder(tar, "./");
            let mut header = Header::new_gnu();
            header.set_size(4);
            header.set_mode(0o644);
            tar.append_data(&mut header, &name, &b"text"[..]).unwrap();
        });
        bytes.extend([0; 4096]);
        let staging = tempfile::tempdir().unwrap();
        let mut stream = bytes.as_slice();
        unpack(&mut stream, staging.path()).unwrap();
        assert_eq!(fs::read(staging.path().join(&name)).unwrap(), b"text");
        assert!(stream.is_empty(), "{} bytes are left", stream.len());
    }

    #[test]
    fn an_empty_stream_is_told_from_one_that_is_cut() {
        let staging = tempfile::tempdir().unwrap();
        let empty = unpack(&[][..], staging.path());
        assert!(matches!(empty, Err(UnpackError::Empty)));
        let bytes = archive(|tar| file(tar, "name"));
        let (_staging, done) = unpacked(&bytes[..514]);
        assert!(done.unwrap_err().contains("cut off"));
    }

    #[test]
    fn links_are_judged_from_where_they_stand() {
        let inside = |path, target| stays_inside(Path::new(path), Path::new(target));
        assert!(inside("top/a/b", "../c") && inside("a", "b/c") && inside("a", "./b"));
        assert!(inside("a/b", "../c") && !inside("a/b", "../../c"));
        assert!(!inside("a", "../x") && !inside("a", "/x") && !inside("a", ""));
        assert!(!inside("a/b", "c/../../x"));
    }
}
