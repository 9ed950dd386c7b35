//! The scenario files of `tests/workflows/` that use containers: Docker's engine in image `standard`.
//!
//! `cargo test -p mayfly-tests --test containers -- NAME` runs those whose name holds NAME.

use std::{process::ExitCode, time::Duration};

use mayfly_tests::{bench, checkouts, finish, run_group};

/// Each call of Docker's client takes seconds on an emulated machine.
const LIMIT: Duration = Duration::from_secs(420);

fn main() -> ExitCode {
    // The snapshot, made once, has a time limit of its own.
    let machine = ["--image", "standard", "--cpus", "1", "--memory", "2G"];
    let command = ["exec"].iter().chain(&machine).chain(&["--", "true"]);
    let command = bench().mayfly(command);
    let mut trials = checkouts::trials(true, LIMIT);
    trials.insert(
        0,
        libtest_mimic::Trial::test("snapshot", || {
            let _ = finish(command).expect_code(0);
            Ok(())
        }),
    );
    run_group(trials)
}
