//! Input that is too much, given to the program itself: refused in bounded time and memory.

use std::{
    fmt::Write,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use mayfly_tests::{Ended, bench, finish};

/// Address space that the program may have, in KiB; it needs less than half for a small file.
const MEMORY: u64 = 128 << 10;
/// Quiet machines take less than a second for each.
const TIME: Duration = Duration::from_secs(30);

/// Runs `mayfly` with bounded memory, and measures it.
fn bounded(folder: &Path, arguments: &[&str]) -> Ended {
    let mut command = Command::new("sh");
    let script = format!("ulimit -v {MEMORY}; exec \"$@\"");
    command
        .args(["-c", &script, "sh"])
        .arg(bench().programs.join("mayfly"))
        .args(arguments)
        .current_dir(folder);
    let started = Instant::now();
    let ended = finish(command);
    let took = started.elapsed();
    assert!(took < TIME, "{arguments:?} took {took:?}");
    ended
}

/// Refuses a workflow file with a message that holds `part` and is no book.
fn refused(name: &str, text: &str, part: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("ci.yml"), text).expect("a file");
    let ended = bounded(folder.path(), &["run", "ci.yml"]).expect_code(2);
    assert!(ended.stderr.contains(part), "{name}: {}", ended.stderr);
    assert!(ended.stderr.contains("ci.yml"), "{name}: {}", ended.stderr);
    assert!(ended.stderr.len() < 100_000, "{name}");
}

fn with_matrix(values: usize) -> String {
    let values: Vec<String> = (0..values).map(|value| value.to_string()).collect();
    format!(
        "on: push\njobs:\n  a:\n    strategy: {{matrix: {{n: [{}]}}}}\n    runs-on: x\n    steps: [{{run: a}}]\n",
        values.join(", ")
    )
}

#[test]
fn files_that_are_too_much_are_refused_in_bounded_time_and_memory() {
    refused("10 MB", &"a: b\n".repeat(2 << 20), "more than the 1048576");
    let mut bomb = "on: push\nenv:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let ten = vec![format!("*a{}", level - 1); 10].join(", ");
        let _ = writeln!(bomb, "  a{level}: &a{level} [{ten}]");
    }
    bomb += "jobs: {a: {runs-on: x, steps: *a8}}\n";
    refused("bomb", &bomb, "with its aliases put in");
    refused("matrix", &with_matrix(257), "more than 256 jobs");
    let (open, close) = ("(".repeat(100), ")".repeat(100));
    let nested = format!(
        "on: push\njobs: {{a: {{if: \"{open}1{close}\", runs-on: x, steps: [{{run: a}}]}}}}\n"
    );
    refused("nested", &nested, "Exceeded max expression depth 50");
    let deep = format!("on: push\njobs: {}", "[".repeat(500_000));
    refused("deep", &deep, "error");
}

#[test]
fn a_nested_expression_is_refused_in_bounded_time_and_memory() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let nested = format!("{}1{}", "(".repeat(100), ")".repeat(100));
    let ended = bounded(folder.path(), &["expr", &nested]);
    let said = ended.expect_code(2).stderr;
    assert!(said.contains("Exceeded max expression depth 50"), "{said}");
}

#[test]
fn what_is_within_the_limits_is_taken_with_the_same_memory() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let git = Command::new("git")
        .args(["init", "-q"])
        .current_dir(folder.path())
        .status();
    assert!(git.expect("git runs").success());
    fs::write(folder.path().join("ci.yml"), with_matrix(256)).expect("a file");
    let ended = bounded(folder.path(), &["run", "ci.yml", "--dry-run"]).expect_code(0);
    assert_eq!(ended.stdout.matches(": run\n").count(), 256);
    let nested = format!("{}1{}", "(".repeat(40), ")".repeat(40));
    let ended = bounded(folder.path(), &["expr", &nested]).expect_code(0);
    assert_eq!(ended.stdout.trim(), "1");
}
