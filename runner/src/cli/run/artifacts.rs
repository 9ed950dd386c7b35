//! Artifacts of a run that ended: written where `--artifacts` says, or told to be gone.

use std::{path::PathBuf, sync::Arc};

use crate::{
    cli::{Failure, interrupt::Interrupts},
    printable,
    results::{artifacts::Artifact, files, service::RunServices},
};

/// Writes the artifacts of a run into a folder and tells each; without one tells that they end here.
pub async fn hand_out(
    services: Arc<RunServices>,
    folder: Option<PathBuf>,
    interrupts: &mut Interrupts,
) -> Result<(), Failure> {
    let artifacts = services.artifacts.list(None, None);
    let Some(folder) = folder else {
        if !artifacts.is_empty() {
            let names: Vec<String> = artifacts.iter().rev().map(shown).collect();
            eprintln!(
                "mayfly: artifacts that end with this run: {}; --artifacts DIR keeps them",
                names.join(", ")
            );
        }
        return Ok(());
    };
    let writing = tokio::task::spawn_blocking(move || {
        let written = artifacts.iter().rev().map(|artifact| {
            let written = files::write(&folder, artifact);
            match &written {
                Ok(path) => eprintln!(
                    "mayfly: artifact {}: {} ({} bytes)",
                    shown(artifact),
                    printable::line(&path.to_string_lossy()),
                    artifact.content.size()
                ),
                Err(error) => {
                    let why = printable::line(&error.to_string());
                    eprintln!("mayfly: artifact {} is not written: {why}", shown(artifact));
                }
            }
            written.is_ok()
        });
        written.filter(|written| !written).count()
    });
    match interrupts.guard(writing).await? {
        0 => Ok(()),
        missing => Err(anyhow::anyhow!("{missing} artifacts could not be written").into()),
    }
}

fn shown(artifact: &Artifact) -> String {
    printable::line(&artifact.name)
}
