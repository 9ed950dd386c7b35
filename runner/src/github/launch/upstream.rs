//! The launch service as the source that says what references stand for. Commit objects, by which
//! archives are proven, come from GitHub's API or from a mirror.

use std::{fmt, sync::Arc};

use super::service::{DownloadInfo, Launch, LaunchError};
use crate::action::{
    archive::Layout,
    digest::CommitId,
    reference::{RepositoryName, is_commit_id},
    source::{Answer, Archive, Commit, Named, Numbers, SourceError, Upstream},
    tree::{Listing, Submodules},
};

/// Looks references up at the launch service.
#[derive(Debug)]
pub struct LaunchUpstream {
    launch: Launch,
    inner: Arc<dyn Upstream>,
    /// Whether archives are those that the service names.
    archives: bool,
}

impl LaunchUpstream {
    /// Takes commits from `inner`, and with `archives` their files from where the service says.
    #[must_use]
    pub fn new(launch: Launch, inner: Arc<dyn Upstream>, archives: bool) -> Self {
        Self {
            launch,
            inner,
            archives,
        }
    }

    fn failed(&self, repository: &RepositoryName, error: &LaunchError) -> SourceError {
        SourceError::GitHub {
            repository: repository.to_string(),
            from: self.inner.name().to_owned(),
            why: error.to_string(),
        }
    }
}

impl Upstream for LaunchUpstream {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn find<'a>(
        &'a self,
        repository: &'a RepositoryName,
        reference: &'a str,
    ) -> Answer<'a, Option<Named>> {
        Box::pin(async move {
            let info = self.launch.info(repository, reference).await;
            let info = info.map_err(|error| self.failed(repository, &error))?;
            let commit = info.commit;
            if is_commit_id(reference) && !reference.eq_ignore_ascii_case(&commit.hex()) {
                return Err(SourceError::Other {
                    repository: repository.to_string(),
                    commit: reference.to_owned(),
                    found: commit.hex(),
                });
            }
            let version = reference.to_owned();
            Ok(Some(Named { commit, version }))
        })
    }

    fn fetch<'a>(
        &'a self,
        repository: &'a RepositoryName,
        commit: CommitId,
    ) -> Answer<'a, Box<dyn Commit + 'a>> {
        Box::pin(async move {
            let inner = self.inner.fetch(repository, commit).await?;
            let info = self.launch.of_commit(repository, commit);
            let Some(info) = info.filter(|_| self.archives) else {
                return Ok(inner);
            };
            let commit = LaunchCommit {
                upstream: self,
                repository,
                inner,
                info,
            };
            Ok(Box::new(commit) as Box<dyn Commit + 'a>)
        })
    }

    fn numbers<'a>(&'a self, repository: &'a RepositoryName) -> Answer<'a, Option<Numbers>> {
        self.inner.numbers(repository)
    }
}

/// A commit whose archive the launch service named.
struct LaunchCommit<'a> {
    upstream: &'a LaunchUpstream,
    repository: &'a RepositoryName,
    inner: Box<dyn Commit + 'a>,
    info: Arc<DownloadInfo>,
}

impl fmt::Debug for LaunchCommit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LaunchCommit").field(&self.inner).finish()
    }
}

impl Commit for LaunchCommit<'_> {
    fn object(&self) -> Answer<'_, Vec<u8>> {
        self.inner.object()
    }

    fn archive(&self) -> Answer<'_, Archive> {
        Box::pin(async move {
            let stream = self.upstream.launch.archive(&self.info).await;
            let stream = stream.map_err(|error| self.upstream.failed(self.repository, &error))?;
            let layout = Layout::TopFolder;
            Ok(Archive { stream, layout })
        })
    }

    fn submodules(&self) -> Answer<'_, Submodules> {
        self.inner.submodules()
    }

    fn listing(&self) -> Answer<'_, Option<Listing>> {
        self.inner.listing()
    }
}
