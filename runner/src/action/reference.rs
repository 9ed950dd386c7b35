//! Action references: what stands behind `uses:`, and the images behind `container:` and `FROM`.
//!
//! Everything here comes from files that others wrote. What passes is made of the characters that
//! GitHub and registries allow, so it can stand in a path, a URL or an argument without surprise.

use std::fmt;

use super::image::{ImageError, ImageReference};

/// Longest reference that is looked at, in bytes.
const MAX_LENGTH: usize = 1024;

/// What a reference stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// `owner/repo[/path]@ref`: an action or a reusable workflow of a repository.
    Repository(RepositoryReference),
    /// `./path`: what lies there in the workspace when the step runs.
    Local(String),
    /// `$/path`: of the same repository, at the same commit, as the file that says so.
    Own(String),
    /// An image.
    Image(ImageReference),
}

/// `owner/repo[/path]@ref`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryReference {
    /// The repository.
    pub repository: RepositoryName,
    /// The folder or the workflow file in it; empty for its root.
    pub path: String,
    /// Tag, branch or commit id.
    pub reference: String,
}

/// `owner/repo`, as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName {
    /// The owner.
    pub owner: String,
    /// The repository's name.
    pub name: String,
}

/// `owner/repo@ref` as lock files write it: owner and repository in lower case, without a path,
/// because an action is fetched once per repository and ref.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActionKey(String);

/// Why a text is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Its value is known only when the workflow runs.
    #[error(
        "`{0}` holds an expression, so what it refers to is known only at run time; write the reference out"
    )]
    Expression(String),
    /// No expression is evaluated there, so it can never become a reference.
    #[error("`{0}` holds an expression, and `uses:` takes none; write the reference out")]
    Never(String),
    /// It has no shape of a reference.
    #[error(
        "`{text}` is not a reference ({why}); write `owner/repository@ref`, `owner/repository/path@ref`, \
         `./path`, `$/path` or `docker://image`"
    )]
    Shape {
        /// The text.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It names an image wrongly.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl Reference {
    /// Reads the value of `uses:`.
    ///
    /// # Errors
    /// [`ReferenceError`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let wrong = |why| Err(shape(text, why));
        if text.contains("${{") {
            return Err(ReferenceError::Expression(text.to_owned()));
        }
        if text.len() > MAX_LENGTH {
            return wrong("it is too long");
        }
        if text.chars().any(char::is_control) {
            return wrong("it holds control characters");
        }
        if let Some(image) = text.strip_prefix("docker://") {
            return Ok(Self::Image(ImageReference::parse(image)?));
        }
        if text == "." || text.starts_with("./") || text.starts_with(".\\") {
            let path = local_path(&text.replace('\\', "/")).ok_or_else(|| shape(text, LEAVES))?;
            return Ok(Self::Local(path));
        }
        if let Some(path) = text.strip_prefix("$/") {
            if path.contains('@') {
                return wrong("`$/` always means the running commit and takes no `@ref`");
            }
            let path = local_path(path).ok_or_else(|| shape(text, LEAVES))?;
            return Ok(Self::Own(path));
        }
        RepositoryReference::parse(text).map(Self::Repository)
    }
}

/// Why a path is not taken.
const LEAVES: &str = "its path leaves the repository";

fn shape(text: &str, why: &'static str) -> ReferenceError {
    let text = text.chars().take(200).collect();
    ReferenceError::Shape { text, why }
}

/// A path below the repository without `.` and empty parts; nothing if it leaves it.
pub fn local_path(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

impl RepositoryReference {
    fn parse(text: &str) -> Result<Self, ReferenceError> {
        let wrong = |why| Err(shape(text, why));
        // The first `@` parts them, as GitHub does: a branch may be called `release@2024`.
        let Some((place, reference)) = text.split_once('@') else {
            return wrong("it has no `@ref`");
        };
        let mut parts = place.split('/');
        let (Some(owner), Some(name)) = (parts.next(), parts.next()) else {
            return wrong("it has no repository");
        };
        let path: Vec<&str> = parts.collect();
        // A slash at the end is common and means nothing.
        let path = path.strip_suffix(&[""]).unwrap_or(&path);
        if ![owner, name]
            .into_iter()
            .chain(path.iter().copied())
            .all(is_segment)
        {
            return wrong("names have letters, digits, `-`, `_` and `.` only");
        }
        if !is_ref(reference) {
            return wrong("what stands behind `@` can be no tag, branch or commit id");
        }
        Ok(Self {
            repository: RepositoryName {
                owner: owner.to_owned(),
                name: name.to_owned(),
            },
            path: path.join("/"),
            reference: reference.to_owned(),
        })
    }

    /// The key in lock files.
    #[must_use]
    pub fn key(&self) -> ActionKey {
        ActionKey(format!("{}@{}", self.repository.key(), self.reference))
    }

    /// The commit id, if that is what stands behind `@`.
    #[must_use]
    pub fn commit(&self) -> Option<String> {
        is_commit_id(&self.reference).then(|| self.reference.to_ascii_lowercase())
    }

    /// Whether it names a workflow file.
    #[must_use]
    pub fn is_workflow(&self) -> bool {
        is_workflow_path(&self.path)
    }

    /// The reference without `@ref`.
    #[must_use]
    pub fn name(&self) -> String {
        let RepositoryName { owner, name } = &self.repository;
        match self.path.as_str() {
            "" => format!("{owner}/{name}"),
            path => format!("{owner}/{name}/{path}"),
        }
    }
}

impl RepositoryName {
    /// Reads `owner/repo`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (owner, name) = text.split_once('/')?;
        let (owner, name) = (owner.to_owned(), name.to_owned());
        (is_segment(&owner) && is_segment(&name)).then_some(Self { owner, name })
    }

    /// The name in lower case: GitHub tells no repositories apart by case.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.owner, self.name).to_ascii_lowercase()
    }
}

