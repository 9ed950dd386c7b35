//! The program around a bench: a runtime, the report as text or JSON, the exit code.

use std::{future::Future, process::ExitCode};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::runtime::Builder;

/// Measures and tells: with `--json` on the command line as JSON, else by `print`.
#[must_use]
pub fn tell<R: Serialize>(
    measure: impl Future<Output = Result<R>>,
    print: impl Fn(&R),
) -> ExitCode {
    let runtime = Builder::new_multi_thread().enable_all().build();
    let measured = runtime
        .context("runtime")
        .and_then(|runtime| runtime.block_on(measure));
    match measured {
        Ok(report) if std::env::args().any(|argument| argument == "--json") => {
            let json = serde_json::to_string_pretty(&report).unwrap_or_default();
            println!("{json}");
            ExitCode::SUCCESS
        }
        Ok(report) => {
            print(&report);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
