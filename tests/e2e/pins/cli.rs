//! `mayfly pin` itself against a git server: what it writes, prints and ends with.

use std::fs;

use libtest_mimic::{Failed, Trial};
use mayfly::action::lockfile::{ACTIONS_LOCK, MAYFLY_LOCK};
use mayfly_tests::Ended;
use serde_json::Value;

use super::{EVIL, World, action};

const CI: &str = ".github/workflows/ci.yml";
/// Another workflow's references, in styles that a rewrite has to keep.
const WORKFLOW: &str = "# A comment: uses: octo/tool@v1\r\non: push\r\njobs:\r\n  act:\r\n    runs-on: sandbox\r\n    steps:\r\n      \
                        - uses:   \"octo/tool@v1\"   # why: octo/tool@v1\r\n      - {name: x, uses: 'octo/outer@v1'}\r\n      \
                        - run: echo octo/tool@v1\r\n";

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("pin_writes_both_lock_files_once", both_locks),
        Trial::test(
            "pin_check_tells_by_its_exit_code_what_is_wrong",
            check_codes,
        ),
        Trial::test("pin_tells_programs_in_json", json),
        Trial::test("pin_tells_github_in_annotations_and_a_summary", github),
        Trial::test("pin_updates_what_is_named_and_nothing_else", update),
        Trial::test(
            "pin_writes_commits_into_files_and_keeps_the_rest",
            write_sha,
        ),
    ]
}

fn world() -> World {
    let world = World::new(WORKFLOW);
    world.forget(false);
    world
}

/// GitHub's lock file with the numbers of two repositories, as another tool wrote it.
fn actions_lock(commit: &str, outer: &str) -> String {
    let entry = |name: &str, commit: &str, number: u32| {
        format!(
            "    '{name}@v1':\n        ref: 'v1'\n        commit: 'sha1-{commit}'\n        owner_id: 7\n        repo_id: {number}\n"
        )
    };
    format!(
        "version: 'v0.0.2'\nworkflows:\n    '{CI}':\n        - 'octo/outer@v1'\n        - 'octo/tool@v1'\n\
         dependencies:\n{}{}",
        entry("octo/outer", outer, 2),
        entry("octo/tool", commit, 1)
    )
}

fn both_locks() -> Result<(), Failed> {
    let world = world();
    let outer = "runs:\n  using: composite\n  steps:\n    - uses: octo/tool@v1\n";
    let outer = world
        .server
        .commit("octo/outer", &[("action.yml", outer)], &["v1"]);
    // The numbers that GitHub's format needs come from the file where a mirror knows none.
    world.write(ACTIONS_LOCK, &actions_lock(&"1".repeat(40), &outer));
    let ended = world.pin(&["--update"]).expect_code(0);
    assert!(
        ended
            .stdout
            .contains("wrote .github/workflows/actions.lock"),
        "{}",
        ended.stdout
    );
    assert!(
        ended.stdout.contains("wrote .github/workflows/mayfly.lock"),
        "{}",
        ended.stdout
    );
    let locks = [ACTIONS_LOCK, MAYFLY_LOCK].map(|file| world.read(file));
    for lock in &locks {
        assert!(
            lock.contains(&format!("commit: 'sha1-{}'", world.old)),
            "{lock}"
        );
    }
    assert!(locks[0].contains("repo_id: 1"), "{}", locks[0]);
    assert!(locks[1].contains("content: 'sha256-"), "{}", locks[1]);
    let ended = world.pin(&[]).expect_code(0);
    assert!(!ended.stdout.contains("wrote"), "{}", ended.stdout);
    assert_eq!(
        locks,
        [ACTIONS_LOCK, MAYFLY_LOCK].map(|file| world.read(file))
    );
    let _ = world.pin(&["--check"]).expect_code(0);
    Ok(())
}

fn check_codes() -> Result<(), Failed> {
    let world = world();
    let unpinned = world.pin(&["--check"]).expect_code(1);
    let line = format!("{CI}:7:17: unpinned: ");
    assert!(unpinned.stdout.contains(&line), "{}", unpinned.stdout);
    assert!(
        !world.checkout().join(MAYFLY_LOCK).exists(),
        "a check changes nothing"
    );
    world.lock();
    let _ = world.pin(&["--check"]).expect_code(0);
    let _ = world.pin(&["--check", "no/such.yml"]).expect_code(2);
    let _ = world.pin(&["--check", "--update"]).expect_code(2);
    let gone = world
        .pin_from("http://127.0.0.1:1", &["--check"])
        .expect_code(3);
    assert!(gone.stdout.contains(": unreachable: "), "{}", gone.stdout);
    world
        .server
        .commit("octo/tool", &[("action.yml", &action(EVIL))], &["v1"]);
    let moved = world.pin(&["--check"]).expect_code(1);
    assert!(
        moved
            .stdout
            .contains(&format!("was locked at {}", world.old)),
        "{}",
        moved.stdout
    );
    assert!(
        moved.stdout.contains("`mayfly pin --update octo/tool@v1`"),
        "{}",
        moved.stdout
    );
    Ok(())
}

