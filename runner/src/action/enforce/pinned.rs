//! Actions and workflows whose contents are known, given from the store and from nowhere else.

use std::{collections::HashMap, sync::Arc};

use super::{ImagePins, ImageRefused};
use crate::action::{
    bytes::{ActionBytes, ActionSource, SourceError, bundle},
    digest::CommitId,
    lockfile::PinKey,
    reference::{ActionKey, RepositoryReference},
    resolve::{Graph, Mention, Pin},
    store::{ActionStore, StoredBytes},
};

/// What may be used, by its contents.
#[derive(Debug)]
pub struct Pinned {
    given: Arc<dyn ActionSource>,
    stored: HashMap<ActionKey, Arc<StoredBytes>>,
    /// The commits of these, by `owner/repo@ref`.
    commits: Vec<(String, CommitId)>,
    /// Why others may not be used.
    refused: HashMap<ActionKey, String>,
    images: ImagePins,
}

impl Pinned {
    pub(super) fn new(
        given: Arc<dyn ActionSource>,
        store: &ActionStore,
        graph: &Graph,
        images: ImagePins,
    ) -> Self {
        let (mut stored, mut refused) = (HashMap::new(), HashMap::new());
        let mut commits = Vec::new();
        for (key, entry) in &graph.entries {
            let PinKey::Action(key) = key else { continue };
            if let Some(Pin::Action(pin)) = &entry.pin {
                let origin = format!("SHA:{}, {}", pin.commit, pin.content);
                let bytes = store.bytes(pin.content, origin);
                stored.insert(key.clone(), Arc::new(bytes));
                commits.push((
                    format!("{}@{}", pin.repository, key.reference()),
                    pin.commit,
                ));
            } else {
                let about =
                    |mention: &Mention| graph.offenders.iter().find(|o| o.mention == *mention);
                let why = entry.mentions.iter().find_map(about);
                let why = why.map_or("it is not pinned", |why| &why.message);
                refused.insert(key.clone(), why.to_owned());
            }
        }
        Self {
            given,
            stored,
            commits,
            refused,
            images,
        }
    }

    /// All references that were judged.
    pub fn keys(&self) -> impl Iterator<Item = &ActionKey> {
        self.stored.keys().chain(self.refused.keys())
    }

    /// What may be used, as `owner/repo@ref`, with its commits.
    #[must_use]
    pub fn commits(&self) -> &[(String, CommitId)] {
        &self.commits
    }
}

impl ActionSource for Pinned {
    fn image(&self, image: &str) -> Result<String, ImageRefused> {
        self.images.name(image)
    }

    fn refuses_unpinned(&self) -> bool {
        self.images.refuses_unpinned()
    }

    fn find(&self, reference: &RepositoryReference) -> Result<Arc<dyn ActionBytes>, SourceError> {
        if let Ok(given) = self.given.find(reference) {
            return Ok(given);
        }
        let key = reference.key();
        if let Some(stored) = self.stored.get(&key) {
            return Ok(Arc::clone(stored) as Arc<dyn ActionBytes>);
        }
        let reference = bundle(reference);
        Err(match self.refused.get(&key) {
            Some(why) => {
                let why = why.clone();
                SourceError::Refused { reference, why }
            }
            None => SourceError::Late(reference),
        })
    }
}
