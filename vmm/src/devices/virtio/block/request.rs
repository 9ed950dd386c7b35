//! One virtio-blk request (virtio 1.2, section 5.2.6): decode, check bounds, do.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};
use vm_memory::GuestMemoryMmap;

use super::super::chain::Chain;
use super::disk::Disk;

/// Unit of positions and lengths in requests.
pub(super) const SECTOR_SIZE: u64 = 512;
/// Most data of one request; far above what a driver sends, and done in well under a second.
pub(super) const MAX_DATA: u64 = 32 << 20;
/// Longest range of one discard or write-zeroes request, in sectors (1 GiB).
pub(super) const MAX_RANGE_SECTORS: u32 = 1 << 21;
/// Length of the serial.
pub(super) const SERIAL_LEN: usize = 20;

const HEADER_LEN: u64 = 16;
const RANGE_LEN: u64 = 16;
const RANGE_FLAG_UNMAP: u32 = 1;

/// Why a request is refused; the driver gets one of two status bytes.
enum Refusal {
    /// Malformed, out of bounds, or the file failed.
    Io,
    /// Not a request of this device.
    Unsupported,
}

impl From<std::io::Error> for Refusal {
    fn from(_: std::io::Error) -> Self {
        Self::Io
    }
}

/// Does what the chain asks for; returns the number of bytes written to it.
pub(super) fn execute(
    disk: &mut Disk,
    serial: &[u8; SERIAL_LEN],
    memory: &GuestMemoryMmap,
    chain: &Chain,
) -> u32 {
    // The status is the last writable byte; without one there is nobody to tell.
    let Some(room) = chain.writable.len().checked_sub(1) else {
        return 0;
    };
    let (status, data) = match attempt(disk, serial, memory, chain, room) {
        Ok(data) => (VIRTIO_BLK_S_OK, data),
        Err(Refusal::Io) => (VIRTIO_BLK_S_IOERR, 0),
        Err(Refusal::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
    };
    chain.writable.write(memory, room, &[status as u8]);
    // A length may promise no more than what was written from the start on.
    if data == room {
        (data + 1) as u32
    } else {
        data as u32
    }
}

/// Returns how many bytes of data were written to the chain.
fn attempt(
    disk: &mut Disk,
    serial: &[u8; SERIAL_LEN],
    memory: &GuestMemoryMmap,
    chain: &Chain,
    room: u64,
) -> Result<u64, Refusal> {
    let mut header = [0; HEADER_LEN as usize];
    if chain.readable.read(memory, 0, &mut header) < header.len() {
        return Err(Refusal::Io);
    }
    let [kind, _, low, high] = words(&header);
    let sector = u64::from(low) | u64::from(high) << 32;
    let payload = chain.readable.len() - HEADER_LEN;
    match kind {
        VIRTIO_BLK_T_IN => {
            let position = locate(disk, sector, room)?;
            disk.read(memory, &chain.writable, position, room)?;
            Ok(room)
        }
        VIRTIO_BLK_T_OUT => {
            let position = locate(disk, sector, payload)?;
            disk.write(memory, &chain.readable, HEADER_LEN, (position, payload))?;
            Ok(0)
        }
        // The private file lives as long as the sandbox, so there is nothing to make durable.
        VIRTIO_BLK_T_FLUSH => Ok(0),
        VIRTIO_BLK_T_GET_ID => {
            let n = room.min(SERIAL_LEN as u64);
            Ok(chain.writable.write(memory, 0, &serial[..n as usize]) as u64)
        }
        VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if disk.private.is_some() => {
            let (position, len, unmap) = range(disk, memory, chain, payload)?;
            match (kind, unmap) {
                (VIRTIO_BLK_T_DISCARD, true) => return Err(Refusal::Unsupported),
                (VIRTIO_BLK_T_DISCARD, false) => disk.discard(position, len)?,
                _ => disk.write_zeroes(position, len)?,
            }
            Ok(0)
        }
        _ => Err(Refusal::Unsupported),
    }
}

/// Position in bytes of a range that lies on the disk and is whole sectors, at most [`MAX_DATA`].
fn locate(disk: &Disk, sector: u64, len: u64) -> Result<u64, Refusal> {
    if len > MAX_DATA {
        return Err(Refusal::Io);
    }
    within(disk, sector, len)
}

fn within(disk: &Disk, sector: u64, len: u64) -> Result<u64, Refusal> {
    let position = sector.checked_mul(SECTOR_SIZE).ok_or(Refusal::Io)?;
    let end = position.checked_add(len).ok_or(Refusal::Io)?;
    if !len.is_multiple_of(SECTOR_SIZE) || end > disk.size {
        return Err(Refusal::Io);
    }
    Ok(position)
}

/// The one range of a discard or write-zeroes request: position, length, unmap flag.
fn range(
    disk: &Disk,
    memory: &GuestMemoryMmap,
    chain: &Chain,
    payload: u64,
) -> Result<(u64, u64, bool), Refusal> {
    let mut descriptor = [0; RANGE_LEN as usize];
    if payload != RANGE_LEN
        || chain.readable.read(memory, HEADER_LEN, &mut descriptor) < descriptor.len()
    {
        return Err(Refusal::Io);
    }
    let [low, high, sectors, flags] = words(&descriptor);
    if flags & !RANGE_FLAG_UNMAP != 0 {
        return Err(Refusal::Unsupported);
    }
    if sectors > MAX_RANGE_SECTORS {
        return Err(Refusal::Io);
    }
    let len = u64::from(sectors) * SECTOR_SIZE;
    let position = within(disk, u64::from(low) | u64::from(high) << 32, len)?;
    Ok((position, len, flags == RANGE_FLAG_UNMAP))
}

fn words(bytes: &[u8; 16]) -> [u32; 4] {
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [word(0), word(4), word(8), word(12)]
}
