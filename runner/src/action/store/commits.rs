//! Which content a commit was proven to have, so that a commit that was seen once needs no source.

use std::{fs, io::Write, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{ADDING, ActionStore, HostError, remove};
use crate::action::digest::{CommitId, ContentDigest, TreeId};

/// What the name of a note ends with.
const NOTE: &str = ".commit";

/// The tree and the content of a commit, as they were proven when the action was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// The commit's tree.
    pub tree: TreeId,
    /// The content of that tree.
    pub content: ContentDigest,
}

impl ActionStore {
    /// What a commit was proven to be, if its action is still there.
    #[must_use]
    pub fn proven(&self, commit: CommitId) -> Option<Proven> {
        let note = fs::read(self.note(commit)).ok()?;
        let proven: Proven = serde_json::from_slice(&note).ok()?;
        self.contains(proven.content).then_some(proven)
    }

    /// Keeps what a commit was proven to be.
    ///
    /// # Errors
    /// [`HostError`] if it cannot be written.
    pub fn prove(&self, commit: CommitId, proven: Proven) -> Result<(), HostError> {
        let path = self.note(commit);
        let failed = |cause| HostError {
            step: "write",
            path: path.clone(),
            cause,
        };
        self.make()?;
        let note = serde_json::to_vec(&proven).map_err(|error| failed(error.into()))?;
        let mut file = tempfile::Builder::new()
            .prefix(ADDING)
            .tempfile_in(&self.folder)
            .map_err(failed)?;
        file.write_all(&note)
            .and_then(|()| file.as_file().sync_all())
            .map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// Removes what is known of commits whose actions are gone.
    pub(super) fn forget(&self) -> Result<(), HostError> {
        for (name, path) in self.files()? {
            let commit = name.strip_suffix(NOTE).and_then(|id| id.parse().ok());
            if commit.is_some_and(|commit| self.proven(commit).is_none()) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn note(&self, commit: CommitId) -> PathBuf {
        self.folder.join(commit.hex() + NOTE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::archive::{Layout, Limits, samples};

    #[test]
    fn a_commit_is_known_as_long_as_its_action_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = ActionStore::at(folder.path().to_owned());
        let archive = samples::ended(samples::honest());
        let expected = samples::expected();
        let (layout, limits) = (Layout::TopFolder, Limits::default());
        let content = store
            .add(&archive[..], layout, &expected, limits)
            .unwrap()
            .content;
        let commit: CommitId = samples::COMMIT.parse().unwrap();
        let proven = Proven {
            tree: expected.tree,
            content,
        };
        assert_eq!(store.proven(commit), None);
        store.prove(commit, proven).unwrap();
        assert_eq!(store.proven(commit), Some(proven));
        store.collect(std::time::Duration::from_secs(60)).unwrap();
        assert_eq!(store.proven(commit), Some(proven));
        store.collect(std::time::Duration::ZERO).unwrap();
        assert_eq!(store.proven(commit), None);
        assert_eq!(
            store
                .files()
                .unwrap()
                .iter()
                .filter(|(name, _)| name.ends_with(NOTE))
                .count(),
            0
        );
    }
}
