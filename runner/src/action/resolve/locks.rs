//! Both lock files of a checkout, read as one.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::graph::{Graph, Pin};
use super::put::{action_pin, image_pin};
use crate::action::digest::{CommitId, ContentDigest, TreeId};
use crate::action::lockfile::{
    ACTIONS_LOCK, ActionsLock, Companion, ImagePin, LocalPin, LockfileError, MAX_BYTES,
    MAYFLY_LOCK, PinKey, Resolution,
};
use crate::action::reference::ActionKey;

/// What the lock files of a checkout say.
#[derive(Clone, Debug, Default)]
pub struct Locks {
    /// GitHub's own.
    pub actions: Option<ActionsLock>,
    /// Mayfly's.
    pub companion: Option<Companion>,
}

/// What the lock says of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedAction {
    /// The commit.
    pub commit: CommitId,
    /// Its tree and content, where the companion knows them.
    pub proof: Option<(TreeId, ContentDigest)>,
    /// The commit's most exact name.
    pub version: String,
    /// When and from where it was resolved, where the companion knows it.
    pub resolved: Option<Resolution>,
    /// What the companion says where `actions.lock` has another commit.
    pub other: Option<CommitId>,
}

/// Why the lock files of a checkout cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocksError {
    /// One cannot be read.
    #[error("cannot read {}: {cause}; is it yours, and shorter than {MAX_BYTES} bytes?", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// One is not well formed.
    #[error(transparent)]
    Broken(#[from] LockfileError),
}

impl Locks {
    /// The lock files of a checkout; those that are there.
    ///
    /// # Errors
    /// [`LocksError`] if one is there and cannot be used.
    pub fn read(root: &Path) -> Result<Self, LocksError> {
        let actions = text(&root.join(ACTIONS_LOCK))?;
        let companion = text(&root.join(MAYFLY_LOCK))?;
        Ok(Self {
            actions: actions.map(|text| ActionsLock::parse(&text)).transpose()?,
            companion: companion.map(|text| Companion::parse(&text)).transpose()?,
        })
    }

    /// Whether there is no lock file.
    #[must_use]
    pub fn are_none(&self) -> bool {
        self.actions.is_none() && self.companion.is_none()
    }

    /// What the lock says of an action. Where the two files differ, GitHub's counts: other tools
    /// change it, and the companion knows the commit that it was written for.
    #[must_use]
    pub fn action(&self, key: &ActionKey) -> Option<LockedAction> {
        let own = self.companion.as_ref().and_then(|lock| lock.action(key));
        let github = self.actions.as_ref().and_then(|lock| lock.dependency(key));
        let own = own.and_then(|pin| {
            Some(LockedAction {
                commit: sha1(&pin.commit)?,
                proof: Some((
                    pin.tree.strip_prefix("sha1-")?.parse().ok()?,
                    content(&pin.content)?,
                )),
                version: pin.reference,
                resolved: Some(pin.resolved),
                other: None,
            })
        });
        let Some((github, commit)) =
            github.and_then(|pin| sha1(&pin.commit).map(|commit| (pin, commit)))
        else {
            return own;
        };
        match own {
            Some(own) if own.commit == commit => Some(own),
            own => Some(LockedAction {
                commit,
                proof: None,
                version: github.reference,
                resolved: None,
                other: own.map(|own| own.commit),
            }),
        }
    }

    /// Locks that know everything of a graph, and each commit by its id, too (`owner/repo@<commit>`): for
    /// files whose tags were rewritten to commits.
    #[must_use]
    pub fn knowing(graph: &Graph) -> Self {
        let mut companion = Companion::default();
        for (key, entry) in &graph.entries {
            match (key, &entry.pin) {
                (PinKey::Action(key), Some(Pin::Action(pin))) => {
                    let by_id = ActionKey::parse(&format!("{}@{}", pin.repository, pin.commit));
                    for key in by_id.iter().chain([key]) {
                        companion.set_action(key, &action_pin(pin, entry.uses.clone()));
                    }
                }
                (PinKey::Image(key), Some(Pin::Image(pin))) => {
                    if let Some(pin) = image_pin(pin) {
                        companion.set_image(key, &pin);
                    }
                }
                _ => {}
            }
        }
        Self {
            actions: None,
            companion: Some(companion),
        }
    }

    /// What the lock says of an image, by its key.
    #[must_use]
    pub fn image(&self, key: &str) -> Option<ImagePin> {
        self.companion.as_ref()?.image(key)
    }

    /// What the lock says of an action of the checkout.
    #[must_use]
    pub fn local(&self, path: &str) -> Option<LocalPin> {
        self.companion.as_ref()?.local(path)
    }

    /// Where the lock has an entry: the file and the line.
    #[must_use]
    pub fn place(&self, key: &PinKey) -> Option<(&'static str, usize)> {
        let own = self.companion.as_ref().and_then(|lock| lock.line(key));
        own.map(|line| (MAYFLY_LOCK, line)).or_else(|| {
            let PinKey::Action(key) = key else {
                return None;
            };
            Some((ACTIONS_LOCK, self.actions.as_ref()?.line(key)?))
        })
    }
}

fn sha1(text: &str) -> Option<CommitId> {
    text.strip_prefix("sha1-")?.parse().ok()
}

/// `sha256-…` of lock files as a digest.
fn content(text: &str) -> Option<ContentDigest> {
    text.replacen("sha256-", "sha256:", 1).parse().ok()
}

fn text(path: &Path) -> Result<Option<String>, LocksError> {
    let failed = |cause| LocksError::Read {
        path: path.to_owned(),
        cause,
    };
    match fs::metadata(path) {
        Ok(found) if found.len() > MAX_BYTES as u64 => Err(failed(io::Error::other(format!(
            "it has {} bytes",
            found.len()
        )))),
        Ok(_) => fs::read_to_string(path).map(Some).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(failed(cause)),
    }
}
