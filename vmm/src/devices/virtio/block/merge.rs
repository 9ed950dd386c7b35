//! Base and private blocks written out as one sparse image, for a snapshot.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, ftruncate, seek};
use thiserror::Error;

use super::device::Block;
use super::disk::{BLOCK_SIZE, read_padded};
use super::persist::BlockState;

/// Bytes copied at a time.
const CHUNK: usize = 256 << 10;

/// Why a disk could not be merged into one image.
#[derive(Debug, Error)]
pub enum MergeDiskError {
    /// A run of blocks lies outside of the disk or before the one ahead of it.
    #[error(
        "private blocks {first}+{count} do not fit a disk of {size} bytes; the state is damaged"
    )]
    Runs {
        /// First block of the run.
        first: u64,
        /// Number of blocks.
        count: u64,
        /// Size of the disk in bytes.
        size: u64,
    },
    /// Reading one of the two, or writing the image failed.
    #[error("cannot copy the disk at byte {position}: {source}; check space on the target")]
    Copy {
        /// Where, in bytes.
        position: u64,
        /// Cause.
        source: io::Error,
    },
}

impl Block {
    /// Writes the whole disk as it is now to the empty file `out`, sparse, for a snapshot; the
    /// machine is paused. The caller makes it durable.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn write_merged(&self, out: &File) -> Result<(), MergeDiskError> {
        let private = self.disk.private.as_ref().map(|private| &private.file);
        merge(&self.disk.base, private, &BlockState::of(&self.disk), out)
    }
}

/// Writes the disk that `state` describes to the empty file `out`: private blocks from `private`,
/// all others from `base`. Zero blocks become holes.
///
/// # Errors
/// `state` does not fit itself, or a file cannot be read or written.
pub fn merge(
    base: &File,
    private: Option<&File>,
    state: &BlockState,
    out: &File,
) -> Result<(), MergeDiskError> {
    let size = state.size;
    ftruncate(out, size).map_err(|error| copy_error(0, error))?;
    let mut position = 0;
    for &(first, count) in &state.private_blocks {
        let damaged = MergeDiskError::Runs { first, count, size };
        let end = first
            .checked_add(count)
            .and_then(|block| block.checked_mul(BLOCK_SIZE));
        let Some((private, end)) = private.zip(end) else {
            return Err(damaged);
        };
        // `end` did not overflow, so neither does the start.
        let start = first * BLOCK_SIZE;
        if start < position || end > size.next_multiple_of(BLOCK_SIZE) {
            return Err(damaged);
        }
        copy_sparse(base, out, position, start)?;
        position = end.min(size);
        copy_sparse(private, out, start, position)?;
    }
    copy_sparse(base, out, position, size)
}

/// Copies a range, leaving holes and zero blocks out. Past the end of `source` all is zero.
fn copy_sparse(source: &File, out: &File, start: u64, end: u64) -> Result<(), MergeDiskError> {
    let mut buffer = vec![0; CHUNK];
    let mut position = start;
    while position < end {
        let Some(data) = next_data(source, position)? else {
            return Ok(());
        };
        // Whole blocks, so that zero blocks are recognised; a hole before the data reads as zero.
        position = position.max(data - data % BLOCK_SIZE);
        if position >= end {
            return Ok(());
        }
        let n = (end - position).min(CHUNK as u64);
        let chunk = &mut buffer[..n as usize];
        read_padded(source, chunk, position).map_err(|error| copy_error(position, error))?;
        for (index, block) in chunk.chunks(BLOCK_SIZE as usize).enumerate() {
            if block.iter().any(|&byte| byte != 0) {
                let at = position + index as u64 * BLOCK_SIZE;
                out.write_all_at(block, at)
                    .map_err(|error| copy_error(at, error))?;
            }
        }
        position += n;
    }
    Ok(())
}

/// Position of the next byte at or after `position` that is not in a hole.
fn next_data(file: &File, position: u64) -> Result<Option<u64>, MergeDiskError> {
    match seek(file.as_fd(), SeekFrom::Data(position)) {
        Ok(data) => Ok(Some(data)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        // Not every file system tells; then all is data.
        Err(rustix::io::Errno::INVAL) => Ok(Some(position)),
        Err(error) => Err(copy_error(position, error)),
    }
}

fn copy_error(position: u64, source: impl Into<io::Error>) -> MergeDiskError {
    MergeDiskError::Copy {
        position,
        source: source.into(),
    }
}
