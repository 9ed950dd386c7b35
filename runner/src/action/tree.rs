//! The tree of an action: which files it has, and the two digests over all of them.
//!
//! Files come in any order, with their contents hashed on the way; the digests are made at the end.
//! Paths are bytes, as git's are. `docs/pins.md` defines the canonical tree.

mod listing;

use std::collections::{BTreeMap, BTreeSet};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::digest::{CommitId, ContentDigest, TreeId, object_hash, object_id};
use crate::printable;

pub use listing::{Difference, Listing};

/// Longest path, in bytes: Linux has none longer.
const PATH: usize = 4095;
/// Longest part of a path, in bytes.
const NAME: usize = 255;
/// Most folders above a file.
const DEPTH: usize = 100;

/// What a file is: the kinds that a git tree can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileMode {
    /// A file, 100644.
    Regular,
    /// A file that can be executed, 100755.
    Executable,
    /// A symbolic link, 120000; its content is its target.
    Symlink,
    /// The commit of another repository, 160000: an empty folder in an archive.
    Submodule,
}

impl FileMode {
    /// The mode as git writes it in a tree.
    #[must_use]
    pub const fn octal(self) -> &'static str {
        match self {
            Self::Regular => "100644",
            Self::Executable => "100755",
            Self::Symlink => "120000",
            Self::Submodule => "160000",
        }
    }
}

/// The content of one file by its hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// Zeros where only SHA-256 is asked for.
    sha1: [u8; 20],
    sha256: [u8; 32],
}

impl Blob {
    /// The blob with this content.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        let mut hasher = BlobHasher::new(content.len() as u64);
        hasher.update(content);
        hasher.finish()
    }
}

/// Hashes the content of one file while it passes by.
#[derive(Debug, Clone)]
pub struct BlobHasher {
    sha1: Option<Sha1>,
    sha256: Sha256,
}

impl BlobHasher {
    /// For a content of `length` bytes, all of which must come.
    #[must_use]
    pub fn new(length: u64) -> Self {
        Self {
            sha1: Some(object_hash("blob", length)),
            sha256: Sha256::new(),
        }
    }

    /// For a tree of which only the content digest will be asked.
    #[must_use]
    pub fn content_only() -> Self {
        Self {
            sha1: None,
            sha256: Sha256::new(),
        }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(sha1) = &mut self.sha1 {
            sha1.update(bytes);
        }
        self.sha256.update(bytes);
    }

    /// The hashes of all that came.
    #[must_use]
    pub fn finish(self) -> Blob {
        Blob {
            sha1: self.sha1.map_or([0; 20], |sha1| sha1.finalize().into()),
            sha256: self.sha256.finalize().into(),
        }
    }
}

/// Why a file cannot be part of a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The path cannot be one of a git tree.
    #[error("{path:?} {why}; no git tree has such a path")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The path is there already.
    #[error("{0:?} is there twice; a tree has one entry for a path")]
    Duplicate(String),
    /// Something lies below a path that is a file or a link.
    #[error("{0:?} is a file and a folder at once")]
    FileAndFolder(String),
    /// A link leads out of the tree, or may.
    #[error(
        "the symbolic link {path:?} to {target:?} {why}; \
         an action with such a link is not used"
    )]
    Link {
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
        /// What is wrong with that.
        why: &'static str,
    },
    /// A folder has no files and is no known submodule.
    #[error(
        "{0:?} is an empty folder: a submodule, whose commit an archive does not tell; \
         pin the action from a git mirror (`--mirror`), which does"
    )]
    EmptyFolder(String),
}

fn shown(bytes: &[u8]) -> String {
    printable::line(&String::from_utf8_lossy(bytes))
}

/// The digests of a whole tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeDigests {
    /// The tree's id, as git computes it.
    pub tree: TreeId,
    /// SHA-256 over the canonical tree.
    pub content: ContentDigest,
}

/// The commits of a tree's submodules by path. An archive has empty folders in their places, so
/// they are part of the tree id and not of the content.
pub type Submodules = BTreeMap<Vec<u8>, CommitId>;

#[derive(Debug, Clone, Copy)]
enum Content {
    Blob(Blob),
    Commit(CommitId),
}

impl Content {
    /// The id of its git object.
    fn id(&self) -> &[u8; 20] {
        match self {
            Self::Blob(blob) => &blob.sha1,
            Self::Commit(commit) => commit.as_bytes(),
        }
    }
}

