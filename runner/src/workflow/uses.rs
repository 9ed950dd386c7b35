//! `uses` of a step: a path of this repository, an action of another one, or an image.

use crate::job::request::StepAction;

/// What a reference looks like.
pub(super) const HELP: &str =
    "write `owner/repository@ref`, `owner/repository/path@ref`, `./path` or `docker://image`";

/// What a reference stands for, and the name that ids of such steps begin with.
///
/// The shapes are those of GitHub's job message: a local path has the type `self`, `$/path` (the
/// workflow's own repository) `SelfRepository`.
pub(super) fn read(text: &str) -> Option<(StepAction, String)> {
    if let Some(image) = text.strip_prefix("docker://") {
        let action = StepAction::ContainerRegistry {
            image: image.to_owned(),
        };
        return (!image.is_empty()).then(|| (action, plain(image)));
    }
    let own = |repository_type: &str, path: &str| StepAction::Repository {
        name: String::new(),
        reference: String::new(),
        repository_type: repository_type.to_owned(),
        path: path.to_owned(),
    };
    if text.starts_with("./") || text.starts_with(".\\") || text == "." {
        return Some((own("self", text), "self".to_owned()));
    }
    if let Some(path) = text.strip_prefix("$/") {
        return Some((own("SelfRepository", path), "self".to_owned()));
    }
    let (path, reference) = text.split_once('@')?;
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let (owner, repository) = (parts.next()?, parts.next()?);
    if reference.is_empty() || reference.contains('@') {
        return None;
    }
    let name = format!("{owner}/{repository}");
    let made_up = plain(&name);
    let action = StepAction::Repository {
        name,
        reference: reference.to_owned(),
        repository_type: "GitHub".to_owned(),
        path: parts.collect::<Vec<_>>().join("/"),
    };
    Some((action, made_up))
}

/// A name as part of an id.
fn plain(name: &str) -> String {
    let legal = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' || c == '_' {
            c
        } else {
            '_'
        }
    };
    name.chars().take(90).map(legal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_kinds_of_references_are_told_apart() {
        let repository = |name: &str, reference: &str, kind: &str, path: &str| {
            let [name, reference, repository_type, path] =
                [name, reference, kind, path].map(str::to_owned);
            StepAction::Repository {
                name,
                reference,
                repository_type,
                path,
            }
        };
        let action = |text: &str| read(text).unwrap().0;
        assert_eq!(
            action("actions/cache/save@v4"),
            repository("actions/cache", "v4", "GitHub", "save")
        );
        assert_eq!(action("./a/b"), repository("", "", "self", "./a/b"));
        assert_eq!(action("$/a"), repository("", "", "SelfRepository", "a"));
        let image = "alpine:3".to_owned();
        assert_eq!(
            action("docker://alpine:3"),
            StepAction::ContainerRegistry { image }
        );
        assert_eq!(read("actions/checkout@v4").unwrap().1, "actions_checkout");
        for text in [
            "",
            "checkout",
            "actions/checkout",
            "a@v1",
            "a/b@",
            "docker://",
            "a/b@c@d",
        ] {
            assert!(read(text).is_none(), "{text}");
        }
    }
}
