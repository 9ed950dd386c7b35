//! Saved state of a disk. Its bytes are not here: a snapshot holds them as one merged image.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::device::{Block, OpenBlockError};
use super::disk::Disk;
use crate::config::DiskConfig;

/// What a snapshot keeps of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockState {
    /// Size of the device in bytes.
    pub size: u64,
    /// The device takes no writes.
    pub read_only: bool,
    /// Runs of private 4 KiB blocks as (first, count), for merging base and private file after the
    /// VMM is gone. A restore does not use them: its base is the merged image.
    pub private_blocks: Vec<(u64, u64)>,
}

impl BlockState {
    pub(super) fn of(disk: &Disk) -> Self {
        let private = disk.private.as_ref();
        Self {
            size: disk.size,
            read_only: private.is_none(),
            private_blocks: private.map(|p| p.blocks.private_runs()).unwrap_or_default(),
        }
    }
}

/// Why a saved disk cannot be restored.
#[derive(Debug, Error)]
pub enum RestoreBlockError {
    /// The disk itself cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenBlockError),
    /// The guest knows the disk with another size.
    #[error(
        "disk {id}: the snapshot's is {saved} bytes, the configured one {configured}; \
         restore with the size that the snapshot was made with"
    )]
    Size {
        /// Name of the disk.
        id: String,
        /// Bytes in the snapshot.
        saved: u64,
        /// Bytes in the configuration.
        configured: u64,
    },
    /// Writable in one, read-only in the other.
    #[error(
        "disk {id}: read-only is {saved} in the snapshot and {configured} in the configuration; \
         give it a private file exactly if it had one"
    )]
    Access {
        /// Name of the disk.
        id: String,
        /// Read-only in the snapshot.
        saved: bool,
        /// Read-only in the configuration.
        configured: bool,
    },
}

impl Block {
    /// A disk over the snapshot's merged image, with an empty private file.
    ///
    /// # Errors
    /// The configuration does not fit the snapshot, or the disk cannot be opened.
    pub fn restore(config: &DiskConfig, state: &BlockState) -> Result<Self, RestoreBlockError> {
        let id = config.id.clone();
        let (saved, configured) = (state.size, config.size);
        if saved != configured {
            return Err(RestoreBlockError::Size {
                id,
                saved,
                configured,
            });
        }
        let (saved, configured) = (state.read_only, config.private_fd.is_none());
        if saved != configured {
            return Err(RestoreBlockError::Access {
                id,
                saved,
                configured,
            });
        }
        Ok(Self::new(config)?)
    }
}
