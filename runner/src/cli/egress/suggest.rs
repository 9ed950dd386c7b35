//! `mayfly egress suggest`: a minimal policy from what jobs did.

mod rules;

use std::{io::Write, path::PathBuf};

use clap::Args;

use super::args::{EgressArgs, named};
use crate::{
    cli::{CommandResult, Exit, Failure},
    egress::record::{Line, read},
};
use rules::Suggestion;

/// Turns records of jobs into the smallest policy that lets pass what they reached.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  mayfly egress suggest ~/.local/state/mayfly/egress/*.jsonl -o policy.toml\n\n\
                        The policy goes to standard output, or to --output; what changes against the present one,\n\
                        and what was left out, to standard error. Review it: a job that was attacked reached what\n\
                        the attacker wanted."
)]
pub struct SuggestArgs {
    /// Records: files of the folder `egress` in the state folder.
    #[arg(required = true, value_name = "RECORD")]
    records: Vec<PathBuf>,
    /// Let each host pass only in the steps that reached it.
    #[arg(long)]
    by_step: bool,
    /// The present policy; without it the one that `mayfly run` would use.
    #[arg(long, value_name = "MODE|FILE")]
    policy: Option<String>,
    /// Write the policy into this file, which must not be there.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn suggest(args: &SuggestArgs) -> CommandResult {
    let present = match &args.policy {
        Some(said) => named(said)?,
        None => EgressArgs::default().document()?,
    };
    let mut lines: Vec<Line> = Vec::new();
    for record in &args.records {
        lines.extend(read(record).map_err(Failure::usage)?);
    }
    let suggestion = Suggestion::of(&lines, args.by_step);
    let text = suggestion.toml(args.records.len());
    match &args.output {
        Some(path) => write_new(path, &text)?,
        None => print!("{text}"),
    }
    for line in suggestion.diff(&present) {
        eprintln!("{line}");
    }
    Ok(Exit::Success)
}

/// Whole or not at all, and never over something else.
fn write_new(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(std::path::Path::new("."));
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map_err(|error| error.error)?;
        Ok::<(), std::io::Error>(())
    };
    write().map_err(|cause| {
        let path = path.display();
        Failure::usage(anyhow::anyhow!(
            "cannot write {path}: {cause}; name a new file in a folder that is there"
        ))
    })
}
