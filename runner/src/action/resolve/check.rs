//! What was resolved, compared with the lock files: everything that `mayfly pin` would have to change,
//! and everything that is not what was locked.

use std::collections::BTreeSet;

use super::graph::{Entry, FetchedPin, Graph, Mention, Offender, Pin, PinnedImage, Wrong};
use super::locks::Locks;
use crate::action::lockfile::{ACTIONS_LOCK, MAYFLY_LOCK, PinKey};
use crate::action::reference::{ActionKey, is_commit_id};

/// All offenders of a graph against the locks; `whole` if all workflows of the checkout were resolved, so
/// that what nobody uses any more is an offender, too.
#[must_use]
pub fn check(graph: &Graph, locks: &Locks, whole: bool) -> Vec<Offender> {
    let mut offenders = graph.offenders.clone();
    for (key, entry) in &graph.entries {
        for (wrong, message) in entry_offends(locks, key, entry) {
            offenders.extend(entry.mentions.iter().map(|mention| Offender {
                wrong,
                mention: mention.clone(),
                message: message.clone(),
            }));
        }
    }
    if locks.companion.is_some() {
        offenders.extend(workflows(graph, locks));
    }
    if whole {
        offenders.extend(unused(graph, locks));
    }
    offenders.sort_by(|a, b| (&a.mention, a.wrong).cmp(&(&b.mention, b.wrong)));
    offenders
}

fn entry_offends(locks: &Locks, key: &PinKey, entry: &Entry) -> Vec<(Wrong, String)> {
    match (key, &entry.pin) {
        (PinKey::Action(key), Some(Pin::Action(pin))) => action(locks, key, pin),
        (PinKey::Image(key), Some(Pin::Image(pin))) => image(key, pin),
        (PinKey::Local(path), Some(Pin::Local(digest))) => {
            let Some(lock) = &locks.companion else {
                return Vec::new();
            };
            let digest = digest.map(|digest| format!("sha256-{}", digest.hex()));
            let why = match lock.local(path) {
                Some(locked) if locked.content == digest => return Vec::new(),
                Some(_) => "was changed since it was locked",
                None => "is not in mayfly.lock",
            };
            vec![(Wrong::Stale, format!("`./{path}` {why}; run `mayfly pin`"))]
        }
        _ => Vec::new(),
    }
}

fn action(locks: &Locks, key: &ActionKey, pin: &FetchedPin) -> Vec<(Wrong, String)> {
    let mut found = Vec::new();
    let locked = locks.action(key);
    let own = locks.companion.as_ref().and_then(|lock| lock.action(key));
    match &locked {
        None if !is_commit_id(key.reference()) => {
            let message =
                format!("`{key}` names no commit and is not in a lock file; run `mayfly pin`");
            found.push((Wrong::Unpinned, message));
        }
        None if !locks.are_none() => {
            let message = format!("`{key}` is not in the lock files; run `mayfly pin`");
            found.push((Wrong::Stale, message));
        }
        Some(locked) if locked.other.is_some() => {
            let other = locked.other.map(|other| other.hex()).unwrap_or_default();
            let message = format!(
                "`{key}` is {} in actions.lock and {other} in mayfly.lock; look at what changed, and run \
                 `mayfly pin`",
                locked.commit
            );
            found.push((Wrong::Stale, message));
        }
        Some(_) if locks.companion.is_some() && own.is_none() => {
            let message =
                format!("`{key}` is in actions.lock and not in mayfly.lock; run `mayfly pin`");
            found.push((Wrong::Stale, message));
        }
        _ => {}
    }
    if let Some(moved) = &pin.moved {
        let message = format!(
            "`{key}` was locked at {} ({}) and stands for {} ({}) now; look at what changed, then run \
             `mayfly pin --update {key}`",
            pin.commit, pin.version, moved.commit, moved.version
        );
        found.push((Wrong::Moved, message));
    }
    if let Some(why) = &pin.unasked {
        let message = format!("whether `{key}` moved is not known: {why}");
        found.push((Wrong::Unreachable, message));
    }
    found
}

