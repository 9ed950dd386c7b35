//! `hashFiles()`: the digests of the workspace's files, read once for a step that asks.
//!
//! A program in the guest that computed them could be replaced by an earlier step; so the guest packs
//! the workspace and the host hashes the stream as it comes. Nothing is unpacked, and entries, names,
//! bytes and time are bounded. What matches is decided on the host as `@actions/glob` does.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tar::EntryType;
use tokio_util::io::SyncIoBridge;

use crate::{
    sandbox::{Sandbox, SandboxError},
    workflow::token::{TemplateToken, TokenKind},
};

use super::{
    glob::{Pattern, patterns},
    request::StepRequest,
};

/// Most bytes of a workspace that are read.
const BYTES: u64 = 16 << 30;
/// Most files, folders and links of a workspace.
const ENTRIES: usize = 500_000;
/// Longest path and most bytes of all paths.
const PATH: u64 = 4096;
const PATHS: usize = 64 << 20;
/// How long reading may take, as the official runner has it.
const TIME: Duration = Duration::from_secs(120);
/// Most files times patterns that are compared.
const COMPARISONS: usize = 20_000_000;
/// Most links on the way to one file.
const LINKS: usize = 40;

type Sha = [u8; 32];

#[derive(Debug, PartialEq)]
enum Entry {
    File(Sha),
    Folder,
    Link(String),
}

/// Files of a workspace with their digests.
#[derive(Debug)]
pub(super) struct FileIndex {
    workspace: String,
    entries: BTreeMap<Key, Entry>,
}

/// A path whose `/` sort before all else: a folder is followed by what is in it, names in the order
/// of their bytes, as Node lists them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key(String);

impl Key {
    fn new(path: &str) -> Self {
        Self(path.replace('/', "\0"))
    }

    fn names(&self) -> Vec<&str> {
        self.0.split('\0').filter(|name| !name.is_empty()).collect()
    }

    fn path(&self) -> String {
        self.0.replace('\0', "/")
    }

    fn inside(&self, folder: &Key) -> Option<&str> {
        match self.0.strip_prefix(&folder.0) {
            Some(rest) if folder.0.is_empty() => Some(rest),
            rest => rest?.strip_prefix('\0'),
        }
    }
}

/// The files of a workspace, or why they could not be read.
pub(super) type WorkspaceFiles = Result<FileIndex, String>;

/// Whether an expression of a step may call `hashFiles()`.
pub(super) fn is_asked_for(step: &StepRequest) -> bool {
    let tokens = [
        &step.display_name,
        &step.continue_on_error,
        &step.timeout_in_minutes,
        &step.environment,
        &step.inputs,
    ];
    names_it(&step.condition) || tokens.into_iter().flatten().any(holds_it)
}

fn names_it(expression: &str) -> bool {
    expression.to_ascii_lowercase().contains("hashfiles")
}

fn holds_it(token: &TemplateToken) -> bool {
    match &token.kind {
        TokenKind::Expression(text) => names_it(text),
        TokenKind::Sequence(items) => items.iter().any(holds_it),
        TokenKind::Mapping(entries) => entries
            .iter()
            .any(|(key, value)| holds_it(key) || holds_it(value)),
        _ => false,
    }
}

/// Reads the digests of a workspace in the sandbox.
///
/// # Errors
/// Why it cannot be read, for the message of `hashFiles()`.
pub(super) async fn index<S: Sandbox>(sandbox: &S, workspace: &str) -> Result<FileIndex, String> {
    let (near, far) = tokio::io::duplex(256 << 10);
    let owned = workspace.to_owned();
    let reader = SyncIoBridge::new(far);
    let reading = tokio::task::spawn_blocking(move || read(reader, &owned));
    let copying = sandbox.copy_out(workspace, near);
    let both = async { (copying.await, reading.await) };
    let Ok((copied, read)) = tokio::time::timeout(TIME, both).await else {
        let seconds = TIME.as_secs();
        return Err(format!(
            "hashFiles couldn't finish within {seconds} seconds."
        ));
    };
    let failed = |cause: &dyn std::fmt::Display| format!("hashFiles: reading {workspace}: {cause}");
    // When the stream was refused, that is why the copy broke off.
    let index = read.map_err(|error| failed(&error))?;
    match (index, copied) {
        (Err(error), Ok(()) | Err(SandboxError::Io(_))) => Err(failed(&error)),
        (_, Err(error)) => Err(failed(&error)),
        (Ok(index), Ok(())) => Ok(index),
    }
}

