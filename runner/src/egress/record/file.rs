//! The file of a record: lines of JSON, appended as connections end, bounded in number and size.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::line::Line;

/// Most bytes of a record; later lines are counted only.
const LARGEST: u64 = 64 << 20;
/// Records that are kept; the oldest go first.
const KEPT: usize = 1000;

/// A record that is being written.
#[derive(Debug)]
pub struct RecordFile {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    left_out: u64,
}

/// Why a record cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The folder or file could not be made.
    #[error("cannot write the record of the network to {}: {cause}; make room there, or name another state folder", .path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// It could not be brought to the disk.
    #[error("the record of the network in {} is not whole: {cause}", .path.display())]
    Sync {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// A line could not be written.
    #[error("the record of the network is not whole: {0}")]
    Lines(String),
}

impl RecordFile {
    /// A new file in `folder`, named by the time and `name`.
    ///
    /// # Errors
    /// [`RecordError::Create`].
    pub fn create(folder: &Path, name: &str) -> Result<Self, RecordError> {
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%3f");
        let name: String = name
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '-' {
                    c
                } else {
                    '_'
                }
            })
            .take(80)
            .collect();
        let path = folder.join(format!("{time}-{}-{name}.jsonl", std::process::id()));
        let create = || {
            fs::create_dir_all(folder)?;
            sweep(folder);
            let mut options = OpenOptions::new();
            options
                .create_new(true)
                .append(true)
                .mode(0o600)
                .open(&path)
        };
        match create() {
            Ok(file) => Ok(Self {
                path,
                file: BufWriter::new(file),
                bytes: 0,
                left_out: 0,
            }),
            Err(cause) => Err(RecordError::Create { path, cause }),
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        if self.bytes + text.len() as u64 > LARGEST {
            self.left_out += 1;
            return Ok(());
        }
        self.bytes += text.len() as u64;
        self.file.write_all(&text)?;
        // Whoever reads along, and who looks after a crash, sees whole lines.
        self.file.flush()
    }

    pub(super) fn sync(&mut self) -> Result<(), RecordError> {
        let result = self
            .file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all());
        result.map_err(|cause| RecordError::Sync {
            path: self.path.clone(),
            cause,
        })?;
        match self.left_out {
            0 => Ok(()),
            count => Err(RecordError::Lines(format!(
                "{count} lines above {} MiB were left out",
                LARGEST >> 20
            ))),
        }
    }
}

/// Removes the oldest records, as far as there are too many. One that cannot be removed stays.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut records: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"))
        .collect();
    records.sort();
    let surplus = (records.len() + 1).saturating_sub(KEPT);
    for path in &records[..surplus.min(records.len())] {
        // Another worker may have been faster.
        let _ = fs::remove_file(path);
    }
}
