//! What is left on the machine after a scenario: processes, mounts, files.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Processes by id and name whose name begins with one of Mayfly's.
#[must_use]
pub fn mayfly_processes() -> BTreeSet<(u32, String)> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(entry.path().join("comm"))
                .ok()?
                .trim()
                .to_owned();
            let state = fs::read_to_string(entry.path().join("stat")).ok()?;
            let zombie = state
                .rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with('Z'));
            (name.starts_with("mayfly-vmm") && !zombie).then_some((id, name))
        })
        .collect()
}

/// Waits until no VMM is left.
///
/// # Panics
/// When one is still there after the time.
pub fn wait_until_none(limit: Duration) {
    let end = Instant::now() + limit;
    while !mayfly_processes().is_empty() {
        assert!(
            Instant::now() < end,
            "left behind: {:?}",
            mayfly_processes()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// The machine's mounts.
#[must_use]
pub fn mounts() -> String {
    fs::read_to_string("/proc/self/mounts").unwrap_or_default()
}

/// All paths below a folder, with sizes of files.
#[must_use]
pub fn tree(folder: &Path) -> BTreeSet<(String, u64)> {
    let mut found = BTreeSet::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(metadata) = path.symlink_metadata() else {
                continue;
            };
            let size = if metadata.is_file() {
                metadata.len()
            } else {
                0
            };
            found.insert((path.display().to_string(), size));
            if metadata.is_dir() {
                open.push(path);
            }
        }
    }
    found
}

/// Resident memory of a process in KiB; 0 when it is gone.
#[must_use]
pub fn resident_kib(process: u32) -> u64 {
    fs::read_to_string(format!("/proc/{process}/status"))
        .ok()
        .and_then(|status| {
            status.lines().find_map(|line| {
                line.strip_prefix("VmRSS:")?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
        })
        .unwrap_or(0)
}
