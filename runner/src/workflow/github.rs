//! The `github` context of a local run, from the git checkout at hand.
//!
//! Only plain `git` commands are run, and a folder without git, or without commits, is fine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::expression::coerce::to_text;
use crate::expression::value::{Object, Value};

/// The id of no commit.
const NO_COMMIT: &str = "0000000000000000000000000000000000000000";

/// The event that a run stands for.
#[derive(Clone, Debug, Default)]
pub struct Event {
    /// Its name; `push` if empty.
    pub name: String,
    /// Its payload; a minimal one is made for `None`.
    pub payload: Option<Object>,
}

/// What the checkout tells about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    /// `owner/name`.
    pub repository: String,
    /// `https://github.com`, or the host of the remote.
    pub server_url: String,
    /// The commit, or zeros.
    pub sha: String,
    /// `refs/heads/main`.
    pub reference: String,
    /// Who works here.
    pub actor: String,
    /// Their address for commits, if git knows one.
    pub email: String,
}

impl Checkout {
    /// Reads the checkout that a folder is in.
    pub fn read(folder: &Path) -> Self {
        let git = |arguments: &[&str]| git(folder, arguments);
        let actor = git(&["config", "user.name"])
            .or_else(|| std::env::var("USER").ok().filter(|user| !user.is_empty()))
            .unwrap_or_else(|| "local".to_owned());
        let remote = git(&["config", "--get", "remote.origin.url"]);
        let (server_url, repository) =
            remote.as_deref().and_then(parse_remote).unwrap_or_else(|| {
                let root = git(&["rev-parse", "--show-toplevel"]);
                let root = root.as_deref().map_or(folder, Path::new);
                let name = root
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned());
                let name = name.unwrap_or_else(|| "workspace".to_owned());
                (
                    "https://github.com".to_owned(),
                    format!("local/{}", plain_name(&name)),
                )
            });
        Self {
            repository,
            server_url,
            sha: git(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])
                .unwrap_or_else(|| NO_COMMIT.to_owned()),
            reference: reference(&git),
            email: git(&["config", "user.email"]).unwrap_or_default(),
            actor,
        }
    }

    /// The name of the repository without its owner.
    pub fn name(&self) -> &str {
        self.repository
            .rsplit('/')
            .next()
            .unwrap_or(&self.repository)
    }

    fn owner(&self) -> &str {
        self.repository.split('/').next().unwrap_or_default()
    }

    /// The branch or tag.
    fn reference_name(&self) -> &str {
        let short = self.reference.strip_prefix("refs/heads/");
        short
            .or_else(|| self.reference.strip_prefix("refs/tags/"))
            .unwrap_or(&self.reference)
    }

    /// The checkout with what GitHub takes from the payload of an event instead.
    fn seen_by(&self, event: &str, payload: &Object) -> Self {
        let mut seen = self.clone();
        let text = |path: &[&str]| text_at(payload, path);
        if let Some(name) = text(&["repository", "full_name"]).filter(|name| is_repository(name)) {
            seen.repository = name;
        }
        if let Some(login) = text(&["sender", "login"]) {
            seen.actor = login;
        }
        match event {
            // A push that deletes a branch runs on what is left: the checkout at hand.
            "push" if text(&["after"]).as_deref() != Some(NO_COMMIT) => {
                seen.reference = text(&["ref"]).unwrap_or(seen.reference);
                seen.sha = text(&["after"]).unwrap_or(seen.sha);
            }
            "workflow_dispatch" => seen.reference = text(&["ref"]).unwrap_or(seen.reference),
            "release" => {
                if let Some(tag) = text(&["release", "tag_name"]) {
                    seen.reference = format!("refs/tags/{tag}");
                }
            }
            "pull_request_target" => {
                seen.sha = text(&["pull_request", "base", "sha"]).unwrap_or(seen.sha);
            }
            _ if event.starts_with("pull_request") => {
                seen.sha = text(&["pull_request", "merge_commit_sha"]).unwrap_or(seen.sha);
            }
            _ => {}
        }
        seen
    }

    /// The `github` context for a workflow file, whose path is relative to the checkout.
    ///
    /// The executor adds what only it knows: `workspace`, `event_path`, `action`.
    pub fn context(
        &self,
        workflow_name: Option<&str>,
        workflow_path: &str,
        event: &Event,
    ) -> Object {
        let name = if event.name.is_empty() {
            "push"
        } else {
            &event.name
        };
        match &event.payload {
            Some(payload) => {
                let seen = self.seen_by(name, payload);
                seen.context_of(workflow_name, workflow_path, name, payload.clone())
            }
            None => self.context_of(workflow_name, workflow_path, name, self.payload_of(name)),
        }
    }

    fn context_of(
        &self,
        workflow_name: Option<&str>,
        workflow_path: &str,
        name: &str,
        payload: Object,
    ) -> Object {
        let server = &self.server_url;
        let is_github = server == "https://github.com";
        let api = if is_github {
            "https://api.github.com"
        } else {
            &format!("{server}/api/v3")
        };
        let graphql = if is_github {
            "https://api.github.com/graphql"
        } else {
            &format!("{server}/api/graphql")
        };
        let tag = self.reference.starts_with("refs/tags/");
        let started = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut github = Object::new();
        let mut set = |key: &str, value: &str| github.insert(key, value);
        let id = |path: &[&str]| text_at(&payload, path).unwrap_or_else(|| "0".to_owned());
        set("ref", &self.reference);
        set("sha", &self.sha);
        set("repository", &self.repository);
        set("repository_owner", self.owner());
        set("repository_owner_id", &id(&["repository", "owner", "id"]));
        set("repository_id", &id(&["repository", "id"]));
        set(
            "repositoryUrl",
            &format!(
                "{}/{}.git",
                server.replacen("https:", "git:", 1),
                self.repository
            ),
        );
        set("run_id", &started.as_secs().to_string());
        set("run_number", "1");
        set("retention_days", "90");
        set("run_attempt", "1");
        set("actor_id", &id(&["sender", "id"]));
        set("actor", &self.actor);
        set("triggering_actor", &self.actor);
        set("workflow", workflow_name.unwrap_or(workflow_path));
        set("head_ref", "");
        set("base_ref", "");
        set("event_name", name);
        set("server_url", server);
        set("api_url", api);
        set("graphql_url", graphql);
        set("ref_name", self.reference_name());
        set("ref_type", if tag { "tag" } else { "branch" });
        set("secret_source", "None");
        // Empty unless a step runs an action of a repository.
        set("action_repository", "");
        set("action_ref", "");
        set("workflow_sha", &self.sha);
        github.insert("ref_protected", false);
        if name.starts_with("pull_request") {
            pull_request(&mut github, &payload);
        }
        let reference = github.get("ref").map(to_text).unwrap_or_default();
        let workflow_ref = format!("{}/{workflow_path}@{reference}", self.repository);
        github.insert("workflow_ref", workflow_ref);
        github.insert("event", payload);
        github
    }

    /// The least that GitHub sends with an event.
    fn payload_of(&self, event: &str) -> Object {
        let mut payload = self.payload();
        if event == "push" {
            return payload;
        }
        for key in [
            "before",
            "after",
            "created",
            "deleted",
            "forced",
            "pusher",
            "commits",
            "head_commit",
        ] {
            payload.remove(key);
        }
        if event.starts_with("pull_request") {
            payload.remove("ref");
            let side = |reference: &str| {
                Object::from_iter([("ref", reference), ("sha", self.sha.as_str())])
            };
            let mut pull = Object::new();
            pull.insert("number", 1.0);
            pull.insert("head", side(self.reference_name()));
            pull.insert("base", side("main"));
            payload.insert("action", "opened");
            payload.insert("number", 1.0);
            payload.insert("pull_request", pull);
        }
        payload
    }

    /// The payload of a push of the commit at hand.
    fn payload(&self) -> Object {
        let url = format!("{}/{}", self.server_url, self.repository);
        let owner = Object::from_iter([("login", self.owner()), ("name", self.owner())]);
        let mut repository = Object::new();
        repository.insert("name", self.name());
        repository.insert("full_name", self.repository.as_str());
        repository.insert("owner", owner);
        repository.insert("html_url", url.as_str());
        repository.insert("default_branch", "main");
        let person = Object::from_iter([
            ("name", self.actor.as_str()),
            ("email", self.email.as_str()),
        ]);
        let mut payload = Object::new();
        payload.insert("ref", self.reference.as_str());
        payload.insert("before", NO_COMMIT);
        payload.insert("after", self.sha.as_str());
        payload.insert("created", false);
        payload.insert("deleted", false);
        payload.insert("forced", false);
        payload.insert("repository", repository);
        payload.insert("pusher", person);
        payload.insert(
            "sender",
            Object::from_iter([("login", self.actor.as_str())]),
        );
        payload.insert("commits", Value::array(Vec::new()));
        payload.insert(
            "head_commit",
            Object::from_iter([("id", self.sha.as_str())]),
        );
        payload
    }
}

