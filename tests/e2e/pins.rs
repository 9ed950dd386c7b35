//! A replay of March 2026: all tags of actions are forced to a commit with other code, behind a real git
//! server, and nothing of it runs. What is refused is refused before a machine is asked for, so those
//! scenarios run on the host itself, as those of `mayfly pin` do; one more runs real guests.

#[path = "pins/cli.rs"]
mod cli;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use libtest_mimic::{Arguments, Failed, Trial};
use mayfly::action::lockfile::MAYFLY_LOCK;
use mayfly_tests::{
    Ended, bench, finish,
    git_server::{GitServer, git},
    repository, run_group,
};
use mayfly_vmm::softkvm;
use tempfile::TempDir;

/// Tags of `octo/tool`, as many as a popular action has.
const TAGS: [&str; 12] = [
    "v1", "v1.0", "v1.0.0", "v1.0.1", "v1.1", "v1.1.0", "v2", "v2.0", "v2.0.0", "v2.0.1", "v2.1",
    "v3",
];
const HONEST: &str = "honest code ran";
const EVIL: &str = "EVIL CODE RAN";
/// The tags that the guests' workflow uses directly.
const USED: [&str; 2] = ["v1", "v2.0.1"];

fn main() -> ExitCode {
    // Once, and not again on the emulated machine that this process may run itself under.
    if std::env::var_os(softkvm::INSIDE_VARIABLE).is_none() {
        let arguments = Arguments::from_args();
        let trials = refusals().into_iter().chain(cli::trials()).collect();
        let refused = libtest_mimic::run(&arguments, trials);
        if refused.has_failed() {
            return refused.exit_code();
        }
    }
    run_group(vec![Trial::test(
        "no_code_of_a_moved_tag_runs_and_without_pins_it_does",
        guests,
    )])
}

fn refusals() -> Vec<Trial> {
    vec![
        Trial::test(
            "locked_tags_that_moved_are_refused_by_name_with_both_commits",
            locked,
        ),
        Trial::test("tags_used_before_that_moved_are_refused", used_before),
        Trial::test("nothing_that_is_unpinned_is_fetched", unpinned),
    ]
}

/// A git server, a checkout with a workflow, and a state folder of its own.
struct World {
    server: GitServer,
    folder: TempDir,
    old: String,
}

impl World {
    /// `octo/tool` with all its tags, and `octo/outer`, which uses it.
    fn new(workflow: &str) -> Self {
        let server = GitServer::start();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let old = server.commit("octo/tool", &[("action.yml", &action(HONEST))], &TAGS);
        let outer = "runs:\n  using: composite\n  steps:\n    - uses: octo/tool@v3\n";
        server.commit("octo/outer", &[("action.yml", outer)], &["v1"]);
        let world = Self {
            server,
            folder,
            old,
        };
        let workflows = world.checkout().join(".github/workflows");
        fs::create_dir_all(&workflows).expect("our own folder");
        fs::write(workflows.join("ci.yml"), workflow).expect("our own folder");
        git(&world.checkout(), &["init", "-q", "-b", "main"]);
        world.settle();
        world
    }

    fn checkout(&self) -> PathBuf {
        self.folder.path().join("checkout")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Commits what is in the checkout.
    fn settle(&self) {
        git(&self.checkout(), &["add", "-A"]);
        git(
            &self.checkout(),
            &["commit", "-q", "--allow-empty", "-m", "all"],
        );
    }

    /// The state folder anew, with the images of the bench where guests run.
    fn forget(&self, with_images: bool) {
        let state = self.state();
        let _ = fs::remove_dir_all(&state);
        fs::create_dir_all(&state).expect("our own folder");
        for name in ["images", "snapshots"] {
            let from = bench().state.join(name);
            if with_images {
                std::os::unix::fs::symlink(from, state.join(name)).expect("our own folder");
            }
        }
    }

    /// What happened: every tag stands for another commit, whose id is returned.
    fn move_all_tags(&self) -> String {
        self.server
            .commit("octo/tool", &[("action.yml", &action(EVIL))], &TAGS)
    }

    fn run(&self, policy: &str, more: &[&str]) -> Ended {
        let url = self.server.url();
        let arguments = ["run", "--mirror", &url, "--pins", policy].into_iter();
        let mut command = bench().mayfly(arguments.chain(more.iter().copied()));
        command
            .env("MAYFLY_STATE", self.state())
            .env("MAYFLY_CONFIG", self.folder.path().join("config.toml"))
            .current_dir(self.checkout());
        fs::write(self.folder.path().join("config.toml"), "").expect("our own folder");
        finish(command)
    }

    /// Runs `mayfly pin` in the checkout, with the server as the mirror.
    fn pin(&self, arguments: &[&str]) -> Ended {
        let url = self.server.url();
        self.pin_from(&url, arguments)
    }

    fn pin_from(&self, mirror: &str, arguments: &[&str]) -> Ended {
        let all = ["pin", "--mirror", mirror].into_iter();
        let mut command = bench().mayfly(all.chain(arguments.iter().copied()));
        command
            .env("MAYFLY_STATE", self.state())
            .env("GITHUB_STEP_SUMMARY", self.folder.path().join("summary"))
            .current_dir(self.checkout());
        finish(command)
    }

    /// Writes the lock file for the workflow as it stands.
    fn lock(&self) {
        let _ = self.pin(&[]).expect_code(0);
        self.settle();
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.checkout().join(file)).expect("our own file")
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.checkout().join(file), text).expect("our own folder");
    }

    /// Whether the code of the moved tags is in a state folder.
    fn holds_evil(&self) -> bool {
        let Ok(entries) = fs::read_dir(self.state().join("actions")) else {
            return false;
        };
        let has = |path: &Path| {
            let content = fs::read(path).unwrap_or_default();
            content
                .windows(EVIL.len())
                .any(|part| part == EVIL.as_bytes())
        };
        entries.flatten().any(|entry| has(&entry.path()))
    }
}

