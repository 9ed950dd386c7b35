//! An image and, for a writable disk, the private file over it.
//!
//! A block of 4 KiB is read from the private file once its bit is set, else from the base. A write
//! of whole blocks goes to the private file as it is; a smaller one first copies the rest of its
//! block up. The bit is set only after the bytes are there, so a write that fails (the host's disk
//! is full) leaves the block as it was.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};
use vm_memory::GuestMemoryMmap;

use super::super::chain::Buffers;
use super::super::guest_io::IoVectors;
use super::bitmap::Bitmap;

/// Granularity of copy-on-write, in bytes.
pub(super) const BLOCK_SIZE: u64 = 4096;

/// A disk as the guest sees it.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) base: File,
    pub(super) size: u64,
    pub(super) private: Option<Private>,
}

/// Where a writable disk's own blocks are.
#[derive(Debug)]
pub(super) struct Private {
    pub(super) file: File,
    pub(super) blocks: Bitmap,
}

impl Disk {
    /// A disk of `size` bytes; `private` must be empty.
    pub(super) fn new(base: File, size: u64, private: Option<File>) -> Self {
        let blocks = Bitmap::new(if private.is_some() {
            size.div_ceil(BLOCK_SIZE)
        } else {
            0
        });
        let private = private.map(|file| Private { file, blocks });
        Self {
            base,
            size,
            private,
        }
    }

    /// Reads `len` bytes at `position` into `target` from its start. The caller checked bounds.
    pub(super) fn read(
        &self,
        memory: &GuestMemoryMmap,
        target: &Buffers,
        position: u64,
        len: u64,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = position + done;
            let (file, n) = self.source(at, len - done);
            read_file(file, memory, target, (done, at, n))?;
            done += n;
        }
        Ok(())
    }

    /// The file that holds the byte at `position`, and for how many bytes it goes on to.
    fn source(&self, position: u64, len: u64) -> (&File, u64) {
        let Some(private) = &self.private else {
            return (&self.base, len);
        };
        let first = position / BLOCK_SIZE;
        let last = (position + len).div_ceil(BLOCK_SIZE);
        let run = private.blocks.run(first, last - first);
        let end = ((first + run) * BLOCK_SIZE).min(position + len);
        let file = if private.blocks.get(first) {
            &private.file
        } else {
            &self.base
        };
        (file, end - position)
    }

    /// Writes `len` bytes from `source` at `offset` to `position`.
    ///
    /// # Errors
    /// `EROFS` on a read-only disk, else the error of the private file.
    pub(super) fn write(
        &mut self,
        memory: &GuestMemoryMmap,
        source: &Buffers,
        offset: u64,
        (position, len): (u64, u64),
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = position + done;
            let n = self.prepare(at, len - done)?;
            let private = self.private.as_mut().ok_or_else(read_only)?;
            write_file(&private.file, memory, source, (offset + done, at, n))?;
            private.blocks.set(at / BLOCK_SIZE, n.div_ceil(BLOCK_SIZE));
            done += n;
        }
        Ok(())
    }

    /// Makes `position` ready for being written: for whole blocks nothing is to be done, a part of
    /// a block is copied up. Returns for how many of `len` bytes that holds.
    fn prepare(&mut self, position: u64, len: u64) -> io::Result<u64> {
        let within = position % BLOCK_SIZE;
        if within == 0 && len >= BLOCK_SIZE {
            return Ok(len - len % BLOCK_SIZE);
        }
        self.copy_up(position / BLOCK_SIZE)?;
        Ok((BLOCK_SIZE - within).min(len))
    }

    /// Makes a block private with the base's content.
    fn copy_up(&mut self, block: u64) -> io::Result<()> {
        let private = self.private.as_mut().ok_or_else(read_only)?;
        if private.blocks.get(block) {
            return Ok(());
        }
        let mut content = [0; BLOCK_SIZE as usize];
        read_padded(&self.base, &mut content, block * BLOCK_SIZE)?;
        // A write that failed may have left bytes here, so zeroes are written as well.
        private.file.write_all_at(&content, block * BLOCK_SIZE)?;
        private.blocks.set(block, 1);
        Ok(())
    }

    /// Makes a range read as zeroes, with holes where the file system can.
    pub(super) fn write_zeroes(&mut self, position: u64, len: u64) -> io::Result<()> {
        let end = position + len;
        for edge in [position, end] {
            if !edge.is_multiple_of(BLOCK_SIZE) {
                self.copy_up(edge / BLOCK_SIZE)?;
            }
        }
        let private = self.private.as_mut().ok_or_else(read_only)?;
        zero_range(&private.file, position, len)?;
        let first = position / BLOCK_SIZE;
        private.blocks.set(first, end.div_ceil(BLOCK_SIZE) - first);
        Ok(())
    }

    /// Gives back the space of private blocks that lie wholly in a range; they read as zeroes then.
    /// Blocks of the base take no space and stay.
    pub(super) fn discard(&mut self, position: u64, len: u64) -> io::Result<()> {
        let private = self.private.as_ref().ok_or_else(read_only)?;
        let end = (position + len) / BLOCK_SIZE;
        let mut block = position.div_ceil(BLOCK_SIZE);
        while block < end {
            let run = private.blocks.run(block, end - block);
            if private.blocks.get(block) {
                zero_range(&private.file, block * BLOCK_SIZE, run * BLOCK_SIZE)?;
            }
            block += run;
        }
        Ok(())
    }
}

fn read_only() -> io::Error {
    io::Error::from_raw_os_error(libc::EROFS)
}

/// Reads from a file into guest memory; what lies past the file's end is zero.
fn read_file(
    file: &File,
    memory: &GuestMemoryMmap,
    target: &Buffers,
    (offset, position, len): (u64, u64, u64),
) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let mut vectors = IoVectors::new(memory, target, offset + done, len - done);
        let n = vectors.read_at(file.as_fd(), position + done)?;
        if n == 0 {
            target.write_zeroes(memory, offset + done, len - done);
            break;
        }
        done += n;
    }
    Ok(())
}

fn write_file(
    file: &File,
    memory: &GuestMemoryMmap,
    source: &Buffers,
    (offset, position, len): (u64, u64, u64),
) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let vectors = IoVectors::new(memory, source, offset + done, len - done);
        match vectors.write_at(file.as_fd(), position + done)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => done += n,
        }
    }
    Ok(())
}

/// Fills `content` from a file; what lies past the file's end is zero.
pub(super) fn read_padded(file: &File, content: &mut [u8], position: u64) -> io::Result<()> {
    let mut done = 0;
    while done < content.len() {
        match file.read_at(&mut content[done..], position + done as u64) {
            Ok(0) => {
                content[done..].fill(0);
                break;
            }
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Punches a hole, or writes zeroes where the file system has no holes.
fn zero_range(file: &File, position: u64, len: u64) -> io::Result<()> {
    static ZEROES: [u8; 65536] = [0; 65536];
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, flags, position, len) {
        Err(rustix::io::Errno::OPNOTSUPP) => {}
        done => return Ok(done?),
    }
    let mut at = position;
    while at < position + len {
        let n = (position + len - at).min(ZEROES.len() as u64);
        file.write_all_at(&ZEROES[..n as usize], at)?;
        at += n;
    }
    Ok(())
}