/// A tree in the making.
#[derive(Debug, Clone, Default)]
pub struct TreeBuilder {
    files: BTreeMap<Vec<u8>, (FileMode, Content)>,
    /// Folders with something in them.
    folders: BTreeSet<Vec<u8>>,
    /// Folders that had an entry of their own.
    declared: BTreeSet<Vec<u8>>,
}

impl TreeBuilder {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the tree has this file.
    #[must_use]
    pub fn contains(&self, path: &[u8]) -> bool {
        self.files.contains_key(path)
    }

    /// Number of files.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether the tree has no files.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Checks that a file or folder of this name can still come, before its content is read.
    ///
    /// # Errors
    /// [`TreeError`] when the path is not a git tree's, or taken.
    pub fn check(&self, path: &[u8]) -> Result<(), TreeError> {
        check_path(path)?;
        if self.files.contains_key(path) || self.declared.contains(path) {
            return Err(TreeError::Duplicate(shown(path)));
        }
        match parents(path).find(|parent| self.files.contains_key(*parent)) {
            Some(parent) => Err(TreeError::FileAndFolder(shown(parent))),
            None => Ok(()),
        }
    }

    /// Adds a file.
    ///
    /// # Errors
    /// [`TreeError`] when the path is not a git tree's, or taken.
    pub fn file(&mut self, path: &[u8], executable: bool, blob: Blob) -> Result<(), TreeError> {
        let mode = if executable {
            FileMode::Executable
        } else {
            FileMode::Regular
        };
        self.insert(path, mode, Content::Blob(blob))
    }

    /// Adds a symbolic link. Its target may begin with as many `..` as the link has folders above
    /// it, and have none after that: so no chain of links leads out of the tree.
    ///
    /// # Errors
    /// [`TreeError`] when the path is not a git tree's or taken, or the target may lead out.
    pub fn symlink(&mut self, path: &[u8], target: &[u8]) -> Result<(), TreeError> {
        check_path(path)?;
        if let Some(why) = leads_out(path, target) {
            let (path, target) = (shown(path), shown(target));
            return Err(TreeError::Link { path, target, why });
        }
        self.insert(path, FileMode::Symlink, Content::Blob(Blob::of(target)))
    }

    /// Notes a folder. Git knows folders only by their files, so one must come, or the folder be a
    /// submodule.
    ///
    /// # Errors
    /// [`TreeError`] when the path is not a git tree's, or taken.
    pub fn folder(&mut self, path: &[u8]) -> Result<(), TreeError> {
        self.check(path)?;
        self.declared.insert(path.to_vec());
        Ok(())
    }

    fn insert(&mut self, path: &[u8], mode: FileMode, content: Content) -> Result<(), TreeError> {
        self.check(path)?;
        self.place(path, mode, content)
    }

    fn place(&mut self, path: &[u8], mode: FileMode, content: Content) -> Result<(), TreeError> {
        if self.folders.contains(path) {
            return Err(TreeError::FileAndFolder(shown(path)));
        }
        for parent in parents(path) {
            if !self.folders.insert(parent.to_vec()) {
                break;
            }
        }
        self.files.insert(path.to_vec(), (mode, content));
        Ok(())
    }

    /// The digests of the tree, with its submodules.
    ///
    /// # Errors
    /// [`TreeError::EmptyFolder`] when a folder is neither a submodule nor has files in it; an error
    /// of the other kinds when a submodule is where a file is.
    pub fn finish(self, submodules: &Submodules) -> Result<TreeDigests, TreeError> {
        self.finish_listed(submodules).map(|(digests, _)| digests)
    }