fn action(says: &str) -> String {
    format!(
        "runs:\n  using: composite\n  steps:\n    - run: echo \"$(echo {says})\"\n      shell: sh\n"
    )
}

/// A workflow that uses the tool by some tags, and once more through another action.
fn workflow(tags: &[&str]) -> String {
    let mut text = "on: push\njobs:\n  act:\n    runs-on: sandbox\n    steps:\n".to_owned();
    for tag in tags {
        text += &format!("      - uses: octo/tool@{tag}\n");
    }
    text + "      - uses: octo/outer@v1\n"
}

/// Asserts that a run was refused for all moved tags, each with both commits.
fn refused(ended: Ended, old: &str, new: &str) {
    let ended = ended.expect_code(1);
    let said = &ended.stderr;
    for (at, tag) in TAGS.iter().enumerate() {
        let place = format!(
            ".github/workflows/ci.yml:{}:15: moved: `octo/tool@{tag}` moved: it was {old} (",
            at + 6
        );
        let line = said
            .lines()
            .find(|line| line.trim_start().starts_with(&place));
        let line = line.unwrap_or_else(|| panic!("no `{place}` in\n{said}"));
        assert!(
            line.contains(&format!(" and is {new} now (first seen ")),
            "{line}"
        );
    }
    assert!(
        said.contains("octo/outer@v1:action.yml:4:13: moved: `octo/tool@v3`"),
        "{said}"
    );
    assert!(said.contains("13 references may not run"), "{said}");
}

fn locked() -> Result<(), Failed> {
    let world = World::new(&workflow(&TAGS));
    world.forget(false);
    world.lock();
    let _ = world.run("require", &["--dry-run"]).expect_code(0);
    let new = world.move_all_tags();
    for policy in ["require", "lock-on-first-use", "require"] {
        refused(world.run(policy, &[]), &world.old, &new);
    }
    // A machine that never saw anything knows the lock file.
    world.forget(false);
    refused(world.run("require", &[]), &world.old, &new);
    assert!(!world.holds_evil());
    Ok(())
}

fn used_before() -> Result<(), Failed> {
    let world = World::new(&workflow(&TAGS));
    world.forget(false);
    let _ = world
        .run("lock-on-first-use", &["--dry-run"])
        .expect_code(0);
    let new = world.move_all_tags();
    refused(world.run("lock-on-first-use", &[]), &world.old, &new);
    assert!(!world.holds_evil());
    Ok(())
}

