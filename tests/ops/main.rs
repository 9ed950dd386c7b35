//! Operations: metrics under the real Prometheus, alert rules, dashboard, status, logs without secrets, the
//! systemd unit and the Debian package. Runs no guest.

mod dashboard;
mod expression;
mod logs;
mod package;
mod prometheus;
mod rules;
mod served;
mod unit;

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let mut trials = rules::trials();
    trials.extend(dashboard::trials());
    trials.extend(prometheus::trials());
    trials.extend(served::trials());
    trials.extend(logs::trials());
    trials.extend(unit::trials());
    trials.extend(package::trials());
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(4);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test that needs a program of the system; where that is not there it counts as ignored, and the
/// reason is printed.
fn needs(
    program: &str,
    package: &str,
    name: &str,
    test: impl FnOnce() -> Result<(), libtest_mimic::Failed> + Send + 'static,
) -> Trial {
    let there = Command::new("sh")
        .args(["-c", "command -v \"$0\" >/dev/null", program])
        .status()
        .is_ok_and(|status| status.success());
    if !there {
        eprintln!(
            "SKIPPED, counted as ignored: {name}: no {program}; install the Debian package {package}"
        );
    }
    Trial::test(name, test).with_ignored_flag(!there)
}

/// Runs a program of the system to its end; what it said, if it succeeded.
fn succeeds(command: &mut Command) -> Result<String, libtest_mimic::Failed> {
    let output = command.output()?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.success() {
        Ok(said)
    } else {
        Err(format!("{command:?}: {}\n{said}", output.status).into())
    }
}
