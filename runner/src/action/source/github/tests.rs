//! GitHub's API as a server on this machine tells it, over a real git repository.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;
use crate::action::archive::samples;
use crate::action::fetch::{FetchError, fetch};
use crate::action::fixture::{FakeGitHub, Repositories, git};
use crate::action::loopback::{Reply, Server};
use crate::action::store::ActionStore;

fn name() -> RepositoryName {
    RepositoryName::parse("octo/tool").unwrap()
}

struct World {
    repositories: Repositories,
    fake: FakeGitHub,
}

impl World {
    fn new() -> Self {
        let repositories = Repositories::new();
        repositories.commit("octo/tool", &[("action.yml", "name: x\n")], &[]);
        let fake = FakeGitHub::start(&repositories.base());
        Self { repositories, fake }
    }

    fn repository(&self) -> PathBuf {
        self.repositories.repository("octo/tool")
    }

    fn github(&self) -> GitHub {
        self.fake.open()
    }

    fn store(&self) -> ActionStore {
        self.repositories.store()
    }

    /// Writes a commit object as it is.
    fn object(&self, text: &str) -> CommitId {
        let mut child = Command::new("git")
            .args(["hash-object", "-t", "commit", "-w", "--stdin"])
            .current_dir(self.repository())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }
}

#[tokio::test]
async fn references_are_found_and_their_commits_come_into_the_store_proven() {
    let world = World::new();
    let first = git(&world.repository(), &["rev-parse", "HEAD"]);
    for tag in ["v1", "v1.0.0"] {
        git(&world.repository(), &["tag", tag]);
    }
    git(&world.repository(), &["tag", "-a", "-m", "x", "annotated"]);
    git(&world.repository(), &["checkout", "-q", "-b", "release/v2"]);
    git(
        &world.repository(),
        &["commit", "-q", "--allow-empty", "-m", "two"],
    );
    let second = git(&world.repository(), &["rev-parse", "HEAD"]);
    let github = world.github();
    for (reference, commit, version) in [
        ("v1", &first, "v1.0.0"),
        ("annotated", &first, "v1.0.0"),
        ("v1.0.0", &first, "v1.0.0"),
        ("main", &first, "v1.0.0"),
        ("release/v2", &second, "release/v2"),
        (first.as_str(), &first, "v1.0.0"),
    ] {
        let found = github.find(&name(), reference).await.unwrap().unwrap();
        assert_eq!(
            (found.commit.hex(), found.version.as_str()),
            (commit.clone(), version),
            "{reference}"
        );
    }
    assert_eq!(github.find(&name(), "v9").await.unwrap(), None);
    let numbers = Numbers {
        owner: 7,
        repository: 8,
    };
    assert_eq!(github.numbers(&name()).await.unwrap(), Some(numbers));

    let proven = fetch(
        &github,
        &world.store(),
        &name(),
        first.parse().unwrap(),
        None,
    )
    .await
    .unwrap();
    assert_eq!(
        proven.tree.hex(),
        git(&world.repository(), &["rev-parse", "HEAD^{tree}"])
    );
    assert!(world.store().contains(proven.content));
    // The token goes to the API and nowhere else.
    let with = |server: &Server| {
        server
            .asked()
            .iter()
            .filter(|asked| asked.authorization.is_some())
            .count()
    };
    assert_eq!(with(&world.fake.api), world.fake.api.asked().len());
    assert_eq!(
        (
            world.fake.archives.asked().len(),
            with(&world.fake.archives)
        ),
        (1, 0)
    );
    assert!(!format!("{github:?}").contains("secret-token"));
}