fn unpinned() -> Result<(), Failed> {
    let container = "runs: {using: docker, image: 'docker://127.0.0.1:1/alpine:3'}\n";
    let calls = "on: workflow_call\njobs: {j: {runs-on: x, steps: [{uses: octo/container@v1}]}}\n";
    let text = workflow(&["v1"])
        + "      - uses: docker://127.0.0.1:1/alpine:3.20\n  far:\n    uses: \
        octo/calls/.github/workflows/f.yml@v1\n";
    let world = World::new(&text);
    world.forget(false);
    world
        .server
        .commit("octo/container", &[("action.yml", container)], &["v1"]);
    world
        .server
        .commit("octo/calls", &[(".github/workflows/f.yml", calls)], &["v1"]);
    let ended = world.run("require", &[]);
    for part in [
        "4 references may not run under the policy pins = require",
        "ci.yml:6:15: unpinned: `octo/tool@v1` is not in the lock; run `mayfly pin`",
        "ci.yml:7:15: unpinned: `octo/outer@v1` is not in the lock",
        "ci.yml:8:15: unpinned: the image `127.0.0.1:1/alpine:3.20`",
        "ci.yml:10:11: unpinned: `octo/calls@v1` is not in the lock",
    ] {
        assert!(
            ended.stderr.contains(part),
            "no '{part}' in\n{}",
            ended.stderr
        );
    }
    assert!(!world.state().join("actions").exists());
    // Followed to the end: the image of an action that a called workflow of another repository uses. No
    // registry tells here what it is.
    let ended = world.run("lock-on-first-use", &[]);
    let nested = "octo/container@v1:action.yml:1:30: unreachable: ";
    assert!(ended.stderr.contains(nested), "{}", ended.stderr);
    Ok(())
}

/// What the guests' workflow does besides: it uses this repository's own action, and asks the worker what
/// its sandbox is.
const OWN: &str = "      - uses: ./
        id: own
        continue-on-error: true
        with: {require-sandbox: true, paths: .github/workflows/ci.yml}
      - run: |
          echo 'the action says ${{ steps.own.outputs.ok }}'
          test -S /run/mayfly/sandbox.sock && test -f $MAYFLY_SANDBOX
          mayfly sandbox ask --nonce 0123456789abcdef
          curl -sS --unix-socket /run/mayfly/sandbox.sock 'http://x/sandbox/v1/proof?nonce=x'; echo
";

/// What the public key of this host says of the answer in a log, whose job must be this.
fn proof(world: &World, log: &str, job: &str, nonce: &str) -> Ended {
    let answer = log
        .lines()
        .find_map(|line| Some(&line[line.find("{\"key\":")?..]));
    let answer = answer.unwrap_or_else(|| panic!("no answer in\n{log}"));
    let file = world.folder.path().join("answer.json");
    fs::write(&file, answer).expect("our own folder");
    let (file, key) = (
        file.display().to_string(),
        world.state().join("keys/sandbox.pub"),
    );
    let key = key.display().to_string();
    let arguments = [
        "sandbox", "verify", &file, "--key", &key, "--nonce", nonce, "--job", job,
    ];
    finish(
        bench().mayfly(
            arguments
                .into_iter()
                .chain(["--repository", "local/checkout"]),
        ),
    )
}

fn guests() -> Result<(), Failed> {
    let world = World::new(&(workflow(&USED) + OWN));
    fs::copy(
        repository().join("action.yml"),
        world.checkout().join("action.yml"),
    )?;
    world.settle();
    world.forget(true);
    world.lock();
    let machine = ["--cpus", "1", "--memory", "512M"];
    let count = |ended: &Ended, says: &str| {
        ended
            .stdout
            .lines()
            .filter(|line| line.ends_with(says))
            .count()
    };
    let green = world.run("require", &machine).expect_code(0);
    assert_eq!(
        (count(&green, HONEST), count(&green, EVIL)),
        (3, 0),
        "{}",
        green.stdout
    );
    let log = &green.stdout;
    for part in ["the action says true", "a nonce has 16 to 128 letters"] {
        assert!(log.contains(part), "no '{part}' in\n{log}");
    }
    let nonce = "0123456789abcdef";
    let told = proof(&world, log, "act", nonce).expect_code(0).stdout;
    for part in [
        "pins       require: all right",
        "image      minimal sha256:",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let _ = proof(&world, log, "deploy", nonce).expect_code(1);
    let _ = proof(&world, log, "act", "fedcba9876543210").expect_code(1);

    let new = world.move_all_tags();
    let audited = world.run("audit", &machine).expect_code(0);
    assert_eq!(
        (count(&audited, HONEST), count(&audited, EVIL)),
        (3, 0),
        "{}",
        audited.stdout
    );
    let moved = format!("`octo/tool@v1` moved: it was {} (", world.old);
    for part in [&moved, &format!(" and is {new} now (")] {
        assert!(audited.stderr.contains(part.as_str()), "{}", audited.stderr);
    }
    assert!(!world.holds_evil());

    // The control: nothing was locked, and this machine saw no tag before.
    fs::remove_file(world.checkout().join(MAYFLY_LOCK))?;
    world.settle();
    world.forget(true);
    let control = world.run("audit", &machine).expect_code(0);
    assert_eq!(
        (count(&control, HONEST), count(&control, EVIL)),
        (0, 3),
        "{}",
        control.stdout
    );
    assert!(
        control.stdout.contains("the action says false"),
        "{}",
        control.stdout
    );
    Ok(())
}
