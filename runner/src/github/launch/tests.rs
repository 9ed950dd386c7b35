//! A job's actions against a launch service and GitHub's API on loopback, over real git repositories.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value as Json, json};

use super::*;
use crate::{
    action::{
        bytes::{ActionSource, SourceError},
        fixture::{FakeGitHub, NODE, Repositories, git},
        loopback::{Asked, Reply, Server},
        reference::{Reference, RepositoryReference},
    },
    expression::value::Object,
    job::request,
};

const OUTER: &str = "runs:\n  using: composite\n  steps:\n    - uses: octo/inner@v1\n    - uses: octo/other/sub@v1\n    - uses: ./local\n";

/// How the launch service misbehaves.
#[derive(Default)]
struct Manner {
    /// Statuses that it answers first.
    first: Vec<(u16, Json)>,
    /// Commits that it gives instead of those that tags stand for.
    instead: Vec<(&'static str, String)>,
    /// Archives by way of the API, which leads to another server.
    by_api: bool,
}

struct World {
    repositories: Repositories,
    api: FakeGitHub,
    launch: Server,
    manner: Arc<Mutex<Manner>>,
}

impl World {
    fn new() -> Self {
        let repositories = Repositories::new();
        repositories.commit("octo/outer", &[("action.yml", OUTER)], &["v1"]);
        repositories.commit("octo/inner", &[("action.yml", NODE)], &["v1"]);
        repositories.commit("octo/other", &[("sub/action.yml", NODE)], &["v1"]);
        repositories.commit("octo/tool", &[("action.yml", NODE)], &["v1"]);
        repositories.commit("octo/app", &[("README", "app")], &[]);
        let api = FakeGitHub::start(&repositories.base());
        let manner = Arc::new(Mutex::new(Manner::default()));
        let (base, kept) = (repositories.base(), Arc::clone(&manner));
        let (archives, by_api) = (api.archives.url(), api.url());
        let launch = Server::start(move |asked| {
            let mut manner = kept.lock().unwrap();
            let place = if manner.by_api { &by_api } else { &archives };
            answer(&base, place, &mut manner, asked)
        });
        Self {
            repositories,
            api,
            launch,
            manner,
        }
    }

    fn tip(&self, name: &str) -> String {
        git(&self.repositories.repository(name), &["rev-parse", "HEAD"])
    }

    fn job(&self, dependencies: &[String]) -> JobRequest {
        let mut job = request::decode(include_bytes!("../../job/request/fixture.json")).unwrap();
        let github = Object::from_iter([
            ("repository", "octo/app".to_owned()),
            ("sha", self.tip("octo/app")),
            ("api_url", self.api.url()),
        ]);
        job.context_data.insert("github", github);
        job.dependencies = dependencies.to_vec();
        let url = Variable::Plain(self.launch.url());
        job.variables.insert("system.github.launch_endpoint", url);
        let token = Variable::Secret("ghs-token".to_owned().into());
        job.variables.insert("system.github.token", token);
        job
    }

    async fn actions(&self, pins: PinPolicy, dependencies: &[String]) -> JobActions {
        let http = Http::new("mayfly-test").unwrap();
        let policy = ActionPolicy {
            pins,
            mirror: None,
            store: self.repositories.store(),
            history: History::at(self.repositories.folder.path().join("pins")),
        };
        let times = LaunchTimes {
            tries: 3,
            retry: Duration::from_millis(1)..=Duration::from_millis(5),
        };
        let job = self.job(dependencies);
        let made = actions(&http, &job, &policy, Notices::default(), times).await;
        made.unwrap()
    }

