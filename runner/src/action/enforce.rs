//! What a job may run: all that its files refer to, followed to the end and held against the lock files,
//! the history of this machine and a policy, before its first step.
//!
//! What comes out gives actions by their contents only: nothing after this looks a tag up.

mod given;
mod images;
mod pinned;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    bytes::ActionSource,
    history::{History, HistoryError, Memory, Moved, Seen, Sighting, Value},
    image_archives::ImageArchives,
    lockfile::PinKey,
    policy::PinPolicy,
    reference::is_commit_id,
    registry::Registries,
    resolve::{
        Entry, FetchedPin, Graph, Locks, Offender, Pin, PinnedImage, Remembered, Resolver, Root,
        Unknown, Wrong,
    },
    source::Upstream,
    store::ActionStore,
};
use crate::{checkout::Checkout, notice::Notice, printable};

pub use images::{ImagePins, ImageRefused};
pub use pinned::Pinned;

/// What references are held against.
#[derive(Clone, Debug)]
pub struct Enforcer {
    /// What must be known of them.
    pub policy: PinPolicy,
    /// Where what is not stored comes from, and where tags are looked up; nothing if none was named.
    pub upstream: Option<Arc<dyn Upstream>>,
    /// Whom to ask what images' tags stand for; nobody if none is given.
    pub registries: Option<Registries>,
    /// The actions of this machine.
    pub store: ActionStore,
    /// What was seen before.
    pub history: History,
    /// The lock files of the checkout.
    pub locks: Locks,
    /// The checkout.
    pub checkout: Option<Arc<Checkout>>,
    /// Actions that the person gives.
    pub given: Arc<dyn ActionSource>,
    /// Archives that the person gives for images.
    pub given_images: ImageArchives,
}

/// What was found of a job's references.
#[derive(Debug)]
pub struct Enforced {
    /// The actions, workflows and images that may be used.
    pub actions: Pinned,
    /// What is not what may run, in the order of the files.
    pub offenders: Vec<Offender>,
    /// Images whose given archives are something else, by their keys.
    pub refused_images: BTreeSet<String>,
    /// What else there is to say.
    pub notes: Vec<String>,
}

impl Enforced {
    /// How many references are wrong, by the kind of it as notices and metrics call it. One that many
    /// places name counts once.
    #[must_use]
    pub fn violations(&self) -> BTreeMap<&'static str, usize> {
        let wrong = |offender: &Offender| (kind(offender.wrong), offender.mention.text.clone());
        let all: BTreeSet<_> = self.offenders.iter().map(wrong).collect();
        let mut counts = BTreeMap::new();
        for (kind, _) in all {
            *counts.entry(kind).or_default() += 1;
        }
        counts
    }

    /// [`violations`](Self::violations) as a worker tells them: a notice for each.
    pub fn notices(&self) -> impl Iterator<Item = Notice> {
        let violations = self.violations().into_iter();
        violations.flat_map(|(kind, count)| {
            let kind = kind.to_owned();
            std::iter::repeat_n(Notice::PinViolation { kind }, count)
        })
    }
}

fn kind(wrong: Wrong) -> &'static str {
    match wrong {
        Wrong::Unpinned | Wrong::Stale => "unpinned",
        Wrong::Moved => "moved",
        Wrong::Tampered => "mismatch",
        Wrong::Later | Wrong::Unverifiable => "unverifiable",
        Wrong::Unreachable => "unreachable",
    }
}

impl Enforcer {
    /// Follows the references of files to the end, fetches what is missing, and judges.
    ///
    /// # Errors
    /// [`HistoryError`] if what was seen before is not known.
    pub async fn enforce(&self, roots: Vec<Root>) -> Result<Enforced, HistoryError> {
        let memory = self.history.read()?;
        let graph = self.resolver(&memory).resolve(roots).await;
        let sightings = self.sightings(&graph, &memory);
        let now = Timestamp::now();
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let moved = self.history.record(&sightings, now)?;
        let given = given::judge(&graph, &self.given_images).await;
        Ok(Enforced {
            offenders: self.offenders(&graph, &moved, given.offenders),
            refused_images: given.refused,
            notes: notes(&graph),
            actions: Pinned::new(
                Arc::clone(&self.given),
                &self.store,
                &graph,
                ImagePins::new(self.policy, images(&graph), self.locks.clone()),
            ),
        })
    }