/// What a payload has that cannot be: a name of a repository or of a reference in another form than
/// GitHub's.
pub fn unfit(event: &str, payload: &Object) -> Option<String> {
    if let Some(name) = text_at(payload, &["repository", "full_name"])
        && !is_repository(&name)
    {
        return Some(format!(
            "has the `repository.full_name` `{name}`, which is no OWNER/NAME"
        ));
    }
    let full = matches!(event, "push" | "workflow_dispatch");
    let reference = text_at(payload, &["ref"]).filter(|name| full && !name.starts_with("refs/"))?;
    Some(format!(
        "has the `ref` `{reference}`, which does not begin with `refs/`"
    ))
}

/// A text or number at a path of keys; nothing if it is empty or something else.
fn text_at(payload: &Object, path: &[&str]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    let first = payload.get(first)?;
    let value = rest.iter().try_fold(first, |value, key| value.get(key))?;
    let text = matches!(value, Value::String(_) | Value::Number(_)).then(|| to_text(value))?;
    (!text.is_empty()).then_some(text)
}

/// Whether a name is `owner/name`; it becomes part of paths in the sandbox.
fn is_repository(name: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && plain_name(part) == part;
    name.split_once('/')
        .is_some_and(|(owner, name)| plain(owner) && plain(name))
}

