//! The guest agent: the one part of an image that comes from Mayfly's own build.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// Largest agent that is accepted, in bytes.
const LIMIT: u64 = 64 << 20;

/// Why a file cannot be the guest agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It cannot be read.
    #[error(
        "cannot read the guest agent {}: {error}; build it with RUSTFLAGS='-C target-feature=+crt-static' cargo build --release -p mayfly-guest --target x86_64-unknown-linux-gnu, or name it with --agent",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// It would not start as the first process of a guest.
    #[error("{} cannot be the guest agent: it {why}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Reads the agent and checks that a kernel with nothing else around it can start it.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, AgentError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes))
        .map_err(|error| AgentError::Read {
            path: path.to_owned(),
            error,
        })?;
    let unfit = |why| AgentError::Unfit {
        path: path.to_owned(),
        why,
    };
    if bytes.len() as u64 > LIMIT {
        return Err(unfit("is larger than 64 MiB"));
    }
    if bytes.get(..6) != Some(b"\x7fELF\x02\x01") || bytes.get(18..20) != Some(&[62, 0]) {
        return Err(unfit("is no x86-64 executable"));
    }
    if needs_interpreter(&bytes) {
        return Err(unfit(
            "is linked dynamically: build it with -C target-feature=+crt-static",
        ));
    }
    Ok(bytes)
}

/// Whether a program header of type `PT_INTERP` names a dynamic linker.
fn needs_interpreter(elf: &[u8]) -> bool {
    let number = |at: usize, length: usize| {
        let bytes = elf.get(at..at + length)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0_usize, |value, byte| value << 8 | usize::from(*byte)),
        )
    };
    let (Some(table), Some(size), Some(count)) =
        (number(0x20, 8), number(0x36, 2), number(0x38, 2))
    else {
        return false;
    };
    (0..count)
        .filter_map(|index| table.checked_add(index * size).filter(|at| *at < elf.len()))
        .any(|at| number(at, 4) == Some(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unfit(bytes: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read(file.path()).unwrap_err().to_string()
    }

    #[test]
    fn scripts_and_dynamic_executables_are_refused() {
        assert!(unfit(b"#!/bin/sh").contains("no x86-64 executable"));
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(unfit(&own).contains("dynamically"));
    }

    #[test]
    fn a_static_executable_is_taken_as_it_is() {
        let path = Path::new("/bin/busybox");
        assert_eq!(read(path).unwrap(), std::fs::read(path).unwrap());
    }

    #[test]
    fn a_missing_agent_says_how_to_build_one() {
        let message = read(Path::new("/no/such/agent")).unwrap_err().to_string();
        assert!(message.contains("-p mayfly-guest"), "{message}");
    }
}
