//! GitHub as the source: its API by octocrab, with a token or without, also of an Enterprise Server.
//!
//! The API does not hand out commit objects; they are put together from what it tells of a commit and
//! taken only if they hash to the commit's id.

mod body;
mod object;
mod request;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::SecretString;
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::{Answer, Archive, Commit, Named, Numbers, Refs, SourceError, Upstream, version};
use crate::action::archive::Layout;
use crate::action::digest::CommitId;
use crate::action::reference::{RepositoryName, is_commit_id};
use crate::action::tree::{Listing, Submodules};
use object::ApiCommit;
use request::Api;

/// The API of github.com.
pub const GITHUB_API: &str = "https://api.github.com";
/// How many pages of 100 tags are looked through for the name of a commit.
const TAG_PAGES: usize = 10;
/// How many branches are asked whether they hold a commit.
const BRANCHES: usize = 10;
/// How many annotated tags may stand for each other.
const TAG_CHAIN: usize = 5;

/// GitHub's API.
pub struct GitHub {
    api: Api,
    known: Mutex<HashMap<String, Arc<Repository>>>,
}

/// What was learned of a repository: it is the same from the first question to the last.
struct Repository {
    numbers: Numbers,
    default_branch: String,
    tags: OnceCell<Refs>,
    /// Commits that a tag or branch of this repository was seen to hold.
    held: Mutex<HashSet<CommitId>>,
}

#[derive(Deserialize)]
struct ApiRepository {
    id: u64,
    owner: ApiOwner,
    default_branch: String,
}

#[derive(Deserialize)]
struct ApiOwner {
    id: u64,
}

#[derive(Deserialize)]
struct ApiRef {
    object: ApiObject,
}

#[derive(Deserialize)]
struct ApiObject {
    sha: String,
    #[serde(rename = "type")]
    kind: String,
}

/// A tag or a branch in a listing.
#[derive(Deserialize)]
struct ApiNamed {
    name: String,
    commit: ApiSha,
}

#[derive(Deserialize)]
struct ApiSha {
    sha: String,
}

#[derive(Deserialize)]
struct ApiCompared {
    status: String,
}

#[derive(Deserialize)]
struct ApiTree {
    tree: Vec<ApiEntry>,
    truncated: bool,
}

#[derive(Deserialize)]
struct ApiEntry {
    path: String,
    mode: String,
    sha: String,
}

impl GitHub {
    /// The API at a URL, asked with a token or without.
    ///
    /// # Errors
    /// [`SourceError::Api`] for a URL that is not https: and not of this machine.
    pub fn open(url: &str, token: Option<SecretString>) -> Result<Self, SourceError> {
        Ok(Self {
            api: Api::new(url, token)?,
            known: Mutex::default(),
        })
    }

    async fn repository(&self, name: &RepositoryName) -> Result<Arc<Repository>, SourceError> {
        if let Some(known) = lock(&self.known).get(&name.key()) {
            return Ok(Arc::clone(known));
        }
        let found: Option<ApiRepository> = self.api.get(name, "").await?;
        let found = found.ok_or_else(|| self.api.missing(name))?;
        let repository = Arc::new(Repository {
            numbers: Numbers {
                owner: found.owner.id,
                repository: found.id,
            },
            default_branch: found.default_branch,
            tags: OnceCell::new(),
            held: Mutex::default(),
        });
        Ok(Arc::clone(
            lock(&self.known).entry(name.key()).or_insert(repository),
        ))
    }

