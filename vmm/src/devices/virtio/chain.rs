//! Descriptor chains taken apart and checked, and the loop that serves a queue.
//!
//! A chain is walked once, before any of its bytes is used: every segment lies in guest memory,
//! readable ones come first, and their number is bounded. What a driver changes afterwards cannot
//! move an access elsewhere.

use thiserror::Error;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use super::device::Raise;

/// Most segments of one chain; drivers are told fewer (`seg_max`) or need far fewer.
pub(super) const MAX_SEGMENTS: usize = 256;

/// A ring that cannot be used any more until the driver resets the device.
#[derive(Debug, Error)]
#[error("the driver's ring is unusable ({0}); the device waits for a reset")]
pub(super) struct QueueFault(#[from] virtio_queue::Error);

/// One stretch of guest memory, inside of it as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) address: GuestAddress,
    pub(super) len: u32,
}

/// The readable or the writable half of a chain, addressed as one run of bytes.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    segments: Vec<Segment>,
    total: u64,
}

impl Buffers {
    /// Number of bytes.
    pub(super) fn len(&self) -> u64 {
        self.total
    }

    fn clear(&mut self) {
        self.segments.clear();
        self.total = 0;
    }

    fn push(&mut self, segment: Segment) {
        self.total += u64::from(segment.len);
        self.segments.push(segment);
    }

    /// The parts of segments that make up `len` bytes from `offset` on, in order.
    pub(super) fn parts(&self, offset: u64, len: u64) -> impl Iterator<Item = Segment> + '_ {
        let end = offset.saturating_add(len).min(self.total);
        let mut start = 0_u64;
        self.segments.iter().filter_map(move |segment| {
            let (from, to) = (start, start + u64::from(segment.len));
            start = to;
            let (lower, upper) = (from.max(offset), to.min(end));
            // Both fit: they are distances within one segment, whose length is a u32.
            (lower < upper).then(|| Segment {
                address: GuestAddress(segment.address.0 + (lower - from)),
                len: (upper - lower) as u32,
            })
        })
    }

    /// Copies bytes at `offset` out of guest memory; returns how many there were.
    pub(super) fn read(&self, memory: &GuestMemoryMmap, offset: u64, data: &mut [u8]) -> usize {
        let mut done = 0;
        for part in self.parts(offset, data.len() as u64) {
            let target = &mut data[done..done + part.len as usize];
            if memory.read_slice(target, part.address).is_err() {
                break;
            }
            done += part.len as usize;
        }
        done
    }

    /// Copies bytes into guest memory at `offset`; returns how many had room.
    pub(super) fn write(&self, memory: &GuestMemoryMmap, offset: u64, data: &[u8]) -> usize {
        let mut done = 0;
        for part in self.parts(offset, data.len() as u64) {
            let source = &data[done..done + part.len as usize];
            if memory.write_slice(source, part.address).is_err() {
                break;
            }
            done += part.len as usize;
        }
        done
    }

    /// Writes `len` zero bytes at `offset`, as far as there is room.
    pub(super) fn write_zeroes(&self, memory: &GuestMemoryMmap, offset: u64, len: u64) {
        const ZEROES: [u8; 4096] = [0; 4096];
        let end = offset.saturating_add(len).min(self.total);
        let mut at = offset;
        while at < end {
            let n = (end - at).min(ZEROES.len() as u64) as usize;
            if self.write(memory, at, &ZEROES[..n]) < n {
                return;
            }
            at += n as u64;
        }
    }
}

/// A descriptor chain, reused from request to request so that none allocates.
#[derive(Debug, Default)]
pub(super) struct Chain {
    head: u16,
    /// What the driver wrote for the device.
    pub(super) readable: Buffers,
    /// Where the device may write.
    pub(super) writable: Buffers,
}