/// The fields that `--json` promises, and their kinds.
fn json() -> Result<(), Failed> {
    let world = world();
    let report = |ended: &Ended| serde_json::from_str::<Value>(&ended.stdout);
    let found = report(&world.pin(&["--json"]).expect_code(0))?;
    assert_eq!((&found["version"], &found["ok"]), (&1.into(), &true.into()));
    for list in ["entries", "offenders", "removed", "written", "notes"] {
        assert!(found[list].is_array(), "{list}: {found}");
    }
    assert_eq!(found["written"][0], MAYFLY_LOCK);
    let entries = found["entries"].as_array().expect("a list");
    let tool = entries
        .iter()
        .find(|entry| entry["reference"] == "octo/tool@v1");
    let tool = tool.expect("the tool is an entry");
    for (field, start) in [
        ("commit", world.old.as_str()),
        ("content", "sha256:"),
        ("change", "new"),
    ] {
        assert!(
            tool[field].as_str().expect(field).starts_with(start),
            "{tool}"
        );
    }
    assert_eq!(tool["places"][0]["line"], 7);
    assert_eq!(tool["places"][0]["file"], CI);
    assert!(
        tool["resolved"]["at"].is_string() && tool["depth"].is_u64(),
        "{tool}"
    );
    assert!(tool["moved_to"].is_null(), "{tool}");
    let new = world
        .server
        .commit("octo/tool", &[("action.yml", &action(EVIL))], &["v1"]);
    let found = report(&world.pin(&["--check", "--json"]).expect_code(1))?;
    let offender = &found["offenders"][0];
    assert_eq!(
        (&found["ok"], &offender["kind"]),
        (&false.into(), &"moved".into())
    );
    for field in ["file", "message", "text"] {
        assert!(offender[field].is_string(), "{offender}");
    }
    let entries = found["entries"].as_array().expect("a list");
    assert!(
        entries
            .iter()
            .any(|entry| entry["moved_to"] == new.as_str()),
        "{found}"
    );
    Ok(())
}

fn github() -> Result<(), Failed> {
    let world = world();
    let report = world.folder.path().join("report.json");
    let path = report.display().to_string();
    let ended = world
        .pin(&["--check", "--format", "github", "--report", &path])
        .expect_code(1);
    let annotation = format!("::error file={CI},line=7,col=17,title=mayfly pin%3A unpinned::");
    assert!(ended.stdout.contains(&annotation), "{}", ended.stdout);
    let summary = fs::read_to_string(world.folder.path().join("summary"))?;
    assert!(
        summary.contains("| unpinned | .github/workflows/ci.yml:7:17 |"),
        "{summary}"
    );
    let report: Value = serde_json::from_slice(&fs::read(&report)?)?;
    assert_eq!(report["ok"], false);
    world.lock();
    let _ = world.pin(&["--check", "--format", "github"]).expect_code(0);
    let summary = fs::read_to_string(world.folder.path().join("summary"))?;
    assert!(summary.contains("references are pinned"), "{summary}");
    Ok(())
}

fn update() -> Result<(), Failed> {
    let world = world();
    world.lock();
    let before = world.read(MAYFLY_LOCK);
    let outer = world.server.commit("octo/outer", &[("more", "x")], &["v1"]);
    let tool = world.server.commit("octo/tool", &[("more", "x")], &["v1"]);
    let ended = world.pin(&[]).expect_code(0);
    assert!(ended.stdout.contains("moved to"), "{}", ended.stdout);
    assert_eq!(world.read(MAYFLY_LOCK), before, "what is locked stays");
    let _ = world.pin(&["--update", "octo/outer"]).expect_code(0);
    let lock = world.read(MAYFLY_LOCK);
    assert!(lock.contains(&outer) && !lock.contains(&tool), "{lock}");
    let _ = world.pin(&["--update"]).expect_code(0);
    assert!(world.read(MAYFLY_LOCK).contains(&tool));
    let _ = world.pin(&["--check"]).expect_code(0);
    Ok(())
}

fn write_sha() -> Result<(), Failed> {
    let world = world();
    let outer = world.server.commit("octo/outer", &[], &["v1", "v1.2.0"]);
    let _ = world.pin(&["--write-sha"]).expect_code(0);
    let expected = WORKFLOW
        .replace(
            "\"octo/tool@v1\"   # why: octo/tool@v1",
            &format!("\"octo/tool@{}\"   # v1.0.1 why: octo/tool@v1", world.old),
        )
        .replace(
            "'octo/outer@v1'}",
            &format!("'octo/outer@{outer}'}} # v1.2.0"),
        );
    let found = world.read(CI);
    let plain = |text: &str| {
        let text = text.replace(&world.old, "SHA").replace(&outer, "SHA");
        text.split('#')
            .map(|part| part.trim().to_owned())
            .collect::<Vec<_>>()
    };
    // Which version is said where is the rewriting's own test; here that nothing else changed.
    assert_eq!(found.matches(&world.old).count(), 1, "{found}");
    assert_eq!(found.matches(&outer).count(), 1, "{found}");
    assert_eq!(
        found.matches("\r\n").count(),
        WORKFLOW.matches("\r\n").count()
    );
    assert_eq!(plain(&found)[0..2], plain(&expected)[0..2]);
    assert!(found.contains("- run: echo octo/tool@v1\r\n"), "{found}");
    let _ = world.pin(&["--check"]).expect_code(0);
    Ok(())
}
