//! Vectored input and output straight between guest memory and file descriptors.
//!
//! The kernel copies; no `&[u8]` to guest memory exists here, for vCPUs may write it at any time.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions};

use super::chain::Buffers;

/// Vectors per system call; longer transfers take several.
const MAX_VECTORS: usize = 64;

/// Addresses of guest memory for one system call; at most 64 vectors.
pub(super) struct IoVectors<'m> {
    vectors: [libc::iovec; MAX_VECTORS],
    used: usize,
    bytes: u64,
    /// The mapping that the vectors point into stays as long as they do.
    memory: PhantomData<&'m GuestMemoryMmap>,
}

impl<'m> IoVectors<'m> {
    /// Vectors of up to `len` bytes at `offset` of `buffers`; fewer bytes if 64 vectors are full.
    pub(super) fn new(
        memory: &'m GuestMemoryMmap,
        buffers: &Buffers,
        offset: u64,
        len: u64,
    ) -> Self {
        let empty = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let mut this = Self {
            vectors: [empty; MAX_VECTORS],
            used: 0,
            bytes: 0,
            memory: PhantomData,
        };
        for part in buffers.parts(offset, len) {
            let access = Permissions::ReadWrite;
            let Ok(slices) =
                GuestMemory::get_slices(memory, part.address, part.len as usize, access)
            else {
                break;
            };
            for slice in slices {
                let Ok(slice) = slice else { return this };
                if this.used == MAX_VECTORS {
                    return this;
                }
                this.vectors[this.used] = libc::iovec {
                    iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                    iov_len: slice.len(),
                };
                this.used += 1;
                this.bytes += slice.len() as u64;
            }
        }
        this
    }

    /// Bytes that the vectors cover.
    pub(super) fn len(&self) -> u64 {
        self.bytes
    }

    /// `preadv(2)`.
    pub(super) fn read_at(&mut self, fd: BorrowedFd<'_>, position: u64) -> io::Result<u64> {
        let position = file_offset(position)?;
        // SAFETY: the vectors are `used` valid ranges of mapped guest memory (checked by
        // `get_slices`), and the mapping outlives `self` by its lifetime.
        retry(|| unsafe {
            libc::preadv(
                fd.as_raw_fd(),
                self.vectors.as_ptr(),
                self.count(),
                position,
            )
        })
    }

    /// `pwritev(2)`.
    pub(super) fn write_at(&self, fd: BorrowedFd<'_>, position: u64) -> io::Result<u64> {
        let position = file_offset(position)?;
        // SAFETY: as in `read_at`; the kernel only reads the ranges.
        retry(|| unsafe {
            libc::pwritev(
                fd.as_raw_fd(),
                self.vectors.as_ptr(),
                self.count(),
                position,
            )
        })
    }

    /// `readv(2)` on a stream.
    pub(super) fn read(&mut self, fd: BorrowedFd<'_>) -> io::Result<u64> {
        // SAFETY: as in `read_at`.
        retry(|| unsafe { libc::readv(fd.as_raw_fd(), self.vectors.as_ptr(), self.count()) })
    }

    /// `sendmsg(2)` without blocking and without `SIGPIPE`.
    pub(super) fn send(&self, fd: BorrowedFd<'_>) -> io::Result<u64> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let message = self.message();
        // SAFETY: the message names only the vectors, which are valid as in `read_at`.
        retry(|| unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) })
    }

    /// `recvmsg(2)` without blocking; gives the message's true length, even if it had no room.
    pub(super) fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<u64> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        let mut message = self.message();
        // SAFETY: the message names only the vectors, which are valid as in `read_at`.
        retry(|| unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) })
    }

    fn count(&self) -> libc::c_int {
        // At most 64.
        self.used as libc::c_int
    }

    fn message(&self) -> libc::msghdr {
        // SAFETY: a msghdr of zeroes is a valid one without name, vectors and control data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.vectors.as_ptr().cast_mut();
        message.msg_iovlen = self.used as _;
        message
    }
}

fn file_offset(position: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(position).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

/// Repeats an interrupted call and turns -1 into the error it stands for.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<u64> {
    loop {
        match u64::try_from(call()) {
            Ok(n) => return Ok(n),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
