//! Which content a commit was proven to have, so that a commit that was seen once needs no source.

use std::{collections::BTreeSet, fs, io::Write, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{ADDING, ActionStore, HostError, remove};
use crate::action::{
    digest::{CommitId, ContentDigest, TreeId},
    reference::RepositoryName,
};

/// What the name of a note ends with.
const NOTE: &str = ".commit";

/// A note on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    #[serde(flatten)]
    proven: Proven,
    /// The repositories that were seen to hold the commit, in lower case.
    repositories: BTreeSet<String>,
}

/// The tree and the content of a commit, as they were proven when the action was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// The commit's tree.
    pub tree: TreeId,
    /// The content of that tree.
    pub content: ContentDigest,
}

impl ActionStore {
    /// What a commit was proven to be, if its action is still there and this repository was seen to
    /// hold it: a commit of a fork must not pass for one of the repository.
    #[must_use]
    pub fn proven(&self, repository: &RepositoryName, commit: CommitId) -> Option<Proven> {
        let note = self.read_note(commit)?;
        note.repositories
            .contains(&repository.key())
            .then_some(note.proven)
    }

    fn read_note(&self, commit: CommitId) -> Option<Note> {
        let note = fs::read(self.note(commit)).ok()?;
        let note: Note = serde_json::from_slice(&note).ok()?;
        self.contains(note.proven.content).then_some(note)
    }

    /// Keeps what a commit of a repository was proven to be.
    ///
    /// # Errors
    /// [`HostError`] if it cannot be written.
    pub fn prove(
        &self,
        repository: &RepositoryName,
        commit: CommitId,
        proven: Proven,
    ) -> Result<(), HostError> {
        let known = self.read_note(commit).filter(|note| note.proven == proven);
        let mut repositories = known.map(|note| note.repositories).unwrap_or_default();
        repositories.insert(repository.key());
        let note = Note {
            proven,
            repositories,
        };
        let path = self.note(commit);
        let failed = |cause| HostError {
            step: "write",
            path: path.clone(),
            cause,
        };
        self.make()?;
        // While it is held, nobody takes the new file for one that a crash left.
        let lock = self.lock()?;
        lock.lock_shared().map_err(failed)?;
        let note = serde_json::to_vec(&note).map_err(|error| failed(error.into()))?;
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
            if commit.is_some_and(|commit| self.read_note(commit).is_none()) {
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
    fn many_prove_commits_while_others_add_and_sweep() {
        let folder = tempfile::tempdir().unwrap();
        let work = |_| {
            let store = ActionStore::at(folder.path().to_owned());
            std::thread::spawn(move || {
                let archive = samples::ended(samples::honest());
                let expected = samples::expected();
                let tool = RepositoryName::parse("octo/tool").unwrap();
                for _ in 0..40 {
                    let (layout, limits) = (Layout::TopFolder, Limits::default());
                    let added = store.add(&archive[..], layout, &expected, limits);
                    let (content, tree) = (added.unwrap().content, expected.tree);
                    let commit = samples::COMMIT.parse().unwrap();
                    store
                        .prove(&tool, commit, Proven { tree, content })
                        .unwrap();
                }
            })
        };
        let threads: Vec<_> = (0..6).map(work).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }

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
        let [tool, fork] =
            ["Octo/tool", "evil/tool"].map(|name| RepositoryName::parse(name).unwrap());
        assert_eq!(store.proven(&tool, commit), None);
        store.prove(&tool, commit, proven).unwrap();
        assert_eq!(store.proven(&tool, commit), Some(proven));
        assert_eq!(store.proven(&fork, commit), None);
        store.prove(&fork, commit, proven).unwrap();
        store.collect(std::time::Duration::from_secs(60)).unwrap();
        assert_eq!(store.proven(&tool, commit), Some(proven));
        store.collect(std::time::Duration::ZERO).unwrap();
        assert_eq!(store.proven(&tool, commit), None);
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
