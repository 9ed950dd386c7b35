//! How the process ends when nobody is left to listen.

use std::{
    io::pipe,
    process::{Command, Stdio},
};

#[test]
fn the_exit_code_is_right_although_nobody_reads_the_last_words() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let status = Command::new(env!("CARGO_BIN_EXE_mayfly-vmm"))
        .stdin(Stdio::null())
        .stderr(writer)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(2), "{status}");
}