fn refuse(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn read(stream: impl Read, workspace: &str) -> io::Result<FileIndex> {
    let mut archive = tar::Archive::new(stream.take(BYTES));
    let mut entries = BTreeMap::new();
    let (mut long_name, mut long_link) = (None, None);
    let (mut count, mut bytes) = (0, 0);
    // Raw: the library would read a long name of any length into memory.
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        count += 1;
        if count > ENTRIES || bytes > PATHS {
            return Err(refuse(format!(
                "there are more than {ENTRIES} files, or their names are too long"
            )));
        }
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => long_name = Some(long(&mut entry)?),
            EntryType::GNULongLink => long_link = Some(long(&mut entry)?),
            _ => {
                let name = long_name
                    .take()
                    .unwrap_or_else(|| entry.path_bytes().into_owned());
                let link = long_link
                    .take()
                    .or_else(|| entry.link_name_bytes().map(Into::into));
                let path = plain(&name)?;
                let link = String::from_utf8_lossy(&link.unwrap_or_default()).into_owned();
                bytes += path.len() + link.len();
                let found = match kind {
                    EntryType::Regular => Entry::File(digest(&mut entry)?),
                    EntryType::Directory => Entry::Folder,
                    EntryType::Symlink => Entry::Link(link),
                    EntryType::Link => match entries.get(&Key::new(&plain(link.as_bytes())?)) {
                        Some(Entry::File(digest)) => Entry::File(*digest),
                        _ => continue,
                    },
                    _ => continue,
                };
                entries.insert(Key::new(&path), found);
            }
        }
    }
    // What follows the last entry is read as well, or the sender would find nobody listening.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    let workspace = workspace.trim_end_matches('/').to_owned();
    Ok(FileIndex { workspace, entries })
}