#[tokio::test]
async fn commit_objects_are_put_together_whatever_their_time_zones_and_signatures() {
    let world = World::new();
    let tree = git(&world.repository(), &["rev-parse", "HEAD^{tree}"]);
    let parent = git(&world.repository(), &["rev-parse", "HEAD"]);
    let head = format!("tree {tree}\nparent {parent}\nauthor A Ö <a@example.org> 1700000000");
    let signature = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n abc\n -----END PGP SIGNATURE-----\n";
    for text in [
        format!("{head} +0530\ncommitter B <b@example.org> 1700000001 -0345\n\nword\n"),
        format!("{head} +0000\ncommitter B <b@example.org> 1700000001 +0000\n\nno line end"),
        format!(
            "{head} +0545\ncommitter B <b@example.org> 1700000001 +0200\n{signature}\nbody\n\nmore\n"
        ),
        format!(
            "{head} -0800\ncommitter B <b@example.org> 1700000001 +0200\n{signature} \n\nbody\n"
        ),
    ] {
        let id = world.object(&text);
        git(&world.repository(), &["tag", "-f", "v1", &id.hex()]);
        let github = world.github();
        let name = name();
        let commit = Upstream::fetch(&github, &name, id).await.unwrap();
        assert_eq!(
            String::from_utf8(commit.object().await.unwrap()).unwrap(),
            text
        );
    }
    // A header that the API does not tell: said, not guessed.
    let odd = world.object(&format!(
        "{head} +0000\ncommitter B <b@example.org> 1700000001 +0000\nodd header\n\nbody\n"
    ));
    git(&world.repository(), &["tag", "-f", "v1", &odd.hex()]);
    let error = fetch(&world.github(), &world.store(), &name(), odd, None)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, FetchError::Source(SourceError::Unproven { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_commit_of_a_fork_is_not_one_of_the_repository() {
    let world = World::new();
    let repository = world.repository();
    let first = git(&repository, &["rev-parse", "HEAD"]);
    git(&repository, &["commit", "-q", "--allow-empty", "-m", "two"]);
    git(&repository, &["checkout", "-q", "--detach"]);
    git(
        &repository,
        &["commit", "-q", "--allow-empty", "-m", "of a fork"],
    );
    let foreign = git(&repository, &["rev-parse", "HEAD"]);
    let github = world.github();
    let error = Upstream::fetch(&github, &name(), foreign.parse().unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, SourceError::Foreign { .. }), "{error}");
    // One inside a branch, at no tip, is.
    assert!(
        Upstream::fetch(&github, &name(), first.parse().unwrap())
            .await
            .is_ok()
    );
}

/// An archive on the way from GitHub is held against the API's listing of the commit, so that what was done
/// to it is told.
#[tokio::test]
async fn what_was_done_to_an_archive_is_told_and_the_store_stays_as_it_was() {
    let world = World::new();
    let files: [(&str, &str); 2] = [
        ("action.yml", "name: honest\n"),
        ("run.sh", "echo honest\n"),
    ];
    let commit = world.repositories.commit("octo/tool", &files, &["v1"]);
    let commit: CommitId = commit.parse().unwrap();
    let build = |entries: &[(&str, u32, &str)]| {
        let mut tar = Vec::new();
        samples::commit(&mut tar, &commit.hex());
        for (path, mode, content) in entries {
            samples::file(&mut tar, &format!("t/{path}"), *mode, content.as_bytes());
        }
        samples::gzip(&samples::ended(tar))
    };
    let [manifest, script] = files.map(|(path, content)| (path, 0o644, content));
    for (entries, why) in [
        (
            vec![manifest, ("run.sh", 0o644, "echo hones!\n")],
            "the content of \"run.sh\" was changed",
        ),
        (
            vec![manifest, ("run.sh", 0o755, files[1].1)],
            "\"run.sh\" has the mode 100755, and 100644",
        ),
        (
            vec![manifest, script, ("more", 0o644, "x")],
            "the file \"more\" was added",
        ),
        (vec![manifest], "\"run.sh\" is missing"),
        (vec![("other", 0o644, "x")], "another tree altogether"),
    ] {
        *world.fake.instead.lock().unwrap() = Some(build(&entries));
        let store = world.store();
        let error = fetch(&world.github(), &store, &name(), commit, None)
            .await
            .unwrap_err();
        let said = error.to_string();
        assert!(error.is_tampering() && said.contains(why), "{said}");
        assert_eq!(store.list().unwrap(), []);
    }
    *world.fake.instead.lock().unwrap() = Some(build(&[manifest, script]));
    let proven = fetch(&world.github(), &world.store(), &name(), commit, None).await;
    assert!(proven.is_ok(), "{proven:?}");
}

/// An answer, and a part of what is said of it.
type Refusal = (fn() -> Reply, &'static str);

#[tokio::test]
async fn refusals_are_said_clearly() {
    let limited = || {
        Reply::of(403, "{}")
            .with("x-ratelimit-remaining", "0")
            .with("x-ratelimit-reset", "1700000000")
    };
    let cases: [Refusal; 5] = [
        (|| Reply::of(404, "{}"), "shows no repository octo/tool"),
        (|| Reply::of(401, "{}"), "the token is refused"),
        (
            || Reply::of(429, "{}").with("retry-after", "30"),
            "after 30 seconds",
        ),
        (|| Reply::of(502, "<html>"), "the answer is 502"),
        (|| Reply::of(200, "<html>"), "not as documented"),
    ];
    for (reply, expected) in cases {
        let server = Server::start(move |_| reply());
        let github = GitHub::open(&server.url(), Some("x".into())).unwrap();
        let error = github.find(&name(), "v1").await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let server = Server::start(move |_| limited());
    for (token, expected) in [
        (None, "GITHUB_TOKEN"),
        (Some("x".into()), "with this token"),
    ] {
        let github = GitHub::open(&server.url(), token).unwrap();
        let error = github.find(&name(), "v1").await.unwrap_err().to_string();
        assert!(
            error.contains("until 2023-11-14T22:13:20Z") && error.contains(expected),
            "{error}"
        );
    }
    for url in [
        "http://example.org",
        "ftp://x",
        "x",
        "https://a:b@example.org",
        "http://127.0.0.1.example.org",
    ] {
        assert!(
            matches!(GitHub::open(url, None), Err(SourceError::Api(_))),
            "{url}"
        );
    }
}
