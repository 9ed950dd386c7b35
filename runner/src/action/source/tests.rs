//! A mirror of real git repositories on this machine.

use super::*;
use crate::action::fixture::git;
use crate::action::reference::RepositoryName;

/// A repository `octo/tool` with two commits: v1 and v1.0.0 at the first, an annotated v1.1.0 at the second.
fn mirror(name: &str) -> (tempfile::TempDir, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join(name);
    std::fs::create_dir_all(&repository).unwrap();
    git(&repository, &["init", "-q"]);
    let mut commits = Vec::new();
    for text in ["one", "two"] {
        std::fs::write(repository.join("action.yml"), text).unwrap();
        git(&repository, &["add", "."]);
        git(&repository, &["commit", "-q", "-m", text]);
        commits.push(git(&repository, &["rev-parse", "HEAD"]));
    }
    git(&repository, &["tag", "v1", &commits[0]]);
    git(&repository, &["tag", "v1.0.0", &commits[0]]);
    git(
        &repository,
        &["tag", "-a", "-m", "x", "v1.1.0", &commits[1]],
    );
    let second = commits.pop().unwrap();
    (folder, commits.pop().unwrap(), second)
}

fn tool() -> RepositoryName {
    RepositoryName::parse("octo/tool").unwrap()
}

#[tokio::test]
async fn tags_are_followed_to_commits_and_files_are_read_without_a_checkout() {
    for name in ["octo/tool", "octo/tool.git"] {
        let (folder, first, second) = mirror(name);
        let mirror = GitMirror::open(folder.path().to_str().unwrap()).unwrap();
        let refs = mirror.refs(&tool()).await.unwrap();
        assert_eq!(refs.commit("v1"), Some(first.as_str()));
        assert_eq!(refs.commit("v1.1.0"), Some(second.as_str()));
        assert_eq!(refs.commit("main"), Some(second.as_str()));
        assert_eq!(refs.commit("v2"), None);
        assert_eq!(refs.best(&first), Some("v1.0.0"));
        assert_eq!(refs.best(&second), Some("v1.1.0"));
        for (commit, text) in [(&first, "one"), (&second, "two")] {
            let fetched = mirror.fetch(&tool(), &refs, commit).await.unwrap();
            assert_eq!(
                fetched.file("action.yml").await.unwrap().as_deref(),
                Some(text.as_bytes())
            );
            assert_eq!(fetched.file("none.yml").await.unwrap(), None);
            assert!(fetched.object().await.unwrap().starts_with(b"tree "));
        }
    }
}

#[tokio::test]
async fn a_commit_that_no_tag_or_branch_holds_is_refused() {
    let (folder, first, _) = mirror("octo/tool");
    let repository = folder.path().join("octo/tool");
    git(&repository, &["checkout", "-q", "--detach"]);
    git(
        &repository,
        &["commit", "-q", "--allow-empty", "-m", "of a fork"],
    );
    let foreign = git(&repository, &["rev-parse", "HEAD"]);
    let mirror = GitMirror::open(folder.path().to_str().unwrap()).unwrap();
    let refs = mirror.refs(&tool()).await.unwrap();
    for commit in [foreign.as_str(), &"0".repeat(40), "v1"] {
        let error = mirror
            .fetch(&tool(), &refs, commit)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no tag or branch of octo/tool holds the commit"),
            "{error}"
        );
    }
    // One inside a branch, at no tip, is in the repository.
    git(&repository, &["tag", "-d", "v1"]);
    git(&repository, &["tag", "-d", "v1.0.0"]);
    let refs = mirror.refs(&tool()).await.unwrap();
    assert_eq!(
        mirror.fetch(&tool(), &refs, &first).await.unwrap().commit(),
        first
    );
}

#[tokio::test]
async fn what_is_no_mirror_is_refused_and_nothing_of_the_user_s_git_is_used() {
    for name in [
        "ssh://host/x",
        "ext::sh -c id",
        "https://user:pw@host/x",
        "https:///x",
        "/nowhere/at/all",
    ] {
        assert!(GitMirror::open(name).is_err(), "{name}");
    }
    let (folder, ..) = mirror("octo/tool");
    let mirror = GitMirror::open(folder.path().to_str().unwrap()).unwrap();
    let none = RepositoryName::parse("octo/none").unwrap();
    let error = mirror.refs(&none).await.unwrap_err().to_string();
    assert!(error.contains("octo/none cannot be read"), "{error}");
    // A hook of the mirror is not run.
    let hook = folder.path().join("octo/tool/.git/hooks/post-upload-pack");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    let seen = folder.path().join("seen");
    std::fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", seen.display())).unwrap();
    git(
        &folder.path().join("octo/tool"),
        &[
            "config",
            "uploadpack.packObjectsHook",
            hook.to_str().unwrap(),
        ],
    );
    let refs = mirror.refs(&tool()).await.unwrap();
    let commit = refs.commit("v1").unwrap().to_owned();
    mirror.fetch(&tool(), &refs, &commit).await.unwrap();
    assert!(!seen.exists());
}

#[test]
fn the_most_exact_version_is_the_best_name() {
    let refs = |names: &[&str]| Refs {
        tags: names
            .iter()
            .map(|name| ((*name).to_owned(), "c".to_owned()))
            .collect(),
        branches: BTreeMap::from([("main".to_owned(), "c".to_owned())]),
    };
    assert_eq!(
        refs(&["v4", "v4.9.0", "v4.10.0", "latest"]).best("c"),
        Some("v4.10.0")
    );
    assert_eq!(refs(&["latest", "v4"]).best("c"), Some("latest"));
    assert_eq!(refs(&[]).best("c"), Some("main"));
    assert_eq!(refs(&["v1"]).best("d"), None);
}
