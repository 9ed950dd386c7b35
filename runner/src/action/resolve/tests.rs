//! Workflows over real git repositories, followed to the end.

use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::action::find;
use crate::action::fixture::{NODE, Repositories, git, write};
use crate::action::lockfile::{ActionPin, Companion, ImagePin, Resolution};
use crate::action::reference::ActionKey;
use crate::workflow::source::Source;

struct World {
    repositories: Repositories,
}

impl Deref for World {
    type Target = Repositories;

    fn deref(&self) -> &Repositories {
        &self.repositories
    }
}

impl World {
    fn new() -> Self {
        let repositories = Repositories::new();
        Self { repositories }
    }

    fn resolver(&self, locks: Locks) -> Resolver {
        Resolver::new(Arc::new(self.mirror()), self.store(), locks)
            .in_checkout(Some(self.checkout()))
    }

    async fn resolve(&self, text: &str, locks: Locks) -> Graph {
        self.resolver(locks)
            .resolve(vec![root("ci.yml", text)])
            .await
    }
}

fn root(file: &str, text: &str) -> Root {
    let found = find::in_workflow(&Source::new(file, text)).unwrap();
    let file = file.to_owned();
    Root { file, found }
}

fn steps(uses: &[&str]) -> String {
    let steps = uses.iter().map(|uses| format!("      - uses: {uses}\n"));
    format!("jobs:\n  a:\n    steps:\n{}", steps.collect::<String>())
}

fn composite(uses: &[&str]) -> String {
    let steps = uses.iter().map(|uses| format!("    - uses: {uses}\n"));
    format!(
        "runs:\n  using: composite\n  steps:\n{}",
        steps.collect::<String>()
    )
}

fn key(text: &str) -> PinKey {
    PinKey::parse(text).unwrap()
}

fn keys(texts: &[&str]) -> Vec<PinKey> {
    texts.iter().map(|text| key(text)).collect()
}

