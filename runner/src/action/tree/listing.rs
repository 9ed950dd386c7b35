//! What git says that a tree has, and where the files of an archive differ from it.
//!
//! A listing proves itself: its ids and names must add up to the id of the tree.

use super::{Blob, Content, FileMode, TreeBuilder, TreeId, shown};

/// The files of a tree by their modes and ids, without their contents.
#[derive(Debug, Clone, Default)]
pub struct Listing(TreeBuilder);

/// The first difference between the files that came and those of a commit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// A file that the commit does not have.
    #[error("the file {0:?} was added: the commit has none of this name")]
    Added(String),
    /// A file that did not come.
    #[error(
        "the file {0:?} is missing, taken away on the way or left out by the repository's \
         .gitattributes (`--mirror` takes all files)"
    )]
    Missing(String),
    /// A file that is executable, a link or neither, and should be something else.
    #[error("{path:?} has the mode {found}, and {expected} in the commit")]
    Mode {
        /// The file.
        path: String,
        /// The commit's.
        expected: &'static str,
        /// The one that came.
        found: &'static str,
    },
    /// A file whose bytes are others.
    #[error("the content of {0:?} was changed: it is not that of the commit")]
    Content(String),
}

impl Listing {
    /// Reads what `git ls-tree -r -z --full-tree` prints; nothing if it is no such listing.
    #[must_use]
    pub fn parse<'a>(text: &'a [u8]) -> Option<Self> {
        let entries = text
            .split(|&byte| byte == 0)
            .filter(|entry| !entry.is_empty());
        let entry = |entry: &'a [u8]| {
            let tab = entry.iter().position(|&byte| byte == b'\t')?;
            let mut words = std::str::from_utf8(&entry[..tab]).ok()?.split(' ');
            Some((words.next()?, words.nth(1)?, &entry[tab + 1..]))
        };
        Self::new(entries.map(entry).collect::<Option<Vec<_>>>()?)
    }

    /// A listing of modes, ids and paths; nothing if they make no tree.
    #[must_use]
    pub fn new<'a>(
        entries: impl IntoIterator<Item = (&'a str, &'a str, &'a [u8])>,
    ) -> Option<Self> {
        let mut tree = TreeBuilder::new();
        for (mode, id, path) in entries {
            let mode = match mode {
                "100644" => FileMode::Regular,
                "100755" => FileMode::Executable,
                "120000" => FileMode::Symlink,
                "160000" => FileMode::Submodule,
                _ => return None,
            };
            let id: TreeId = id.parse().ok()?;
            let blob = Blob {
                sha1: *id.as_bytes(),
                sha256: [0; 32],
            };
            tree.insert(path, mode, Content::Blob(blob)).ok()?;
        }
        Some(Self(tree))
    }

    pub(super) fn of(tree: TreeBuilder) -> Self {
        Self(tree)
    }

    /// The id of the tree that has these files.
    #[must_use]
    pub fn tree(&self) -> TreeId {
        self.0.tree_id()
    }

    /// Whether both have a file of the same path.
    #[must_use]
    pub fn shares_a_path(&self, other: &Self) -> bool {
        let mut paths = self.0.files.keys();
        paths.any(|path| other.0.files.contains_key(path))
    }

    /// The first file, by its path, in which `found` is another than this, and the number of others.
    #[must_use]
    pub fn difference(&self, found: &Self) -> Option<(Difference, usize)> {
        let (all, came) = (&self.0.files, &found.0.files);
        let missing = all.keys().filter(|path| !came.contains_key(*path));
        let missing = missing.map(|path| (path, Difference::Missing(shown(path))));
        let added = came.keys().filter(|path| !all.contains_key(*path));
        let added = added.map(|path| (path, Difference::Added(shown(path))));
        let changed = all.iter().filter_map(|(path, expected)| {
            let difference = differs(path, expected, came.get(path)?)?;
            Some((path, difference))
        });
        let mut count = 0;
        let counted = missing.chain(added).chain(changed).inspect(|_| count += 1);
        let first = counted.min_by_key(|(path, _)| *path)?;
        Some((first.1, count - 1))
    }
}

fn differs(
    path: &[u8],
    expected: &(FileMode, Content),
    found: &(FileMode, Content),
) -> Option<Difference> {
    if expected.0 != found.0 {
        return Some(Difference::Mode {
            path: shown(path),
            expected: expected.0.octal(),
            found: found.0.octal(),
        });
    }
    (expected.1.id() != found.1.id()).then(|| Difference::Content(shown(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::tree::Submodules;

    fn entry(mode: &str, id: char, path: &str) -> String {
        format!("{mode} blob {}\t{path}\0", id.to_string().repeat(40))
    }

    #[test]
    fn a_listing_of_git_has_the_tree_of_its_files() {
        let mut tree = TreeBuilder::new();
        tree.file(b"a", false, Blob::of(b"1")).unwrap();
        tree.file(b"d/x.sh", true, Blob::of(b"2")).unwrap();
        tree.symlink(b"l", b"a").unwrap();
        let digests = tree.clone().finish(&Submodules::new()).unwrap();
        // `printf 1 | git hash-object --stdin`, and so on.
        let text = "100644 blob 56a6051ca2b02b04ef92d5150c9ef600403cb1de\ta\0\
                    100755 blob d8263ee9860594d2806b0dfd1bfd17528b0ba2a4\td/x.sh\0\
                    120000 blob 2e65efe2a145dda7ee51d1741299f848e5bf752e\tl\0";
        let listing = Listing::parse(text.as_bytes()).unwrap();
        assert_eq!(listing.tree(), digests.tree);
        assert_eq!(listing.difference(&Listing::of(tree)), None);
        for wrong in [
            "x",
            "100644 blob 12\ta\0",
            "040000 tree 1\ta\0",
            &entry("100644", '1', "../x"),
        ] {
            assert!(Listing::parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }

    #[test]
    fn the_first_difference_is_named() {
        let listing = |entries: &[(&str, char, &str)]| {
            let text: String = entries
                .iter()
                .map(|(mode, id, path)| entry(mode, *id, path))
                .collect();
            Listing::parse(text.as_bytes()).unwrap()
        };
        let (file, script) = ("100644", "100755");
        let honest = listing(&[(file, '1', "a"), (script, '2', "b")]);
        for (found, said) in [
            (
                vec![(file, '1', "a"), (script, '2', "b"), (file, '3', "c")],
                "\"c\" was added",
            ),
            (
                vec![(file, '3', "0"), (file, '1', "a"), (script, '2', "b")],
                "\"0\" was added",
            ),
            (vec![(script, '2', "b")], "\"a\" is missing"),
            (vec![(file, '1', "a")], "\"b\" is missing"),
            (
                vec![(file, '1', "a"), (file, '2', "b")],
                "\"b\" has the mode 100644, and 100755",
            ),
            (
                vec![(file, '3', "a"), (script, '3', "b")],
                "content of \"a\" was changed",
            ),
        ] {
            let (difference, more) = honest.difference(&listing(&found)).unwrap();
            let difference = difference.to_string();
            assert!(difference.contains(said), "{difference}");
            assert_eq!(more, usize::from(said.starts_with("content")));
        }
    }
}
