//! The scenario files of `tests/workflows/`, which [`mayfly_tests::scenario`] describes, but for those
//! of the group `containers`.
//!
//! `cargo test -p mayfly-tests --test workflows -- NAME` runs those whose name holds NAME.

use std::process::ExitCode;

use mayfly_tests::{COMMAND_LIMIT, checkouts, run_group};

fn main() -> ExitCode {
    run_group(checkouts::trials(false, COMMAND_LIMIT))
}