fn said(graph: &Graph) -> Vec<String> {
    graph.offenders.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn references_are_followed_through_actions_workflows_and_images_to_the_end() {
    let world = World::new();
    let leaf = world.commit(
        "octo/leaf",
        &[("action.yml", NODE), ("sub/action.yaml", NODE)],
        &["v1", "v1.2.3"],
    );
    let outer = composite(&[
        "octo/leaf/sub@v1",
        "$/inner",
        "docker://alpine@sha256:DIGEST",
    ])
    .replace("DIGEST", &"a".repeat(64));
    let inner = composite(&[&format!("octo/leaf@{leaf}")]);
    world.commit(
        "octo/outer",
        &[("action.yml", &outer), ("inner/action.yml", &inner)],
        &["v2"],
    );
    world.commit(
        "octo/docker",
        &[
            (
                "action.yml",
                "runs: {using: docker, image: build/Dockerfile}\n",
            ),
            (
                "build/Dockerfile",
                "FROM busybox@sha256:DIGEST\n"
                    .replace("DIGEST", &"b".repeat(64))
                    .as_str(),
            ),
        ],
        &["v3"],
    );
    let flow = "on: workflow_call\njobs:\n  a:\n    uses: ./.github/workflows/second.yml\n";
    world.commit(
        "octo/flows",
        &[
            (".github/workflows/first.yml", flow),
            (".github/workflows/second.yml", &steps(&["octo/docker@v3"])),
        ],
        &["v4"],
    );
    let work = world.folder.path().join("work");
    write(&work, &[("own/action.yml", &composite(&["octo/leaf@v1"]))]);
    let text = steps(&["octo/outer@v2", "./own"])
        + "  b:\n    uses: octo/flows/.github/workflows/first.yml@v4\n";

    let graph = world.resolve(&text, Locks::default()).await;
    assert_eq!(said(&graph), Vec::<String>::new());
    let sha = format!("octo/leaf@{leaf}");
    let alpine = format!(
        "docker://docker.io/library/alpine@sha256:{}",
        "a".repeat(64)
    );
    let busybox = alpine
        .replace("alpine", "busybox")
        .replace(&"a".repeat(64), &"b".repeat(64));
    let all = [
        sha.as_str(),
        "octo/docker@v3",
        "octo/flows@v4",
        "octo/leaf@v1",
        "octo/outer@v2",
        &alpine,
        &busybox,
        "./own",
    ];
    let mut expected = keys(&all);
    expected.sort();
    assert_eq!(graph.roots["ci.yml"], expected);
    assert_eq!(graph.entries.keys().cloned().collect::<Vec<_>>(), expected);
    let uses = |name: &str| graph.entries[&key(name)].uses.clone();
    let mut of_outer = keys(&["octo/leaf@v1", &sha, &alpine]);
    of_outer.sort();
    assert_eq!(uses("octo/outer@v2"), of_outer);
    assert_eq!(uses("octo/flows@v4"), keys(&["octo/docker@v3"]));
    assert_eq!(uses("octo/docker@v3"), keys(&[&busybox]));
    assert_eq!(uses("./own"), keys(&["octo/leaf@v1"]));
    let depth = |name: &str| graph.entries[&key(name)].depth;
    assert_eq!(
        [
            depth("octo/outer@v2"),
            depth("octo/leaf@v1"),
            depth("octo/docker@v3"),
            depth(&busybox)
        ],
        [0, 1, 2, 3]
    );

    let pin = graph
        .action(&ActionKey::parse("octo/leaf@v1").unwrap())
        .unwrap();
    assert_eq!(
        (pin.commit.hex(), pin.version.as_str()),
        (leaf.clone(), "v1.2.3")
    );
    let tree = git(
        &world.repository("octo/leaf"),
        &["rev-parse", "HEAD^{tree}"],
    );
    assert_eq!(pin.tree.hex(), tree);
    assert!(world.resolver(Locks::default()).store.contains(pin.content));
    let places: Vec<_> = graph.entries[&key("octo/leaf@v1")]
        .mentions
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        places,
        ["octo/outer@v2:action.yml:4:13", "own/action.yml:4:13"]
    );
}

#[tokio::test]
async fn all_offenders_are_told_at_once_with_their_places() {
    let world = World::new();
    world.commit("octo/empty", &[("README", "x")], &["v1"]);
    world.commit(
        "octo/loop",
        &[("action.yml", &composite(&["octo/back@v1"]))],
        &["v1"],
    );
    world.commit(
        "octo/back",
        &[("action.yml", &composite(&["octo/loop@v1"]))],
        &["v1"],
    );
    let docker = [
        ("action.yml", "runs: {using: docker, image: Dockerfile}\n"),
        ("Dockerfile", "ARG X\nFROM $X\n"),
    ];
    world.commit("octo/docker", &docker, &["v1"]);
    let fork = world.repository("octo/empty");
    git(&fork, &["checkout", "-q", "--detach"]);
    git(&fork, &["commit", "-q", "--allow-empty", "-m", "of a fork"]);
    let foreign = format!("octo/empty@{}", git(&fork, &["rev-parse", "HEAD"]));
    let text = steps(&[
        "octo/empty@v9",
        "octo/none@v1",
        "octo/empty@v1",
        "octo/loop@v1",
        "octo/docker@v1",
        "${{ matrix.x }}",
        "./built",
        "docker://alpine:3",
        "octo/empty/.github/workflows/x.yml@v1",
        &foreign,
    ]);
    let graph = world.resolve(&text, Locks::default()).await;
    let said = said(&graph);
    for (at, expected) in [
        "ci.yml:4:15: unverifiable: octo/empty has no tag or branch `v9`",
        "ci.yml:5:15: unreachable: octo/none cannot be read",
        "ci.yml:6:15: unverifiable: there is no action.yml",
        "ci.yml:7:15: unverifiable: `octo/loop@v1` uses itself",
        "ci.yml:8:15: unverifiable: Dockerfile: line 2: `$X` holds a variable",
        "ci.yml:9:15: unverifiable: `${{ matrix.x }}` holds an expression",
        "ci.yml:10:15: unverifiable: there is no action.yml, action.yaml or Dockerfile in `built`",
        "ci.yml:11:15: unpinned: the image `alpine:3` has no digest",
        "ci.yml:12:15: unverifiable: a step cannot use a workflow",
        "ci.yml:13:15: unverifiable: no tag or branch of octo/empty holds",
    ]
    .iter()
    .enumerate()
    {
        assert!(said[at].starts_with(expected), "{expected}\n{said:#?}");
    }
    assert_eq!(said.len(), 10, "{said:#?}");
}