    /// What the launch service was asked for, a list of `owner/repo@ref` a question.
    fn asked(&self) -> Vec<Vec<String>> {
        let asked = self.launch.asked();
        let names = |asked: &Asked| {
            let body: Json = serde_json::from_slice(&asked.body).unwrap();
            let actions = body["actions"].as_array().unwrap().clone();
            let name = |action: &Json| {
                let text = |name: &str| action[name].as_str().unwrap().to_owned();
                format!("{}@{}", text("action"), text("version"))
            };
            actions.iter().map(name).collect()
        };
        asked.iter().map(names).collect()
    }
}

fn answer(base: &Path, archives: &str, manner: &mut Manner, asked: &Asked) -> Reply {
    assert_eq!(
        asked.path,
        "/actions/build/0b7eb6b1-ab3c-46bc-a6e9-21298ec14671/jobs/8e3faf38-534e-5b05-9cf9-da9360891e1f/\
         runnerresolve/actions"
    );
    assert_eq!(asked.authorization.as_deref(), Some("Bearer job-t0ken"));
    if !manner.first.is_empty() {
        let (status, body) = manner.first.remove(0);
        return Reply::of(status, body.to_string());
    }
    let body: Json = serde_json::from_slice(&asked.body).unwrap();
    let mut found = serde_json::Map::new();
    for action in body["actions"].as_array().unwrap() {
        let (name, version) = (
            action["action"].as_str().unwrap(),
            action["version"].as_str().unwrap(),
        );
        let key = format!("{name}@{version}");
        let instead = manner.instead.iter().find(|(of, _)| *of == key);
        let id = match instead {
            Some((_, id)) => id.clone(),
            None => git(
                &base.join(name),
                &["rev-parse", &format!("{version}^{{commit}}")],
            ),
        };
        let part = if archives.ends_with("/api") {
            format!("repos/{name}/tarball")
        } else {
            name.to_owned()
        };
        let info = json!({
            "name": name, "resolved_name": name, "resolved_sha": id, "version": version,
            "tar_url": format!("{archives}/{part}/{id}"), "zip_url": "",
            "authentication": {"token": "ghs-archive", "expires_at": "2099-01-01T00:00:00Z"},
        });
        found.insert(key, info);
    }
    Reply::of(200, json!({"actions": found}).to_string())
}

fn reference(text: &str) -> RepositoryReference {
    match Reference::parse(text).unwrap() {
        Reference::Repository(reference) => reference,
        other => panic!("{other:?}"),
    }
}

fn refused(prepared: Result<crate::action::bytes::Prepared, SourceError>) -> String {
    prepared.unwrap_err().to_string()
}

#[tokio::test]
async fn actions_are_looked_up_together_nested_ones_too_and_come_verified_from_the_named_archive() {
    let world = World::new();
    let actions = world.actions(PinPolicy::LockOnFirstUse, &[]).await;
    let used = [reference("octo/outer@v1"), reference("octo/tool@v1")];
    let prepared = actions.prepare(&used).await.unwrap();
    assert_eq!(prepared.lines.len(), 4, "{prepared:?}");
    let tool = world.tip("octo/tool");
    let line = format!("Download action repository 'octo/tool@v1' (SHA:{tool})");
    assert!(prepared.lines.contains(&line), "{prepared:?}");
    assert_eq!(prepared.warnings, Vec::<String>::new());
    assert_eq!(
        world.asked(),
        [
            ["octo/outer@v1", "octo/tool@v1"],
            ["octo/inner@v1", "octo/other@v1"]
        ]
    );
    for (name, file) in [
        ("octo/other/sub@v1", "sub/action.yml"),
        ("octo/tool@v1", "action.yml"),
    ] {
        let bytes = actions.find(&reference(name)).unwrap();
        assert_eq!(bytes.read(file, 1000).unwrap().unwrap(), NODE.as_bytes());
    }
    // Known by now: nobody is asked again.
    let again = actions
        .prepare(&[reference("octo/inner@v1")])
        .await
        .unwrap();
    assert_eq!((again.lines.len(), world.asked().len()), (0, 2));
    let late = actions.find(&reference("octo/never@v1"));
    assert!(matches!(late, Err(SourceError::Late(_))));
    let archives = world.api.archives.asked();
    assert_eq!(archives.len(), 4);
    // x-access-token:ghs-archive
    let basic = "Basic eC1hY2Nlc3MtdG9rZW46Z2hzLWFyY2hpdmU=";
    assert!(
        archives
            .iter()
            .all(|asked| asked.authorization.as_deref() == Some(basic))
    );
}

#[tokio::test]
async fn a_token_stays_with_the_host_that_it_was_named_for() {
    let world = World::new();
    world.manner.lock().unwrap().by_api = true;
    let actions = world.actions(PinPolicy::LockOnFirstUse, &[]).await;
    actions.prepare(&[reference("octo/tool@v1")]).await.unwrap();
    let archives = world.api.archives.asked();
    assert_eq!(archives.len(), 1);
    assert_eq!(archives[0].authorization, None);
    let api = world.api.api.asked();
    let tarball = api
        .iter()
        .find(|asked| asked.path.contains("/tarball/"))
        .unwrap();
    assert!(
        tarball
            .authorization
            .as_deref()
            .unwrap()
            .starts_with("Basic ")
    );
}

#[tokio::test]
async fn what_nothing_pins_does_not_run_and_the_message_s_lock_pins_it_if_github_agrees() {
    let world = World::new();
    let used = [reference("octo/tool@v1")];
    let actions = world.actions(PinPolicy::Require, &[]).await;
    let why = refused(actions.prepare(&used).await);
    assert!(
        why.contains("octo/tool@v1") && why.contains("unpinned"),
        "{why}"
    );
    assert!(actions.find(&used[0]).is_err());
    assert_eq!(
        world.api.archives.asked().len(),
        0,
        "nothing of it was fetched"
    );

    let (tip, inner) = (world.tip("octo/tool"), world.tip("octo/inner"));
    let by_commit = [reference(&format!("octo/tool@{tip}"))];
    let actions = world.actions(PinPolicy::Require, &[]).await;
    actions.prepare(&by_commit).await.unwrap();

    let locked = [format!("octo/tool@v1:sha1-{tip}")];
    let actions = world.actions(PinPolicy::Require, &locked).await;
    let prepared = actions.prepare(&used).await.unwrap();
    let line = "Using locked action versions from the workflow's lockfile";
    assert_eq!(prepared.lines[0], line);
    let body = world.launch.asked().pop().unwrap().body;
    let body: Json = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["actions_dependencies"], json!(locked));