    /// The commit of a tag or branch.
    async fn tip(
        &self,
        name: &RepositoryName,
        reference: &str,
    ) -> Result<Option<CommitId>, SourceError> {
        for kind in ["tags", "heads"] {
            let path = format!("/git/ref/{kind}/{}", request::path(reference));
            let found: Option<ApiRef> = self.api.get(name, &path).await?;
            let Some(ApiRef { mut object }) = found else {
                continue;
            };
            for _ in 0..TAG_CHAIN {
                if object.kind != "tag" {
                    break;
                }
                let path = format!("/git/tags/{}", request::path(&object.sha));
                let tag: Option<ApiRef> = self.api.get(name, &path).await?;
                object = tag
                    .ok_or_else(|| self.api.failed(name, "a tag has no object"))?
                    .object;
            }
            if object.kind == "commit" {
                return self.api.id(name, &object.sha).map(Some);
            }
        }
        Ok(None)
    }

    /// The tags of a repository, the newest thousand.
    async fn tags<'a>(
        &self,
        name: &RepositoryName,
        repository: &'a Repository,
    ) -> Result<&'a Refs, SourceError> {
        repository
            .tags
            .get_or_try_init(|| self.all_tags(name))
            .await
    }

    async fn all_tags(&self, name: &RepositoryName) -> Result<Refs, SourceError> {
        let mut tags = BTreeMap::new();
        for page in 1..=TAG_PAGES {
            let path = format!("/tags?per_page=100&page={page}");
            let found: Vec<ApiNamed> = self.api.get(name, &path).await?.unwrap_or_default();
            let last = found.len() < 100;
            tags.extend(found.into_iter().map(|tag| (tag.name, tag.commit.sha)));
            if last {
                break;
            }
        }
        let branches = BTreeMap::new();
        Ok(Refs { tags, branches })
    }

    /// Whether a tag or branch of the repository holds a commit. GitHub gives commits of forks, too,
    /// under the name of the repository.
    async fn holds(
        &self,
        name: &RepositoryName,
        repository: &Repository,
        commit: CommitId,
    ) -> Result<bool, SourceError> {
        if lock(&repository.held).contains(&commit) {
            return Ok(true);
        }
        let id = commit.hex();
        let holds = self.tags(name, repository).await?.best(&id).is_some()
            || self
                .in_branch(name, &repository.default_branch, &id)
                .await?
            || self.in_branches(name, repository, &id).await?;
        if holds {
            lock(&repository.held).insert(commit);
        }
        Ok(holds)
    }

    async fn in_branches(
        &self,
        name: &RepositoryName,
        repository: &Repository,
        id: &str,
    ) -> Result<bool, SourceError> {
        let branches: Option<Vec<ApiNamed>> = self.api.get(name, "/branches?per_page=100").await?;
        let branches = branches.unwrap_or_default();
        if branches.iter().any(|branch| branch.commit.sha == id) {
            return Ok(true);
        }
        let others = branches
            .iter()
            .filter(|branch| branch.name != repository.default_branch);
        for branch in others.take(BRANCHES) {
            if self.in_branch(name, &branch.name, id).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a branch holds a commit: it is the commit, or ahead of it.
    async fn in_branch(
        &self,
        name: &RepositoryName,
        branch: &str,
        id: &str,
    ) -> Result<bool, SourceError> {
        // Only the first page has the files that differ, and nobody needs them.
        let path = format!(
            "/compare/{id}...{}?per_page=1&page=2",
            request::path(branch)
        );
        let compared: Option<ApiCompared> = self.api.get(name, &path).await?;
        Ok(compared.is_some_and(|found| matches!(found.status.as_str(), "ahead" | "identical")))
    }
}

impl Upstream for GitHub {
    fn name(&self) -> &str {
        self.api.base()
    }

    fn find<'a>(
        &'a self,
        name: &'a RepositoryName,
        reference: &'a str,
    ) -> Answer<'a, Option<Named>> {
        Box::pin(async move {
            let repository = self.repository(name).await?;
            // A tag could have the name of a commit; what looks like one means it.
            let commit = match is_commit_id(reference) {
                true => self.api.id(name, &reference.to_ascii_lowercase())?,
                false => {
                    let Some(commit) = self.tip(name, reference).await? else {
                        return Ok(None);
                    };
                    lock(&repository.held).insert(commit);
                    commit
                }
            };
            // A full version is as exact as a name can be.
            let version = match version(reference) {
                Some(_) => reference.to_owned(),
                None => {
                    let tags = self.tags(name, &repository).await?;
                    tags.best(&commit.hex()).unwrap_or(reference).to_owned()
                }
            };
            Ok(Some(Named { commit, version }))
        })
    }

    fn fetch<'a>(
        &'a self,
        name: &'a RepositoryName,
        commit: CommitId,
    ) -> Answer<'a, Box<dyn Commit + 'a>> {
        Box::pin(async move {
            let repository = self.repository(name).await?;
            if !self.holds(name, &repository, commit).await? {
                let (repository, commit) = (name.to_string(), commit.hex());
                return Err(SourceError::Foreign { repository, commit });
            }
            let commit = GitHubCommit {
                github: self,
                name,
                commit,
            };
            Ok(Box::new(commit) as Box<dyn Commit + 'a>)
        })
    }

    fn numbers<'a>(&'a self, name: &'a RepositoryName) -> Answer<'a, Option<Numbers>> {
        Box::pin(async move { Ok(Some(self.repository(name).await?.numbers)) })
    }
}

