//! The socket to the VMM: each message is one Ethernet frame.
//!
//! Whoever has a frame sends it at once. When the socket is full, the connection keeps its frame, and
//! the engine has it try again once there is room.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, Weak};

use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::Notify;

use super::connection::Connection;

/// Bytes of frames that may be on their way to the VMM.
const BUFFER: usize = 4 << 20;

/// What came of a frame to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Done,
    /// There is no room for it now.
    Later,
    /// Nobody is there.
    Gone,
}

/// What there was to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    Frame(usize),
    Nothing,
    Gone,
}

/// The socket.
#[derive(Debug)]
pub(super) struct Link {
    socket: UnixDatagram,
    /// The socket was full, and nobody tried again yet.
    full: AtomicBool,
    waiting: Mutex<Vec<Weak<Connection>>>,
    filled: Notify,
}

impl Link {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        // The system's bound holds; less room is only slower.
        let _ = set_socket_send_buffer_size(&socket, BUFFER);
        let _ = set_socket_recv_buffer_size(&socket, BUFFER);
        // Of either kind of message socket: sending and receiving are the same.
        let socket = std::os::unix::net::UnixDatagram::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: UnixDatagram::from_std(socket)?,
            full: AtomicBool::new(false),
            waiting: Mutex::default(),
            filled: Notify::new(),
        })
    }

    pub(super) fn send(&self, frame: &[u8]) -> Sent {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            return match send(&self.socket, frame, flags) {
                Ok(_) => Sent::Done,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => {
                    self.full.store(true, Ordering::Release);
                    Sent::Later
                }
                Err(_) => Sent::Gone,
            };
        }
    }

    /// Has the engine call a connection that keeps a frame.
    pub(super) fn wait(&self, connection: Weak<Connection>) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
        self.filled.notify_one();
    }

    pub(super) fn receive(&self, buffer: &mut [u8]) -> Received {
        loop {
            return match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => Received::Gone,
                Ok((length, _)) => Received::Frame(length),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Received::Nothing,
                Err(_) => Received::Gone,
            };
        }
    }

    /// Waits for frames and has `take` take them until it says that there are none.
    pub(super) async fn readable(&self, take: impl FnOnce() -> Received) -> io::Result<Received> {
        self.socket.readable().await?;
        let mut last = Received::Nothing;
        // "Would block" is how readiness is taken back.
        let _ = self.socket.try_io(Interest::READABLE, || {
            last = take();
            match last {
                Received::Nothing => Err(io::ErrorKind::WouldBlock.into()),
                Received::Frame(_) | Received::Gone => Ok(()),
            }
        });
        Ok(last)
    }

    /// Waits until the socket, once full, has room, and gives those who wait.
    pub(super) async fn has_room(&self) -> io::Result<Vec<Weak<Connection>>> {
        while !self.full.load(Ordering::Acquire) {
            self.filled.notified().await;
        }
        loop {
            self.socket.writable().await?;
            // Readiness may be an old one: the socket itself is asked.
            let room = self.socket.try_io(Interest::WRITABLE, || {
                let full = io::Error::from(io::ErrorKind::WouldBlock);
                is_writable(&self.socket).then_some(()).ok_or(full)
            });
            if room.is_ok() {
                break;
            }
        }
        self.full.store(false, Ordering::Release);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *waiting))
    }
}

fn is_writable(socket: &UnixDatagram) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut sockets = [PollFd::new(socket, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    !matches!(poll(&mut sockets, Some(&now)), Ok(0))
}
