//! What is in the memory of other processes, as root may see it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
};

/// How much is read at a time.
const PIECE: u64 = 1 << 20;
/// Bytes of a page.
const PAGE: u64 = 4096;

/// Which of `needles` are in the memory of a process that it may write. Pages that are still as their file
/// has them are left out: what a process writes it has for itself.
///
/// # Errors
/// If it cannot be read; without the rights of root it cannot.
pub fn search(process: u32, needles: &[&str]) -> io::Result<Vec<String>> {
    let memory = File::open(format!("/proc/{process}/mem"))?;
    let pages = File::open(format!("/proc/{process}/pagemap"))?;
    let mut found = Vec::new();
    let mut looked = 0;
    for line in fs::read_to_string(format!("/proc/{process}/maps"))?.lines() {
        let Some((start, end)) = range(line).filter(|_| line.contains(" rw")) else {
            continue;
        };
        let shared = line.contains(" rw-s") || line.contains(" rwxs");
        for (from, to) in written(&pages, start, end, shared)? {
            let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(0)];
            // The process may have given it back meanwhile.
            let Ok(count) = memory.read_at(&mut bytes, from) else {
                continue;
            };
            looked += count;
            for needle in needles {
                let known = found.iter().any(|known| known == needle);
                if !known && contains(&bytes[..count], needle.as_bytes()) {
                    found.push((*needle).to_owned());
                }
            }
        }
    }
    if looked == 0 {
        return Err(io::Error::other("no memory could be read"));
    }
    Ok(found)
}

/// Runs of pages that are there and not as a file has them, each no longer than a piece.
fn written(pages: &File, start: u64, end: u64, shared: bool) -> io::Result<Vec<(u64, u64)>> {
    const PRESENT: u64 = 1 << 63 | 1 << 62;
    const OF_FILE: u64 = 1 << 61;
    let count = usize::try_from((end - start) / PAGE).unwrap_or(0);
    let mut entries = vec![0; count * 8];
    let read = pages.read_at(&mut entries, start / PAGE * 8)?;
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (index, entry) in entries[..read].chunks_exact(8).enumerate() {
        let entry = u64::from_le_bytes(entry.try_into().unwrap_or_default());
        if entry & PRESENT == 0 || (entry & OF_FILE != 0 && !shared) {
            continue;
        }
        let at = start + index as u64 * PAGE;
        match runs.last_mut() {
            Some((from, to)) if *to == at && at - *from < PIECE => *to = at + PAGE,
            _ => runs.push((at, at + PAGE)),
        }
    }
    Ok(runs)
}

fn range(line: &str) -> Option<(u64, u64)> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let Some((first, _)) = needle.split_first() else {
        return false;
    };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        if rest[at..].starts_with(needle) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}
