//! One entry: which commit or image it stands for, by the lock or by the source.

use super::graph::{FetchedPin, PinnedImage, Wrong};
use super::locks::LockedAction;
use super::{Resolver, Unknown};
use crate::action::fetch::{FetchError, fetch};
use crate::action::image::ImageReference;
use crate::action::lockfile::{PinKey, Resolution};
use crate::action::reference::{ActionKey, RepositoryName, is_commit_id};
use crate::action::registry::RegistryError;
use crate::action::source::{Named, SourceError};
use crate::printable;

/// Why an entry has no pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) wrong: Wrong,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(wrong: Wrong, message: impl Into<String>) -> Self {
        let message = printable::line(&message.into());
        Self { wrong, message }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let wrong = match &error {
            error if error.is_tampering() => Wrong::Tampered,
            FetchError::Source(error) => of_source(error),
            _ => Wrong::Unreachable,
        };
        Self::new(wrong, error.to_string())
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::new(of_source(&error), error.to_string())
    }
}

fn of_source(error: &SourceError) -> Wrong {
    match error {
        SourceError::Foreign { .. }
        | SourceError::Unproven { .. }
        | SourceError::Missing { .. } => Wrong::Unverifiable,
        SourceError::Other { .. } => Wrong::Tampered,
        _ => Wrong::Unreachable,
    }
}

/// Fails where a reference names a commit, and the lock has another one for it.
fn named_as_locked(key: &ActionKey, locked: &LockedAction) -> Result<(), Failure> {
    let (reference, commit) = (key.reference(), locked.commit);
    if !is_commit_id(reference) || reference.eq_ignore_ascii_case(&commit.hex()) {
        return Ok(());
    }
    let message = format!(
        "the lock has the commit {commit} for `{key}`, which names another one: the lock file \
         was changed by hand; look at its history"
    );
    Err(Failure::new(Wrong::Tampered, message))
}

impl Resolver {
    /// The commit of an action or reusable workflow, with its content in the store.
    pub(super) async fn action(
        &self,
        repository: &RepositoryName,
        key: &ActionKey,
    ) -> Result<FetchedPin, Failure> {
        let update = self.update.takes(&PinKey::Action(key.clone()));
        let known = self.locks.action(key).or_else(|| self.remembered(key));
        match known.filter(|_| !update) {
            Some(locked) if self.offline => self.by_lock(repository, key, locked),
            None if self.offline => Err(Failure::new(
                Wrong::Unpinned,
                format!("`{key}` is not in the lock files; run `mayfly pin`"),
            )),
            Some(locked) => self.locked(repository, key, locked).await,
            None => self.looked_up(repository, key).await,
        }
    }

    /// What the lock says, as it is: only that it says one thing can be looked at.
    fn by_lock(
        &self,
        repository: &RepositoryName,
        key: &ActionKey,
        locked: LockedAction,
    ) -> Result<FetchedPin, Failure> {
        named_as_locked(key, &locked)?;
        let (tree, content) = locked.proof.ok_or_else(|| {
            let message = format!(
                "mayfly.lock does not know the content of `{key}` at {}; run `mayfly pin`",
                locked.commit
            );
            Failure::new(Wrong::Stale, message)
        })?;
        let here = || self.here();
        Ok(FetchedPin {
            repository: repository.clone(),
            commit: locked.commit,
            tree,
            content,
            version: locked.version,
            locked: true,
            resolved: locked.resolved.unwrap_or_else(here),
            moved: None,
            unasked: None,
        })
    }

    /// What a reference stood for when it was seen before.
    fn remembered(&self, key: &ActionKey) -> Option<LockedAction> {
        let commit = *self.remembered.commits.get(key)?;
        Some(LockedAction {
            commit,
            proof: None,
            version: key.reference().to_owned(),
            resolved: None,
            other: None,
        })
    }

    async fn locked(
        &self,
        repository: &RepositoryName,
        key: &ActionKey,
        locked: LockedAction,
    ) -> Result<FetchedPin, Failure> {
        let (reference, commit) = (key.reference(), locked.commit);
        let named = is_commit_id(reference);
        named_as_locked(key, &locked)?;
        let content = locked.proof.map(|(_, content)| content);
        let upstream = &*self.upstream;
        let proven = fetch(upstream, &self.store, repository, commit, content).await?;
        if let Some((tree, _)) = locked.proof
            && tree != proven.tree
        {
            let message = format!(
                "{commit} has the tree {}, and {tree} is locked: the lock file was changed by hand; \
                 look at its history",
                proven.tree
            );
            return Err(Failure::new(Wrong::Tampered, message));
        }
        let (moved, unasked) = match named || !self.ask {
            true => (None, None),
            false => self.moved(repository, reference, &locked).await,
        };
        Ok(FetchedPin {
            repository: repository.clone(),
            commit,
            tree: proven.tree,
            content: proven.content,
            version: locked.version,
            locked: content.is_some(),
            resolved: locked.resolved.unwrap_or_else(|| self.here()),
            moved,
            unasked,
        })
    }

    /// What a locked reference stands for now, if that is something else.
    async fn moved(
        &self,
        repository: &RepositoryName,
        reference: &str,
        locked: &LockedAction,
    ) -> (Option<Named>, Option<String>) {
        match self.upstream.find(repository, reference).await {
            Ok(Some(named)) => (
                Some(named).filter(|named| named.commit != locked.commit),
                None,
            ),
            Ok(None) => {
                let why = format!("{repository} has no tag or branch `{reference}` any more");
                (None, Some(why))
            }
            Err(error) => (None, Some(printable::line(&error.to_string()))),
        }
    }

