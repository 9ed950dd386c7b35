//! `mayfly doctor`: what this machine can do, and what to do where it cannot.

mod checks;

use clap::Args;
use serde::Serialize;

use super::{CommandResult, Exit};
use crate::config::Installation;

/// Checks CPU, KVM, memory, disk, cgroups, tools, images and snapshots of this machine.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  mayfly doctor\n  mayfly doctor --json | jq '.[] | select(.verdict != \"pass\")'\n\n\
                        Exit codes: 0 nothing failed, 1 a check failed."
)]
pub struct DoctorArgs {
    /// Print one JSON array of checks.
    #[arg(long)]
    json: bool,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Pass,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do, where it did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl Check {
    fn pass(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Pass,
            found: found.into(),
            next: None,
        }
    }

    fn warn(name: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Warn,
            found: found.into(),
            next: Some(next.into()),
        }
    }

    fn fail(name: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Fail,
            found: found.into(),
            next: Some(next.into()),
        }
    }
}

pub fn doctor(args: &DoctorArgs) -> CommandResult {
    let installation = Installation::locate()?;
    let checks = checks::all(&installation);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&checks)?);
    } else {
        for check in &checks {
            print_line(check);
        }
    }
    let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    Ok(if failed { Exit::Failed } else { Exit::Success })
}

fn print_line(check: &Check) {
    let verdict = match check.verdict {
        Verdict::Pass => "pass",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    println!("{verdict}  {:<10} {}", check.name, check.found);
    if let Some(next) = &check.next {
        println!("      {:<10} -> {next}", "");
    }
}