    /// The images that are pinned where no file was followed: those of the lock files.
    #[must_use]
    pub fn locked_images(&self) -> ImagePins {
        ImagePins::new(self.policy, BTreeMap::new(), self.locks.clone())
    }

    fn resolver(&self, memory: &Memory) -> Resolver {
        let none = || Arc::new(super::source::NoUpstream) as Arc<dyn Upstream>;
        let upstream = self.upstream.clone().unwrap_or_else(none);
        let resolver = Resolver::new(upstream, self.store.clone(), self.locks.clone())
            .in_checkout(self.checkout.clone())
            .given(Arc::clone(&self.given))
            .given_images(self.given_images.keys())
            .ask(self.upstream.is_some() || self.registries.is_some());
        let resolver = match &self.registries {
            Some(registries) => resolver.registries(registries.clone()),
            None => resolver,
        };
        match self.policy {
            PinPolicy::Require => resolver.unknown(Unknown::Refuse),
            PinPolicy::LockOnFirstUse | PinPolicy::Audit => resolver
                .unknown(Unknown::Resolve)
                .remembering(remembered(memory)),
        }
    }

    /// Whether a lock file says what a reference stands for.
    fn is_locked(&self, key: &PinKey) -> bool {
        match key {
            PinKey::Action(key) => self.locks.action(key).is_some(),
            PinKey::Image(key) => self.locks.image(key).is_some(),
            PinKey::Local(_) => true,
        }
    }

    /// Where references stand now, and where lock files say that they stood.
    fn sightings(&self, graph: &Graph, memory: &Memory) -> Vec<Sighting> {
        let mut sightings = Vec::new();
        for (key, entry) in &graph.entries {
            let locked = self.is_locked(key);
            match &entry.pin {
                Some(Pin::Action(pin)) => of_action(key, pin, locked, memory, &mut sightings),
                Some(Pin::Image(pin)) => of_image(key, pin, locked, memory, &mut sightings),
                Some(Pin::Local(_)) | None => {}
            }
        }
        sightings
    }

    fn offenders(&self, graph: &Graph, moved: &[Moved], given: Vec<Offender>) -> Vec<Offender> {
        let counts = |offender: &&Offender| {
            // Looked at again when it is known: what a step of the checkout's own uses comes from
            // what is pinned here or not at all.
            offender.wrong != Wrong::Later && !self.is_given(graph, offender)
        };
        let mut offenders: Vec<_> = graph.offenders.iter().filter(counts).cloned().collect();
        offenders.extend(given);
        for moved in moved {
            let entry = graph
                .entries
                .iter()
                .find(|(key, _)| key.to_string() == moved.reference);
            if let Some((_, entry)) = entry {
                offenders.extend(trips(entry, moved));
            }
        }
        offenders.sort_by(|a, b| (&a.mention, a.wrong).cmp(&(&b.mention, b.wrong)));
        offenders.dedup();
        offenders
    }

    /// Whether an image has no digest, and the person gives it.
    fn is_given(&self, graph: &Graph, offender: &Offender) -> bool {
        let given = self.given_images.keys();
        let named = |(key, entry): (&PinKey, &Entry)| match key {
            PinKey::Image(key) => given.contains(key) && entry.mentions.contains(&offender.mention),
            _ => false,
        };
        offender.wrong == Wrong::Unpinned && graph.entries.iter().any(named)
    }
}

/// What counts where no lock file knows a reference.
fn remembered(memory: &Memory) -> Remembered {
    let mut remembered = Remembered::default();
    for (reference, seen) in memory.all() {
        match PinKey::parse(reference) {
            Some(PinKey::Action(key)) => {
                let commit = seen.value.commit.parse().ok();
                remembered
                    .commits
                    .extend(commit.map(|commit| (key, commit)));
            }
            Some(PinKey::Image(key)) => {
                remembered.images.insert(key, seen.value.commit.clone());
            }
            Some(PinKey::Local(_)) | None => {}
        }
    }
    remembered
}

