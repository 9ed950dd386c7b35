//! A commit of a repository on its way into the store: the commit object is proven by the commit's id,
//! the tree by the commit object, the content by the tree, and by the lock where that knows it.

use tokio::{runtime::Handle, task::spawn_blocking};

use super::{
    archive::{ArchiveError, Expected, Limits, Pace, Paced},
    digest::{CommitError, CommitId, ContentDigest},
    reference::RepositoryName,
    source::{Commit, SourceError, Upstream},
    store::{ActionStore, AddError, HostError, Proven},
    tree::{Submodules, TreeError},
};

/// Why a commit did not come into the store. The store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The source did not answer, or does not hold the commit.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The commit object is not the commit's.
    #[error("{repository} at {commit}, from {from}: {why}")]
    Commit {
        /// The repository.
        repository: String,
        /// The commit.
        commit: CommitId,
        /// The source.
        from: String,
        /// What is wrong.
        #[source]
        why: CommitError,
    },
    /// The files are not what the commit or the lock says.
    #[error("{repository} at {commit}, from {from}: {why}")]
    Archive {
        /// The repository.
        repository: String,
        /// The commit.
        commit: CommitId,
        /// The source.
        from: String,
        /// What is wrong.
        #[source]
        why: Box<ArchiveError>,
    },
    /// The store knows the commit with another content than the lock.
    #[error(
        "{repository} at {commit} has the content {found}, and {expected} is locked: the lock file was \
         changed by hand, or made from something else; look at its history"
    )]
    Locked {
        /// The repository.
        repository: String,
        /// The commit.
        commit: CommitId,
        /// What the commit was proven to hold.
        found: ContentDigest,
        /// What the lock says.
        expected: ContentDigest,
    },
    /// This machine failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A thread of this process ended before its work.
    #[error("verifying {0} was broken off; run the command again")]
    Stopped(String),
}

impl FetchError {
    /// Whether something is not what it is said to be, rather than out of reach.
    #[must_use]
    pub fn is_tampering(&self) -> bool {
        match self {
            Self::Commit { .. } | Self::Locked { .. } => true,
            Self::Archive { why, .. } => !matches!(
                **why,
                ArchiveError::Read(_) | ArchiveError::Slow(_) | ArchiveError::Write(_)
            ),
            _ => false,
        }
    }
}

/// Brings a commit into the store, verified, and tells its tree and content. One that is there already
/// is not fetched again.
///
/// # Errors
/// [`FetchError`]; the store is then as it was.
pub async fn fetch(
    upstream: &dyn Upstream,
    store: &ActionStore,
    repository: &RepositoryName,
    commit: CommitId,
    locked: Option<ContentDigest>,
) -> Result<Proven, FetchError> {
    if let Some(proven) = store.proven(repository, commit) {
        return match locked.filter(|expected| *expected != proven.content) {
            None => Ok(proven),
            Some(expected) => Err(FetchError::Locked {
                repository: repository.to_string(),
                commit,
                found: proven.content,
                expected,
            }),
        };
    }
    let fetched = upstream.fetch(repository, commit).await?;
    let named = || {
        let from = upstream.name().to_owned();
        (repository.to_string(), commit, from)
    };
    let tree = commit.tree_in(&fetched.object().await?).map_err(|why| {
        let (repository, commit, from) = named();
        FetchError::Commit {
            repository,
            commit,
            from,
            why,
        }
    })?;
    let mut expected = Expected {
        commit: Some(commit),
        tree,
        content: locked,
        submodules: Submodules::new(),
    };
    let mut added = add(store, &*fetched, &expected, repository).await?;
    // Most have none, so the source is asked for them only where a folder is empty.
    if matches!(
        &added,
        Err(AddError::Archive(ArchiveError::Tree(
            TreeError::EmptyFolder(_)
        )))
    ) {
        expected.submodules = fetched.submodules().await?;
        added = add(store, &*fetched, &expected, repository).await?;
    }
    let content = match added {
        Ok(verified) => verified,
        Err(AddError::Host(error)) => return Err(error.into()),
        Err(AddError::Archive(mut why)) => {
            // Whether it says in what the archive differs or not: it is refused.
            if matches!(why, ArchiveError::OtherTree { .. })
                && let Ok(Some(listing)) = fetched.listing().await
            {
                why = why.explained(&listing);
            }
            let (repository, commit, from) = named();
            return Err(FetchError::Archive {
                repository,
                commit,
                from,
                why: Box::new(why),
            });
        }
    };
    let proven = Proven { tree, content };
    store.prove(repository, commit, proven)?;
    Ok(proven)
}

/// Verifies an archive in a thread that may block, while it comes.
async fn add(
    store: &ActionStore,
    commit: &dyn Commit,
    expected: &Expected,
    repository: &RepositoryName,
) -> Result<Result<ContentDigest, AddError>, FetchError> {
    let archive = commit.archive().await?;
    let (store, expected) = (store.clone(), expected.clone());
    let input = Paced::new(archive.stream, Handle::current(), Pace::default());
    let layout = archive.layout;
    spawn_blocking(move || store.add(input, layout, &expected, Limits::default()))
        .await
        .map(|added| added.map(|verified| verified.content))
        .map_err(|_| FetchError::Stopped(repository.to_string()))
}

#[cfg(test)]
mod tests;
