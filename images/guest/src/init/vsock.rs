//! The agent's vsock listener. Only the host may connect.

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use thiserror::Error;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Why the listener does not work.
#[derive(Debug, Error)]
pub(super) enum VsockError {
    /// It could not be made.
    #[error("listening on vsock port {0}: {1}")]
    Listen(u32, io::Error),
    /// It broke.
    #[error("waiting for connections: {0}")]
    Wait(io::Error),
}

/// A listening vsock socket.
#[derive(Debug)]
pub(super) struct Listener(OwnedFd);

impl Listener {
    /// Listens on `port` of whatever context identifier the machine has or will have.
    pub(super) fn bind(port: u32) -> Result<Self, VsockError> {
        Self::try_bind(port).map_err(|error| VsockError::Listen(port, error))
    }

    fn try_bind(port: u32) -> io::Result<Self> {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no memory is passed.
        let socket = check(unsafe { libc::socket(libc::AF_VSOCK, kind, 0) })?;
        // SAFETY: the descriptor was just made and nobody else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let mut address = empty_address();
        address.svm_port = port;
        address.svm_cid = libc::VMADDR_CID_ANY;
        let length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
        let pointer = (&raw const address).cast();
        // SAFETY: the pointer and the length are those of one live `sockaddr_vm`.
        check(unsafe { libc::bind(socket.as_raw_fd(), pointer, length) })?;
        // SAFETY: no memory is passed.
        check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
        Ok(Self(socket))
    }

    /// Takes a waiting connection of the host; `None` if there is none, or it was not the host's:
    /// a process in the machine that got hold of a loopback transport would be root by it.
    pub(super) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        let mut address = empty_address();
        let mut length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
        let pointer = (&raw mut address).cast();
        // SAFETY: the pointers are to one live `sockaddr_vm` and its length, which the kernel
        // keeps to.
        let accepted = check(unsafe {
            libc::accept4(
                self.0.as_raw_fd(),
                pointer,
                &raw mut length,
                libc::SOCK_CLOEXEC,
            )
        });
        let stream = match accepted {
            // SAFETY: the descriptor was just made and nobody else has it.
            Ok(stream) => unsafe { OwnedFd::from_raw_fd(stream) },
            Err(error) => match error.raw_os_error() {
                // Nobody is there (any more): a peer that left, or a restore, reset it.
                Some(
                    libc::EAGAIN
                    | libc::EINTR
                    | libc::ECONNABORTED
                    | libc::ECONNRESET
                    | libc::EPROTO,
                ) => return Ok(None),
                _ => return Err(error),
            },
        };
        Ok((address.svm_cid == libc::VMADDR_CID_HOST).then_some(stream))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn empty_address() -> libc::sockaddr_vm {
    // SAFETY: the structure is of integers only; all zero is valid.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