fn long(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Vec<u8>> {
    if entry.size() > PATH {
        return Err(refuse(format!("a name is longer than {PATH} bytes")));
    }
    let mut name = Vec::new();
    entry.read_to_end(&mut name)?;
    let end = name.iter().position(|byte| *byte == 0);
    name.truncate(end.unwrap_or(name.len()));
    Ok(name)
}

fn plain(name: &[u8]) -> io::Result<String> {
    let text = String::from_utf8_lossy(name);
    let names: Vec<&str> = text
        .split('/')
        .filter(|name| !matches!(*name, "" | "."))
        .collect();
    if names.contains(&"..") {
        return Err(refuse("an entry leaves the workspace"));
    }
    Ok(names.join("/"))
}

fn digest(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Sha> {
    let size = entry.size();
    let (mut hasher, mut seen) = (Sha256::new(), 0);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = entry.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        seen += count as u64;
        hasher.update(&buffer[..count]);
    }
    if seen != size {
        return Err(refuse("a file was cut off"));
    }
    Ok(hasher.finalize().into())
}

impl FileIndex {
    /// The hash of all files that the arguments of `hashFiles()` match; empty if there are none.
    ///
    /// # Errors
    /// What is wrong with the arguments, or a matching link that leads to no file of the workspace.
    pub(super) fn hash(&self, arguments: &[String]) -> Result<String, String> {
        let (follow, texts) = match arguments.split_first() {
            Some((first, rest)) if first.starts_with("--") => {
                if !first.eq_ignore_ascii_case("--follow-symbolic-links") {
                    return Err(format!(
                        "Invalid glob option {first}, available option: '--follow-symbolic-links'."
                    ));
                }
                (true, rest)
            }
            _ => (false, arguments),
        };
        let patterns = patterns(texts, &self.workspace)
            .map_err(|error| format!("hashFiles('{}') failed. {error}", texts.join(", ")))?;
        let files = self.files(follow)?;
        if files.len().saturating_mul(patterns.len()) > COMPARISONS {
            return Err("hashFiles: too many files and patterns".to_owned());
        }
        let mut hasher = Sha256::new();
        let mut found = false;
        let mut seen = BTreeSet::new();
        for start in starts(&patterns) {
            for (path, real) in files
                .iter()
                .filter(|(path, _)| path.inside(&start).is_some() || *path == start)
            {
                if !matches(&patterns, path) || !seen.insert(path) {
                    continue;
                }
                if let Some(digest) = self.digest_of(real, follow)? {
                    hasher.update(digest);
                    found = true;
                }
            }
        }
        Ok(if found {
            hex::encode(hasher.finalize())
        } else {
            String::new()
        })
    }

    /// Files and links by the path under which they are found, in order, with the path they have.
    fn files(&self, follow: bool) -> Result<Vec<(Key, Key)>, String> {
        let mut found = Vec::new();
        self.below(
            &Key::new(""),
            &Key::new(""),
            follow,
            &mut vec![Key::new("")],
            &mut found,
        )?;
        found.sort();
        Ok(found)
    }

    fn below(
        &self,
        real: &Key,
        seen_as: &Key,
        follow: bool,
        chain: &mut Vec<Key>,
        found: &mut Vec<(Key, Key)>,
    ) -> Result<(), String> {
        for (key, entry) in self.entries.range(real..) {
            if key == real {
                continue;
            }
            let Some(rest) = key.inside(real) else { break };
            let path = if seen_as.0.is_empty() {
                Key(rest.to_owned())
            } else {
                Key(format!("{}\0{rest}", seen_as.0))
            };
            if *entry == Entry::Folder {
                continue;
            }
            if found.len() >= ENTRIES || path.0.len() as u64 > PATH {
                return Err(format!("hashFiles: links make more than {ENTRIES} files"));
            }
            let target = if follow && matches!(entry, Entry::Link(_)) {
                self.resolve(key)
            } else {
                None
            };
            match target.filter(|target| !matches!(self.entries.get(target), Some(Entry::File(_))))
            {
                Some(folder) if chain.contains(&folder) || chain.len() > LINKS => {}
                Some(folder) => {
                    chain.push(folder.clone());
                    self.below(&folder, &path, follow, chain, found)?;
                    chain.pop();
                }
                None => found.push((path, key.clone())),
            }
        }
        Ok(())
    }

    /// The digest of a file, also behind links; none for a link to a folder, and for a broken one if
    /// links are followed.
    fn digest_of(&self, key: &Key, follow: bool) -> Result<Option<Sha>, String> {
        let target = self.resolve(key);
        match target.as_ref().map(|target| self.entries.get(target)) {
            Some(Some(Entry::File(digest))) => Ok(Some(*digest)),
            Some(_) => Ok(None),
            None if follow => Ok(None),
            None => Err(format!(
                "hashFiles: '{}' is a link that leads nowhere, or out of the workspace",
                key.path()
            )),
        }
    }

    /// Where a path leads when links are followed, if that is in the workspace and there.
    fn resolve(&self, key: &Key) -> Option<Key> {
        let mut names: Vec<String> = key.names().into_iter().rev().map(str::to_owned).collect();
        let mut at: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(name) = names.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    at.pop()?;
                    continue;
                }
                _ => at.push(name),
            }
            let here = Key(at.join("\0"));
            if let Some(Entry::Link(target)) = self.entries.get(&here) {
                links += 1;
                if links > LINKS {
                    return None;
                }
                at.pop();
                let inside = match target.strip_prefix('/') {
                    None => target.as_str(),
                    Some(_) => {
                        at.clear();
                        let rest = target.strip_prefix(&self.workspace)?;
                        rest.strip_prefix('/').or(rest.is_empty().then_some(rest))?
                    }
                };
                names.extend(inside.split('/').rev().map(str::to_owned));
            }
        }
        let key = Key(at.join("\0"));
        (key.0.is_empty() || self.entries.contains_key(&key)).then_some(key)
    }
}

/// Where the search begins, in the order of the patterns; a start inside another is none.
fn starts(patterns: &[Pattern]) -> Vec<Key> {
    let all: Vec<Key> = patterns
        .iter()
        .filter(|pattern| !pattern.negate)
        .map(|pattern| Key(pattern.literal().join("\0")))
        .collect();
    let mut starts = Vec::new();
    for key in &all {
        let inner = all
            .iter()
            .any(|other| other != key && key.inside(other).is_some());
        if !inner && !starts.contains(key) {
            starts.push(key.clone());
        }
    }
    starts
}

