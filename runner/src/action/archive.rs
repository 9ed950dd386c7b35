//! An action's archive, verified while it streams and packed anew: nobody after this reads a header
//! that a stranger wrote.
//!
//! One pass reads the tar stream (gzip or plain), hashes every file, writes a tar stream of the
//! kept names, modes and contents, and ends that stream only when the digests are those expected.

use std::io::{self, Read, Write};

use super::{
    digest::{CommitId, ContentDigest, TreeId},
    tree::{Blob, BlobHasher, Difference, Listing, Submodules, TreeBuilder, TreeError},
};
use crate::printable;

mod pace;
mod pack;
#[cfg(test)]
pub(crate) mod samples;
mod source;

pub use pace::{Pace, Paced};
use source::Source;

/// A tar stream's unit.
const BLOCK: usize = 512;
/// Longest extended header, in bytes: two paths and what else git writes.
const EXTENSION: u64 = 64 << 10;

/// How much an archive may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes as they come.
    pub packed: u64,
    /// Most bytes unpacked.
    pub unpacked: u64,
    /// How many times longer than what came the content may be, beyond its first 64 MiB.
    pub ratio: u64,
    /// Most files and folders.
    pub entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packed: 1 << 30,
            unpacked: 2 << 30,
            ratio: 200,
            entries: 200_000,
        }
    }
}

/// Whether an archive has a folder of its own around the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One top folder, which is left out: what GitHub's `tarball_url` serves.
    TopFolder,
    /// The tree itself: what `git archive` writes.
    Bare,
}

/// What an archive must prove to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The commit that the archive's header must name, if it names one. That proves nothing alone.
    pub commit: Option<CommitId>,
    /// The tree of the commit.
    pub tree: TreeId,
    /// The content, where a lock file tells it.
    pub content: Option<ContentDigest>,
    /// The commit's submodules.
    pub submodules: Submodules,
}

/// What is known of files that are not a commit's.
#[derive(Debug)]
pub enum OtherFiles {
    /// These came, and nobody told yet which should have.
    Unknown(Box<Listing>),
    /// None of them is in the commit.
    Foreign,
}

