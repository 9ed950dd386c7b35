//! A stored action for a job: its small files read on the host, and the whole as a tar stream for the
//! sandbox; each time the whole is verified on the way.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::{self, BufWriter, Write},
    sync::{Mutex, PoisonError},
};

use super::{ActionStore, BUFFER, ReadError, whole};
use crate::action::{archive::ArchiveError, bytes::ActionBytes, digest::ContentDigest};

/// A stored action.
#[derive(Debug)]
pub struct StoredBytes {
    store: ActionStore,
    digest: ContentDigest,
    origin: String,
    /// Files that were asked for.
    known: Mutex<BTreeMap<String, Option<Vec<u8>>>>,
}

impl ActionStore {
    /// An action for a job; `origin` is where it is from, for the log.
    #[must_use]
    pub fn bytes(&self, digest: ContentDigest, origin: String) -> StoredBytes {
        StoredBytes {
            store: self.clone(),
            digest,
            origin,
            known: Mutex::default(),
        }
    }
}

fn invalid(error: ReadError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl ActionBytes for StoredBytes {
    fn origin(&self) -> String {
        self.origin.clone()
    }

    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.entry(path.to_owned()) {
            Entry::Occupied(known) => Ok(known.get().clone()),
            Entry::Vacant(free) => {
                let found = self
                    .store
                    .pick(self.digest, &[path], limit)
                    .map_err(invalid)?;
                Ok(free.insert(found.into_values().next()).clone())
            }
        }
    }

    fn write_tar(&self, sink: &mut dyn Write) -> io::Result<()> {
        let (path, file) = self.store.open(self.digest).map_err(invalid)?;
        let sink = BufWriter::with_capacity(BUFFER, sink);
        let written = whole(file, self.digest, &path, sink);
        written.map(drop).map_err(|error| match error {
            // Whoever reads hung up: the cause is theirs to tell.
            ReadError::Damaged { why, .. } if is_broken_pipe(&why) => {
                io::ErrorKind::BrokenPipe.into()
            }
            error => invalid(error),
        })
    }
}

fn is_broken_pipe(why: &ArchiveError) -> bool {
    matches!(why, ArchiveError::Write(cause) if cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::archive::{Layout, Limits, samples};

    #[test]
    fn files_are_read_and_one_damaged_later_gives_no_new_file_and_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let store = ActionStore::at(folder.path().to_owned());
        let archive = samples::ended(samples::honest());
        let (layout, limits) = (Layout::TopFolder, Limits::default());
        let added = store.add(&archive[..], layout, &samples::expected(), limits);
        let digest = added.unwrap().content;

        let bytes = store.bytes(digest, "here".to_owned());
        let manifest = bytes.read("action.yml", 1000).unwrap().unwrap();
        assert_eq!(manifest, b"name: honest\n");
        assert_eq!(bytes.read("none", 1000).unwrap(), None);
        assert!(bytes.read("start", 3).is_err());
        let mut tar = Vec::new();
        bytes.write_tar(&mut tar).unwrap();
        assert!(tar.ends_with(&[0; 1024]));

        let path = folder.path().join(digest.hex() + ".tar");
        let mut damaged = std::fs::read(&path).unwrap();
        damaged[520] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(bytes.read("action.yml", 1000).unwrap().unwrap(), manifest);
        let error = bytes.read("run.sh", 1000).unwrap_err().to_string();
        assert!(error.contains("is damaged"), "{error}");
        let mut tar = Vec::new();
        assert!(bytes.write_tar(&mut tar).is_err());
        assert!(!tar.ends_with(&[0; 1024]));
    }
}
