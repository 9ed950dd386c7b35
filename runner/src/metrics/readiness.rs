//! What the supervisor lacks to take jobs.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The thing that no supervisor has when it starts: an answer from GitHub.
pub const GITHUB: &str = "github";
/// Lacking while the supervisor takes no new jobs because it was told to end.
pub const NOT_DRAINING: &str = "new jobs";

/// Things that are needed, with why they are not there. Ready when it is empty.
#[derive(Debug)]
pub struct Readiness {
    lacking: Mutex<BTreeMap<String, String>>,
}

impl Default for Readiness {
    fn default() -> Self {
        let github = (GITHUB.to_owned(), "no answer yet".to_owned());
        Self {
            lacking: Mutex::new(BTreeMap::from([github])),
        }
    }
}

impl Readiness {
    /// `what` is not there, because of `why`.
    pub fn lacks(&self, what: &str, why: &str) {
        self.lock().insert(what.to_owned(), why.to_owned());
    }

    /// `what` is there.
    pub fn has(&self, what: &str) {
        self.lock().remove(what);
    }

    /// All that is not there, a line each.
    #[must_use]
    pub fn lacking(&self) -> Vec<String> {
        let lines = self.lock();
        lines.iter().map(|(w, why)| format!("{w}: {why}")).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.lacking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
