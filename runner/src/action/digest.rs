//! Names by content: commits, git trees and canonical trees.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha1::{Digest as _, Sha1};

/// Prefix of a [`ContentDigest`] in text.
const SHA256: &str = "sha256:";

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {expected}; copy it whole from where it was printed")]
pub struct DigestError {
    /// The text, cut short if it is long.
    found: String,
    /// What it should be.
    expected: &'static str,
}

/// The id of a git commit: the SHA-1 of its object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId([u8; 20]);

/// The id of a git tree: the SHA-1 over the names, modes and ids in a folder, as git computes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId([u8; 20]);

/// SHA-256 over a canonical tree: modes, contents and paths of all files of an action.
///
/// `docs/pins.md` defines it, with a script that computes it anew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentDigest([u8; 32]);

macro_rules! digest {
    ($name:ident, $bytes:literal, $prefix:expr, $expected:literal) => {
        impl $name {
            /// The digest with these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The digest's bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// The digits alone, without a prefix.
            #[must_use]
            pub fn hex(&self) -> String {
                hex::encode(self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                f.write_str(&self.hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            /// Accepts lower-case digits only: one digest has one name.
            fn from_str(text: &str) -> Result<Self, DigestError> {
                let mut bytes = [0; $bytes];
                text.strip_prefix($prefix)
                    .filter(|digits| !digits.bytes().any(|byte| byte.is_ascii_uppercase()))
                    .and_then(|digits| hex::decode_to_slice(digits, &mut bytes).ok())
                    .ok_or_else(|| DigestError {
                        found: text.chars().take(100).collect(),
                        expected: $expected,
                    })?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

digest!(
    CommitId,
    20,
    "",
    "a commit id of 40 lower-case hexadecimal digits"
);
digest!(
    TreeId,
    20,
    "",
    "a tree id of 40 lower-case hexadecimal digits"
);
digest!(
    ContentDigest,
    32,
    SHA256,
    "`sha256:` and 64 lower-case hexadecimal digits"
);

/// Why a commit object does not tell the tree of a commit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The object is not the commit's.
    #[error(
        "the commit object that came for {expected} is that of {found}; \
         do not use this source until you know why"
    )]
    Other {
        /// The commit asked for.
        expected: CommitId,
        /// The commit whose object it is.
        found: CommitId,
    },
    /// The object does not begin with the id of a tree.
    #[error("the commit object of {0} does not begin with its tree; is the repository damaged?")]
    NoTree(CommitId),
}

impl CommitId {
    /// The id of the commit with this object (`git cat-file commit ID`).
    #[must_use]
    pub fn of_object(object: &[u8]) -> Self {
        Self(object_id("commit", object))
    }

    /// The commit's tree, from the commit object: proven by the commit's id, whoever sent the object.
    ///
    /// # Errors
    /// [`CommitError`] when the object is another commit's or not a commit's at all.
    pub fn tree_in(self, object: &[u8]) -> Result<TreeId, CommitError> {
        let found = Self::of_object(object);
        if found != self {
            return Err(CommitError::Other {
                expected: self,
                found,
            });
        }
        object
            .strip_prefix(b"tree ")
            .and_then(|rest| rest.split(|&byte| byte == b'\n').next())
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse().ok())
            .ok_or(CommitError::NoTree(self))
    }
}

/// The id of a git object: SHA-1 over its kind, its length and its bytes.
pub(super) fn object_id(kind: &str, bytes: &[u8]) -> [u8; 20] {
    let mut hash = object_hash(kind, bytes.len() as u64);
    hash.update(bytes);
    hash.finalize().into()
}

/// The hash of a git object of `length` bytes, before its bytes.
pub(super) fn object_hash(kind: &str, length: u64) -> Sha1 {
    Sha1::new_with_prefix(format!("{kind} {length}\0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_has_one_name() {
        let digits = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
        let tree: TreeId = digits.parse().unwrap();
        assert_eq!(tree.to_string(), digits);
        let json = serde_json::to_string(&tree).unwrap();
        assert_eq!(serde_json::from_str::<TreeId>(&json).unwrap(), tree);
        let long = "0".repeat(64);
        for wrong in ["", &digits[1..], &digits.to_uppercase(), &long, "sha1-0"] {
            assert!(wrong.parse::<TreeId>().is_err(), "{wrong}");
        }
        let content: ContentDigest = format!("sha256:{long}").parse().unwrap();
        assert_eq!(content.hex(), long);
        let error = long.parse::<ContentDigest>().unwrap_err().to_string();
        assert!(error.contains("`sha256:` and 64"), "{error}");
    }

    #[test]
    fn a_commit_object_proves_its_tree() {
        let object = b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n\
            author A <a@example.org> 0 +0000\ncommitter A <a@example.org> 0 +0000\n\nempty\n";
        let commit = CommitId::of_object(object);
        // `git hash-object -t commit --stdin`
        assert_eq!(commit.hex(), "302a2aa32bda043133831ea456e78ac769675a8a");
        let tree = commit.tree_in(object).unwrap();
        assert_eq!(tree.hex(), "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
        let mut other = object.to_vec();
        other[6] ^= 1;
        let error = commit.tree_in(&other).unwrap_err();
        assert!(matches!(error, CommitError::Other { expected, .. } if expected == commit));
        let blob = b"tree 1\n";
        let error = CommitId::of_object(blob).tree_in(blob).unwrap_err();
        assert!(matches!(error, CommitError::NoTree(_)));
    }
}
