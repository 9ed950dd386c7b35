//! Commits of real git repositories brought into a store.

use std::path::PathBuf;

use super::*;
use crate::action::fixture::{Repositories, git};
use crate::action::source::{Answer, Archive, GitMirror, Named};

struct World {
    repositories: Repositories,
    repository: PathBuf,
    mirror: GitMirror,
    store: ActionStore,
}

fn world() -> World {
    let repositories = Repositories::new();
    World {
        repository: repositories.repository("octo/tool"),
        mirror: repositories.mirror(),
        store: repositories.store(),
        repositories,
    }
}

impl World {
    fn commit(&self, files: &[(&str, &str)]) -> CommitId {
        let commit = self.repositories.commit("octo/tool", files, &[]);
        commit.parse().unwrap()
    }

    async fn fetch(
        &self,
        commit: CommitId,
        locked: Option<ContentDigest>,
    ) -> Result<Proven, FetchError> {
        let tool = RepositoryName::parse("octo/tool").unwrap();
        fetch(&self.mirror, &self.store, &tool, commit, locked).await
    }
}

#[tokio::test]
async fn a_mirror_gives_every_file_as_the_tree_has_it_and_submodules() {
    let world = world();
    let other = world.repositories.repository("octo/other");
    world.repositories.commit("octo/other", &[], &[]);
    let url = format!("file://{}", other.display());
    world.commit(&[]);
    git(&world.repository, &["submodule", "add", "-q", &url, "sub"]);
    let attributes = "left export-ignore\nsaid export-subst\nlines text eol=crlf\n";
    let commit = world.commit(&[
        (".gitattributes", attributes),
        ("left", "left out of archives"),
        ("said", "$Format:%H$"),
        ("lines", "one\ntwo\n"),
        ("action.yml", "name: x\n"),
    ]);
    let proven = world.fetch(commit, None).await.unwrap();
    let tree = git(&world.repository, &["rev-parse", "HEAD^{tree}"]);
    assert_eq!(proven.tree.hex(), tree);
    let picked = world
        .store
        .pick(proven.content, &["left", "said", "lines"], 100)
        .unwrap();
    assert_eq!(picked["left"], b"left out of archives");
    assert_eq!(picked["said"], b"$Format:%H$");
    assert_eq!(picked["lines"], b"one\ntwo\n");
    // Once there, the source is not asked.
    std::fs::remove_dir_all(&world.repository).unwrap();
    assert_eq!(
        world.fetch(commit, Some(proven.content)).await.unwrap(),
        proven
    );
}

#[tokio::test]
async fn a_content_that_is_not_the_locked_one_is_refused() {
    let world = world();
    let commit = world.commit(&[("action.yml", "name: x\n")]);
    let other = ContentDigest::from_bytes([7; 32]);
    let error = world.fetch(commit, Some(other)).await.unwrap_err();
    assert!(
        error.is_tampering() && error.to_string().contains("is locked"),
        "{error}"
    );
    assert_eq!(world.store.list().unwrap(), []);
    let proven = world.fetch(commit, None).await.unwrap();
    let error = world.fetch(commit, Some(other)).await.unwrap_err();
    assert!(matches!(error, FetchError::Locked { found, .. } if found == proven.content));
}

/// A source that gives what it was told to, whatever it was asked for.
#[derive(Debug)]
struct Liar<'a> {
    mirror: &'a GitMirror,
    gives: CommitId,
    object: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Lie<'a> {
    commit: Box<dyn Commit + 'a>,
    object: Option<Vec<u8>>,
}

impl Upstream for Liar<'_> {
    fn name(&self) -> &str {
        "a liar"
    }

    fn find<'a>(
        &'a self,
        repository: &'a RepositoryName,
        reference: &'a str,
    ) -> Answer<'a, Option<Named>> {
        self.mirror.find(repository, reference)
    }

    fn fetch<'a>(
        &'a self,
        repository: &'a RepositoryName,
        _: CommitId,
    ) -> Answer<'a, Box<dyn Commit + 'a>> {
        Box::pin(async move {
            let commit = Upstream::fetch(self.mirror, repository, self.gives).await?;
            let object = self.object.clone();
            Ok(Box::new(Lie { commit, object }) as Box<dyn Commit + 'a>)
        })
    }
}

impl Commit for Lie<'_> {
    fn object(&self) -> Answer<'_, Vec<u8>> {
        match self.object.clone() {
            Some(object) => Box::pin(async { Ok(object) }),
            None => self.commit.object(),
        }
    }

    fn archive(&self) -> Answer<'_, Archive> {
        self.commit.archive()
    }

    fn submodules(&self) -> Answer<'_, Submodules> {
        self.commit.submodules()
    }
}

#[tokio::test]
async fn a_source_that_lies_is_found_out() {
    let world = world();
    let honest = world.commit(&[("action.yml", "name: x\n")]);
    let evil = world.commit(&[("action.yml", "name: evil\n")]);
    let tool = RepositoryName::parse("octo/tool").unwrap();
    let object = git(&world.repository, &["cat-file", "commit", &honest.hex()]) + "\n";
    for (object, expected) in [(None, "is that of"), (Some(object.into_bytes()), "not ")] {
        let liar = Liar {
            mirror: &world.mirror,
            gives: evil,
            object,
        };
        let error = fetch(&liar, &world.store, &tool, honest, None)
            .await
            .unwrap_err();
        assert!(
            error.is_tampering() && error.to_string().contains(expected),
            "{error}"
        );
        assert_eq!(world.store.list().unwrap(), []);
        assert_eq!(world.store.proven(&tool, honest), None);
    }
}
