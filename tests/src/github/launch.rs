//! Actions: the launch service, which says what references stand for, and what comes from GitHub's API
//! of their repositories. They are folders of git below one folder.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use http_body_util::Full;
use hyper::{Response, body::Bytes};
use serde_json::{Value as Json, json};

use super::{Asked, FakeGitHub, Said, Shared, State};
use crate::git_server::git;

/// What archives are asked for with: `x-access-token:archive-token` in Base64.
const ARCHIVE_BASIC: &str = "Basic eC1hY2Nlc3MtdG9rZW46YXJjaGl2ZS10b2tlbg==";

impl FakeGitHub {
    /// Has the repositories that lie below a folder as `owner/name` or `owner/name.git`.
    pub fn repositories(&self, folder: &Path) {
        self.shared.lock().repositories = Some(folder.to_owned());
    }
}

impl State {
    /// The folder of a repository.
    fn repository(&self, owner: &str, name: &str) -> Option<PathBuf> {
        let base = self.repositories.as_ref()?.join(owner);
        let folders = [base.join(name), base.join(format!("{name}.git"))];
        folders.into_iter().find(|folder| folder.is_dir())
    }

    /// The launch service's answer: what references stand for.
    pub(super) fn launch(&mut self, plan: &str, job: &str, asked: &Asked) -> Said {
        if let Err(said) = self.job_of(asked, &json!(plan), &json!(job)) {
            return said;
        }
        let body = match self.object(asked, &["actions", "actions_dependencies"], &[]) {
            Ok(body) => body,
            Err(said) => return said,
        };
        if body["actions_dependencies"] != self.jobs[job].message["dependencies"] {
            return self.violation(400, "runnerresolve: other dependencies than the message's");
        }
        let (mut found, mut errors) = (serde_json::Map::new(), serde_json::Map::new());
        for action in body["actions"].as_array().into_iter().flatten() {
            let text = |name: &str| action[name].as_str().unwrap_or_default();
            let (name, version) = (text("action"), text("version"));
            let fields = action.as_object().map_or(0, serde_json::Map::len);
            if fields != 3 || !action["path"].is_string() {
                return self.violation(400, format!("runnerresolve: {action}"));
            }
            let key = format!("{name}@{version}");
            let folder = name
                .split_once('/')
                .and_then(|(o, n)| self.repository(o, n));
            let commit = folder.and_then(|folder| commit(&folder, version));
            let Some(commit) = commit else {
                let message = format!("Unable to resolve action `{key}`");
                errors.insert(key, json!({"message": message}));
                continue;
            };
            let info = json!({
                "name": name, "resolved_name": name, "resolved_sha": commit, "version": version,
                "tar_url": format!("{}archives/{name}/{commit}", self.base), "zip_url": "",
                "authentication": {"token": "archive-token", "expires_at": "2099-01-01T00:00:00Z"},
            });
            found.insert(key, info);
        }
        if errors.is_empty() {
            return (200, json!({"actions": found}));
        }
        (422, json!({"errors": errors}))
    }

    /// What the API says of a repository: `/contents/repos/OWNER/NAME/…`.
    fn contents(&mut self, owner: &str, name: &str, path: &[&str], asked: &Asked) -> Raw {
        let token = asked.bearer.clone().unwrap_or_default();
        if !token.starts_with("ghs-") {
            let (status, body) =
                self.violation(401, format!("{}: without the job's token", asked.path));
            return Raw::json(status, &body);
        }
        let Some(folder) = self.repository(owner, name) else {
            return Raw::json(404, &json!({"message": "Not Found"}));
        };
        match path {
            [] => Raw::json(
                200,
                &json!({"id": 8, "owner": {"id": 7}, "default_branch": "main"}),
            ),
            ["contents", path @ ..] => {
                let at = asked.query.get("ref").map_or("HEAD", String::as_str);
                let shown = run(&folder, &["show", &format!("{at}:{}", path.join("/"))]);
                shown.map_or_else(
                    || Raw::json(404, &json!({"message": "Not Found"})),
                    |body| Raw { status: 200, body },
                )
            }
            ["tarball", id] => packed(&folder, owner, name, id),
            ["tags"] => Raw::json(200, &named(&folder, "refs/tags/")),
            ["branches"] => Raw::json(200, &named(&folder, "refs/heads/")),
            ["compare", ..] => Raw::json(200, &json!({"status": "ahead"})),
            ["git", "ref", kind @ ("tags" | "heads"), name @ ..] => {
                let name = format!("refs/{kind}/{}", name.join("/"));
                let found = commit(&folder, &name);
                found.map_or_else(
                    || Raw::json(404, &json!({"message": "Not Found"})),
                    |id| Raw::json(200, &json!({"object": {"type": "commit", "sha": id}})),
                )
            }
            ["git", "trees", id] => {
                let listed = run(&folder, &["ls-tree", "-r", "-t", id]).unwrap_or_default();
                let listed = String::from_utf8_lossy(&listed).into_owned();
                let entries: Vec<Json> = listed.lines().filter_map(tree_entry).collect();
                Raw::json(
                    200,
                    &json!({"sha": id, "tree": entries, "truncated": false}),
                )
            }
            ["git", "commits", id] => match run(&folder, &["cat-file", "commit", id]) {
                Some(object) => Raw::json(200, &told(&String::from_utf8_lossy(&object))),
                None => Raw::json(404, &json!({"message": "Not Found"})),
            },
            _ => {
                let what = format!("{}: no such route", asked.path);
                let (status, body) = self.violation(404, what);
                Raw::json(status, &body)
            }
        }
    }

