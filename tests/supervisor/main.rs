//! `mayfly serve` without sandboxes: the supervisor as its own process, against the strict GitHub on
//! loopback, with workers that are the product's client and a stand-in for the job.

mod faults;
mod idle;
mod life;
mod rig;
mod roles;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    // This program is its own supervisor and its own workers.
    if let Some(code) = roles::role() {
        return code;
    }
    let trials = life::trials()
        .into_iter()
        .chain(faults::trials())
        .chain(idle::trials());
    let trials: Vec<Trial> = trials.collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
