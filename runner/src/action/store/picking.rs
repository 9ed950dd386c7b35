//! Single files of a stored action, taken from it while the whole is verified.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufReader, BufWriter, Read},
    path::PathBuf,
    thread,
};

use tar::EntryType;

use super::{ActionStore, BUFFER, HostError, ReadError, whole};
use crate::action::{archive::ArchiveError, digest::ContentDigest, reference::local_path};

/// How many links are followed from a name to its file.
const MAX_LINKS: usize = 5;

/// What one pass over an action found.
#[derive(Default)]
struct Picked {
    files: BTreeMap<String, Vec<u8>>,
    /// Where all links lead, by their paths.
    links: BTreeMap<String, String>,
}

/// Why a pass ended early.
enum PickError {
    Read(io::Error),
    Long(String),
}

impl ActionStore {
    /// Files of an action by their paths, those that it has; a path that is a symbolic link gives the
    /// file it leads to. The whole action is verified on the way.
    ///
    /// # Errors
    /// [`ReadError`] if the action is not there or damaged, or a file is longer than `limit`.
    pub fn pick(
        &self,
        digest: ContentDigest,
        paths: &[&str],
        limit: u64,
    ) -> Result<BTreeMap<String, Vec<u8>>, ReadError> {
        // What is still looked for, and the path that was asked for.
        let mut open: Vec<(String, &str)> = paths
            .iter()
            .map(|path| ((*path).to_owned(), *path))
            .collect();
        let mut found = BTreeMap::new();
        for _ in 0..=MAX_LINKS {
            if open.is_empty() {
                break;
            }
            let wanted = open.iter().map(|(path, _)| path.clone()).collect();
            let picked = self.pass(digest, &wanted, limit)?;
            let mut next = Vec::new();
            for (path, asked) in open {
                if let Some(content) = picked.files.get(&path) {
                    found.insert(asked.to_owned(), content.clone());
                } else if let Some(target) = picked.links.get(&path) {
                    next.extend(led(&path, target).map(|target| (target, asked)));
                }
            }
            open = next;
        }
        Ok(found)
    }

    fn pass(
        &self,
        digest: ContentDigest,
        wanted: &BTreeSet<String>,
        limit: u64,
    ) -> Result<Picked, ReadError> {
        let (path, file) = self.open(digest)?;
        let failed = |step, cause| {
            let path = path.clone();
            ReadError::Host(HostError { step, path, cause })
        };
        let (reader, writer) = io::pipe().map_err(|cause| failed("make a pipe to read", cause))?;
        let (verified, picked) = thread::scope(|scope| {
            let sink = BufWriter::with_capacity(BUFFER, writer);
            let place: &PathBuf = &path;
            let verifier = scope.spawn(move || whole(file, digest, place, sink));
            let picked = pick(BufReader::with_capacity(BUFFER, reader), wanted, limit);
            (verifier.join(), picked)
        });
        let verified =
            verified.map_err(|_| failed("verify", io::Error::other("a thread panicked")))?;
        match (picked, verified) {
            (Err(PickError::Long(name)), _) => Err(ReadError::Long {
                digest,
                name,
                limit,
            }),
            (Err(PickError::Read(cause)), Ok(_)) => Err(failed("read", cause)),
            (Err(PickError::Read(cause)), Err(ReadError::Damaged { why, .. }))
                if matches!(*why, ArchiveError::Write(_)) =>
            {
                Err(failed("read", cause))
            }
            (_, Err(error)) => Err(error),
            (Ok(picked), Ok(_)) => Ok(picked),
        }
    }
}

/// Reads a verified stream to its end and takes what is wanted.
fn pick(input: impl Read, wanted: &BTreeSet<String>, limit: u64) -> Result<Picked, PickError> {
    let mut picked = Picked::default();
    let mut archive = tar::Archive::new(input);
    for entry in archive.entries().map_err(PickError::Read)? {
        let mut entry = entry.map_err(PickError::Read)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        match entry.header().entry_type() {
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = String::from_utf8_lossy(&target).into_owned();
                picked.links.insert(name, target);
            }
            EntryType::Regular if wanted.contains(&name) => {
                if entry.size() > limit {
                    return Err(PickError::Long(name));
                }
                let mut content = Vec::new();
                entry.read_to_end(&mut content).map_err(PickError::Read)?;
                picked.files.insert(name, content);
            }
            _ => {}
        }
    }
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(PickError::Read)?;
    Ok(picked)
}

/// Where a link leads, from the top of the action.
fn led(link: &str, target: &str) -> Option<String> {
    let folder = link.rsplit_once('/').map_or("", |(folder, _)| folder);
    local_path(&format!("{folder}/{target}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::archive::{Layout, Limits, samples};

    #[test]
    fn files_are_taken_through_links_and_only_from_a_whole_action() {
        let folder = tempfile::tempdir().unwrap();
        let store = ActionStore::at(folder.path().to_owned());
        let archive = samples::ended(samples::honest());
        let expected = samples::expected();
        let (layout, limits) = (Layout::TopFolder, Limits::default());
        let digest = store
            .add(&archive[..], layout, &expected, limits)
            .unwrap()
            .content;
        let picked = store
            .pick(digest, &["action.yml", "start", "none"], 1000)
            .unwrap();
        let names: Vec<_> = picked.keys().map(String::as_str).collect();
        assert_eq!(names, ["action.yml", "start"]);
        let target = store.pick(digest, &["run.sh"], 1000).unwrap();
        assert_eq!(picked["start"], target["run.sh"]);
        let error = store.pick(digest, &["action.yml"], 1).unwrap_err();
        assert!(error.to_string().contains("longer than 1 bytes"), "{error}");

        let path = folder.path().join(digest.hex() + ".tar");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[520] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = store.pick(digest, &["none"], 1000).unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
    }
}
