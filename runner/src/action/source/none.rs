//! No source at all: what is not in the store cannot be had.

use super::{Answer, Commit, Named, SourceError, Upstream};
use crate::action::{digest::CommitId, reference::RepositoryName};

/// Answers nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoUpstream;

impl Upstream for NoUpstream {
    fn name(&self) -> &str {
        "no source"
    }

    fn find<'a>(&'a self, _: &'a RepositoryName, _: &'a str) -> Answer<'a, Option<Named>> {
        Box::pin(async { Err(SourceError::None) })
    }

    fn fetch<'a>(&'a self, _: &'a RepositoryName, _: CommitId) -> Answer<'a, Box<dyn Commit + 'a>> {
        Box::pin(async { Err(SourceError::None) })
    }
}
