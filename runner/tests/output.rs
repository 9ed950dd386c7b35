//! What `mayfly` does when nobody reads what it prints.

use std::{
    io::pipe,
    process::{Command, Stdio},
};

#[test]
fn a_reader_that_went_away_ends_a_command_without_a_word() {
    let state = tempfile::tempdir().unwrap();
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let ended = Command::new(env!("CARGO_BIN_EXE_mayfly"))
        .args(["image", "ls", "--json"])
        .env("MAYFLY_STATE", state.path())
        .stdin(Stdio::null())
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(141), "{ended:?}");
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
}
