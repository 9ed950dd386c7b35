//! The `mayfly` command.
#![forbid(unsafe_code)]

fn main() {}
