//! GitHub's own implementations, which come as npm packages: asked by the scripts in `tests/npm/`.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::repository;

/// Set to `1`, it accepts a run of the tests without node and the npm packages.
const WITHOUT_NODE: &str = "MAYFLY_TESTS_WITHOUT_NODE";

/// Gives a script one JSON value a line and returns its answers, one a line; `None`, said, where node
/// or the packages are not there and `MAYFLY_TESTS_WITHOUT_NODE=1` accepts that.
///
/// # Panics
/// When node or the packages are not there and nobody accepted that, when the script fails, or
/// answers something else than JSON.
#[must_use]
pub fn ask(script: &str, questions: impl Iterator<Item = Value>) -> Option<Vec<Value>> {
    let folder = repository().join("tests/npm");
    if !folder.join("node_modules").is_dir() {
        return skip("the npm packages are not there; run npm ci --prefix tests/npm");
    }
    let node = Command::new("node")
        .arg(script)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut node = match node {
        Ok(node) => node,
        Err(error) => return skip(&format!("node cannot be started: {error}")),
    };
    let mut stdin = node.stdin.take().expect("it is piped");
    let input: String = questions.map(|question| format!("{question}\n")).collect();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = node.wait_with_output().expect("node ends");
    assert!(output.status.success(), "{script}: {}", output.status);
    writer.join().expect("no panic").expect("node reads all");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let answers = text.lines();
    Some(
        answers
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
            .collect(),
    )
}

/// Says that a comparison was not made, if that was accepted: one that is not made must not pass.
fn skip(why: &str) -> Option<Vec<Value>> {
    let accepted = std::env::var_os(WITHOUT_NODE).is_some_and(|value| value == "1");
    assert!(accepted, "{why} (or accept that with {WITHOUT_NODE}=1)");
    println!("SKIPPED: {why}");
    None
}
