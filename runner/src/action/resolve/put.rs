//! What was resolved, put into both lock files: what stays the same stays byte for byte.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::{Entry, FetchedPin, Graph, Pin, PinnedImage};
use super::locks::Locks;
use crate::action::lockfile::{
    ActionPin, ActionsLock, Companion, Dependency, ImagePin, LocalPin, PinKey,
};
use crate::action::reference::{ActionKey, is_commit_id, is_workflow_path};
use crate::action::source::Numbers;

/// GitHub's numbers of repositories, by their keys (`owner/repo` in lower case).
pub type KnownNumbers = BTreeMap<String, Numbers>;

impl Locks {
    /// Puts what was resolved. Workflows that are `gone` are taken away, and with them what nobody uses
    /// any more. Tells why a workflow that GitHub's format could hold was left as it is there.
    pub fn put(
        &mut self,
        graph: &Graph,
        numbers: &KnownNumbers,
        gone: &BTreeSet<String>,
    ) -> Vec<String> {
        let (own, github) = (self.companion.is_some(), self.actions.is_some());
        let mut companion = self.companion.take().unwrap_or_default();
        put_companion(&mut companion, graph, gone);
        let mut actions = self.actions.take().unwrap_or_default();
        let left = put_actions(&mut actions, graph, numbers, gone);
        // A file that was there stays, even if nothing is left to lock.
        self.companion = Some(companion).filter(|lock| own || !lock.is_empty());
        self.actions = Some(actions).filter(|lock| github || !lock.is_empty());
        left
    }

    /// The numbers that GitHub's lock file holds already.
    #[must_use]
    pub fn numbers(&self) -> KnownNumbers {
        let Some(lock) = &self.actions else {
            return KnownNumbers::new();
        };
        let entry = |key: ActionKey| {
            let found = lock.dependency(&key)?;
            let numbers = Numbers {
                owner: found.owner_id,
                repository: found.repo_id,
            };
            Some((key.parts().0.key(), numbers))
        };
        lock.dependencies().filter_map(entry).collect()
    }

    /// Paths of all workflows that the lock files hold.
    #[must_use]
    pub fn workflows(&self) -> BTreeSet<String> {
        let own = self.companion.iter().flat_map(Companion::workflows);
        let github = self.actions.iter().flat_map(ActionsLock::workflows);
        own.chain(github).map(str::to_owned).collect()
    }
}

fn put_companion(lock: &mut Companion, graph: &Graph, gone: &BTreeSet<String>) {
    for (path, keys) in &graph.roots {
        let keys: Vec<PinKey> = keys
            .iter()
            .filter(|key| is_kept(graph, key))
            .cloned()
            .collect();
        match keys.is_empty() {
            true => lock.remove_workflow(path),
            false if lock.workflow(path).as_ref() == Some(&keys) => {}
            false => lock.set_workflow(path, &keys),
        }
    }
    for path in gone {
        lock.remove_workflow(path);
    }
    for (key, entry) in &graph.entries {
        let uses = entry
            .uses
            .iter()
            .filter(|key| is_kept(graph, key))
            .cloned()
            .collect();
        match (key, &entry.pin) {
            (PinKey::Action(key), Some(Pin::Action(pin))) => {
                lock.set_action(key, &action_pin(pin, uses));
            }
            (PinKey::Image(key), Some(Pin::Image(pin))) => {
                if let Some(pin) = image_pin(pin) {
                    lock.set_image(key, &pin);
                }
            }
            (PinKey::Local(path), Some(Pin::Local(digest))) => {
                let content = digest.map(|digest| format!("sha256-{}", digest.hex()));
                lock.set_local(path, &LocalPin { content, uses });
            }
            _ => {}
        }
    }
    lock.prune();
}

/// An action as the companion holds it.
pub(super) fn action_pin(pin: &FetchedPin, uses: Vec<PinKey>) -> ActionPin {
    ActionPin {
        reference: pin.version.clone(),
        commit: format!("sha1-{}", pin.commit),
        tree: format!("sha1-{}", pin.tree),
        content: format!("sha256-{}", pin.content.hex()),
        uses,
        resolved: pin.resolved.clone(),
    }
}

