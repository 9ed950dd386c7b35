//! `mayfly action`: the actions stored on this machine, listed, verified and removed.

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{CommandResult, Exit};
use crate::{
    action::{
        digest::ContentDigest,
        store::{ActionStore, Entry},
    },
    config::Installation,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Lists, verifies and removes stored actions.
#[derive(Debug, Args)]
pub struct ActionArgs {
    #[command(subcommand)]
    command: ActionCommand,
}

#[derive(Debug, Subcommand)]
enum ActionCommand {
    /// List stored actions.
    #[command(
        alias = "list",
        after_help = "Example:\n  mayfly action ls --json | jq '.[].digest'"
    )]
    Ls {
        /// Print one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Read stored actions whole and compare them with their digests.
    #[command(
        after_help = "Example:\n  mayfly action verify\n\nExit codes: 0 all are whole, 1 one is damaged or \
                      missing, 3 the machine cannot do it."
    )]
    Verify {
        /// Digests as `mayfly action ls` shows them; without one, all.
        digests: Vec<ContentDigest>,
        /// Print one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Remove actions that were not used for some time, and what crashes left.
    #[command(after_help = "Example:\n  mayfly action gc --unused-for 7")]
    Gc {
        /// Days after which an action goes; 0 removes all.
        #[arg(long, value_name = "DAYS", default_value_t = 30)]
        unused_for: u32,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// A stored action, as programs read it.
#[derive(Debug, Serialize)]
struct Listed {
    digest: ContentDigest,
    bytes: u64,
    /// When it was added or read last.
    used: String,
}

/// What was found of one action.
#[derive(Debug, Serialize)]
struct Checked {
    digest: ContentDigest,
    whole: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What was removed.
#[derive(Debug, Serialize)]
struct Removed {
    removed: Vec<Listed>,
    /// `null` while another process adds an action.
    leftovers: Option<usize>,
}

impl From<&Entry> for Listed {
    fn from(entry: &Entry) -> Self {
        Self {
            digest: entry.digest,
            bytes: entry.bytes,
            used: timestamp(entry.used),
        }
    }
}

/// A time to the second; one that no calendar holds is the first of all.
fn timestamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time)
        .and_then(|time| jiff::Timestamp::from_second(time.as_second()))
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}

pub fn action(args: &ActionArgs) -> CommandResult {
    let store = ActionStore::at(Installation::locate()?.actions());
    match &args.command {
        ActionCommand::Ls { json } => ls(&store, *json),
        ActionCommand::Verify { digests, json } => verify(&store, digests, *json),
        ActionCommand::Gc { unused_for, json } => gc(&store, *unused_for, *json),
    }
}

fn ls(store: &ActionStore, json: bool) -> CommandResult {
    let entries: Vec<Listed> = store.list()?.iter().map(Listed::from).collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&entries)?);
        return Ok(Exit::Success);
    }
    println!("{:<71} {:>11} USED", "DIGEST", "SIZE");
    for Listed {
        digest,
        bytes,
        used,
    } in &entries
    {
        println!("{digest} {:>7} KiB {used}", bytes.div_ceil(1024));
    }
    Ok(Exit::Success)
}

fn verify(store: &ActionStore, digests: &[ContentDigest], json: bool) -> CommandResult {
    let mut digests = digests.to_vec();
    if digests.is_empty() {
        digests = store.list()?.iter().map(|entry| entry.digest).collect();
    }
    let mut checked = Vec::new();
    for digest in digests {
        let found = store.verify(digest);
        if !json {
            match &found {
                Ok(found) => println!("{digest}: whole, {} files", found.files),
                Err(error) => println!("{digest}: {error}"),
            }
        }
        checked.push(Checked {
            digest,
            whole: found.is_ok(),
            files: found.as_ref().ok().map(|found| found.files),
            error: found.err().map(|error| error.to_string()),
        });
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&checked)?);
    }
    Ok(if checked.iter().all(|checked| checked.whole) {
        Exit::Success
    } else {
        Exit::Failed
    })
}

fn gc(store: &ActionStore, unused_for: u32, json: bool) -> CommandResult {
    let collected = store.collect(DAY * unused_for)?;
    let removed = Removed {
        removed: collected.entries.iter().map(Listed::from).collect(),
        leftovers: collected.leftovers,
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&removed)?);
        return Ok(Exit::Success);
    }
    for Listed { digest, bytes, .. } in &removed.removed {
        println!("removed {digest}, {} KiB", bytes.div_ceil(1024));
    }
    match removed.leftovers {
        Some(0) => {}
        Some(left) => println!("removed {left} files that crashes left"),
        None => {
            println!("an action is added right now: what crashes left stays until the next time");
        }
    }
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::archive::{Layout, Limits, samples};

    #[test]
    fn stored_actions_are_verified_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = ActionStore::at(folder.path().join("actions"));
        assert_eq!(ls(&store, true).unwrap(), Exit::Success);
        assert_eq!(verify(&store, &[], false).unwrap(), Exit::Success);
        let archive = samples::ended(samples::honest());
        let expected = samples::expected();
        let (layout, limits) = (Layout::TopFolder, Limits::default());
        let digest = store.add(&archive[..], layout, &expected, limits);
        let digest = digest.unwrap().content;
        let missing = ContentDigest::from_bytes([0; 32]);
        assert_eq!(verify(&store, &[], true).unwrap(), Exit::Success);
        assert_eq!(verify(&store, &[missing], true).unwrap(), Exit::Failed);
        let path = folder.path().join("actions").join(digest.hex() + ".tar");
        std::fs::write(path, "damaged").unwrap();
        assert_eq!(verify(&store, &[], false).unwrap(), Exit::Failed);
        assert_eq!(gc(&store, 30, false).unwrap(), Exit::Success);
        assert!(store.contains(digest));
        assert_eq!(gc(&store, 0, true).unwrap(), Exit::Success);
        assert!(!store.contains(digest));
    }

    #[test]
    fn times_are_told_to_the_second() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_999);
        assert_eq!(timestamp(time), "2023-11-14T22:13:20Z");
    }
}
