//! `mayfly snapshot`: making, listing, checking and removing snapshots.

use clap::{Args, Subcommand};

use super::{CommandResult, Exit, Failure, interrupt::Interrupts, kvm, machine::MachineArgs};
use crate::{config::Installation, sandbox::template};

/// Makes, lists, checks and removes snapshots.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    /// Make the snapshot of an image unless it is there; `run` and `exec` do so themselves.
    #[command(
        after_help = "Example:\n  mayfly snapshot create --image standard --cpus 2 --memory 4G"
    )]
    Create(MachineArgs),
    /// List snapshots.
    #[command(alias = "list", after_help = "Example:\n  mayfly snapshot ls --json")]
    Ls {
        /// Print one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Read whole snapshots and compare them with their digests.
    #[command(after_help = "Example:\n  mayfly snapshot verify --all")]
    Verify(Selection),
    /// Remove snapshots; sandboxes that run from them go on.
    #[command(alias = "remove", after_help = "Example:\n  mayfly snapshot rm --all")]
    Rm(Selection),
}

#[derive(Debug, Args)]
struct Selection {
    /// Names as `mayfly snapshot ls` shows them.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    names: Vec<String>,
    /// All of them.
    #[arg(long)]
    all: bool,
}

pub fn snapshot(args: &SnapshotArgs, mode: kvm::KvmMode) -> CommandResult {
    let installation = Installation::locate()?;
    match &args.command {
        SnapshotCommand::Create(machine) => create(machine, installation, mode),
        SnapshotCommand::Ls { json } => ls(&installation, *json),
        SnapshotCommand::Verify(selection) => verify(&installation, selection),
        SnapshotCommand::Rm(selection) => rm(&installation, selection),
    }
}

fn create(machine: &MachineArgs, installation: Installation, mode: kvm::KvmMode) -> CommandResult {
    kvm::ensure(mode)?;
    let launcher = super::runtime()?.block_on(async {
        Interrupts::take()?
            .guard(machine.launcher(installation))
            .await
    })?;
    let directory = &launcher.template().snapshot.directory;
    println!(
        "snapshot {}",
        directory.file_name().unwrap_or_default().display()
    );
    Ok(Exit::Success)
}

fn ls(installation: &Installation, json: bool) -> CommandResult {
    let snapshots = template::list(installation)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&snapshots)?);
        return Ok(Exit::Success);
    }
    println!(
        "{:<32} {:<19} {:>5} {:>9} {:>9} HERE",
        "NAME", "IMAGE", "VCPUS", "MEMORY", "SIZE"
    );
    for snapshot in &snapshots {
        println!(
            "{:<32} {:<19.19} {:>5} {:>5} MiB {:>5} MiB {}",
            snapshot.name,
            snapshot.image,
            snapshot.vcpus,
            snapshot.memory_mib,
            snapshot.disk_bytes >> 20,
            if snapshot.usable_here {
                "usable"
            } else {
                "for another host"
            }
        );
    }
    Ok(Exit::Success)
}

fn verify(installation: &Installation, selection: &Selection) -> CommandResult {
    let mut exit = Exit::Success;
    for name in selection.names(installation)? {
        match template::verify(installation, &name) {
            Ok(()) => println!("{name}: whole"),
            Err(error) => {
                println!("{name}: {error}");
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}

fn rm(installation: &Installation, selection: &Selection) -> CommandResult {
    for name in selection.names(installation)? {
        template::remove(installation, &name).map_err(Failure::usage)?;
        println!("removed {name}");
    }
    Ok(Exit::Success)
}

impl Selection {
    fn names(&self, installation: &Installation) -> Result<Vec<String>, Failure> {
        if self.all {
            return Ok(template::names(installation)?);
        }
        Ok(self.names.clone())
    }
}
