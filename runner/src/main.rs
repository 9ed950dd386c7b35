//! The `mayfly` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    mayfly::cli::main()
}