impl Chain {
    /// Takes a chain apart. `false` if it is malformed; it is then empty on both sides.
    fn fill<M>(&mut self, memory: &GuestMemoryMmap, descriptors: DescriptorChain<M>) -> bool
    where
        M: std::ops::Deref,
        M::Target: GuestMemory,
    {
        self.head = descriptors.head_index();
        self.readable.clear();
        self.writable.clear();
        let well_formed = self.collect(memory, descriptors);
        if !well_formed {
            self.readable.clear();
            self.writable.clear();
        }
        well_formed
    }

    fn collect<M>(&mut self, memory: &GuestMemoryMmap, descriptors: DescriptorChain<M>) -> bool
    where
        M: std::ops::Deref,
        M::Target: GuestMemory,
    {
        // The iterator ends early on a loop, a wrong index or a bad table; then the last
        // descriptor that it gave still announces a next one.
        let mut complete = false;
        let mut segments = 0;
        for descriptor in descriptors {
            complete = !descriptor.has_next();
            segments += 1;
            let segment = Segment {
                address: descriptor.addr(),
                len: descriptor.len(),
            };
            let (writes, access) = (descriptor.is_write_only(), Permissions::ReadWrite);
            if segments > MAX_SEGMENTS
                || segment.len == 0
                || segment
                    .address
                    .0
                    .checked_add(u64::from(segment.len))
                    .is_none()
                || !GuestMemory::check_range(memory, segment.address, segment.len as usize, access)
            {
                return false;
            }
            if writes {
                self.writable.push(segment);
            } else if self.writable.len() > 0 {
                return false;
            } else {
                self.readable.push(segment);
            }
        }
        complete
    }
}

/// What became of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// Give it back with this many bytes written to it.
    Used(u32),
    /// Keep it available and stop: the device cannot serve it now.
    Later,
}

/// Serves the chains that the driver made available: at most one ring full per call, so that a
/// driver that keeps adding cannot hold the device thread. Malformed chains are given back empty.
pub(super) fn serve(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    chain: &mut Chain,
    handle: impl FnMut(&Chain) -> Served,
) -> Raise {
    try_serve(queue, memory, chain, handle).unwrap_or(Raise {
        broken: true,
        ..Raise::default()
    })
}

fn try_serve(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    chain: &mut Chain,
    mut handle: impl FnMut(&Chain) -> Served,
) -> Result<Raise, QueueFault> {
    let mut raise = Raise::default();
    if !queue.ready() {
        return Ok(raise);
    }
    queue.disable_notification(memory)?;
    let mut used = false;
    for turn in 0.. {
        if turn == queue.size() {
            raise.again = true;
            break;
        }
        let Some(well_formed) = pop(queue, memory, chain)? else {
            if queue.enable_notification(memory)? {
                continue;
            }
            break;
        };
        let len = match well_formed.then(|| handle(chain)) {
            Some(Served::Later) => {
                queue.go_to_previous_position();
                break;
            }
            Some(Served::Used(len)) => len,
            None => 0,
        };
        queue.add_used(memory, chain.head, len)?;
        used = true;
    }
    raise.used = used && queue.needs_notification(memory)?;
    Ok(raise)
}

/// Takes the next chain: `None` if there is none, `Some(false)` if it is malformed.
fn pop(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    chain: &mut Chain,
) -> Result<Option<bool>, QueueFault> {
    let Some(descriptors) = queue.iter(memory)?.next() else {
        return Ok(None);
    };
    Ok(Some(chain.fill(memory, descriptors)))
}

/// Asks to be notified of the next chain that the driver adds, whatever was left in the ring.
pub(super) fn notify_on_next(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
) -> Result<(), QueueFault> {
    let position = queue.next_avail();
    // The event index is taken from the position, so that is put behind all there is.
    let available = queue.avail_idx(memory, std::sync::atomic::Ordering::Acquire)?;
    queue.set_next_avail(available.0);
    let armed = queue.enable_notification(memory);
    queue.set_next_avail(position);
    armed?;
    Ok(())
}
