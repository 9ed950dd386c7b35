//! Reads records back.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use super::line::Line;

/// Largest record that is read.
const LARGEST: u64 = 128 << 20;

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read the record {}: {cause}; name a file of the folder `egress` in the state folder", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// A line is none of a record.
    #[error("{} is no record of the network: line {line}: {cause}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The cause.
        #[source]
        cause: serde_json::Error,
    },
}

/// The lines of a record.
///
/// # Errors
/// [`ReadError`] for the first that is none.
pub fn read(path: &Path) -> Result<Vec<Line>, ReadError> {
    let failed = |cause| ReadError::Read {
        path: path.to_owned(),
        cause,
    };
    let file = File::open(path).map_err(failed)?;
    let mut lines = Vec::new();
    for (at, text) in BufReader::new(file.take(LARGEST)).lines().enumerate() {
        let text = text.map_err(failed)?;
        let line = serde_json::from_str(&text).map_err(|cause| ReadError::Line {
            path: path.to_owned(),
            line: at + 1,
            cause,
        })?;
        lines.push(line);
    }
    Ok(lines)
}