/// An image as the companion holds it; nothing for one that is pinned where it is named.
pub(super) fn image_pin(pin: &PinnedImage) -> Option<ImagePin> {
    let resolved = pin.resolved.clone()?;
    Some(ImagePin {
        digest: pin.digest.clone(),
        platforms: pin.platforms.clone(),
        config: pin.config.clone(),
        resolved,
    })
}

/// Whether an entry has a place in the lock: it has a pin, and needs one. An image that is named by
/// its digest is pinned where it is named.
pub(super) fn is_kept(graph: &Graph, key: &PinKey) -> bool {
    match graph.pin(key) {
        Some(Pin::Image(pin)) => pin.resolved.is_some(),
        pin => pin.is_some(),
    }
}

/// Puts the workflows that GitHub's format can hold: in its folder, with no action by a path of the
/// workspace.
fn put_actions(
    lock: &mut ActionsLock,
    graph: &Graph,
    numbers: &KnownNumbers,
    gone: &BTreeSet<String>,
) -> Vec<String> {
    let mut left = Vec::new();
    for (path, keys) in &graph.roots {
        let keys = if is_workflow_path(path) {
            eligible(graph, keys)
        } else {
            None
        };
        let Some(keys) = keys.filter(|keys| !keys.is_empty()) else {
            lock.remove_workflow(path);
            continue;
        };
        let number = |key: &&ActionKey| !numbers.contains_key(&key.parts().0.key());
        if let Some(unknown) = keys.iter().find(number) {
            let repository = unknown.parts().0;
            left.push(format!(
                "{path}: left as it is in actions.lock, which needs GitHub's number of {repository}, and a \
                 mirror does not tell it; mayfly.lock holds the workflow"
            ));
            continue;
        }
        lock.set_workflow(path, &keys);
        for key in &keys {
            let entry = graph.entries.get(&PinKey::Action(key.clone()));
            let numbers = numbers.get(&key.parts().0.key());
            if let (Some(entry), Some(numbers)) = (entry, numbers) {
                put_dependency(lock, key, entry, *numbers);
            }
        }
    }
    for path in gone {
        lock.remove_workflow(path);
    }
    lock.prune();
    left
}

fn put_dependency(lock: &mut ActionsLock, key: &ActionKey, entry: &Entry, numbers: Numbers) {
    let Some(pin) = entry.pin.as_ref().and_then(Pin::action) else {
        return;
    };
    let commit = format!("sha1-{}", pin.commit);
    let known = lock.dependency(key).filter(|known| known.commit == commit);
    let reference = match known {
        Some(known) => known.reference,
        None if is_commit_id(key.reference()) => pin.version.clone(),
        None => key.reference().to_owned(),
    };
    let dependency = Dependency {
        reference,
        commit,
        owner_id: numbers.owner,
        repo_id: numbers.repository,
        uses: entry.uses.iter().filter_map(action_key).collect(),
    };
    lock.set_dependency(key, &dependency);
}

/// The actions of a workflow, if GitHub's format can hold all that it depends on but images, which
/// no place is for: nothing for a workflow with an action by a path of the workspace, or without a pin.
fn eligible(graph: &Graph, keys: &[PinKey]) -> Option<Vec<ActionKey>> {
    for key in keys {
        let entry = graph.entries.get(key)?;
        let own = || {
            entry
                .mentions
                .iter()
                .all(|mention| mention.text.starts_with("$/"))
        };
        match key {
            PinKey::Local(_) if !own() => return None,
            PinKey::Action(_) if entry.pin.is_none() => return None,
            _ => {}
        }
    }
    Some(keys.iter().filter_map(action_key).collect())
}

fn action_key(key: &PinKey) -> Option<ActionKey> {
    match key {
        PinKey::Action(key) => Some(key.clone()),
        _ => None,
    }
}
