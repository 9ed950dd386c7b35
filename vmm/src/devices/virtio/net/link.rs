//! The socket that carries frames, and whether anyone is behind it.
//!
//! It is watched edge-triggered through an epoll descriptor of its own: readiness is remembered, so
//! frames stay in the socket while the guest has no buffers, and the event loop does not spin.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

use super::super::guest_io::IoVectors;

/// A link to a peer.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
    epoll: OwnedFd,
    /// An empty message means that the peer is gone, not that it sent nothing.
    connected: bool,
    up: bool,
    readable: bool,
    writable: bool,
}

/// What came of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// It went through: its length. When receiving, that may be more than there was room for.
    Frame(u64),
    /// Not now; an event will tell.
    Later,
    /// It is lost.
    Dropped,
}

impl Link {
    /// Takes a message socket.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let connected = match socket_type(&socket)? {
            SocketType::SEQPACKET => true,
            SocketType::DGRAM => false,
            _ => {
                let message = "it is neither SOCK_SEQPACKET nor SOCK_DGRAM";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
        };
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&epoll, &socket, EventData::new_u64(0), flags)?;
        Ok(Self {
            socket,
            epoll,
            connected,
            up: true,
            readable: true,
            writable: true,
        })
    }

    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// There may be a frame.
    pub(super) fn is_readable(&self) -> bool {
        self.up && self.readable
    }

    /// Readable when [`Self::take_events`] has something to take.
    pub(super) fn epoll_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Notes what the socket became ready for.
    pub(super) fn take_events(&mut self) {
        let empty = Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        let mut events = [empty; 1];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if epoll::wait(&self.epoll, &mut events[..], Some(&now)) == Ok(1) {
            // The event is packed, so its flags are copied out.
            let flags = events[0].flags;
            self.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP);
            self.writable |= flags.contains(EventFlags::OUT);
            if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
                self.up = false;
            }
        }
    }

    /// Receives one frame.
    pub(super) fn receive(&mut self, vectors: &mut IoVectors<'_>) -> Moved {
        if !self.is_readable() {
            return Moved::Later;
        }
        match vectors.receive(self.socket.as_fd()) {
            Ok(0) if self.connected => self.up = false,
            Ok(n) => return Moved::Frame(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(_) => self.up = false,
        }
        Moved::Later
    }

    /// Sends one frame.
    pub(super) fn send(&mut self, vectors: &IoVectors<'_>) -> Moved {
        if !self.up {
            return Moved::Dropped;
        }
        if !self.writable {
            return Moved::Later;
        }
        match vectors.send(self.socket.as_fd()) {
            Ok(n) => Moved::Frame(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Moved::Later
            }
            Err(error) => {
                // Too large for the socket, or no memory for it now: this frame only.
                self.up = matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::ENOBUFS));
                Moved::Dropped
            }
        }
    }
}
