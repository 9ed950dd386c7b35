//! What following references found: entries with their pins, where they are mentioned, and offenders.

use std::collections::BTreeMap;
use std::fmt;

use crate::action::digest::{CommitId, ContentDigest, TreeId};
use crate::action::lockfile::{PinKey, Resolution};
use crate::action::reference::RepositoryName;
use crate::action::source::Named;

/// Everything that some files refer to, followed to the end.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Entries by their keys.
    pub entries: BTreeMap<PinKey, Entry>,
    /// What each file that was begun with depends on, directly and through others.
    pub roots: BTreeMap<String, Vec<PinKey>>,
    /// All that cannot be followed or is not what it is said to be, in the order of the files.
    pub offenders: Vec<Offender>,
}

/// One entry: what `owner/repo@ref`, an image or a folder of the checkout stands for.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is known to be; nothing if an offender tells why not.
    pub pin: Option<Pin>,
    /// Where it is named.
    pub mentions: Vec<Mention>,
    /// What it uses itself.
    pub uses: Vec<PinKey>,
    /// How many files are between it and the one that was begun with: 0 if that names it.
    pub depth: usize,
}

/// What an entry is known to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// An action or a reusable workflow of another repository.
    Action(FetchedPin),
    /// An image.
    Image(PinnedImage),
    /// An action of the checkout, with the digest of its folder; none for the checkout's root.
    Local(Option<ContentDigest>),
}

/// A commit whose content is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedPin {
    /// The repository, as it is written first.
    pub repository: RepositoryName,
    /// The commit.
    pub commit: CommitId,
    /// Its tree.
    pub tree: TreeId,
    /// Its content, the name in the store.
    pub content: ContentDigest,
    /// The most exact name of the commit.
    pub version: String,
    /// When it was resolved, and from where.
    pub resolved: Resolution,
    /// Whether the lock had this commit and content already.
    pub locked: bool,
    /// What the reference stands for now, where that is another commit than the locked one.
    pub moved: Option<Named>,
    /// Why it is not known whether the reference moved.
    pub unasked: Option<String>,
}

/// An image with its digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedImage {
    /// What the tag stands for: an index of platforms, or one image. `sha256:…`.
    pub digest: String,
    /// The image of each platform.
    pub platforms: Vec<(String, String)>,
    /// The configuration of the image for sandboxes, where it is known.
    pub config: Option<String>,
    /// When it was resolved, and from where; nothing for a reference that names its digest.
    pub resolved: Option<Resolution>,
    /// Whether the lock had this digest already, or the reference names it.
    pub locked: bool,
    /// The digest that the tag stands for now, where that is another one.
    pub moved: Option<String>,
    /// Why it is not known whether the tag moved.
    pub unasked: Option<String>,
}

/// A place that names an entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mention {
    /// The file: a path of the checkout, or `owner/repo@ref:path`.
    pub file: String,
    /// 1-based line.
    pub line: u32,
    /// 1-based column, in characters.
    pub column: u32,
    /// What stands there.
    pub text: String,
}

/// What is wrong with a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wrong {
    /// It is not what it is said to be.
    Tampered,
    /// It stands for another commit or image than when it was locked.
    Moved,
    /// Nothing says which commit or image is meant.
    Unpinned,
    /// The lock is not that of these files.
    Stale,
    /// What it stands for is known only when the job runs.
    Later,
    /// What it stands for cannot be known.
    Unverifiable,
    /// The source did not answer.
    Unreachable,
}

/// Something that must not run as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offender {
    /// What is wrong.
    pub wrong: Wrong,
    /// Where it is named.
    pub mention: Mention,
    /// What was found, and what to do.
    pub message: String,
}

impl Wrong {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tampered => "tampered",
            Self::Moved => "moved",
            Self::Unpinned => "unpinned",
            Self::Stale => "stale",
            Self::Later | Self::Unverifiable => "unverifiable",
            Self::Unreachable => "unreachable",
        }
    }
}

impl Pin {
    /// The commit, of an action.
    #[must_use]
    pub fn action(&self) -> Option<&FetchedPin> {
        match self {
            Self::Action(pin) => Some(pin),
            _ => None,
        }
    }
}

impl Graph {
    /// The pin of an action or reusable workflow.
    #[must_use]
    pub fn action(&self, key: &crate::action::reference::ActionKey) -> Option<&FetchedPin> {
        self.pin(&PinKey::Action(key.clone()))?.action()
    }

    /// The pin of an entry.
    #[must_use]
    pub fn pin(&self, key: &PinKey) -> Option<&Pin> {
        self.entries.get(key)?.pin.as_ref()
    }
}

impl fmt::Display for Mention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl fmt::Display for Offender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}: {}",
            self.mention,
            self.wrong.word(),
            self.message
        )
    }
}