    fn archive(&mut self, owner: &str, name: &str, id: &str, asked: &Asked) -> Raw {
        let basic = asked
            .headers
            .get("authorization")
            .map(|value| value.as_bytes());
        if basic != Some(ARCHIVE_BASIC.as_bytes()) {
            let (status, body) = self.violation(401, format!("{}: not its token", asked.path));
            return Raw::json(status, &body);
        }
        let folder = self.repository(owner, name);
        folder.map_or_else(
            || Raw::json(404, &json!({})),
            |folder| packed(&folder, owner, name, id),
        )
    }
}

/// The archive of a commit, as GitHub packs it.
fn packed(folder: &Path, owner: &str, name: &str, id: &str) -> Raw {
    let prefix = format!("--prefix={owner}-{name}-{}/", &id[..id.len().min(7)]);
    let packed = run(folder, &["archive", "--format=tar.gz", &prefix, id]);
    packed.map_or_else(
        || Raw::json(404, &json!({})),
        |body| Raw { status: 200, body },
    )
}

/// An answer that need not be JSON.
struct Raw {
    status: u16,
    body: Vec<u8>,
}

impl Raw {
    fn json(status: u16, body: &Json) -> Self {
        let body = body.to_string().into_bytes();
        Self { status, body }
    }
}

impl Shared {
    /// The answer to a request about a repository, if it is one.
    pub(super) fn about_repository(&self, asked: &Asked) -> Option<Response<Full<Bytes>>> {
        let segments: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
        let mut state = self.lock();
        let raw = match segments.as_slice() {
            ["contents", "repos", owner, name, path @ ..] => {
                state.contents(owner, name, path, asked)
            }
            ["archives", owner, name, id] => state.archive(owner, name, id, asked),
            _ => return None,
        };
        let mut response = Response::new(Full::new(raw.body.into()));
        *response.status_mut() = hyper::StatusCode::from_u16(raw.status).unwrap_or_default();
        Some(response)
    }
}

/// What git prints, if it succeeds.
fn run(folder: &Path, arguments: &[&str]) -> Option<Vec<u8>> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(folder)
        .output();
    output
        .ok()
        .filter(|output| output.status.success())
        .map(|output| output.stdout)
}

fn commit(folder: &Path, reference: &str) -> Option<String> {
    let wanted = format!("{reference}^{{commit}}");
    let id = run(
        folder,
        &["rev-parse", "--verify", "-q", "--end-of-options", &wanted],
    )?;
    Some(String::from_utf8_lossy(&id).trim().to_owned())
}

/// An entry of a tree from a line of `git ls-tree`.
fn tree_entry(line: &str) -> Option<Json> {
    let (about, path) = line.split_once('\t')?;
    let words: Vec<&str> = about.split(' ').collect();
    let [mode, kind, sha] = words.as_slice() else {
        return None;
    };
    Some(json!({"path": path, "mode": mode, "type": kind, "sha": sha}))
}

/// Tags or branches with their commits.
fn named(folder: &Path, kind: &str) -> Json {
    let format = "--format=%(refname) %(objectname) %(*objectname)";
    let listed = git(folder, &["for-each-ref", format, kind]);
    let entry = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let name = words[0].strip_prefix(kind)?;
        let commit = words.get(2).filter(|id| !id.is_empty());
        Some(json!({"name": name, "commit": {"sha": commit.unwrap_or(&words[1])}}))
    };
    listed.lines().filter_map(entry).collect()
}

/// What the API says of a commit object that is not signed.
fn told(object: &str) -> Json {
    let (head, message) = object.split_once("\n\n").unwrap_or((object, ""));
    let lines = |name: &str| {
        let found = head
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.map(str::to_owned).collect::<Vec<_>>()
    };
    let person = |name: &str| {
        let text = lines(name).into_iter().next().unwrap_or_default();
        let (name, rest) = text.split_once(" <").unwrap_or_default();
        let (email, rest) = rest.split_once("> ").unwrap_or_default();
        let seconds: i64 = rest
            .split(' ')
            .next()
            .unwrap_or_default()
            .parse()
            .unwrap_or_default();
        let date = jiff::Timestamp::from_second(seconds).unwrap_or_default();
        json!({"name": name, "email": email, "date": date.to_string()})
    };
    let parents = lines("parent");
    json!({
        "sha": "?", "message": message.trim_end_matches('\n'),
        "tree": {"sha": lines("tree").first()},
        "parents": parents.iter().map(|id| json!({"sha": id})).collect::<Vec<_>>(),
        "author": person("author"), "committer": person("committer"),
        "verification": {"signature": null, "payload": null},
    })
}