/// Whether a file is left after all patterns, in order.
fn matches(patterns: &[Pattern], path: &Key) -> bool {
    let names = path.names();
    patterns.iter().fold(false, |matched, pattern| {
        if matched == pattern.negate && pattern.matches(&names) {
            !pattern.negate
        } else {
            matched
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::fake::FakeSandbox;

    fn sha(content: &str) -> Sha {
        Sha256::digest(content).into()
    }

    /// As the official runner: the hash of the hashes.
    fn expected(contents: &[&str]) -> String {
        let digests: Vec<u8> = contents.iter().flat_map(|content| sha(content)).collect();
        hex::encode(Sha256::digest(digests))
    }

    async fn example() -> FileIndex {
        let fake = FakeSandbox::new();
        for (path, content) in [
            ("/w/a-b/lock", "1"),
            ("/w/a/lock", "2"),
            ("/w/lock", "3"),
            ("/w/z/.hidden", "4"),
            ("/w/node_modules/x/lock", "5"),
            ("/other/lock", "6"),
        ] {
            fake.put(path, content);
        }
        index(&fake, "/w").await.unwrap()
    }

    fn hash(index: &FileIndex, patterns: &[&str]) -> String {
        let patterns: Vec<String> = patterns.iter().map(|&text| text.to_owned()).collect();
        index.hash(&patterns).unwrap()
    }

    #[tokio::test]
    async fn files_are_hashed_in_the_order_of_folders_and_names() {
        let index = example().await;
        assert_eq!(hash(&index, &["**/lock"]), expected(&["2", "1", "3", "5"]));
        assert_eq!(
            hash(&index, &["**/lock", "!node_modules"]),
            expected(&["2", "1", "3"])
        );
        assert_eq!(
            hash(&index, &["!node_modules", "**/lock"]),
            expected(&["2", "1", "3", "5"])
        );
        assert_eq!(hash(&index, &["z", "lock"]), expected(&["4", "3"]));
        assert_eq!(hash(&index, &["lock\na/*"]), expected(&["3", "2"]));
        assert_eq!(
            hash(&index, &["a/*", "**/lock"]),
            expected(&["2", "1", "3", "5"])
        );
        assert_eq!(hash(&index, &["none", "/other/lock"]), "");
        assert!(
            index
                .hash(&["--x".to_owned()])
                .unwrap_err()
                .contains("Invalid glob option")
        );
        assert!(
            index
                .hash(&["../x".to_owned()])
                .unwrap_err()
                .contains("'..' is not allowed")
        );
    }

    #[tokio::test]
    async fn a_workspace_that_is_not_there_is_an_error() {
        let error = index(&FakeSandbox::new(), "/w").await.unwrap_err();
        assert!(error.contains("no such file"), "{error}");
    }

    fn tar_of(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn link(tar: &mut tar::Builder<Vec<u8>>, path: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, path, target).unwrap();
    }

    fn folder(tar: &mut tar::Builder<Vec<u8>>, path: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        tar.append_data(&mut header, path, io::empty()).unwrap();
    }

    fn file(tar: &mut tar::Builder<Vec<u8>>, path: &str, content: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content.as_bytes())
            .unwrap();
    }

    #[test]
    fn links_are_hashed_by_what_they_lead_to_and_folders_behind_them_only_when_asked() {
        let long = format!("deep/{}", "x".repeat(150));
        let bytes = tar_of(|tar| {
            folder(tar, "real");
            file(tar, "real/a", "1");
            file(tar, &long, "9");
            link(tar, "file", "real/../real/a");
            link(tar, "folder", "/w/real");
            link(tar, "real/loop", "..");
            link(tar, "out", "/etc/passwd");
            link(tar, "up", "../../x");
        });
        let index = read(&bytes[..], "/w").unwrap();
        assert_eq!(hash(&index, &["file"]), expected(&["1"]));
        assert_eq!(hash(&index, &["folder"]), "");
        assert_eq!(
            hash(&index, &["--follow-symbolic-links", "folder/a"]),
            expected(&["1"])
        );
        assert_eq!(hash(&index, &["deep"]), expected(&["9"]));
        for outside in ["out", "up"] {
            let error = index.hash(&[outside.to_owned()]).unwrap_err();
            assert!(error.contains("out of the workspace"), "{error}");
            assert_eq!(hash(&index, &["--follow-symbolic-links", outside]), "");
        }
    }

    #[test]
    fn a_hostile_stream_is_refused() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        let error = read(&header.as_bytes()[..], "/w").unwrap_err();
        assert!(error.to_string().contains("longer than"), "{error}");
        let mut bytes = tar_of(|tar| file(tar, "a", "content"));
        bytes.truncate(515);
        assert!(read(&bytes[..], "/w").is_err());
        assert!(read(&[7_u8; 2000][..], "/w").is_err());
        assert!(plain(b"a/../../b").is_err());
    }
}