    /// The digests of the tree, and its files for a comparison.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn finish_listed(
        mut self,
        submodules: &Submodules,
    ) -> Result<(TreeDigests, Listing), TreeError> {
        let declared = std::mem::take(&mut self.declared);
        for (path, commit) in submodules {
            self.insert(path, FileMode::Submodule, Content::Commit(*commit))?;
        }
        let empty = |path: &&Vec<u8>| !self.folders.contains(*path) && !self.contains(path);
        if let Some(path) = declared.iter().find(empty) {
            return Err(TreeError::EmptyFolder(shown(path)));
        }
        let digests = TreeDigests {
            tree: self.tree_id(),
            content: self.content_digest(),
        };
        Ok((digests, Listing::of(self)))
    }

    /// The content digest alone, every empty folder taken for a submodule.
    ///
    /// # Errors
    /// None for a tree whose parts were all accepted.
    pub fn finish_content(mut self) -> Result<ContentDigest, TreeError> {
        let declared = std::mem::take(&mut self.declared);
        let unknown = Content::Commit(CommitId::from_bytes([0; 20]));
        // The folders above an empty one sort before it, and must not be taken for submodules.
        for path in declared.iter().rev() {
            if !self.folders.contains(path) {
                self.insert(path, FileMode::Submodule, unknown)?;
            }
        }
        Ok(self.content_digest())
    }

    /// SHA-256 over a line for each file, in the order of their paths' bytes.
    fn content_digest(&self) -> ContentDigest {
        let mut hash = Sha256::new();
        for (path, (mode, content)) in &self.files {
            let sha256 = match content {
                Content::Blob(blob) => blob.sha256,
                Content::Commit(_) => [0; 32],
            };
            hash.update(format!("{} {}\t", mode.octal(), hex::encode(sha256)));
            hash.update(path);
            hash.update([0]);
        }
        ContentDigest::from_bytes(hash.finalize().into())
    }

    /// Git's tree id. Git orders a folder as if its name ended in `/`: that is the order of the
    /// whole paths' bytes, so each folder is complete when the first path outside it comes.
    fn tree_id(&self) -> TreeId {
        let mut open = vec![Folder::default()];
        for (path, (mode, content)) in &self.files {
            let mut parts: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
            let name = parts.pop().unwrap_or_default();
            let same = open[1..]
                .iter()
                .zip(&parts)
                .take_while(|(folder, part)| folder.name == **part)
                .count();
            close(&mut open, same + 1);
            open.extend(parts[same..].iter().map(|part| Folder::named(part)));
            if let Some(folder) = open.last_mut() {
                folder.entry(mode.octal(), name, content.id());
            }
        }
        close(&mut open, 1);
        TreeId::from_bytes(object_id("tree", &open[0].entries))
    }
}

/// A folder's tree object in the making.
#[derive(Default)]
struct Folder {
    name: Vec<u8>,
    entries: Vec<u8>,
}

impl Folder {
    fn named(name: &[u8]) -> Self {
        Self {
            name: name.to_vec(),
            entries: Vec::new(),
        }
    }

    fn entry(&mut self, mode: &str, name: &[u8], id: &[u8; 20]) {
        self.entries.extend_from_slice(mode.as_bytes());
        self.entries.push(b' ');
        self.entries.extend_from_slice(name);
        self.entries.push(0);
        self.entries.extend_from_slice(id);
    }
}

/// Completes the innermost folders until `left` are open; the root stays.
fn close(open: &mut Vec<Folder>, left: usize) {
    while open.len() > left.max(1) {
        let Some(folder) = open.pop() else { return };
        let id = object_id("tree", &folder.entries);
        if let Some(parent) = open.last_mut() {
            parent.entry("40000", &folder.name, &id);
        }
    }
}

/// The folders above a path, innermost first.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().rev();
    slashes
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| &path[..at])
}

/// Checks that git would hold this path, and that it stays in the tree on Linux.
pub(super) fn check_path(path: &[u8]) -> Result<(), TreeError> {
    let refuse = |why| {
        let path = shown(&path[..path.len().min(200)]);
        Err(TreeError::Path { path, why })
    };
    if path.len() > PATH {
        return refuse("begins a path longer than 4095 bytes");
    }
    if path.starts_with(b"/") {
        return refuse("is an absolute path");
    }
    if path.contains(&0) {
        return refuse("has a zero byte");
    }
    let mut depth = 0;
    for part in path.split(|&byte| byte == b'/') {
        depth += 1;
        match part {
            b"" => return refuse("has a part without a name"),
            b"." => return refuse("has the part `.`"),
            b".." => return refuse("leads out with `..`"),
            _ if part.eq_ignore_ascii_case(b".git") => {
                return refuse("would be git's own folder");
            }
            _ if part.len() > NAME => return refuse("has a name longer than 255 bytes"),
            _ if depth > DEPTH => return refuse("lies below more than 100 folders"),
            _ => {}
        }
    }
    Ok(())
}

/// What is wrong with a link's target, if anything.
fn leads_out(path: &[u8], target: &[u8]) -> Option<&'static str> {
    if target.is_empty() || target.len() > PATH || target.contains(&0) {
        return Some("has no target that Linux could follow");
    }
    if target.starts_with(b"/") {
        return Some("leads to an absolute path");
    }
    let mut above = parents(path).count();
    let mut down = false;
    for part in target.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if down => return Some("has `..` behind a name, which may lead anywhere"),
            b".." if above == 0 => return Some("leads out of the tree"),
            b".." => above -= 1,
            _ => down = true,
        }
    }
    None
}

#[cfg(test)]
mod tests;
