//! Where references are looked up and commits come from: a mirror of git repositories, or GitHub.
//!
//! Nothing that a source says is believed: a commit object is proven by the commit's id, and an
//! archive by the tree in that object.

mod error;
mod git;
mod github;
mod none;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;

use tokio::io::AsyncRead;

use super::archive::Layout;
use super::digest::CommitId;
use super::reference::RepositoryName;
use super::tree::{Listing, Submodules};

pub use error::SourceError;
pub use git::{Fetched, GitMirror};
pub use github::{GITHUB_API, GitHub};
pub use none::NoUpstream;

/// What a source answers, later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SourceError>> + Send + 'a>>;

/// A source of truth about repositories.
pub trait Upstream: fmt::Debug + Send + Sync {
    /// What it is called in lock files and messages: a URL or a folder.
    fn name(&self) -> &str;

    /// What a tag, a branch or a commit id stands for now; nothing if the repository has none of this
    /// name. Whether the repository holds the commit, [`fetch`](Self::fetch) tells.
    fn find<'a>(
        &'a self,
        repository: &'a RepositoryName,
        reference: &'a str,
    ) -> Answer<'a, Option<Named>>;

    /// A commit, which a tag or branch of the repository must hold.
    fn fetch<'a>(
        &'a self,
        repository: &'a RepositoryName,
        commit: CommitId,
    ) -> Answer<'a, Box<dyn Commit + 'a>>;

    /// GitHub's numbers of a repository, where the source knows them.
    fn numbers<'a>(&'a self, repository: &'a RepositoryName) -> Answer<'a, Option<Numbers>> {
        let _ = repository;
        Box::pin(async { Ok(None) })
    }
}

/// A commit and what it holds.
pub trait Commit: fmt::Debug + Send + Sync {
    /// The commit object: its hash is the commit's id, and it begins with the id of the tree.
    fn object(&self) -> Answer<'_, Vec<u8>>;

    /// All files, as a stream.
    fn archive(&self) -> Answer<'_, Archive>;

    /// The commits of submodules, which an archive does not tell.
    fn submodules(&self) -> Answer<'_, Submodules>;

    /// All files by their modes and ids, where the source can tell them: asked only to say in what an
    /// archive that was refused differs.
    fn listing(&self) -> Answer<'_, Option<Listing>> {
        Box::pin(async { Ok(None) })
    }
}

/// A commit by the names that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The commit.
    pub commit: CommitId,
    /// Its most exact name: the tag of a full version, else any tag, else what was asked for.
    pub version: String,
}

/// GitHub's numbers of a repository and its owner: they stay when names are given to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The owner's.
    pub owner: u64,
    /// The repository's.
    pub repository: u64,
}

/// An archive on its way.
pub struct Archive {
    /// A tar stream, packed with gzip or not.
    pub stream: Box<dyn AsyncRead + Send + Unpin>,
    /// Whether a folder is around the tree.
    pub layout: Layout,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive")
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

/// Tags and branches of a repository with the commits that they stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refs {
    /// Tags, annotated ones followed to their commit.
    pub tags: BTreeMap<String, String>,
    /// Branches.
    pub branches: BTreeMap<String, String>,
}

impl Refs {
    /// The commit of a tag, or of a branch where no tag has the name.
    #[must_use]
    pub fn commit(&self, name: &str) -> Option<&str> {
        let commit = self.tags.get(name).or_else(|| self.branches.get(name))?;
        Some(commit)
    }

    /// The most exact name of a commit: the tag of a full version, the newest first, else any tag, else
    /// a branch.
    #[must_use]
    pub fn best(&self, commit: &str) -> Option<&str> {
        let here = |refs: &'_ BTreeMap<String, String>| -> Vec<String> {
            let names = refs.iter().filter(|(_, at)| *at == commit);
            names.map(|(name, _)| name.clone()).collect()
        };
        let tags = here(&self.tags);
        let full = tags.iter().filter_map(|tag| Some((version(tag)?, tag)));
        let branches = here(&self.branches);
        let best = full
            .max()
            .map(|(_, tag)| tag)
            .or(tags.first())
            .or(branches.first())?;
        let known = self
            .tags
            .get_key_value(best)
            .or_else(|| self.branches.get_key_value(best))?;
        Some(known.0)
    }

    /// The full name of a tag or branch at a commit.
    fn tip(&self, commit: &str) -> Option<String> {
        let at = |(_, tip): &(&String, &String)| *tip == commit;
        let tag = self
            .tags
            .iter()
            .find(at)
            .map(|(name, _)| format!("refs/tags/{name}"));
        tag.or_else(|| {
            self.branches
                .iter()
                .find(at)
                .map(|(name, _)| format!("refs/heads/{name}"))
        })
    }
}

/// The numbers of `v1.2.3`; nothing for anything less or more.
fn version(tag: &str) -> Option<[u64; 3]> {
    let digits = tag.strip_prefix('v').unwrap_or(tag);
    let numbers: Vec<u64> = digits
        .split('.')
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    numbers.try_into().ok()
}

#[cfg(test)]
mod tests;