    // The tag moves, and GitHub gives what it stands for now in spite of the lock.
    let evil = world
        .repositories
        .commit("octo/tool", &[("x.js", "evil")], &["v1"]);
    let actions = world.actions(PinPolicy::Require, &locked).await;
    let why = refused(actions.prepare(&used).await);
    assert!(
        why.contains("moved") && why.contains(&evil) && why.contains(&tip),
        "{why}"
    );
    assert!(actions.find(&used[0]).is_err());

    // It gives another commit than the one that is named.
    let key: &'static str = Box::leak(format!("octo/inner@{inner}").into_boxed_str());
    world.manner.lock().unwrap().instead = vec![(key, evil)];
    let by_commit = [reference(key)];
    let actions = world.actions(PinPolicy::Audit, &[]).await;
    let told = actions.prepare(&by_commit).await.unwrap();
    assert!(told.warnings[0].contains("names a commit"), "{told:?}");
    assert!(actions.find(&by_commit[0]).is_err());
}

#[tokio::test]
async fn lock_files_are_read_at_the_workflow_s_commit() {
    let world = World::new();
    let tip = world.tip("octo/tool");
    let lock = format!(
        "version: v0.0.2\nworkflows:\n  .github/workflows/ci.yml:\n    - octo/tool@v1\ndependencies:\n  \
         octo/tool@v1:\n    ref: v1\n    commit: sha1-{tip}\n    owner_id: 7\n    repo_id: 8\n"
    );
    let path = ".github/workflows/actions.lock";
    world.repositories.commit("octo/app", &[(path, &lock)], &[]);
    let actions = world.actions(PinPolicy::Require, &[]).await;
    let prepared = actions.prepare(&[reference("octo/tool@v1")]).await.unwrap();
    assert!(
        prepared.lines[0].ends_with(&format!("(SHA:{tip})")),
        "{prepared:?}"
    );
    let asked = world.api.api.asked();
    let contents = asked
        .iter()
        .find(|asked| asked.path.contains(path))
        .unwrap();
    assert!(contents.path.ends_with(&world.tip("octo/app")));
    assert_eq!(contents.authorization.as_deref(), Some("Bearer ghs-token"));
    let broken = world
        .repositories
        .commit("octo/app", &[(path, "version: v9\n")], &[]);
    let job = world.job(&[]);
    let http = Http::new("mayfly-test").unwrap();
    let read = JobLocks::read(&http, &world.api.url(), None, &job).await;
    assert!(matches!(read, Err(JobLocksError::Broken(_))), "{broken}");
}

#[tokio::test]
async fn refusals_of_the_service_are_told_and_outages_waited_out() {
    let world = World::new();
    let used = [reference("octo/tool@v1")];
    let words = "Only actions pinned to a full-length commit SHA are allowed";
    let refusal = json!({"errors": {"octo/tool@v1": {"message": words}}});
    for (first, tries, told) in [
        (vec![(422, refusal)], 1, words),
        (vec![(429, json!({}))], 1, "did not answer: HTTP 429"),
        (vec![(404, json!({}))], 1, "did not answer: HTTP 404"),
        (vec![(503, json!({})); 3], 3, "did not answer: HTTP 503"),
        (
            vec![(200, json!({"actions": {}}))],
            1,
            "has nothing of `octo/tool@v1`",
        ),
        (
            vec![(
                200,
                json!({"actions": {"octo/tool@v1": {"resolved_sha": "x", "tar_url": "y"}}}),
            )],
            1,
            "resolved_sha is no commit id",
        ),
    ] {
        let before = world.launch.asked().len();
        // Each of two questions of an unknown reference is answered like this.
        let twice = [first.clone(), first].concat();
        world.manner.lock().unwrap().first = twice;
        let actions = world.actions(PinPolicy::LockOnFirstUse, &[]).await;
        let why = refused(actions.prepare(&used).await);
        assert!(why.contains(told), "{why}");
        assert_eq!(world.launch.asked().len() - before, 2 * tries, "{told}");
        world.manner.lock().unwrap().first = Vec::new();
    }
    world.manner.lock().unwrap().first = vec![(500, json!({})), (502, json!({}))];
    let actions = world.actions(PinPolicy::LockOnFirstUse, &[]).await;
    actions.prepare(&used).await.unwrap();
}
