//! Policies over real git repositories whose tags move.

use std::{ops::Deref, path::Path, sync::Mutex};

use super::*;
use crate::action::{
    bytes::{ActionBytes, SourceError},
    find,
    fixture::{FakeGitHub, Repositories, git},
    folders::Folders,
    image_content::tests::saved,
    lockfile::{ActionPin, Companion, ImagePin, Resolution},
    loopback::{Reply, Server},
    reference::{ActionKey, Reference},
    registry::Credentials,
};
use crate::workflow::source::Source;

const NODE: &str = "runs: {using: node20, main: main.js}\n";
const EVIL: &str = "runs: {using: node20, main: evil.js}\n";
const USES_TOOL: &str =
    "on: push\njobs:\n  j:\n    runs-on: x\n    steps:\n      - uses: octo/tool@v1\n";

struct World {
    repositories: Repositories,
    locks: Locks,
    given: Arc<dyn ActionSource>,
    images: ImageArchives,
    registries: Option<Registries>,
    online: bool,
}

impl Deref for World {
    type Target = Repositories;

    fn deref(&self) -> &Repositories {
        &self.repositories
    }
}

impl World {
    fn new() -> Self {
        Self {
            repositories: Repositories::new(),
            locks: Locks::default(),
            given: Arc::new(Folders::default()),
            images: ImageArchives::default(),
            registries: None,
            online: true,
        }
    }

    async fn run(&self, policy: PinPolicy, workflow: &str) -> Enforced {
        let upstream = self
            .online
            .then(|| Arc::new(self.mirror()) as Arc<dyn Upstream>);
        self.run_from(upstream, policy, workflow).await
    }