impl GitHubCommit<'_> {
    /// All folders and files; nothing if the API does not list them all.
    async fn tree(&self) -> Result<Option<Vec<ApiEntry>>, SourceError> {
        let path = format!("/git/trees/{}?recursive=1", self.commit);
        let tree: Option<ApiTree> = self.github.api.get(self.name, &path).await?;
        Ok(tree.filter(|tree| !tree.truncated).map(|tree| tree.tree))
    }
}

/// A commit that GitHub has.
struct GitHubCommit<'a> {
    github: &'a GitHub,
    name: &'a RepositoryName,
    commit: CommitId,
}

impl Commit for GitHubCommit<'_> {
    fn object(&self) -> Answer<'_, Vec<u8>> {
        Box::pin(async move {
            let path = format!("/git/commits/{}", self.commit);
            let found: Option<ApiCommit> = self.github.api.get(self.name, &path).await?;
            let found = found.ok_or_else(|| self.github.api.missing(self.name))?;
            found
                .object(self.commit)
                .ok_or_else(|| SourceError::Unproven {
                    repository: self.name.to_string(),
                    commit: self.commit.hex(),
                })
        })
    }

    fn archive(&self) -> Answer<'_, Archive> {
        Box::pin(async move {
            let path = format!("/tarball/{}", self.commit);
            let stream = self.github.api.stream(self.name, &path).await?;
            let layout = Layout::TopFolder;
            Ok(Archive { stream, layout })
        })
    }

    fn submodules(&self) -> Answer<'_, Submodules> {
        Box::pin(async move {
            let (api, name) = (&self.github.api, self.name);
            let tree = self.tree().await?.ok_or_else(|| {
                api.failed(
                    name,
                    "it does not list the whole tree; use `--mirror https://github.com`",
                )
            })?;
            let submodules = tree.into_iter().filter(|entry| entry.mode == "160000");
            submodules
                .map(|entry| Ok((entry.path.into_bytes(), api.id(name, &entry.sha)?)))
                .collect()
        })
    }

    fn listing(&self) -> Answer<'_, Option<Listing>> {
        Box::pin(async move {
            let tree = self.tree().await?.unwrap_or_default();
            let files = tree.iter().filter(|entry| entry.mode != "040000");
            let files = files.map(|entry| {
                (
                    entry.mode.as_str(),
                    entry.sha.as_str(),
                    entry.path.as_bytes(),
                )
            });
            Ok(Listing::new(files))
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for GitHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GitHub").field(&self.api.base()).finish()
    }
}

impl fmt::Debug for GitHubCommit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GitHubCommit").field(&self.commit).finish()
    }
}
