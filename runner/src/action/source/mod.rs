//! Where references are looked up: a mirror of git repositories.

mod git;

use std::collections::BTreeMap;

pub use git::{Fetched, GitMirror, SourceError};

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