    async fn looked_up(
        &self,
        repository: &RepositoryName,
        key: &ActionKey,
    ) -> Result<FetchedPin, Failure> {
        let reference = key.reference();
        if self.unknown == Unknown::Refuse && !is_commit_id(reference) {
            let message = format!("`{key}` is not in the lock; run `mayfly pin`");
            return Err(Failure::new(Wrong::Unpinned, message));
        }
        let (named, unasked) = self.named(repository, reference).await?;
        let (upstream, commit) = (&*self.upstream, named.commit);
        // What names a commit needs no lock, so no tag or branch of that name may take its place.
        if is_commit_id(reference) && !reference.eq_ignore_ascii_case(&commit.hex()) {
            let from = upstream.name();
            let message = format!(
                "`{key}` names a commit, and {from} gives {commit} for it; do not use this source until you \
                 know why"
            );
            return Err(Failure::new(Wrong::Tampered, message));
        }
        let proven = fetch(upstream, &self.store, repository, commit, None).await?;
        Ok(FetchedPin {
            repository: repository.clone(),
            commit,
            tree: proven.tree,
            content: proven.content,
            version: named.version,
            resolved: self.here(),
            locked: false,
            moved: None,
            unasked,
        })
    }

    /// The commit of a reference. One that names a commit which is in the store needs no answer.
    async fn named(
        &self,
        repository: &RepositoryName,
        reference: &str,
    ) -> Result<(Named, Option<String>), Failure> {
        let why = match self.upstream.find(repository, reference).await {
            Ok(Some(named)) => return Ok((named, None)),
            Ok(None) => {
                let from = self.upstream.name();
                let message = format!(
                    "{repository} has no tag or branch `{reference}` at {from}; correct the reference"
                );
                return Err(Failure::new(Wrong::Unverifiable, message));
            }
            Err(why) => why,
        };
        let commit = reference.to_ascii_lowercase().parse().ok();
        match commit.filter(|commit| self.store.proven(repository, *commit).is_some()) {
            Some(commit) => {
                let version = reference.to_owned();
                Ok((
                    Named { commit, version },
                    Some(printable::line(&why.to_string())),
                ))
            }
            None => Err(why.into()),
        }
    }

    /// The digests of an image.
    pub(super) async fn image(&self, image: &ImageReference) -> Result<PinnedImage, Failure> {
        let known = |digest: &str| PinnedImage {
            digest: digest.to_owned(),
            platforms: Vec::new(),
            config: None,
            resolved: None,
            locked: true,
            moved: None,
            unasked: None,
        };
        if let Some(digest) = &image.digest {
            return Ok(known(digest));
        }
        let key = image.key();
        let update = self.update.takes(&PinKey::Image(key.clone()));
        let locked = self.locks.image(&key).map(|locked| PinnedImage {
            platforms: locked.platforms,
            config: locked.config,
            resolved: Some(locked.resolved),
            ..known(&locked.digest)
        });
        let remembered = || {
            let digest = self.remembered.images.get(&key)?;
            Some(PinnedImage {
                locked: false,
                ..known(digest)
            })
        };
        match locked.filter(|_| !update).or_else(remembered) {
            Some(pin) => Ok(self.image_now(image, pin).await),
            None => self.looked_up_image(image).await,
        }
    }

    /// A known image, and whether its tag stands for it still.
    async fn image_now(&self, image: &ImageReference, pin: PinnedImage) -> PinnedImage {
        let given = self.given_images.contains(&image.lock_key());
        let registries = self.registries.as_ref();
        let now = match registries.filter(|_| self.ask && !given) {
            Some(registries) => registries.digest(image).await,
            None => return pin,
        };
        let (moved, unasked) = match now {
            Ok(digest) => (Some(digest).filter(|digest| *digest != pin.digest), None),
            Err(error) => (None, Some(printable::line(&error.to_string()))),
        };
        PinnedImage {
            moved,
            unasked,
            ..pin
        }
    }

    async fn looked_up_image(&self, image: &ImageReference) -> Result<PinnedImage, Failure> {
        let registries = self
            .registries
            .as_ref()
            .filter(|_| self.unknown == Unknown::Resolve)
            .filter(|_| !self.given_images.contains(&image.lock_key()));
        let Some(registries) = registries else {
            let message = format!(
                "the image `{image}` has no digest and is not in the lock; run `mayfly pin`, or write \
                 `{image}@sha256:…`"
            );
            return Err(Failure::new(Wrong::Unpinned, message));
        };
        let found = registries.resolve(image).await.map_err(|error| {
            let wrong = match &error {
                RegistryError::Missing { .. } => Wrong::Unverifiable,
                RegistryError::Other { .. } => Wrong::Tampered,
                RegistryError::Failed { .. } => Wrong::Unreachable,
            };
            Failure::new(wrong, error.to_string())
        })?;
        Ok(PinnedImage {
            digest: found.digest,
            platforms: found.platforms,
            config: found.config,
            resolved: Some(Resolution {
                at: self.now.clone(),
                from: image.registry.clone(),
            }),
            locked: false,
            moved: None,
            unasked: None,
        })
    }

    /// Now, from the source of this resolver.
    fn here(&self) -> Resolution {
        Resolution {
            at: self.now.clone(),
            from: self.upstream.name().to_owned(),
        }
    }
}