/// What a pull request changes: the reference is its merge, and its branches are named.
fn pull_request(github: &mut Object, payload: &Object) {
    let Some(pull) = payload.get("pull_request") else {
        return;
    };
    let side = |side: &str| pull.get(side).and_then(|side| side.get("ref")).map(to_text);
    let base = side("base").unwrap_or_default();
    github.insert("head_ref", side("head").unwrap_or_default());
    github.insert("base_ref", base.as_str());
    let target = github.get("event_name").and_then(Value::as_str) == Some("pull_request_target");
    if target {
        github.insert("ref", format!("refs/heads/{base}"));
        github.insert("ref_name", base);
    } else {
        let number = pull.get("number").map(to_text).unwrap_or_default();
        github.insert("ref", format!("refs/pull/{number}/merge"));
        github.insert("ref_name", format!("{number}/merge"));
    }
    github.insert("ref_type", "branch");
}

/// The branch, else a tag of the commit, else the commit.
fn reference(git: &dyn Fn(&[&str]) -> Option<String>) -> String {
    if let Some(branch) = git(&["symbolic-ref", "--quiet", "HEAD"]) {
        return branch;
    }
    if let Some(tag) = git(&["describe", "--tags", "--exact-match", "HEAD"]) {
        return format!("refs/tags/{tag}");
    }
    let commit = git(&["rev-parse", "--verify", "--quiet", "HEAD"]);
    commit.unwrap_or_else(|| "refs/heads/main".to_owned())
}

