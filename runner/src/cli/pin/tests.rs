//! `mayfly pin` on checkouts with mirrors of real git repositories.

use std::fs;

use super::*;
use crate::action::fixture::{git, write as put};
use crate::action::lockfile::{ACTIONS_LOCK, Companion, MAYFLY_LOCK};
use crate::action::reference::ActionKey;

const NODE: &str = "runs: {using: node20, main: x.js}\n";
const CI: &str =
    "jobs:\n  a:\n    steps:\n      - uses: octo/tool/sub@v1 # why\n      - uses: ./own\n";

struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// A checkout that uses `octo/tool@v1`, whose version is v1.2.3, by itself and through `./own`.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self { folder };
        let own = "runs:\n  using: composite\n  steps:\n    - uses: octo/tool@v1\n";
        put(
            &world.work(),
            &[(".github/workflows/ci.yml", CI), ("own/action.yml", own)],
        );
        git(&world.work(), &["init", "-q"]);
        put(
            &world.tool(),
            &[("action.yml", NODE), ("sub/action.yml", NODE)],
        );
        git(&world.tool(), &["init", "-q"]);
        world.release("one", &["v1", "v1.2.3"]);
        world
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    fn tool(&self) -> PathBuf {
        self.folder.path().join("git/octo/tool")
    }

    fn release(&self, text: &str, tags: &[&str]) -> String {
        put(&self.tool(), &[("text", text)]);
        git(&self.tool(), &["add", "."]);
        git(&self.tool(), &["commit", "-qm", text]);
        for tag in tags {
            git(&self.tool(), &["tag", "-f", tag]);
        }
        git(&self.tool(), &["rev-parse", "HEAD"])
    }

    fn run(&self, options: &[&str]) -> Result<Exit, Failure> {
        use clap::Parser as _;

        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            args: PinArgs,
        }
        let args = Command::parse_from(["pin"].iter().chain(options)).args;
        let mirror = self.folder.path().join("git");
        let work = Work {
            args: &args,
            upstream: Arc::new(GitMirror::open(mirror.to_str().unwrap()).unwrap()),
            registries: Registries::new(Credentials::default()).unwrap(),
            store: ActionStore::at(self.folder.path().join("actions")),
            checkout: Some(Arc::new(Checkout::containing(&self.work()).unwrap())),
        };
        crate::cli::runtime().unwrap().block_on(work.run())
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.work().join(name)).unwrap()
    }

    /// What `--check` finds, as kinds and messages.
    fn offenders(&self) -> Vec<String> {
        let mirror = self.folder.path().join("git");
        let upstream = Arc::new(GitMirror::open(mirror.to_str().unwrap()).unwrap());
        let store = ActionStore::at(self.folder.path().join("actions"));
        let locks = Locks::read(&self.work()).unwrap();
        let files = files::read(&[], Some(&self.work())).unwrap();
        let resolver = Resolver::new(upstream, store, locks.clone());
        let checkout = Checkout::containing(&self.work()).unwrap();
        let resolving = resolver.in_checkout(Some(Arc::new(checkout)));
        let runtime = crate::cli::runtime().unwrap();
        let graph = runtime.block_on(resolving.resolve(files::roots(&files)));
        check(&graph, &locks, true)
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

fn key() -> ActionKey {
    ActionKey::parse("octo/tool@v1").unwrap()
}

#[test]
fn what_is_locked_stays_and_a_run_without_change_changes_nothing() {
    let world = World::new();
    assert_eq!(world.run(&["--check"]).unwrap(), Exit::Failed);
    assert!(!world.work().join(MAYFLY_LOCK).exists());
    assert_eq!(world.run(&[]).unwrap(), Exit::Success);
    let lock = world.read(MAYFLY_LOCK);
    for part in [
        "'.github/workflows/ci.yml':",
        "'octo/tool@v1':",
        "'./own':",
        "v1.2.3",
        "content: 'sha256-",
    ] {
        assert!(lock.contains(part), "{part}\n{lock}");
    }
    // A mirror does not know GitHub's numbers, and a workflow with `./own` has no place there anyway.
    assert!(!world.work().join(ACTIONS_LOCK).exists());
    assert_eq!(world.run(&["--check"]).unwrap(), Exit::Success);
    let before = fs::metadata(world.work().join(MAYFLY_LOCK))
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(world.run(&[]).unwrap(), Exit::Success);
    assert_eq!(world.read(MAYFLY_LOCK), lock);
    let after = fs::metadata(world.work().join(MAYFLY_LOCK))
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(before, after);
}

#[test]
fn a_moved_tag_is_reported_and_taken_only_when_it_is_asked_for() {
    let world = World::new();
    world.run(&[]).unwrap();
    let lock = world.read(MAYFLY_LOCK);
    let second = world.release("two", &["v1", "v1.3.0"]);
    assert_eq!(world.run(&["--check", "--json"]).unwrap(), Exit::Failed);
    assert_eq!(world.run(&[]).unwrap(), Exit::Success);
    assert_eq!(world.read(MAYFLY_LOCK), lock);
    assert_eq!(
        world.run(&["--update", "octo/other"]).unwrap(),
        Exit::Success
    );
    assert_eq!(world.read(MAYFLY_LOCK), lock);
    assert_eq!(
        world.run(&["--update", "Octo/Tool"]).unwrap(),
        Exit::Success
    );
    let new = Companion::parse(&world.read(MAYFLY_LOCK))
        .unwrap()
        .action(&key())
        .unwrap();
    assert_eq!(
        (new.commit, new.reference),
        (format!("sha1-{second}"), "v1.3.0".to_owned())
    );
    assert_eq!(world.run(&["--check"]).unwrap(), Exit::Success);
}

#[test]
fn every_kind_of_offender_has_its_own_words() {
    let world = World::new();
    let said = world.offenders();
    assert!(
        said[0]
            .starts_with(".github/workflows/ci.yml:4:15: unpinned: `octo/tool@v1` names no commit"),
        "{said:?}"
    );
    world.run(&[]).unwrap();
    assert_eq!(world.offenders(), Vec::<String>::new());
    world.release("two", &["v1"]);
    put(
        &world.work(),
        &[("own/added", "x"), (".github/workflows/new.yml", CI)],
    );
    let lock = world.read(MAYFLY_LOCK).replace(
        "workflows:\n",
        "workflows:\n    '.github/workflows/gone.yml':\n        - 'octo/tool@v1'\n",
    );
    fs::write(world.work().join(MAYFLY_LOCK), &lock).unwrap();
    let said = world.offenders();
    let has = |part: &str| said.iter().any(|said| said.contains(part));
    assert!(
        has("ci.yml:4:15: moved: `octo/tool@v1` was locked at "),
        "{said:#?}"
    );
    assert!(has("own/action.yml:4:13: moved: "), "{said:#?}");
    assert!(
        has("ci.yml:5:15: stale: `./own` was changed since it was locked"),
        "{said:#?}"
    );
    assert!(
        has("new.yml:1:1: stale: mayfly.lock does not list `octo/tool@v1`, `./own`"),
        "{said:#?}"
    );
    assert!(
        has("mayfly.lock:1:1: stale: `.github/workflows/gone.yml` is in the lock and not"),
        "{said:#?}"
    );
    // The lock names another content for the commit that it has.
    let content = Companion::parse(&lock)
        .unwrap()
        .action(&key())
        .unwrap()
        .content;
    let forged = lock.replace(&content, &format!("sha256-{}", "0".repeat(64)));
    fs::write(world.work().join(MAYFLY_LOCK), &forged).unwrap();
    assert!(
        world.offenders()[0].contains("ci.yml:4:15: tampered: octo/tool at "),
        "{said:?}"
    );
    assert_eq!(world.run(&[]).unwrap(), Exit::Failed);
    assert_eq!(world.read(MAYFLY_LOCK), forged);
}

#[test]
fn what_is_gone_leaves_the_lock() {
    let world = World::new();
    let other = CI.replace("octo/tool/sub@v1", "octo/tool@v1.2.3");
    put(&world.work(), &[(".github/workflows/other.yml", &other)]);
    world.run(&[]).unwrap();
    assert!(world.read(MAYFLY_LOCK).contains("'octo/tool@v1.2.3':"));
    fs::remove_file(world.work().join(".github/workflows/other.yml")).unwrap();
    assert_eq!(world.run(&["--check"]).unwrap(), Exit::Failed);
    world.run(&[]).unwrap();
    let lock = world.read(MAYFLY_LOCK);
    assert!(
        !lock.contains("v1.2.3':") && !lock.contains("other.yml"),
        "{lock}"
    );
    assert_eq!(world.run(&["--check"]).unwrap(), Exit::Success);
}

#[test]
fn an_existing_lock_of_github_is_kept_up_where_its_numbers_are_known() {
    let world = World::new();
    let workflow =
        "jobs:\n  a:\n    steps:\n      - uses: octo/tool@v1\n      - uses: octo/tool@v1.2.3\n";
    put(&world.work(), &[(".github/workflows/ci.yml", workflow)]);
    let commit = git(&world.tool(), &["rev-parse", "HEAD"]);
    let lock = format!(
        "version: 'v0.0.2'\nworkflows:\n    '.github/workflows/ci.yml':\n        - 'octo/tool@v1'\n\
         dependencies:\n    'octo/tool@v1':\n        ref: 'v1'\n        commit: 'sha1-{commit}'\n        \
         owner_id: 7\n        repo_id: 8\n        attested: true\n"
    );
    put(&world.work(), &[(ACTIONS_LOCK, &lock)]);
    assert_eq!(world.run(&["--check"]).unwrap(), Exit::Failed);
    assert_eq!(world.run(&[]).unwrap(), Exit::Success);
    let lock = world.read(ACTIONS_LOCK);
    let new = "    'octo/tool@v1.2.3':\n        ref: 'v1.2.3'\n        commit: 'sha1-".to_owned()
        + &commit;
    assert!(
        lock.contains("attested: true") && lock.contains(&new),
        "{lock}"
    );
    assert_eq!(world.run(&["--check"]).unwrap(), Exit::Success);
    // GitHub's file was updated by somebody else: the companion is stale, and follows.
    let second = world.release("two", &["v1"]);
    let bumped = lock.replacen(&commit, &second, 1);
    fs::write(world.work().join(ACTIONS_LOCK), &bumped).unwrap();
    let said = world.offenders();
    assert!(
        said[0].contains("stale: `octo/tool@v1` is ") && said[0].contains("in actions.lock and"),
        "{said:?}"
    );
    assert_eq!(world.run(&[]).unwrap(), Exit::Success);
    assert_eq!(world.read(ACTIONS_LOCK), bumped);
    let pin = Companion::parse(&world.read(MAYFLY_LOCK))
        .unwrap()
        .action(&key())
        .unwrap();
    assert_eq!(pin.commit, format!("sha1-{second}"));
}

#[test]
fn tags_become_commits_in_the_file_and_in_the_lock() {
    let world = World::new();
    let commit = git(&world.tool(), &["rev-parse", "HEAD"]);
    assert_eq!(world.run(&["--write-sha"]).unwrap(), Exit::Success);
    let expected = CI.replace("@v1 #", &format!("@{commit} # v1.2.3 #"));
    assert_eq!(world.read(".github/workflows/ci.yml"), expected);
    let lock = world.read(MAYFLY_LOCK);
    assert!(lock.contains(&format!("'octo/tool@{commit}':")), "{lock}");
    assert!(lock.contains("'octo/tool@v1':"), "nested: {lock}");
    assert_eq!(world.run(&["--check"]).unwrap(), Exit::Success);
    assert_eq!(world.run(&["--write-sha"]).unwrap(), Exit::Success);
    assert_eq!(world.read(MAYFLY_LOCK), lock);
    // A tag that is not there: nothing is written.
    let gone = CI.replace("@v1", "@v9");
    put(&world.work(), &[(".github/workflows/ci.yml", &gone)]);
    assert_eq!(world.run(&["--write-sha"]).unwrap(), Exit::Failed);
    assert_eq!(world.read(".github/workflows/ci.yml"), gone);
}

#[test]
fn a_source_that_does_not_answer_changes_nothing_and_has_its_own_exit_code() {
    let world = World::new();
    fs::rename(world.tool(), world.folder.path().join("away")).unwrap();
    assert_eq!(world.run(&["--check"]).unwrap(), Exit::Machine);
    assert_eq!(world.run(&[]).unwrap(), Exit::Machine);
    assert!(!world.work().join(MAYFLY_LOCK).exists());
}

#[test]
fn names_of_update_are_spelled_as_keys_are() {
    for (name, key) in [
        ("Octo/Tool@v1", "octo/tool@v1"),
        ("Octo/Tool", "octo/tool"),
        ("docker://alpine:3", "docker.io/library/alpine:3"),
        ("ghcr.io/o/i:1", "ghcr.io/o/i:1"),
    ] {
        assert_eq!(update_name(name), key);
    }
}

/// In a job there may be no network and no `.git`: the files and the lock are there.
#[test]
fn offline_only_the_files_are_held_against_the_lock() {
    let world = World::new();
    let outer = "runs:\n  using: composite\n  steps:\n    - uses: octo/tool@v1.2.3\n";
    let folder = world.folder.path().join("git/octo/outer");
    put(&folder, &[("action.yml", outer)]);
    for arguments in [
        &["init", "-q"][..],
        &["add", "."],
        &["commit", "-qm", "x"],
        &["tag", "v1"],
    ] {
        git(&folder, arguments);
    }
    let ci = CI.to_owned() + "      - uses: octo/outer@v1\n";
    put(&world.work(), &[(".github/workflows/ci.yml", &ci)]);
    assert_eq!(world.run(&[]).unwrap(), Exit::Success);
    let lock = world.read(MAYFLY_LOCK);
    // Nothing is left but the checkout.
    fs::remove_dir_all(world.folder.path().join("actions")).unwrap();
    fs::rename(
        world.folder.path().join("git/octo"),
        world.folder.path().join("away"),
    )
    .unwrap();
    let check = || {
        let report = world.folder.path().join("report.json");
        let arguments = ["--check", "--offline", "--report", report.to_str().unwrap()];
        let exit = world.run(&arguments).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
        let offenders = report["offenders"].as_array().unwrap().iter();
        let kinds = offenders.map(|found| found["kind"].as_str().unwrap().to_owned());
        assert_eq!(report["ok"], exit == Exit::Success);
        (exit, kinds.collect::<Vec<_>>())
    };
    assert_eq!(check(), (Exit::Success, vec![]));
    // Something that is new, a nested one that the lock lost, a changed action of the checkout.
    let new = ci.clone() + "      - uses: octo/new@v1\n";
    put(&world.work(), &[(".github/workflows/ci.yml", &new)]);
    assert_eq!(check().0, Exit::Failed);
    assert!(check().1.contains(&"unpinned".to_owned()));
    put(&world.work(), &[(".github/workflows/ci.yml", &ci)]);
    let mut inside = false;
    let kept = lock.lines().filter(|line| {
        inside =
            line.starts_with("    'octo/tool@v1.2.3':") || inside && line.starts_with("        ");
        !inside
    });
    let without: String = kept.map(|line| format!("{line}\n")).collect();
    put(&world.work(), &[(MAYFLY_LOCK, &without)]);
    assert!(check().1.contains(&"unpinned".to_owned()), "{without}");
    put(&world.work(), &[(MAYFLY_LOCK, &lock), ("own/more", "x")]);
    assert_eq!(check(), (Exit::Failed, vec!["stale".to_owned()]));
}