    async fn run_from(
        &self,
        upstream: Option<Arc<dyn Upstream>>,
        policy: PinPolicy,
        workflow: &str,
    ) -> Enforced {
        let enforcer = Enforcer {
            policy,
            upstream,
            registries: self.registries.clone(),
            store: self.store(),
            history: History::at(self.folder.path().join("pins")),
            locks: self.locks.clone(),
            checkout: Some(self.checkout()),
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

fn given_image(name: &str, archive: &Path) -> ImageArchives {
    let argument = format!("{name}={}", archive.display());
    ImageArchives::new(&[argument.parse().unwrap()]).unwrap()
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
        repositories: world.repositories,
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
    let (archive, _) = saved(world.folder.path(), "node.tar", "{}");
    world.images = given_image("node:20", &archive);
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
    world.images = ImageArchives::default();
    let enforced = world.run(PinPolicy::Require, &workflow).await;
    assert_eq!(said(&enforced).len(), 2);
    let digest = format!("sha256:{}", "a".repeat(64));
    let mut companion = Companion::default();
    companion.set_image(
        "docker.io/library/node:20",
        &ImagePin {
            digest: digest.clone(),
            platforms: Vec::new(),
            config: None,
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

#[tokio::test]
async fn without_a_mirror_github_is_the_source_and_what_is_locked_runs_from_there() {
    let mut world = World::new();
    let old = world.commit("octo/tool", &[("action.yml", NODE)], &["v1"]);
    let fake = FakeGitHub::start(&world.base());
    let github = || Some(Arc::new(fake.open()) as Arc<dyn Upstream>);
    let run = |policy| (github(), policy, USES_TOOL);
    let (source, policy, text) = run(PinPolicy::Require);
    let enforced = world.run_from(source, policy, text).await;
    assert!(
        said(&enforced)[0].contains(": unpinned: "),
        "{:?}",
        said(&enforced)
    );
    assert_eq!(
        fake.api.asked(),
        [],
        "nothing is asked about what is refused"
    );
    // First use, from GitHub's archive into the store.
    let (source, policy, text) = run(PinPolicy::LockOnFirstUse);
    let enforced = world.run_from(source, policy, text).await;
    assert_eq!(said(&enforced), Vec::<String>::new());
    assert_eq!(manifest(&enforced, "octo/tool@v1"), NODE);
    assert_eq!(fake.archives.asked().len(), 1);
    let content = bytes(&enforced, "octo/tool@v1").unwrap().origin();
    world.lock(&old, content.rsplit(' ').next().unwrap());
    let new = world.commit("octo/tool", &[("action.yml", EVIL)], &["v1"]);
    for policy in [PinPolicy::Require, PinPolicy::Audit] {
        let (source, policy, text) = run(policy);
        let enforced = world.run_from(source, policy, text).await;
        let moved = format!("it was {old} (");
        assert!(said(&enforced)[0].contains(&moved), "{:?}", said(&enforced));
        assert!(said(&enforced)[0].contains(&format!("is {new} now")));
        assert_eq!(manifest(&enforced, "octo/tool@v1"), NODE);
        assert_eq!(enforced.violations(), BTreeMap::from([("moved", 1)]));
    }
    assert_eq!(
        fake.archives.asked().len(),
        1,
        "the new one was never fetched"
    );
    // GitHub is out of reach: what is locked and stored runs, and that nobody knows is said.
    let gone = crate::action::source::GitHub::open("http://127.0.0.1:1/", None).unwrap();
    let enforced = world
        .run_from(Some(Arc::new(gone)), PinPolicy::Require, USES_TOOL)
        .await;
    assert_eq!(said(&enforced), Vec::<String>::new());
    assert!(enforced.notes[0].contains("whether octo/tool@v1 moved is not known"));
}

/// A tag may have the name of a commit, and `uses:` with a commit needs no lock.
#[tokio::test]
async fn a_tag_with_the_name_of_a_commit_is_not_that_commit() {
    let world = World::new();
    let old = world.commit("octo/tool", &[("action.yml", NODE)], &["v1"]);
    let evil = world.commit("octo/tool", &[("action.yml", EVIL)], &[]);
    let repository = world.repository("octo/tool");
    git(
        &repository,
        &["update-ref", &format!("refs/tags/{old}"), &evil],
    );
    let workflow = USES_TOOL.replace("@v1", &format!("@{old}"));
    let fake = FakeGitHub::start(&world.base());
    let sources: [Arc<dyn Upstream>; 2] = [Arc::new(world.mirror()), Arc::new(fake.open())];
    for source in sources {
        std::fs::remove_dir_all(world.folder.path().join("actions")).unwrap_or_default();
        let enforced = world
            .run_from(Some(source), PinPolicy::Require, &workflow)
            .await;
        assert_eq!(said(&enforced), Vec::<String>::new());
        assert_eq!(manifest(&enforced, &format!("octo/tool@{old}")), NODE);
    }
    assert!(!world.store().list().unwrap().is_empty());
}

#[tokio::test]
async fn an_image_tag_that_moved_trips_as_a_tag_of_git_does() {
    let digest = |text: &str| {
        use sha2::Digest as _;
        format!("sha256:{}", hex::encode(sha2::Sha256::digest(text)))
    };
    let now = Arc::new(Mutex::new("{}".to_owned()));
    let served = Arc::clone(&now);
    let server = Server::start(move |_| Reply::of(200, served.lock().unwrap().clone()));
    let mut world = World::new();
    world.registries = Some(Registries::new(Credentials::default()).unwrap());
    let name = format!("{}/octo/db:16", server.address);
    let workflow = USES_TOOL.replace("octo/tool@v1", &format!("docker://{name}"));
    let (one, two) = (digest("{}"), digest("{ }"));
    for policy in [PinPolicy::LockOnFirstUse, PinPolicy::LockOnFirstUse] {
        let enforced = world.run(policy, &workflow).await;
        assert_eq!(said(&enforced), Vec::<String>::new());
        assert!(enforced.actions.image(&name).unwrap().ends_with(&one));
    }
    *now.lock().unwrap() = "{ }".to_owned();
    for policy in [PinPolicy::LockOnFirstUse, PinPolicy::Audit] {
        let enforced = world.run(policy, &workflow).await;
        let all = said(&enforced);
        let begin =
            format!("ci.yml:6:15: moved: `docker://{name}` moved: it was {one} (first seen 20");
        assert!(all[0].starts_with(&begin) && all.len() == 1, "{all:?}");
        assert!(
            all[0].contains(&format!("is {two} now (first seen 20")),
            "{all:?}"
        );
        // What was seen first is what is pulled, where anything is.
        assert!(enforced.actions.image(&name).unwrap().ends_with(&one));
    }
    // A lock file that knows the new one makes it so; one that knows the old one trips.
    for (locked, trips) in [(&two, 0), (&one, 1)] {
        let mut companion = Companion::default();
        let pin = image_pin(locked, None);
        companion.set_image(&name, &pin);
        world.locks.companion = Some(companion);
        let enforced = world.run(PinPolicy::Require, &workflow).await;
        assert_eq!(said(&enforced).len(), trips, "{:?}", said(&enforced));
        assert!(enforced.actions.image(&name).unwrap().ends_with(locked));
    }
}

fn image_pin(digest: &str, config: Option<String>) -> ImagePin {
    ImagePin {
        digest: digest.to_owned(),
        platforms: Vec::new(),
        config,
        resolved: Resolution {
            at: "2026-01-02T03:04:05Z".to_owned(),
            from: "registry".to_owned(),
        },
    }
}

#[tokio::test]
async fn a_given_archive_must_be_the_locked_image() {
    let mut world = World::new();
    let (archive, id) = saved(world.folder.path(), "one.tar", "{}");
    let (other, other_id) = saved(world.folder.path(), "two.tar", "{\"evil\": true}");
    let digest = format!("sha256:{}", "a".repeat(64));
    let by_digest = format!("db@{digest}");
    let cases = [
        ("db:16", Some(Some(&id)), &archive, None),
        (
            "db:16",
            Some(Some(&id)),
            &other,
            Some(("mismatch", "is locked")),
        ),
        (
            "db:16",
            Some(None),
            &archive,
            Some(("unverifiable", "`mayfly pin --update`")),
        ),
        ("db:16", None, &other, None),
        (
            &by_digest,
            None,
            &archive,
            Some(("unverifiable", "is locked")),
        ),
    ];
    for (name, locked, archive, expected) in cases {
        world.locks.companion = locked.map(|config| {
            let mut companion = Companion::default();
            let pin = image_pin(&digest, config.cloned());
            companion.set_image("docker.io/library/db:16", &pin);
            companion
        });
        world.images = given_image(name, archive);
        let workflow = USES_TOOL.replace("octo/tool@v1", &format!("docker://{name}"));
        let enforced = world.run(PinPolicy::Require, &workflow).await;
        let all = said(&enforced);
        match expected {
            None => assert!(
                all.is_empty() && enforced.refused_images.is_empty(),
                "{all:?}"
            ),
            Some((kind, part)) => {
                assert!(all.len() == 1 && all[0].contains(part), "{all:?}");
                assert_eq!(enforced.violations(), BTreeMap::from([(kind, 1)]));
                assert_eq!(world.images.without(&enforced.refused_images).entries(), []);
            }
        }
    }
    assert_ne!(id, other_id);
}

#[tokio::test]
async fn violations_are_counted_once_for_each_reference_and_told_by_kind() {
    let world = World::new();
    let twice = USES_TOOL.to_owned()
        + "      - uses: octo/tool@v1\n      - uses: octo/other@v1\n      - uses: docker://alpine:3\n      \
           - uses: octo/x\n";
    let enforced = world.run(PinPolicy::Require, &twice).await;
    assert_eq!(said(&enforced).len(), 5, "{:?}", said(&enforced));
    let counts = BTreeMap::from([("unpinned", 3), ("unverifiable", 1)]);
    assert_eq!(enforced.violations(), counts);
    let kinds: Vec<_> = enforced.notices().collect();
    let one = |kind: &str| Notice::PinViolation {
        kind: kind.to_owned(),
    };
    let expected = [
        one("unpinned"),
        one("unpinned"),
        one("unpinned"),
        one("unverifiable"),
    ];
    assert_eq!(kinds, expected);
}

/// Ways of writing that somebody could hope to be overlooked.
#[tokio::test]
async fn no_way_of_writing_a_reference_gets_around_the_pins() {
    let mut world = World::new();
    let old = world.commit(
        "octo/tool",
        &[("action.yml", NODE), ("sub/action.yml", NODE)],
        &["v1"],
    );
    let first = world.run(PinPolicy::Audit, USES_TOOL).await;
    let content = bytes(&first, "octo/tool@v1").unwrap().origin();
    world.lock(&old, content.rsplit(' ').next().unwrap());
    let link = world.repository("octo/tool").join("linked");
    std::os::unix::fs::symlink("sub", link).unwrap();
    world.commit("octo/tool", &[("action.yml", EVIL)], &["v1", "v2"]);
    let sha = "b".repeat(64);
    let steps = [
        // The same repository, however it is spelled, is held to the same lock and trips.
        ("OCTO/Tool/sub@v1", "moved"),
        ("octo/tool@V1", "unpinned"),
        ("octo/tool/../evil@v1", "letters, digits"),
        ("octo/tool//sub@v1", "letters, digits"),
        ("octo/tool/sub@v2", "unpinned"),
        ("octo/tool@refs/tags/v1", "unpinned"),
        ("octo/tool@${{ github.ref }}", "takes none"),
        ("docker://${{ matrix.image }}", "takes none"),
        ("docker://alpine:3", "unpinned"),
        ("DOCKER://alpine:3", "unverifiable"),
        (&format!("docker://alpine:3@sha256:{sha}"), ""),
        (&format!("docker://alpine:3@SHA256:{sha}"), "unverifiable"),
    ];
    let call = "  far:\n    uses: ${{ vars.WORKFLOW }}\n  near:\n    uses: octo/tool/.github/workflows/x.yml@v2\n";
    let uses = |text: &str| format!("      - uses: &a {text}\n      - uses: *a\n");
    for (text, expected) in steps {
        let workflow =
            "on: push\njobs:\n  j:\n    runs-on: x\n    steps:\n".to_owned() + &uses(text);
        let enforced = world.run(PinPolicy::Require, &workflow).await;
        let all = said(&enforced);
        match expected {
            "" => assert!(all.is_empty(), "{text}: {all:?}"),
            _ => assert!(
                all.iter().any(|line| line.contains(expected)),
                "{text}: {all:?}"
            ),
        }
    }
    let workflow = format!("on: push\njobs:\n{call}");
    let all = said(&world.run(PinPolicy::Require, &workflow).await);
    assert!(
        all[0].contains("ci.yml:4:11: unverifiable: ") && all[1].contains("unpinned"),
        "{all:?}"
    );
    // A folder behind a link is none: what is read here is what is run there.
    let linked = USES_TOOL.replace("octo/tool@v1", "octo/tool/linked@v1");
    let all = said(&world.run(PinPolicy::Audit, &linked).await);
    assert!(
        all.iter().any(|line| line.contains("no action.yml")),
        "{all:?}"
    );
    assert_eq!(
        manifest(
            &world.run(PinPolicy::Audit, USES_TOOL).await,
            "OCTO/tool@v1"
        ),
        NODE
    );
}
