//! `hashFiles()`: the digests of the workspace's files, read once for a step that asks.
//!
//! A program in the guest that computed them could be replaced by an earlier step; so the guest packs
//! the workspace and the host hashes the stream as it comes. Nothing is unpacked, and entries, names,
//! bytes and time are bounded. What matches is decided on the host as `@actions/glob` does.

use std::{
    collections::BTreeMap,
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
/// Most looks at files, and files compared with patterns, of one call.
const WORK: usize = 20_000_000;
/// Deepest nesting of folders.
const DEPTH: usize = 256;
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

/// What one call of `hashFiles()` has done so far.
#[derive(Default)]
struct Work(usize);

impl Work {
    fn spend(&mut self, amount: usize) -> Result<(), String> {
        self.0 = self.0.saturating_add(amount);
        if self.0 > WORK {
            return Err("hashFiles: there are too many files, links or patterns".to_owned());
        }
        Ok(())
    }
}

impl Key {
    fn join(&self, name: &str) -> Key {
        if self.0.is_empty() || name.is_empty() {
            return Key(format!("{}{name}", self.0));
        }
        Key(format!("{}\0{name}", self.0))
    }

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

/// Whether a token holds a call of `hashFiles()`.
pub(super) fn is_asked_for_by(token: &TemplateToken) -> bool {
    holds_it(token)
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
                let key = Key::new(&path);
                bytes += add_parents(&mut entries, &key, PATHS.saturating_sub(bytes));
                entries.insert(key, found);
            }
        }
    }
    // What follows the last entry is read as well, or the sender would find nobody listening.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    let workspace = workspace.trim_end_matches('/').to_owned();
    Ok(FileIndex { workspace, entries })
}

/// Adds the folders around `key` that have no entry of their own, up to a number of bytes; how many
/// their names have.
fn add_parents(entries: &mut BTreeMap<Key, Entry>, key: &Key, limit: usize) -> usize {
    let mut bytes = 0;
    let mut at = key.0.as_str();
    while let Some((parent, _)) = at.rsplit_once('\0') {
        let key = Key(parent.to_owned());
        if bytes > limit || entries.contains_key(&key) {
            break;
        }
        bytes += parent.len();
        entries.insert(key, Entry::Folder);
        at = parent;
    }
    bytes
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
        let mut hasher = Sha256::new();
        let mut found = false;
        let mut work = Work::default();
        for start in starts(&patterns) {
            for (path, real) in self.search(&start, follow, &mut work)? {
                work.spend(patterns.len())?;
                if matches(&patterns, &path)
                    && let Some(digest) = self.digest_of(&real, follow)?
                {
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

    /// Files and links from `start` down, in order: the path under which each is found, and its own.
    fn search(
        &self,
        start: &Key,
        follow: bool,
        work: &mut Work,
    ) -> Result<Vec<(Key, Key)>, String> {
        let real = if follow {
            self.resolve(start)
        } else {
            self.resolve_but_last(start)
        };
        let mut found = Vec::new();
        match real {
            // As the official runner: a file in a folder's place is an error, a missing folder none.
            None if self.is_behind_a_file(start) => {
                let path = start.path();
                return Err(format!("hashFiles: '{path}' goes on behind a file"));
            }
            None => {}
            Some(real) if self.is_folder(&real) => {
                let mut chain = vec![real.clone()];
                self.walk((&real, start), follow, &mut chain, &mut found, work)?;
            }
            Some(real) => found.push((start.clone(), real)),
        }
        Ok(found)
    }

    /// Walks through the folder `real`, which was found as `path`; `chain` are the folders above it.
    fn walk(
        &self,
        (real, path): (&Key, &Key),
        follow: bool,
        chain: &mut Vec<Key>,
        found: &mut Vec<(Key, Key)>,
        work: &mut Work,
    ) -> Result<(), String> {
        for (key, entry) in self.entries.range(real..).filter(|(key, _)| *key != real) {
            work.spend(1)?;
            let Some(name) = key.inside(real) else { break };
            if name.contains('\0') {
                continue;
            }
            let path = path.join(name);
            let folder = match entry {
                Entry::Folder => Some(key.clone()),
                Entry::Link(_) if follow => self.resolve(key).filter(|key| self.is_folder(key)),
                _ => None,
            };
            match folder {
                None => found.push((path, key.clone())),
                // A circle of links.
                Some(folder) if follow && chain.contains(&folder) => {}
                Some(_) if chain.len() >= DEPTH => {
                    return Err(format!(
                        "hashFiles: folders are nested more than {DEPTH} deep"
                    ));
                }
                Some(folder) => {
                    chain.push(folder.clone());
                    self.walk((&folder, &path), follow, chain, found, work)?;
                    chain.pop();
                }
            }
        }
        Ok(())
    }

    fn is_folder(&self, key: &Key) -> bool {
        key.0.is_empty() || self.entries.get(key) == Some(&Entry::Folder)
    }

    fn is_behind_a_file(&self, key: &Key) -> bool {
        key.0.match_indices('\0').any(|(at, _)| {
            let above = self.resolve(&Key(key.0[..at].to_owned()));
            above.is_some_and(|above| !self.is_folder(&above))
        })
    }

    /// As [`Self::resolve`], but a link at the end stays one.
    fn resolve_but_last(&self, key: &Key) -> Option<Key> {
        let (parent, name) = key.0.rsplit_once('\0').unwrap_or(("", &key.0));
        let found = self.resolve(&Key(parent.to_owned()))?.join(name);
        (found.0.is_empty() || self.entries.contains_key(&found)).then_some(found)
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
mod tests;
