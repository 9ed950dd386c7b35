//! What is in the memory of other processes, as root may see it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
};

/// How much is read at a time.
const PIECE: usize = 1 << 20;

/// Which of `needles` are in the memory of a process that it may write.
///
/// # Errors
/// If it cannot be read; without the rights of root it cannot.
pub fn search(process: u32, needles: &[&str]) -> io::Result<Vec<String>> {
    let memory = File::open(format!("/proc/{process}/mem"))?;
    let longest = needles.iter().map(|needle| needle.len()).max().unwrap_or(1);
    let mut found = Vec::new();
    let mut looked = 0;
    for line in fs::read_to_string(format!("/proc/{process}/maps"))?.lines() {
        let Some((start, end)) = range(line).filter(|_| line.contains(" rw")) else {
            continue;
        };
        let mut buffer = vec![0; PIECE + longest];
        let mut at = start;
        while at < end {
            let size = usize::try_from(end - at)
                .unwrap_or(PIECE)
                .min(PIECE + longest);
            // Parts of a mapping may be no memory, like a file's end.
            if let Ok(count) = memory.read_at(&mut buffer[..size], at) {
                looked += count;
                for needle in needles {
                    let known = found.iter().any(|known| known == needle);
                    if !known && contains(&buffer[..count], needle.as_bytes()) {
                        found.push((*needle).to_owned());
                    }
                }
            }
            at += PIECE as u64;
        }
    }
    if looked == 0 {
        return Err(io::Error::other("no memory could be read"));
    }
    Ok(found)
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