fn of_action(
    key: &PinKey,
    pin: &FetchedPin,
    locked: bool,
    memory: &Memory,
    sightings: &mut Vec<Sighting>,
) {
    let value = Value {
        commit: pin.commit.hex(),
        content: Some(pin.content),
    };
    let moved = pin.moved.as_ref().map(|now| Value {
        commit: now.commit.hex(),
        content: None,
    });
    let named = matches!(key, PinKey::Action(key) if is_commit_id(key.reference()));
    let at = pin.resolved.at.parse().ok().filter(|_| locked);
    let seen = named || pin.unasked.is_none();
    sight(
        key,
        (value, &pin.resolved.from, at),
        moved,
        (seen, locked),
        memory,
        sightings,
    );
}

fn of_image(
    key: &PinKey,
    pin: &PinnedImage,
    locked: bool,
    memory: &Memory,
    sightings: &mut Vec<Sighting>,
) {
    let value = |commit: &String| Value {
        commit: commit.clone(),
        content: None,
    };
    let moved = pin.moved.as_ref().map(value);
    let (at, from) = match &pin.resolved {
        Some(resolved) => (resolved.at.parse().ok(), resolved.from.as_str()),
        None => (None, "the reference itself"),
    };
    let at = at.filter(|_| locked);
    let seen = pin.unasked.is_none();
    let known = (value(&pin.digest), from, at);
    sight(key, known, moved, (seen, locked), memory, sightings);
}

/// Notes what a reference stands for; one that moved after what it was locked as.
fn sight(
    key: &PinKey,
    (value, from, at): (Value, &str, Option<Timestamp>),
    moved: Option<Value>,
    (seen, locked): (bool, bool),
    memory: &Memory,
    sightings: &mut Vec<Sighting>,
) {
    let reference = key.to_string();
    let known = memory.known(&reference);
    let current = known.is_some_and(|known| known.value.commit == value.commit);
    let sighting = |value, locked, at| Sighting {
        reference: reference.clone(),
        value,
        from: from.to_owned(),
        locked,
        at,
    };
    match moved {
        Some(moved) => {
            if !current {
                sightings.push(sighting(value, locked, at));
            }
            sightings.push(sighting(moved, false, None));
        }
        None if seen => sightings.push(sighting(value, locked, None)),
        // Nobody looked, so this is no time at which it was seen; the first time it counts as one.
        None if !current => sightings.push(sighting(value, locked, at)),
        None => {}
    }
}

/// A reference that moved, at each place that names it.
fn trips<'a>(entry: &'a Entry, moved: &'a Moved) -> impl Iterator<Item = Offender> + 'a {
    let Moved {
        reference,
        before,
        now,
    } = moved;
    let seen = |seen: &Seen| {
        let Seen {
            first, last, from, ..
        } = seen;
        format!("first seen {first}, last {last}, at {from}")
    };
    let message = format!(
        "`{reference}` moved: it was {} ({}) and is {} now ({}); look at what changed: \
         `mayfly pin --update {reference}` takes the new one, and a reference that names the commit or \
         the digest itself never moves",
        before.value.commit,
        seen(before),
        now.value.commit,
        seen(now),
    );
    let message = printable::line(&message);
    entry.mentions.iter().map(move |mention| Offender {
        wrong: Wrong::Moved,
        mention: mention.clone(),
        message: message.clone(),
    })
}

fn notes(graph: &Graph) -> Vec<String> {
    let unasked = |(key, entry): (&PinKey, &Entry)| {
        let why = match entry.pin.as_ref()? {
            Pin::Action(pin) => pin.unasked.as_ref(),
            Pin::Image(pin) => pin.unasked.as_ref(),
            Pin::Local(_) => None,
        }?;
        Some(format!("whether {key} moved is not known: {why}"))
    };
    graph.entries.iter().filter_map(unasked).collect()
}

fn images(graph: &Graph) -> BTreeMap<String, String> {
    let image = |(key, entry): (&PinKey, &Entry)| match (key, entry.pin.as_ref()?) {
        (PinKey::Image(key), Pin::Image(pin)) => Some((key.clone(), pin.digest.clone())),
        _ => None,
    };
    graph.entries.iter().filter_map(image).collect()
}

#[cfg(test)]
mod tests;
