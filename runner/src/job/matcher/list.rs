//! The problem matchers of a job, shared by its steps.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::config::MatcherConfig;

/// Patterns that the matchers of one job may have: each takes memory of the worker.
const MAX_PATTERNS: usize = 256;

/// More matchers than a job may have.
#[derive(Debug, thiserror::Error)]
#[error("The problem matchers of a job may have {MAX_PATTERNS} patterns in all; remove some first")]
pub(in crate::job) struct TooMany;

/// The matchers of a job. Clones share them.
#[derive(Debug, Clone, Default)]
pub(in crate::job) struct Matchers {
    state: Arc<Mutex<State>>,
}

/// A matcher of the list.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Grows with each that is added.
    pub(super) id: u64,
    pub(super) config: Arc<MatcherConfig>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Changes with every change.
    version: u64,
    entries: Vec<Entry>,
}

impl Matchers {
    /// Puts matchers before those that are there, in place of those with the same owners.
    pub(super) fn add(&self, matchers: Vec<MatcherConfig>) -> Result<(), TooMany> {
        let mut state = self.lock();
        let mut entries = Vec::with_capacity(matchers.len());
        for config in matchers {
            let (id, config) = (state.next, Arc::new(config));
            state.next += 1;
            entries.push(Entry { id, config });
        }
        let known = state.entries.iter();
        let kept = known.filter(|old| {
            let same = |new: &Entry| new.config.owner.eq_ignore_ascii_case(&old.config.owner);
            !entries.iter().any(same)
        });
        let kept: Vec<_> = kept.cloned().collect();
        entries.extend(kept);
        let patterns = entries.iter().map(|entry| entry.config.patterns.len());
        if patterns.sum::<usize>() > MAX_PATTERNS {
            return Err(TooMany);
        }
        state.entries = entries;
        state.version += 1;
        Ok(())
    }

    /// Takes matchers out, by their owners; gives the owners that were there.
    pub(super) fn remove(&self, owners: &[String]) -> Vec<String> {
        let mut state = self.lock();
        let (removed, kept) =
            std::mem::take(&mut state.entries)
                .into_iter()
                .partition(|entry: &Entry| {
                    let same = |owner: &String| owner.eq_ignore_ascii_case(&entry.config.owner);
                    owners.iter().any(same)
                });
        state.entries = kept;
        state.version += 1;
        let owner = |entry: Entry| entry.config.owner.clone();
        removed.into_iter().map(owner).collect()
    }

    /// The matchers in order if they changed since `version`, and their version now.
    pub(super) fn changed_since(&self, version: u64) -> Option<(Vec<Entry>, u64)> {
        let state = self.lock();
        (state.version != version).then(|| (state.entries.clone(), state.version))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The list is whole at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
