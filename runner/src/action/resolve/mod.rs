//! Follows references to the end: workflows, actions, composite actions, reusable workflows, and the
//! images of containers, services and Docker actions.
//!
//! What is fetched on the way is verified and kept in the store, and files are read from there. The
//! lock decides which commit a reference stands for; the source is asked only for what the lock does
//! not know, and whether a tag or branch still stands where it was locked. Nothing ends at the first
//! offender: the graph has them all.

mod check;
mod graph;
mod local;
mod locks;
mod pins;
mod put;
mod read;
mod shape;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::bytes::{ActionSource, NoActions};
use super::digest::CommitId;
use super::find::Found;
use super::lockfile::PinKey;
use super::reference::ActionKey;
use super::registry::Registries;
use super::source::Upstream;
use super::store::ActionStore;
use crate::checkout::Checkout;

pub use check::check;
pub use graph::{Entry, FetchedPin, Graph, Mention, Offender, Pin, PinnedImage, Wrong};
pub use locks::{LockedAction, Locks, LocksError};
pub use put::KnownNumbers;

/// How deep actions may use each other, and workflows call each other, as on GitHub.
pub const MAX_DEPTH: usize = 10;
/// How many actions, workflows and images one run may refer to.
pub const MAX_ENTRIES: usize = 1000;

/// What to do about a reference that the lock does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// Look it up.
    Resolve,
    /// Take it for unpinned unless it names a commit or a digest.
    Refuse,
}

/// Which entries are resolved anew although the lock knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Update {
    /// None.
    #[default]
    Nothing,
    /// All.
    All,
    /// Those with these keys, of these repositories (`owner/repo`) or images.
    Only(BTreeSet<String>),
}

/// A file to begin with, and its references.
#[derive(Clone, Debug)]
pub struct Root {
    /// Its path in the checkout, or another name for messages.
    pub file: String,
    /// Its references, as [`find`](super::find) gives them.
    pub found: Vec<Found>,
}

/// What references stood for when they were seen before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The commits of actions and workflows.
    pub commits: BTreeMap<ActionKey, CommitId>,
    /// The digests of images, by their keys.
    pub images: BTreeMap<String, String>,
}

/// What is done right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What was resolved last.
    pub name: String,
    /// How many entries are resolved.
    pub done: usize,
    /// How many are known so far.
    pub known: usize,
}

/// Told about progress.
pub type OnProgress = Arc<dyn Fn(&Progress) + Send + Sync>;

/// Follows references.
#[derive(Clone)]
pub struct Resolver {
    upstream: Arc<dyn Upstream>,
    store: ActionStore,
    locks: Arc<Locks>,
    checkout: Option<Arc<Checkout>>,
    unknown: Unknown,
    update: Update,
    ask: bool,
    given: Arc<dyn ActionSource>,
    remembered: Arc<Remembered>,
    given_images: Arc<BTreeSet<String>>,
    offline: bool,
    registries: Option<Registries>,
    now: String,
    progress: Option<OnProgress>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("upstream", &self.upstream)
            .field("store", &self.store)
            .field("unknown", &self.unknown)
            .field("update", &self.update)
            .field("ask", &self.ask)
            .finish_non_exhaustive()
    }
}

impl Resolver {
    /// A resolver that looks up what the locks do not know, and asks whether references moved.
    #[must_use]
    pub fn new(upstream: Arc<dyn Upstream>, store: ActionStore, locks: Locks) -> Self {
        let now = jiff::Timestamp::now();
        let now = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
        Self {
            upstream,
            store,
            locks: Arc::new(locks),
            checkout: None,
            unknown: Unknown::Resolve,
            update: Update::Nothing,
            ask: true,
            given: Arc::new(NoActions),
            remembered: Arc::default(),
            given_images: Arc::default(),
            offline: false,
            registries: None,
            now: now.to_string(),
            progress: None,
        }
    }

    /// With the checkout in which `./path` lies; without one such a reference is an offender.
    #[must_use]
    pub fn in_checkout(self, checkout: Option<Arc<Checkout>>) -> Self {
        Self { checkout, ..self }
    }

    /// With another treatment of references that the lock does not know.
    #[must_use]
    pub fn unknown(self, unknown: Unknown) -> Self {
        Self { unknown, ..self }
    }

    /// With entries to be resolved anew.
    #[must_use]
    pub fn update(self, update: Update) -> Self {
        Self { update, ..self }
    }

    /// Whether to ask the source where locked tags and branches stand now.
    #[must_use]
    pub fn ask(self, ask: bool) -> Self {
        Self { ask, ..self }
    }

    /// With actions that the person gives: what has bytes there needs no pin, and what it uses does.
    #[must_use]
    pub fn given(self, given: Arc<dyn ActionSource>) -> Self {
        Self { given, ..self }
    }

    /// With commits and digests that count where the lock knows none.
    #[must_use]
    pub fn remembering(self, remembered: Remembered) -> Self {
        let remembered = Arc::new(remembered);
        Self { remembered, ..self }
    }

    /// By the lock files alone: no source is asked, nothing is fetched, and what actions use in turn is what
    /// the lock says that they use.
    #[must_use]
    pub fn offline(self, offline: bool) -> Self {
        Self { offline, ..self }
    }

    /// With images that the person gives, by their keys: no registry is asked for them.
    #[must_use]
    pub fn given_images(self, keys: BTreeSet<String>) -> Self {
        let given_images = Arc::new(keys);
        Self {
            given_images,
            ..self
        }
    }

    /// With registries to ask about images; without, only the lock and the digest in a reference count.
    #[must_use]
    pub fn registries(self, registries: Registries) -> Self {
        let registries = Some(registries);
        Self { registries, ..self }
    }

    /// With somebody to be told about progress.
    #[must_use]
    pub fn on_progress(self, progress: OnProgress) -> Self {
        let progress = Some(progress);
        Self { progress, ..self }
    }

    /// Follows the references of some files to the end.
    pub async fn resolve(&self, roots: Vec<Root>) -> Graph {
        walk::Walk::new(self).run(roots).await
    }
}

impl Update {
    /// Whether an entry is to be resolved anew.
    #[must_use]
    pub fn takes(&self, key: &PinKey) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Only(names) => {
                let text = key.to_string();
                let short = text.strip_prefix("docker://").unwrap_or(&text);
                let repository = match key {
                    PinKey::Action(key) => key.parts().0.key(),
                    _ => short
                        .rsplit_once(':')
                        .map_or(short, |(name, _)| name)
                        .to_owned(),
                };
                [text.as_str(), short, repository.as_str()]
                    .into_iter()
                    .any(|name| names.contains(name))
            }
        }
    }
}

#[cfg(test)]
mod tests;