/// What an archive was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// The content.
    pub content: ContentDigest,
    /// Number of files.
    pub files: usize,
    /// Bytes of the archive, unpacked.
    pub bytes: u64,
}

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream failed.
    #[error("the archive cannot be read: {0}; try again")]
    Read(#[source] io::Error),
    /// The stream came too slowly.
    #[error(
        "the archive comes too slowly: fewer than {} bytes in {:?}; try again, from another source \
         if need be",
        .0.bytes, .0.within
    )]
    Slow(Pace),
    /// The stream ended in the middle.
    #[error("the archive ends in the middle, after {0} bytes; try again")]
    Truncated(u64),
    /// The compressed stream ended in the middle.
    #[error("the archive's gzip stream ends in the middle, after {0} bytes unpacked; try again")]
    TruncatedGzip(u64),
    /// The compressed stream is whole, and what it holds is not.
    #[error(
        "the archive ends in the middle, after {0} bytes, inside of a gzip stream that is whole: it was cut \
         before it was packed; use another source"
    )]
    Incomplete(u64),
    /// What came does not begin as an archive.
    #[error("the archive is no tar stream: {0}")]
    NoArchive(&'static str),
    /// The compression is damaged.
    #[error("the archive's gzip stream is damaged: {0}; try again, from another source if need be")]
    Gzip(#[source] io::Error),
    /// More bytes came than an archive may have.
    #[error("the archive is longer than {0} bytes")]
    Packed(u64),
    /// The content is too long.
    #[error("the archive is longer than {0} bytes unpacked")]
    Unpacked(u64),
    /// The content is out of proportion.
    #[error("the archive unpacks to more than {ratio} times its {packed} bytes: a gzip bomb")]
    Bomb {
        /// The limit.
        ratio: u64,
        /// Bytes that came so far.
        packed: u64,
    },
    /// There are too many files.
    #[error("the archive has more than {0} files and folders")]
    Entries(usize),
    /// A header is damaged.
    #[error("header {number} of the archive {why}")]
    Header {
        /// The header's number, from 1.
        number: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Bytes are where only zeros may be.
    #[error("the archive has bytes {0}, where git writes zeros or nothing")]
    Trailing(&'static str),
    /// An entry of a kind that no git tree holds.
    #[error("{path:?} is {kind}; no git tree holds that")]
    Kind {
        /// The entry.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// An entry outside the archive's one top folder.
    #[error("{0:?} is outside the archive's top folder")]
    OutsideTop(String),
    /// The files do not make a tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The header names another commit.
    #[error("the archive says that it is commit {found}, not {expected}")]
    OtherCommit {
        /// The commit asked for.
        expected: CommitId,
        /// The commit in the header.
        found: CommitId,
    },
    /// The files are not those of the commit.
    #[error("the archive's files are git tree {found}, and the commit's tree is {expected}: {}", other(.files))]
    OtherTree {
        /// The commit's tree.
        expected: TreeId,
        /// The tree of the files that came.
        found: TreeId,
        /// The files that came.
        files: OtherFiles,
    },
    /// The files are not those of the commit, and it is known in what.
    #[error("{first}{}", also(*.more))]
    Differs {
        /// The first such file.
        first: Difference,
        /// How many others differ.
        more: usize,
    },
    /// The content is not the locked one.
    #[error("the content is {found}, and {expected} is locked")]
    OtherContent {
        /// The digest in the lock file or the store.
        expected: ContentDigest,
        /// The digest of what came.
        found: ContentDigest,
    },
    /// What is verified could not be written.
    #[error("the verified archive cannot be written: {0}")]
    Write(#[source] io::Error),
}

/// What to make of files that are not the commit's.
fn other(files: &OtherFiles) -> &'static str {
    match files {
        OtherFiles::Unknown(_) => {
            "they were changed, or the repository's .gitattributes leave files out of archives (`--mirror` \
             takes them all); the source does not tell in what they differ"
        }
        OtherFiles::Foreign => {
            "no file of the one is in the other, they are another tree altogether; do not use this source until \
             you know why"
        }
    }
}

fn also(more: usize) -> String {
    match more {
        0 => String::new(),
        1 => "; another file differs as well".to_owned(),
        more => format!("; {more} other files differ as well"),
    }
}

impl ArchiveError {
    /// The same with the file in which the archive differs from the commit, if a listing of the
    /// commit's tree tells it. Of a listing that does not add up to that tree nothing is believed.
    #[must_use]
    pub fn explained(self, listing: &Listing) -> Self {
        let Self::OtherTree {
            expected,
            found,
            files: OtherFiles::Unknown(files),
        } = &self
        else {
            return self;
        };
        if listing.tree() != *expected {
            return self;
        }
        match listing.difference(files) {
            Some((first, more)) if listing.shares_a_path(files) => Self::Differs { first, more },
            Some(_) => Self::OtherTree {
                expected: *expected,
                found: *found,
                files: OtherFiles::Foreign,
            },
            None => self,
        }
    }
}

/// Reads an archive to its end, writes it packed anew to `sink`, and ends that stream only if the
/// archive is what is expected.
///
/// # Errors
/// [`ArchiveError`]; `sink` then holds a tar stream without an end.
pub fn verify(
    input: impl Read,
    layout: Layout,
    expected: &Expected,
    limits: Limits,
    sink: impl Write,
) -> Result<Verified, ArchiveError> {
    let mut pass = Pass::new(input, layout, limits, sink, true)?;
    pass.all()?;
    if let (Some(expected), Some(found)) = (expected.commit, pass.commit)
        && expected != found
    {
        return Err(ArchiveError::OtherCommit { expected, found });
    }
    let (digests, files) = std::mem::take(&mut pass.tree).finish_listed(&expected.submodules)?;
    if digests.tree != expected.tree {
        return Err(ArchiveError::OtherTree {
            expected: expected.tree,
            found: digests.tree,
            files: OtherFiles::Unknown(Box::new(files)),
        });
    }
    pass.end(digests.content, expected.content)
}

/// As [`verify`], for a stream that [`verify`] wrote: only its content is asked for.
///
/// # Errors
/// [`ArchiveError`]; `sink` then holds a tar stream without an end.
pub fn verify_content(
    input: impl Read,
    expected: ContentDigest,
    sink: impl Write,
) -> Result<Verified, ArchiveError> {
    let limits = Limits {
        packed: u64::MAX,
        unpacked: u64::MAX,
        ratio: u64::MAX,
        ..Limits::default()
    };
    let mut pass = Pass::new(input, Layout::Bare, limits, sink, false)?;
    pass.all()?;
    let found = std::mem::take(&mut pass.tree).finish_content()?;
    pass.end(found, Some(expected))
}

/// What an extended header says about the entry after it.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    any: bool,
}

struct Pass<R: Read, W: Write> {
    source: Source<R>,
    sink: W,
    layout: Layout,
    limits: Limits,
    /// Whether the tree's id will be asked for.
    ids: bool,
    tree: TreeBuilder,
    top: Option<Vec<u8>>,
    commit: Option<CommitId>,
    extension: Extension,
    headers: usize,
    files: usize,
    entries: usize,
    buffer: Vec<u8>,
}

impl<R: Read, W: Write> Pass<R, W> {
    fn new(
        input: R,
        layout: Layout,
        limits: Limits,
        sink: W,
        ids: bool,
    ) -> Result<Self, ArchiveError> {
        Ok(Self {
            source: Source::open(input, limits)?,
            sink,
            layout,
            limits,
            ids,
            tree: TreeBuilder::new(),
            top: None,
            commit: None,
            extension: Extension::default(),
            headers: 0,
            files: 0,
            entries: 0,
            buffer: vec![0; 128 << 10],
        })
    }

    fn all(&mut self) -> Result<(), ArchiveError> {
        while let Some(header) = self.header()? {
            self.entry(&header)?;
        }
        if self.extension.any {
            return Err(self.broken("ends the archive, and says something of an entry after it"));
        }
        self.source.finish()
    }

    fn end(
        mut self,
        found: ContentDigest,
        expected: Option<ContentDigest>,
    ) -> Result<Verified, ArchiveError> {
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(ArchiveError::OtherContent { expected, found });
        }
        self.sink
            .write_all(&[0; 2 * BLOCK])
            .and_then(|()| self.sink.flush())
            .map_err(ArchiveError::Write)?;
        Ok(Verified {
            content: found,
            files: self.files,
            bytes: self.source.unpacked(),
        })
    }

    fn broken(&self, why: &'static str) -> ArchiveError {
        ArchiveError::Header {
            number: self.headers,
            why,
        }
    }

    /// The next header; `None` at the two blocks of zeros that end an archive.
    fn header(&mut self) -> Result<Option<tar::Header>, ArchiveError> {
        let mut header = tar::Header::new_old();
        match self.source.exact(header.as_mut_bytes()) {
            Err(ArchiveError::Truncated(_) | ArchiveError::Incomplete(_)) if self.headers == 0 => {
                return Err(ArchiveError::NoArchive(
                    "it ends before the first header does",
                ));
            }
            read => read?,
        }
        if header.as_bytes().iter().all(|&byte| byte == 0) {
            self.source.exact(header.as_mut_bytes())?;
            return if header.as_bytes().iter().all(|&byte| byte == 0) {
                Ok(None)
            } else {
                Err(ArchiveError::Trailing("after a block of zeros"))
            };
        }
        self.headers += 1;
        let sum: u32 = header
            .as_bytes()
            .iter()
            .enumerate()
            .map(|(at, &byte)| u32::from(if (148..156).contains(&at) { b' ' } else { byte }))
            .sum();
        match header.cksum() {
            Ok(stated) if stated == sum => Ok(Some(header)),
            _ if self.headers == 1 => Err(ArchiveError::NoArchive(
                "what should be its first header has another check sum",
            )),
            _ => Err(self.broken("is damaged: its check sum is another")),
        }
    }

    fn entry(&mut self, header: &tar::Header) -> Result<(), ArchiveError> {
        let size = header
            .entry_size()
            .map_err(|_| self.broken("has no size that can be read"))?;
        match header.entry_type() {
            tar::EntryType::XHeader => {
                let bytes = self.text(size)?;
                return self.pax(&bytes, false);
            }
            tar::EntryType::XGlobalHeader => {
                let bytes = self.text(size)?;
                return self.pax(&bytes, true);
            }
            tar::EntryType::GNULongName => {
                let name = until_zero(self.text(size)?);
                return self.set(|extension| extension.path.replace(name).is_some());
            }
            tar::EntryType::GNULongLink => {
                let name = until_zero(self.text(size)?);
                return self.set(|extension| extension.link.replace(name).is_some());
            }
            _ => {}
        }
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(ArchiveError::Entries(self.limits.entries));
        }
        let extension = std::mem::take(&mut self.extension);
        if extension.size.is_some_and(|stated| stated != size) {
            return Err(self.broken("states two sizes"));
        }
        let path = extension
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || header.link_name_bytes().unwrap_or_default().into_owned();
        let link = extension.link.unwrap_or_else(link);
        self.place(header, path, &link, size)
    }

    /// Notes what an extended header says; an entry must not be told anything twice.
    fn set(&mut self, set: impl FnOnce(&mut Extension) -> bool) -> Result<(), ArchiveError> {
        self.extension.any = true;
        if set(&mut self.extension) {
            return Err(self.broken("names the entry after it once more"));
        }
        Ok(())
    }

    fn text(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > EXTENSION {
            return Err(self.broken("is an extended one longer than 64 KiB"));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.source.exact(&mut bytes)?;
        self.padding(size)?;
        Ok(bytes)
    }

    fn padding(&mut self, size: u64) -> Result<(), ArchiveError> {
        let mut rest = [0; BLOCK];
        let over = usize::try_from(size % BLOCK as u64).unwrap_or_default();
        let rest = &mut rest[..(BLOCK - over) % BLOCK];
        self.source.exact(rest)?;
        if rest.iter().any(|&byte| byte != 0) {
            return Err(ArchiveError::Trailing("behind the end of a file"));
        }
        Ok(())
    }

    /// Records of the form `LENGTH KEY=VALUE\n`; a value may hold anything.
    fn pax(&mut self, mut bytes: &[u8], global: bool) -> Result<(), ArchiveError> {
        while !bytes.is_empty() {
            let Some((key, value, rest)) = record(bytes) else {
                return Err(self.broken("is no list of pax records"));
            };
            bytes = rest;
            match key {
                b"comment" if global => {
                    let id = std::str::from_utf8(value).ok();
                    self.commit = id.and_then(|id| id.parse().ok()).or(self.commit);
                }
                b"path" if !global => {
                    self.set(|extension| extension.path.replace(value.to_vec()).is_some())?;
                }
                b"linkpath" if !global => {
                    self.set(|extension| extension.link.replace(value.to_vec()).is_some())?;
                }
                b"size" if !global => {
                    let size = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                    let size = size.ok_or_else(|| self.broken("states no size"))?;
                    self.set(|extension| extension.size.replace(size).is_some())?;
                }
                b"path" | b"linkpath" | b"size" => {
                    return Err(self.broken("names all entries after it"));
                }
                _ if key.starts_with(b"GNU.sparse") => {
                    return Err(self.broken("makes a sparse file of the entry after it"));
                }
                // Owners, times and the like: nothing of them is kept.
                _ => {}
            }
        }
        Ok(())
    }

    /// The path below the archive's top folder; `None` for that folder itself.
    fn inner(&mut self, mut path: Vec<u8>) -> Result<Option<Vec<u8>>, ArchiveError> {
        if self.layout == Layout::Bare {
            return Ok(Some(path));
        }
        let cut = path.iter().position(|&byte| byte == b'/');
        let inner = cut.map(|at| path.split_off(at + 1));
        if cut.is_some() {
            path.pop();
        }
        if self.top.get_or_insert_with(|| path.clone()) != &path {
            return Err(ArchiveError::OutsideTop(shown(&path)));
        }
        Ok(inner.filter(|inner| !inner.is_empty()))
    }

    fn place(
        &mut self,
        header: &tar::Header,
        mut path: Vec<u8>,
        link: &[u8],
        size: u64,
    ) -> Result<(), ArchiveError> {
        let kind = header.entry_type();
        let directory = kind == tar::EntryType::Directory;
        if directory && path.ends_with(b"/") && self.layout == Layout::Bare {
            path.pop();
        }
        let refuse = |path: &[u8], kind| {
            let path = shown(path);
            Err(ArchiveError::Kind { path, kind })
        };
        if kind != tar::EntryType::Regular && size != 0 {
            return Err(self.broken("gives content to what is no file"));
        }
        let Some(mut path) = self.inner(path.clone())? else {
            return if directory {
                Ok(())
            } else {
                refuse(&path, "in the place of the top folder")
            };
        };
        if directory && path.ends_with(b"/") {
            path.pop();
        }
        self.tree.check(&path)?;
        match kind {
            tar::EntryType::Regular => self.file(header, &path, size),
            tar::EntryType::Symlink => {
                self.tree.symlink(&path, link)?;
                self.files += 1;
                pack::symlink(&mut self.sink, &path, link).map_err(ArchiveError::Write)
            }
            tar::EntryType::Directory => {
                self.tree.folder(&path)?;
                pack::folder(&mut self.sink, &path).map_err(ArchiveError::Write)
            }
            tar::EntryType::Link => refuse(&path, "a hard link"),
            tar::EntryType::Char | tar::EntryType::Block => refuse(&path, "a device"),
            tar::EntryType::Fifo => refuse(&path, "a named pipe"),
            tar::EntryType::GNUSparse => refuse(&path, "a sparse file"),
            _ => refuse(&path, "an entry of an unknown kind"),
        }
    }

    fn file(&mut self, header: &tar::Header, path: &[u8], size: u64) -> Result<(), ArchiveError> {
        let mode = header
            .mode()
            .map_err(|_| self.broken("has no mode that can be read"))?;
        if mode & 0o7000 != 0 {
            return Err(self.broken("gives a file set-user-id rights or the like"));
        }
        if size > self.limits.unpacked {
            return Err(ArchiveError::Unpacked(self.limits.unpacked));
        }
        let executable = mode & 0o100 != 0;
        pack::file(&mut self.sink, path, executable, size).map_err(ArchiveError::Write)?;
        let blob = self.content(size)?;
        self.padding(size)?;
        self.tree.file(path, executable, blob)?;
        self.files += 1;
        let over = usize::try_from(size % BLOCK as u64).unwrap_or_default();
        let zeros = [0; BLOCK];
        self.sink
            .write_all(&zeros[..(BLOCK - over) % BLOCK])
            .map_err(ArchiveError::Write)
    }

    fn content(&mut self, size: u64) -> Result<Blob, ArchiveError> {
        let mut hasher = if self.ids {
            BlobHasher::new(size)
        } else {
            BlobHasher::content_only()
        };
        let mut left = size;
        while left > 0 {
            let most =
                usize::try_from(left).map_or(self.buffer.len(), |left| left.min(self.buffer.len()));
            let chunk = &mut self.buffer[..most];
            self.source.exact(chunk)?;
            hasher.update(chunk);
            self.sink.write_all(chunk).map_err(ArchiveError::Write)?;
            left -= most as u64;
        }
        Ok(hasher.finish())
    }
}

fn shown(bytes: &[u8]) -> String {
    printable::line(&String::from_utf8_lossy(&bytes[..bytes.len().min(300)]))
}

fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

/// The first pax record: its key, its value, and what follows it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(7).position(|&byte| byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

#[cfg(test)]
mod tests;
