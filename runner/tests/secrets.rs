//! How the `mayfly` process treats the secrets that it is given.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

const WORKFLOW: &str =
    "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: 'true'\n";

fn run(program: &str, arguments: &[&str], folder: &Path) {
    let status = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .status()
        .expect(program);
    assert!(status.success(), "{program}");
}

#[test]
fn the_process_is_protected_before_the_first_secret_is_read() {
    let folder = tempfile::tempdir().unwrap();
    run("git", &["init", "-q"], folder.path());
    fs::write(folder.path().join("ci.yml"), WORKFLOW).unwrap();
    let pipe = folder.path().join("secrets");
    run("mkfifo", &["secrets"], folder.path());
    let mut mayfly = Command::new(env!("CARGO_BIN_EXE_mayfly"))
        .args(["--kvm=require", "run", "ci.yml", "--secret-file", "secrets"])
        .env("MAYFLY_STATE", folder.path().join("state"))
        .current_dir(folder.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();

    // Opens when the other end does: when the secrets are about to be read.
    let mut secrets = OpenOptions::new().write(true).open(pipe).unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", mayfly.id())).unwrap();
    writeln!(secrets, "no pair").unwrap();
    drop(secrets);

    // A wrong secret file ends it before it needs a machine.
    assert_eq!(mayfly.wait().unwrap().code(), Some(2));
    let core = limits.lines().find(|line| line.contains("core file size"));
    let values: Vec<&str> = core.unwrap().split_whitespace().skip(4).collect();
    assert_eq!(values, ["0", "0", "bytes"], "{limits}");
}