fn image(key: &str, pin: &PinnedImage) -> Vec<(Wrong, String)> {
    let mut found = Vec::new();
    if !pin.locked {
        let message =
            format!("the image `{key}` has no digest and is not in mayfly.lock; run `mayfly pin`");
        found.push((Wrong::Unpinned, message));
    }
    if let Some(moved) = &pin.moved {
        let message = format!(
            "the image `{key}` was locked at {} and is {moved} now; `mayfly pin --update {key}` takes that",
            pin.digest
        );
        found.push((Wrong::Moved, message));
    }
    if let Some(why) = &pin.unasked {
        let message = format!("whether the image `{key}` moved is not known: {why}");
        found.push((Wrong::Unreachable, message));
    }
    found
}

/// Workflows whose lists in the lock are not what they depend on, where no entry tells that.
fn workflows(graph: &Graph, locks: &Locks) -> Vec<Offender> {
    let mut offenders = Vec::new();
    for (path, keys) in &graph.roots {
        let keys: BTreeSet<&PinKey> = keys.iter().filter(|key| belongs(graph, key)).collect();
        let lock = locks.companion.as_ref();
        let listed = lock
            .and_then(|lock| lock.workflow(path))
            .unwrap_or_default();
        let listed: BTreeSet<&PinKey> = listed.iter().collect();
        let failed = |key: &&PinKey| graph.pin(key).is_none() && !listed.contains(key);
        let keys: BTreeSet<&PinKey> = keys.into_iter().filter(|key| !failed(key)).collect();
        if keys != listed {
            let what = listed_otherwise(&keys, &listed);
            offenders.push(stale(
                path,
                1,
                path,
                format!("mayfly.lock {what}; run `mayfly pin`"),
            ));
        }
        let github = locks.actions.as_ref().and_then(|lock| lock.workflow(path));
        let Some(github) = github else { continue };
        let github: BTreeSet<PinKey> = github.into_iter().map(PinKey::Action).collect();
        let github: BTreeSet<&PinKey> = github.iter().collect();
        let actions: BTreeSet<&PinKey> = keys
            .into_iter()
            .filter(|key| matches!(key, PinKey::Action(_)))
            .collect();
        if actions != github {
            let what = listed_otherwise(&actions, &github);
            let message = format!("actions.lock {what}; run `mayfly pin`, or `gh actions-lock`");
            offenders.push(stale(path, 1, path, message));
        }
    }
    offenders
}

/// Whether the lock should list an entry. One without a pin is an offender itself, and may be listed.
fn belongs(graph: &Graph, key: &PinKey) -> bool {
    !matches!(graph.pin(key), Some(Pin::Image(pin)) if pin.resolved.is_none())
}

fn listed_otherwise(keys: &BTreeSet<&PinKey>, listed: &BTreeSet<&PinKey>) -> String {
    let names = |keys: Vec<&&PinKey>| {
        let names: Vec<String> = keys
            .into_iter()
            .take(5)
            .map(|key| format!("`{key}`"))
            .collect();
        names.join(", ")
    };
    let lacks = names(keys.difference(listed).collect());
    let extra = names(listed.difference(keys).collect());
    match (lacks.as_str(), extra.as_str()) {
        (lacks, "") => format!("does not list {lacks} for this file"),
        ("", extra) => format!("lists {extra} for this file, which does not use that any more"),
        (lacks, extra) => format!("lists {extra} for this file and not {lacks}"),
    }
}

/// Workflows of the lock that are not there any more.
fn unused(graph: &Graph, locks: &Locks) -> Vec<Offender> {
    let mut offenders = Vec::new();
    for path in locks.workflows() {
        if !graph.roots.contains_key(&path) {
            let own = locks.companion.as_ref();
            let file = match own.is_some_and(|lock| lock.workflow(&path).is_some()) {
                true => MAYFLY_LOCK,
                false => ACTIONS_LOCK,
            };
            let message =
                format!("`{path}` is in the lock and not in the checkout; run `mayfly pin`");
            offenders.push(stale(file, 1, &path, message));
        }
    }
    offenders
}

fn stale(file: &str, line: u32, text: &str, message: String) -> Offender {
    let mention = Mention {
        file: file.to_owned(),
        line,
        column: 1,
        text: text.to_owned(),
    };
    Offender {
        wrong: Wrong::Stale,
        mention,
        message,
    }
}
