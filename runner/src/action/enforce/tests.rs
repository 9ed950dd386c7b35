//! Policies over real git repositories whose tags move.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::*;
use crate::action::{
    bytes::{ActionBytes, SourceError},
    find,
    folders::Folders,
    lockfile::{ActionPin, Companion, ImagePin, Resolution},
    reference::{ActionKey, Reference},
    source::GitMirror,
};
use crate::workflow::source::Source;

const NODE: &str = "runs: {using: node20, main: main.js}\n";
const EVIL: &str = "runs: {using: node20, main: evil.js}\n";
const USES_TOOL: &str =
    "on: push\njobs:\n  j:\n    runs-on: x\n    steps:\n      - uses: octo/tool@v1\n";

fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=a", "-c", "user.email=a@example.com"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

struct World {
    folder: tempfile::TempDir,
    locks: Locks,
    given: Arc<dyn ActionSource>,
    images: BTreeSet<String>,
    online: bool,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        std::fs::create_dir_all(&work).unwrap();
        git(&work, &["init", "-q"]);
        std::fs::create_dir_all(folder.path().join("git")).unwrap();
        Self {
            folder,
            locks: Locks::default(),
            given: Arc::new(Folders::default()),
            images: BTreeSet::new(),
            online: true,
        }
    }

    fn repository(&self, name: &str) -> PathBuf {
        self.folder.path().join("git").join(name)
    }

    fn commit(&self, name: &str, files: &[(&str, &str)], tags: &[&str]) -> String {
        let folder = self.repository(name);
        if !folder.exists() {
            std::fs::create_dir_all(&folder).unwrap();
            git(&folder, &["init", "-q"]);
        }
        for (path, text) in files {
            std::fs::write(folder.join(path), text).unwrap();
        }
        git(&folder, &["add", "."]);
        git(&folder, &["commit", "-q", "--allow-empty", "-m", "x"]);
        for tag in tags {
            git(&folder, &["tag", "-f", tag]);
        }
        git(&folder, &["rev-parse", "HEAD"])
    }

    fn store(&self) -> ActionStore {
        ActionStore::at(self.folder.path().join("actions"))
    }

    async fn run(&self, policy: PinPolicy, workflow: &str) -> Enforced {
        let mirror = self.folder.path().join("git");
        let mirror = GitMirror::open(mirror.to_str().unwrap()).unwrap();
        let checkout = Checkout::containing(&self.folder.path().join("work")).unwrap();
        let enforcer = Enforcer {
            policy,
            upstream: self.online.then(|| Arc::new(mirror) as Arc<dyn Upstream>),
            store: self.store(),
            history: History::at(self.folder.path().join("pins")),
            locks: self.locks.clone(),
            checkout: Some(Arc::new(checkout)),
            given: Arc::clone(&self.given),
            given_images: self.images.clone(),
        };
        let found = find::in_workflow(&Source::new("ci.yml", workflow)).unwrap();
        let file = "ci.yml".to_owned();
        enforcer.enforce(vec![Root { file, found }]).await.unwrap()
    }

    /// Locks `octo/tool@v1` as it was found.
    fn lock(&mut self, commit: &str, content: &str) {
        let tree = git(
            &self.repository("octo/tool"),
            &["rev-parse", &format!("{commit}^{{tree}}")],
        );
        let pin = ActionPin {
            reference: "v1".to_owned(),
            commit: format!("sha1-{commit}"),
            tree: format!("sha1-{tree}"),
            content: content.replace(':', "-"),
            uses: Vec::new(),
            resolved: Resolution {
                at: "2026-01-02T03:04:05Z".to_owned(),
                from: "/mirror".to_owned(),
            },
        };
        let mut companion = Companion::default();
        companion.set_action(&ActionKey::parse("octo/tool@v1").unwrap(), &pin);
        companion.set_workflow("ci.yml", &[PinKey::parse("octo/tool@v1").unwrap()]);
        self.locks.companion = Some(companion);
    }
}

fn said(enforced: &Enforced) -> Vec<String> {
    enforced.offenders.iter().map(ToString::to_string).collect()
}

fn bytes(enforced: &Enforced, text: &str) -> Result<Arc<dyn ActionBytes>, SourceError> {
    let Ok(Reference::Repository(reference)) = Reference::parse(text) else {
        panic!("{text}")
    };
    enforced.actions.find(&reference)
}