/// One line from a git command, if it has one to say.
fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(arguments)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

/// Server and `owner/name` of a remote's address. Names and passwords in it are dropped.
fn parse_remote(url: &str) -> Option<(String, String)> {
    let (host, path) = match url.split_once("://") {
        Some(("https" | "http" | "ssh" | "git", rest)) => rest.split_once('/')?,
        Some(_) => return None,
        // The short form of ssh: `git@host:owner/name`.
        None => url.split_once(':').filter(|(host, _)| host.contains('@'))?,
    };
    let host = host.rsplit('@').next()?.split(':').next()?;
    let path = path.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    let (owner, name) = path.rsplit_once('/')?;
    let owner = owner.rsplit('/').next()?;
    let whole = |part: &str| !part.is_empty() && plain_name(part) == part;
    (whole(host) && whole(owner) && whole(name))
        .then(|| (format!("https://{host}"), format!("{owner}/{name}")))
}

/// A name as GitHub would have it: letters, digits, `-`, `_` and `.`.
fn plain_name(name: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '-'
        }
    };
    let name: String = name.chars().map(plain).collect();
    if name.trim_matches('.').is_empty() {
        "workspace".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::json::from_json;

    fn run(folder: &Path, arguments: &[&str]) {
        let status = Command::new("git")
            .arg("-C")
            .arg(folder)
            .args(arguments)
            .status()
            .unwrap();
        assert!(status.success(), "{arguments:?}");
    }

    #[test]
    fn remotes_are_read_in_every_form_and_lose_their_passwords() {
        let github = Some(("https://github.com".to_owned(), "octo/hello.rs".to_owned()));
        for url in [
            "https://github.com/octo/hello.rs",
            "https://github.com/octo/hello.rs.git/",
            "https://user:token@github.com/octo/hello.rs.git",
            "ssh://git@github.com:22/octo/hello.rs.git",
            "git@github.com:octo/hello.rs.git",
        ] {
            assert_eq!(parse_remote(url), github, "{url}");
        }
        let own = Some(("https://ghe.example".to_owned(), "team/app".to_owned()));
        assert_eq!(parse_remote("https://ghe.example/group/team/app"), own);
        for url in [
            "",
            "/srv/git/x.git",
            "file:///srv/x/y",
            "https://github.com",
            "git@h:x",
            "../x/y",
            "https://h/a b/c",
        ] {
            assert_eq!(parse_remote(url), None, "{url}");
        }
    }

    #[test]
    fn a_folder_without_git_is_read_too() {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("my app");
        std::fs::create_dir(&plain).unwrap();
        let checkout = Checkout::read(&plain);
        assert_eq!(checkout.repository, "local/my-app");
        assert_eq!(
            (checkout.sha.as_str(), checkout.reference.as_str()),
            (NO_COMMIT, "refs/heads/main")
        );
    }

    #[test]
    fn a_checkout_tells_repository_commit_branch_and_tag() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        run(path, &["init", "-q", "-b", "trunk"]);
        run(path, &["config", "user.name", "Ada"]);
        run(path, &["config", "user.email", "ada@example.org"]);
        run(
            path,
            &["remote", "add", "origin", "git@github.com:octo/hello.git"],
        );
        let empty = Checkout::read(path);
        assert_eq!(
            (empty.sha.as_str(), empty.reference.as_str()),
            (NO_COMMIT, "refs/heads/trunk")
        );
        run(path, &["commit", "-q", "--allow-empty", "-m", "x"]);
        let checkout = Checkout::read(path);
        assert_eq!(checkout.sha.len(), 40);
        let github = checkout.context(None, ".github/workflows/ci.yml", &Event::default());
        let text = |key: &str| {
            github
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        assert_eq!(text("repository"), "octo/hello");
        assert_eq!(text("ref_name"), "trunk");
        assert_eq!(text("actor"), "Ada");
        assert_eq!(text("event_name"), "push");
        assert_eq!(
            text("workflow_ref"),
            "octo/hello/.github/workflows/ci.yml@refs/heads/trunk"
        );
        assert_eq!(
            github.get("event").unwrap().get("after").unwrap().as_str(),
            Some(checkout.sha.as_str())
        );
        run(path, &["tag", "v1"]);
        run(path, &["checkout", "-q", "--detach"]);
        let tagged = Checkout::read(path);
        assert_eq!(tagged.reference, "refs/tags/v1");
        assert_eq!(tagged.reference_name(), "v1");
    }

    #[test]
    fn what_github_takes_from_the_payload_is_taken_from_there() {
        let checkout = Checkout {
            repository: "local/here".to_owned(),
            server_url: "https://github.com".to_owned(),
            sha: "1".repeat(40),
            reference: "refs/heads/main".to_owned(),
            actor: "Ada".to_owned(),
            email: String::new(),
        };
        let seen = |name: &str, payload: &str, key: &str| {
            let payload = from_json(payload).unwrap().as_object().cloned();
            let name = name.to_owned();
            let github = checkout.context(None, "ci.yml", &Event { name, payload });
            github.get(key).map(to_text).unwrap_or_default()
        };
        let push = r#"{"ref": "refs/tags/v@2", "after": "abc", "sender": {"login": "eve", "id": 7},
            "repository": {"full_name": "octo/hello", "id": 1296269, "owner": {"id": 9}}}"#;
        let pull = r#"{"pull_request": {"number": 5, "merge_commit_sha": "fed", "head": {"ref": "h"},
            "base": {"ref": "b", "sha": "bed"}}}"#;
        let deleted = format!(r#"{{"ref": "refs/heads/x", "after": "{NO_COMMIT}"}}"#);
        for (name, payload, key, expected) in [
            ("push", push, "ref", "refs/tags/v@2"),
            ("push", push, "ref_name", "v@2"),
            ("push", push, "ref_type", "tag"),
            ("push", push, "sha", "abc"),
            ("push", push, "workflow_sha", "abc"),
            ("push", push, "actor", "eve"),
            ("push", push, "triggering_actor", "eve"),
            ("push", push, "actor_id", "7"),
            ("push", push, "repository", "octo/hello"),
            ("push", push, "repository_owner", "octo"),
            ("push", push, "repository_id", "1296269"),
            ("push", push, "repository_owner_id", "9"),
            (
                "push",
                push,
                "repositoryUrl",
                "git://github.com/octo/hello.git",
            ),
            (
                "push",
                push,
                "workflow_ref",
                "octo/hello/ci.yml@refs/tags/v@2",
            ),
            ("push", "{}", "ref", "refs/heads/main"),
            ("push", "{}", "actor", "Ada"),
            ("push", &deleted, "ref", "refs/heads/main"),
            ("push", &deleted, "sha", &checkout.sha),
            (
                "release",
                r#"{"release": {"tag_name": "v1"}}"#,
                "ref",
                "refs/tags/v1",
            ),
            (
                "workflow_dispatch",
                r#"{"ref": "refs/heads/dev"}"#,
                "ref_name",
                "dev",
            ),
            ("pull_request", pull, "sha", "fed"),
            (
                "pull_request",
                pull,
                "workflow_ref",
                "local/here/ci.yml@refs/pull/5/merge",
            ),
            ("pull_request_target", pull, "sha", "bed"),
            (
                "pull_request_target",
                pull,
                "workflow_ref",
                "local/here/ci.yml@refs/heads/b",
            ),
        ] {
            assert_eq!(seen(name, payload, key), expected, "{name} {key}");
        }
    }
}