impl ActionKey {
    /// Reads a key of a lock file, whatever its case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (repository, reference) = text.split_once('@')?;
        let repository = RepositoryName::parse(repository)?;
        (is_ref(reference) && !reference.contains(':'))
            .then(|| Self(format!("{}@{reference}", repository.key())))
    }

    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The repository and what stands behind `@`.
    #[must_use]
    pub fn parts(&self) -> (RepositoryName, &str) {
        let (repository, reference) = self.0.split_once('@').unwrap_or((&self.0, ""));
        let (owner, name) = repository.split_once('/').unwrap_or((repository, ""));
        let (owner, name) = (owner.to_owned(), name.to_owned());
        (RepositoryName { owner, name }, reference)
    }

    /// What stands behind `@`.
    #[must_use]
    pub fn reference(&self) -> &str {
        self.parts().1
    }
}

/// Whether a path is that of a workflow file.
#[must_use]
pub fn is_workflow_path(path: &str) -> bool {
    let file = path.strip_prefix(".github/workflows/");
    file.is_some_and(|file| {
        !file.contains('/') && (file.ends_with(".yml") || file.ends_with(".yaml"))
    })
}

/// Whether a text is a commit id: 40 hexadecimal digits.
#[must_use]
pub fn is_commit_id(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a text may be an owner, a repository or a part of a path.
fn is_segment(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !matches!(text, "" | "." | "..") && text.len() <= 255 && text.bytes().all(legal)
}

/// Whether git could have a tag or branch of this name.
fn is_ref(text: &str) -> bool {
    let illegal =
        |c: char| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    !text.is_empty()
        && !text.contains(illegal)
        && !text.contains("..")
        && !text.contains("@{")
        && !text.starts_with('-')
        && !text.ends_with('.')
        && text.split('/').all(part)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository(reference) => reference.fmt(f),
            Self::Local(path) => write!(f, "./{path}"),
            Self::Own(path) => write!(f, "$/{path}"),
            Self::Image(image) => write!(f, "docker://{image}"),
        }
    }
}

impl fmt::Display for RepositoryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name(), self.reference)
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

impl fmt::Display for ActionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Reference {
        Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_kinds_of_references_are_told_apart_and_written_as_they_stood() {
        for text in [
            "actions/checkout@v4",
            "actions/cache/save@v4",
            "Actions/Checkout@release/v1",
            "octo/flows/.github/workflows/ci.yml@release@2024",
            "a/b@8e8c483db84b4bee98b60c0593521ed34d9990e8",
            "./.github/actions/setup",
            "$/actions/setup",
            "docker://alpine:3.20",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
        let Reference::Repository(cache) = parse("Actions/Cache/save@v4") else {
            panic!()
        };
        assert_eq!(
            (cache.path.as_str(), cache.reference.as_str()),
            ("save", "v4")
        );
        assert_eq!(cache.key().as_str(), "actions/cache@v4");
        assert_eq!(cache.name(), "Actions/Cache/save");
        let Reference::Repository(flow) = parse("o/r/.github/workflows/f.yaml@main") else {
            panic!()
        };
        assert!(flow.is_workflow() && flow.commit().is_none());
        assert_eq!(parse("./a/../b/"), Reference::Local("b".to_owned()));
        assert_eq!(parse("./"), Reference::Local(String::new()));
    }

    #[test]
    fn a_key_is_read_in_any_case_and_has_no_path() {
        let key = ActionKey::parse("Actions/Checkout@V4").unwrap();
        assert_eq!(key.as_str(), "actions/checkout@V4");
        assert_eq!(key.parts().0.key(), "actions/checkout");
        assert_eq!(key.reference(), "V4");
        for text in [
            "actions/cache/save@v4",
            "a@v1",
            "a/b@",
            "a/b",
            "a/b@v1:sha1-00",
            "a/b@-x",
        ] {
            assert_eq!(ActionKey::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_could_be_taken_for_something_else_is_refused() {
        for (text, expected) in [
            ("", "it has no `@ref`"),
            ("checkout", "it has no `@ref`"),
            ("actions/checkout", "it has no `@ref`"),
            ("a@v1", "it has no repository"),
            ("a/b@", "no tag, branch or commit id"),
            ("a/b@--upload-pack=x", "no tag, branch or commit id"),
            ("a/b@v1 ", "no tag, branch or commit id"),
            ("a/b@v1..v2", "no tag, branch or commit id"),
            ("a/../b@v1", "letters, digits"),
            ("../b@v1", "letters, digits"),
            ("a/b c@v1", "letters, digits"),
            ("a/b/../../c@v1", "letters, digits"),
            ("./../x", "leaves the repository"),
            ("$/../x", "leaves the repository"),
            ("$/a@v1", "takes no `@ref`"),
            ("a/b@v1\n", "control characters"),
            ("${{ matrix.action }}", "holds an expression"),
            ("docker://", "no image"),
        ] {
            let error = Reference::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