fn manifest(enforced: &Enforced, text: &str) -> String {
    let bytes = bytes(enforced, text).unwrap();
    let read = bytes.read("action.yml", 1000).unwrap().unwrap();
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn require_lists_all_that_nothing_pins_and_fetches_none_of_it() {
    let world = World::new();
    let tool = world.commit("octo/tool", &[("action.yml", NODE)], &["v1"]);
    let outer = "runs:\n  using: composite\n  steps:\n    - uses: octo/tool@v1\n    - uses: docker://alpine:3\n";
    let outer = world.commit("octo/outer", &[("action.yml", outer)], &["v2"]);
    let workflow = format!(
        "on: push\njobs:\n  j:\n    container: node:20\n    services: {{db: 'postgres:16'}}\n    steps:\n      \
         - uses: octo/outer@{outer}\n      - uses: octo/tool@v1\n      - uses: octo/tool@{tool}\n      \
         - uses: ./made/by/a/step\n"
    );
    let enforced = world.run(PinPolicy::Require, &workflow).await;
    let nested = format!("octo/outer@{outer}:action.yml");
    let places = [
        "ci.yml:4:16: unpinned: the image `node:20`",
        "ci.yml:5:20: unpinned: the image `postgres:16`",
        "ci.yml:8:15: unpinned: `octo/tool@v1` is not in the lock; run `mayfly pin`",
        &format!("{nested}:4:13: unpinned: `octo/tool@v1` is not in the lock"),
        &format!("{nested}:5:13: unpinned: the image `alpine:3`"),
    ];
    let said = said(&enforced);
    assert_eq!(said.len(), places.len(), "{said:#?}");
    for (said, place) in said.iter().zip(places) {
        assert!(said.starts_with(place), "{said}");
    }
    assert!(bytes(&enforced, &format!("octo/tool@{tool}")).is_ok());
    let error = bytes(&enforced, "octo/tool@v1").unwrap_err().to_string();
    assert!(error.contains("is not in the lock"), "{error}");
    let error = bytes(&enforced, "octo/other@v1").unwrap_err().to_string();
    assert!(
        error.contains("was not known before the job began"),
        "{error}"
    );
}

#[tokio::test]
async fn a_tag_that_moved_since_its_first_use_trips_and_what_was_used_first_is_what_is_given() {
    let world = World::new();
    let old = world.commit("octo/tool", &[("action.yml", NODE)], &["v1"]);
    for _ in 0..2 {
        let enforced = world.run(PinPolicy::LockOnFirstUse, USES_TOOL).await;
        assert_eq!(said(&enforced), Vec::<String>::new());
        assert_eq!(manifest(&enforced, "octo/tool@v1"), NODE);
    }
    let stored = world.store().list().unwrap().len();
    let new = world.commit("octo/tool", &[("action.yml", EVIL)], &["v1"]);
    for policy in [
        PinPolicy::LockOnFirstUse,
        PinPolicy::Audit,
        PinPolicy::LockOnFirstUse,
    ] {
        let enforced = world.run(policy, USES_TOOL).await;
        let said = said(&enforced);
        assert_eq!(said.len(), 1, "{said:?}");
        let begin =
            format!("ci.yml:6:15: moved: `octo/tool@v1` moved: it was {old} (first seen 20");
        assert!(said[0].starts_with(&begin), "{said:?}");
        assert!(
            said[0].contains(&format!("is {new} now (first seen 20")),
            "{said:?}"
        );
        assert_eq!(manifest(&enforced, "octo/tool@v1"), NODE);
        assert_eq!(
            world.store().list().unwrap().len(),
            stored,
            "it was never fetched"
        );
    }
    // Whoever knows nothing of before takes what comes: what the trip-wire is for.
    let fresh = World {
        folder: world.folder,
        ..World::new()
    };
    std::fs::remove_dir_all(fresh.folder.path().join("pins")).unwrap();
    let enforced = fresh.run(PinPolicy::Audit, USES_TOOL).await;
    assert_eq!(manifest(&enforced, "octo/tool@v1"), EVIL);
}

#[tokio::test]
async fn a_locked_tag_runs_without_a_source_and_trips_when_a_source_tells_that_it_moved() {
    let mut world = World::new();
    let old = world.commit("octo/tool", &[("action.yml", NODE)], &["v1"]);
    let first = world.run(PinPolicy::Audit, USES_TOOL).await;
    let content = bytes(&first, "octo/tool@v1").unwrap().origin();
    let content = content.rsplit(' ').next().unwrap().to_owned();
    std::fs::remove_dir_all(world.folder.path().join("pins")).unwrap();
    world.lock(&old, &content);
    let enforced = world.run(PinPolicy::Require, USES_TOOL).await;
    assert_eq!(said(&enforced), Vec::<String>::new());
    let new = world.commit("octo/tool", &[("action.yml", EVIL)], &["v1"]);
    std::fs::remove_dir_all(world.folder.path().join("pins")).unwrap();
    let enforced = world.run(PinPolicy::Require, USES_TOOL).await;
    let moved = said(&enforced);
    let times = "(first seen 2026-01-02T03:04:05Z, last 2026-01-02T03:04:05Z, at /mirror)";
    assert!(
        moved[0].contains(&format!("it was {old} {times} and is {new} now")),
        "{moved:?}"
    );
    // Nobody to ask: the locked one is in the store, and runs.
    world.online = false;
    let enforced = world.run(PinPolicy::Require, USES_TOOL).await;
    assert_eq!(said(&enforced), Vec::<String>::new());
    assert_eq!(manifest(&enforced, "octo/tool@v1"), NODE);
    // The lock takes the new one: that is known then, without a trip, and the old one is not.
    world.online = true;
    std::fs::remove_dir_all(world.folder.path().join("pins")).unwrap();
    let fresh = world
        .run(
            PinPolicy::Audit,
            &USES_TOOL.replace("@v1", &format!("@{new}")),
        )
        .await;
    let content = bytes(&fresh, &format!("octo/tool@{new}")).unwrap().origin();
    let content = content.rsplit(' ').next().unwrap().to_owned();
    world.lock(&new, &content);
    let enforced = world.run(PinPolicy::Require, USES_TOOL).await;
    assert_eq!(said(&enforced), Vec::<String>::new());
    world.lock(&old, &content);
    let enforced = world.run(PinPolicy::Audit, USES_TOOL).await;
    assert!(
        said(&enforced)[0].contains(": tampered: "),
        "{:?}",
        said(&enforced)
    );
    assert!(matches!(
        bytes(&enforced, "octo/tool@v1"),
        Err(SourceError::Refused { .. })
    ));
}

#[tokio::test]
async fn what_the_person_gives_needs_no_pin_and_what_it_uses_does() {
    let mut world = World::new();
    let given = tempfile::tempdir().unwrap();
    let text = "runs:\n  using: composite\n  steps:\n    - uses: octo/tool@v1\n";
    std::fs::write(given.path().join("action.yml"), text).unwrap();
    let argument = format!("octo/mine@v1={}", given.path().display());
    world.given = Arc::new(Folders::new(&[argument.parse().unwrap()]).unwrap());
    world.images.insert("docker.io/library/node:20".to_owned());
    let workflow = USES_TOOL
        .replace("octo/tool", "octo/mine")
        .replace("runs-on: x", "container: node:20");
    let enforced = world.run(PinPolicy::Require, &workflow).await;
    assert_eq!(
        said(&enforced),
        [
            "octo/mine@v1:action.yml:4:13: unpinned: `octo/tool@v1` is not in the lock; run `mayfly pin`"
        ]
    );
    assert_eq!(manifest(&enforced, "octo/mine@v1"), text);
    world.images.clear();
    let enforced = world.run(PinPolicy::Require, &workflow).await;
    assert_eq!(said(&enforced).len(), 2);
    let digest = format!("sha256:{}", "a".repeat(64));
    let mut companion = Companion::default();
    companion.set_image(
        "docker.io/library/node:20",
        &ImagePin {
            digest: digest.clone(),
            platforms: Vec::new(),
            resolved: Resolution {
                at: "2026-01-02T03:04:05Z".to_owned(),
                from: "registry".to_owned(),
            },
        },
    );
    world.locks.companion = Some(companion);
    let enforced = world.run(PinPolicy::Require, &workflow).await;
    assert_eq!(said(&enforced).len(), 1);
    let name = enforced.actions.image("node:20").unwrap();
    assert_eq!(name, format!("docker.io/library/node@{digest}"));
    let error = enforced.actions.image("node:21").unwrap_err().to_string();
    assert!(
        error.contains("the image node:21 may not be pulled"),
        "{error}"
    );
}

#[tokio::test]
async fn a_commit_that_is_stored_needs_no_source() {
    let mut world = World::new();
    let commit = world.commit("octo/tool", &[("action.yml", NODE)], &["v1"]);
    let workflow = USES_TOOL.replace("@v1", &format!("@{commit}"));
    world.online = false;
    let enforced = world.run(PinPolicy::Require, &workflow).await;
    let said_now = said(&enforced);
    assert!(said_now[0].contains(": unreachable: "), "{said_now:?}");
    assert!(said_now[0].contains("--mirror DIR|URL"), "{said_now:?}");
    world.online = true;
    assert_eq!(
        said(&world.run(PinPolicy::Require, &workflow).await),
        Vec::<String>::new()
    );
    world.online = false;
    let enforced = world.run(PinPolicy::Require, &workflow).await;
    assert_eq!(said(&enforced), Vec::<String>::new());
    assert_eq!(manifest(&enforced, &format!("octo/tool@{commit}")), NODE);
}
