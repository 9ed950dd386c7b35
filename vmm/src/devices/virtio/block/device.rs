//! The virtio side of a disk: features, configuration space, its one queue.

use std::fs::File;
use std::io;

use rustix::fs::{fstat, ftruncate};
use thiserror::Error;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

use super::super::chain::{self, Chain, Served};
use super::super::device::{Raise, VirtioDevice};
use super::super::persist::VirtioDeviceState;
use super::super::{COMMON_FEATURES, adopt, read_config_bytes};
use super::disk::{BLOCK_SIZE, Disk};
use super::persist::BlockState;
use super::request::{self, MAX_RANGE_SECTORS, SECTOR_SIZE, SERIAL_LEN};
use crate::config::DiskConfig;

const QUEUE_SIZES: [u16; 1] = [256];
/// Data segments of one request: a chain's most, less header and status.
const SEG_MAX: u32 = chain::MAX_SEGMENTS as u32 - 2;
/// Length of `struct virtio_blk_config` up to the write-zeroes fields.
const CONFIG_LEN: usize = 60;
/// A disk larger than this is a mistake; its bitmap alone would take 32 MiB.
const MAX_SIZE: u64 = 1 << 40;

/// Why a disk cannot be opened.
#[derive(Debug, Error)]
pub enum OpenBlockError {
    /// A descriptor is not open, or its file refuses.
    #[error("disk {id}: cannot use its {part} (descriptor {fd}): {source}")]
    File {
        /// Name of the disk.
        id: String,
        /// `base image` or `private file`.
        part: &'static str,
        /// Number in the configuration.
        fd: i32,
        /// Cause.
        source: io::Error,
    },
    /// The private file has content.
    #[error("disk {id}: its private file holds {len} bytes already; give it an empty one")]
    PrivateNotEmpty {
        /// Name of the disk.
        id: String,
        /// Length in bytes.
        len: i64,
    },
    /// The size is none that a disk can have.
    #[error("disk {id}: size {size} is not a multiple of 512 between 512 and {MAX_SIZE}")]
    Size {
        /// Name of the disk.
        id: String,
        /// Size in bytes.
        size: u64,
    },
    /// The name does not fit the serial.
    #[error("disk {id}: a name has 1 to {SERIAL_LEN} printable ASCII characters")]
    Name {
        /// Name of the disk.
        id: String,
    },
}

/// A virtio-blk device.
#[derive(Debug)]
pub struct Block {
    pub(super) disk: Disk,
    serial: [u8; SERIAL_LEN],
    active: Option<Active>,
}

#[derive(Debug)]
struct Active {
    memory: GuestMemoryMmap,
    queues: Vec<Queue>,
    chain: Chain,
}

impl Block {
    /// Whether the guest may write the disk.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.disk.private.is_some()
    }

    /// A disk over the descriptors that `config` names; it becomes their owner.
    ///
    /// # Errors
    /// A descriptor, the size or the name is wrong; see [`OpenBlockError`].
    pub fn new(config: &DiskConfig) -> Result<Self, OpenBlockError> {
        let (id, size) = (config.id.clone(), config.size);
        if size == 0 || size > MAX_SIZE || !size.is_multiple_of(SECTOR_SIZE) {
            return Err(OpenBlockError::Size { id, size });
        }
        let mut serial = [0; SERIAL_LEN];
        if !(1..=SERIAL_LEN).contains(&id.len()) || !id.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(OpenBlockError::Name { id });
        }
        serial[..id.len()].copy_from_slice(id.as_bytes());
        let failed = |part, fd| {
            let id = config.id.clone();
            move |source| OpenBlockError::File {
                id,
                part,
                fd,
                source,
            }
        };
        let base = adopt(config.base_fd).map_err(failed("base image", config.base_fd))?;
        let private = match config.private_fd {
            None => None,
            Some(fd) => {
                let file = adopt(fd).map_err(failed("private file", fd))?;
                let stat = fstat(&file).map_err(|e| failed("private file", fd)(e.into()))?;
                if stat.st_size != 0 {
                    return Err(OpenBlockError::PrivateNotEmpty {
                        id,
                        len: stat.st_size,
                    });
                }
                ftruncate(&file, size).map_err(|e| failed("private file", fd)(e.into()))?;
                Some(File::from(file))
            }
        };
        let disk = Disk::new(File::from(base), size, private);
        Ok(Self {
            disk,
            serial,
            active: None,
        })
    }

    fn config_space(&self) -> [u8; CONFIG_LEN] {
        let mut space = [0; CONFIG_LEN];
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.disk.size / SECTOR_SIZE).to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &(SECTOR_SIZE as u32).to_le_bytes());
        // Topology: physical block of 2^3 sectors, preferred I/O of one such block.
        put(24, &[(BLOCK_SIZE / SECTOR_SIZE).ilog2() as u8]);
        put(26, &((BLOCK_SIZE / SECTOR_SIZE) as u16).to_le_bytes());
        put(34, &1_u16.to_le_bytes());
        if self.disk.private.is_some() {
            // Discard, then write zeroes: sectors, segments, alignment or "may unmap".
            put(36, &MAX_RANGE_SECTORS.to_le_bytes());
            put(40, &1_u32.to_le_bytes());
            put(44, &((BLOCK_SIZE / SECTOR_SIZE) as u32).to_le_bytes());
            put(48, &MAX_RANGE_SECTORS.to_le_bytes());
            put(52, &1_u32.to_le_bytes());
            put(56, &[1]);
        }
        space
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn offered_features(&self) -> u64 {
        let own =
            1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_TOPOLOGY;
        let access = if self.disk.private.is_some() {
            1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
        } else {
            1 << VIRTIO_BLK_F_RO
        };
        COMMON_FEATURES | own | access
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config_space(), offset, data);
    }

    fn activate(&mut self, _features: u64, memory: GuestMemoryMmap, queues: Vec<Queue>) {
        self.active = Some(Active {
            memory,
            queues,
            chain: Chain::default(),
        });
    }

    fn queues(&self) -> Option<&[Queue]> {
        self.active.as_ref().map(|active| active.queues.as_slice())
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn queue_notified(&mut self, index: usize) -> Raise {
        let (disk, serial) = (&mut self.disk, &self.serial);
        let Some(Active {
            memory,
            queues,
            chain,
        }) = &mut self.active
        else {
            return Raise::default();
        };
        let Some(queue) = queues.get_mut(index) else {
            return Raise::default();
        };
        chain::serve(queue, memory, chain, |chain| {
            Served::Used(request::execute(disk, serial, memory, chain))
        })
    }

    fn save(&self) -> VirtioDeviceState {
        VirtioDeviceState::Block(BlockState::of(&self.disk))
    }

    fn as_block(&self) -> Option<&Block> {
        Some(self)
    }
}