#[tokio::test]
async fn chains_have_a_bound() {
    let world = World::new();
    for number in 0..12 {
        let text = match number {
            11 => NODE.to_owned(),
            _ => composite(&[&format!("$/a{}", number + 1)]),
        };
        write(
            &world.folder.path().join("git/octo/deep"),
            &[(&format!("a{number}/action.yml"), &text)],
        );
    }
    git(&world.repository("octo/deep"), &["init", "-q"]);
    world.commit("octo/deep", &[], &["v1"]);
    let graph = world
        .resolve(&steps(&["octo/deep/a2@v1"]), Locks::default())
        .await;
    assert_eq!(said(&graph), Vec::<String>::new());
    let graph = world
        .resolve(&steps(&["octo/deep/a1@v1"]), Locks::default())
        .await;
    let said = said(&graph);
    assert!(
        said[0].contains("actions use each other more than 10 deep"),
        "{said:?}"
    );
}

fn locked(graph: &Graph, change: impl Fn(&mut ActionPin)) -> Locks {
    let mut companion = Companion::default();
    for (key, entry) in &graph.entries {
        let (PinKey::Action(key), Some(Pin::Action(pin))) = (key, &entry.pin) else {
            continue;
        };
        let mut pin = ActionPin {
            reference: pin.version.clone(),
            commit: format!("sha1-{}", pin.commit),
            tree: format!("sha1-{}", pin.tree),
            content: pin.content.to_string().replace(':', "-"),
            uses: entry.uses.clone(),
            resolved: pin.resolved.clone(),
        };
        change(&mut pin);
        companion.set_action(key, &pin);
    }
    Locks {
        actions: None,
        companion: Some(companion),
    }
}

#[tokio::test]
async fn a_locked_reference_stays_and_a_moved_tag_is_told() {
    let world = World::new();
    let first = world.commit("octo/tool", &[("action.yml", NODE)], &["v1"]);
    let text = steps(&["octo/tool@v1"]);
    let before = world.resolve(&text, Locks::default()).await;
    let locks = locked(&before, |_| {});
    let second = world.commit("octo/tool", &[("evil", "x")], &["v1"]);
    let tool = ActionKey::parse("octo/tool@v1").unwrap();
    let graph = world.resolve(&text, locks.clone()).await;
    let pin = graph.action(&tool).unwrap();
    assert_eq!(pin.commit.hex(), first);
    assert!(pin.locked);
    assert_eq!(pin.moved.as_ref().unwrap().commit.hex(), second);
    // Only if it is asked for, it is taken.
    for names in ["octo/tool@v1", "octo/tool", "octo/other"] {
        let update = Update::Only(BTreeSet::from([names.to_owned()]));
        let resolver = world.resolver(locks.clone()).update(update);
        let graph = resolver.resolve(vec![root("ci.yml", &text)]).await;
        let pin = graph.action(&tool).unwrap();
        assert_eq!(pin.commit.hex() == second, names != "octo/other", "{names}");
    }
    // Without the source the locked one is still known, and that nobody was asked.
    std::fs::remove_dir_all(world.repository("octo/tool")).unwrap();
    let graph = world.resolve(&text, locks).await;
    let pin = graph.action(&tool).unwrap();
    assert_eq!((pin.commit.hex(), pin.unasked.is_some()), (first, true));
}

