//! GitHub's own implementations, which come as npm packages: asked by the scripts in `tests/npm/`.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::repository;

/// Gives a script one JSON value a line and returns its answers, one a line; `None`, said, where node
/// or the packages are not there.
///
/// # Panics
/// When the script fails, or answers something else than JSON.
#[must_use]
pub fn ask(script: &str, questions: impl Iterator<Item = Value>) -> Option<Vec<Value>> {
    let folder = repository().join("tests/npm");
    if !folder.join("node_modules").is_dir() {
        println!("SKIPPED: the npm packages are not there; run npm ci --prefix tests/npm");
        return None;
    }
    let node = Command::new("node")
        .arg(script)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut node = match node {
        Ok(node) => node,
        Err(error) => {
            println!("SKIPPED: node cannot be started: {error}");
            return None;
        }
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