#[tokio::test]
async fn a_lock_that_does_not_fit_its_commit_is_tampering() {
    let world = World::new();
    let commit = world.commit("octo/tool", &[("action.yml", NODE)], &["v1"]);
    let by_id = format!("octo/tool@{commit}");
    let text = steps(&["octo/tool@v1", &by_id]);
    let before = world.resolve(&text, Locks::default()).await;
    let zeros = "0".repeat(64);
    for (change, expected) in [
        ("content", "is locked"),
        ("tree", "has the tree"),
        ("commit", "names another one"),
    ] {
        let locks = locked(&before, |pin| match change {
            "content" => pin.content = format!("sha256-{zeros}"),
            "tree" => pin.tree = format!("sha1-{}", &zeros[..40]),
            _ => pin.commit = format!("sha1-{}", &zeros[..40]),
        });
        let said = said(&world.resolve(&text, locks).await);
        assert!(
            said.iter().any(|said| said.contains(expected)),
            "{change}: {said:?}"
        );
        assert!(
            said.iter().any(|said| said.contains("tampered")),
            "{change}: {said:?}"
        );
    }
}

#[tokio::test]
async fn what_the_lock_does_not_know_can_be_refused() {
    let world = World::new();
    let commit = world.commit("octo/tool", &[("action.yml", NODE)], &["v1"]);
    let text = steps(&["octo/tool@v1", &format!("octo/tool@{commit}")]);
    let resolver = world.resolver(Locks::default()).unknown(Unknown::Refuse);
    let graph = resolver.resolve(vec![root("ci.yml", &text)]).await;
    assert_eq!(
        said(&graph),
        ["ci.yml:4:15: unpinned: `octo/tool@v1` is not in the lock; run `mayfly pin`"]
    );
}

#[tokio::test]
async fn a_folder_of_the_checkout_has_the_documented_digest_and_images_come_from_the_lock() {
    let world = World::new();
    let work = world.folder.path().join("work");
    write(
        &work,
        &[
            ("own/action.yml", NODE),
            ("own/run.sh", "x\n"),
            (".gitignore", "made\n"),
            ("own/made", "no"),
        ],
    );
    std::os::unix::fs::symlink("run.sh", work.join("own/link")).unwrap();
    git(&work, &["update-index", "--add", "own/run.sh"]);
    let mut companion = Companion::default();
    let image = ImagePin {
        digest: format!("sha256:{}", "c".repeat(64)),
        platforms: Vec::new(),
        config: None,
        resolved: Resolution {
            at: "now".to_owned(),
            from: "there".to_owned(),
        },
    };
    companion.set_image("docker.io/library/alpine:3", &image);
    let locks = Locks {
        actions: None,
        companion: Some(companion),
    };
    let graph = world
        .resolve(&steps(&["./own", "docker://alpine:3"]), locks)
        .await;
    assert_eq!(said(&graph), Vec::<String>::new());
    let Some(Pin::Local(Some(digest))) = graph.pin(&key("./own")) else {
        panic!()
    };
    // The script of docs/pins.md on the same files.
    git(&work, &["add", "own"]);
    let tree = git(&work, &["write-tree", "--prefix=own"]);
    let docs: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../docs/pins.md"]
        .iter()
        .collect();
    let docs = std::fs::read_to_string(docs).unwrap();
    let script = docs
        .split("```bash\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let output = Command::new("bash")
        .args(["-c", script, "x", &tree])
        .current_dir(&work)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        digest.to_string()
    );
    let Some(Pin::Image(pin)) = graph.pin(&key("docker://docker.io/library/alpine:3")) else {
        panic!()
    };
    assert_eq!((&pin.digest, pin.locked), (&image.digest, true));
}
