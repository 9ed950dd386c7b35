//! All connections, the listener that they come from, and the one epoll descriptor for all.
//!
//! Streams are watched edge-triggered: readiness is remembered per connection, so nothing is
//! re-armed when the guest has no buffers, and the event loop never spins on a stream that waits.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::rand::{GetRandomFlags, getrandom};
use vm_memory::GuestMemoryMmap;

use super::super::chain::{Chain, Served};
use super::connection::{Connection, Fate};
use super::packet::{HEADER_LEN, HOST_CID, Header, OP_RST, TYPE_STREAM};

/// Most connections at a time; further peers wait in the listener's backlog.
pub(super) const MAX_CONNECTIONS: usize = 256;
/// Resets that wait for guest buffers. With more, neither the guest nor peers are listened to.
pub(super) const MAX_RESETS: usize = 256;
/// Ports of this side start here, above those that a guest would listen on.
const FIRST_PORT: u32 = 1 << 30;
const LISTENER: u64 = u64::MAX;
/// Connections accepted, and events taken, per call.
const BATCH: usize = 64;

#[derive(Debug)]
pub(super) struct Mux {
    cid: u64,
    listener: UnixListener,
    epoll: OwnedFd,
    /// There may be a peer to accept.
    listener_ready: bool,
    connections: HashMap<u32, Connection>,
    /// Ports of connections that have something for the guest, each once.
    outgoing: VecDeque<u32>,
    resets: VecDeque<Header>,
    next_port: u32,
}

impl Mux {
    /// Takes a listening socket.
    pub(super) fn new(cid: u64, listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), flags)?;
        // A restored guest may still have sockets to ports that this device's ancestor gave out.
        let mut random = [0; 4];
        getrandom(&mut random, GetRandomFlags::empty())?;
        let next_port = FIRST_PORT | u32::from_le_bytes(random) >> 2;
        Ok(Self {
            cid,
            listener,
            epoll,
            listener_ready: true,
            connections: HashMap::new(),
            outgoing: VecDeque::new(),
            resets: VecDeque::new(),
            next_port,
        })
    }

    /// Context identifier of the guest.
    pub(super) fn cid(&self) -> u64 {
        self.cid
    }

    /// Readable when [`Self::take_events`] has something to take.
    pub(super) fn epoll_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Drops all connections; their peers see the end of the stream.
    pub(super) fn clear(&mut self) {
        self.connections.clear();
        self.outgoing.clear();
        self.resets.clear();
        self.listener_ready = true;
    }

    /// Notes which streams became ready; more than one batch leaves the descriptor readable.
    pub(super) fn take_events(&mut self) {
        let empty = Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        let mut events = [empty; BATCH];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let n = epoll::wait(&self.epoll, &mut events[..], Some(&now)).unwrap_or(0);
        for event in &events[..n] {
            // The event is packed, so its fields are copied out.
            let (flags, token) = (event.flags, event.data.u64());
            match u32::try_from(token) {
                Ok(port) => {
                    if let Some(connection) = self.connections.get_mut(&port) {
                        let fate = connection.event(flags);
                        self.settle(port, fate);
                    }
                }
                Err(_) => self.listener_ready = true,
            }
        }
    }

    /// Takes peers from the listener while there is room.
    pub(super) fn accept(&mut self) {
        for _ in 0..BATCH {
            let full = self.connections.len() >= MAX_CONNECTIONS || self.resets.len() >= MAX_RESETS;
            if !self.listener_ready || full {
                return;
            }
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match accept_with(&self.listener, flags) {
                Ok(stream) => self.adopt(stream.into()),
                Err(Errno::INTR) => {}
                // Nobody there; or too many descriptors, and a connection that ends tries again.
                Err(_) => self.listener_ready = false,
            }
        }
    }

    /// Watches a new stream. An event follows at once, for it is writable.
    fn adopt(&mut self, stream: UnixStream) {
        let port = self.free_port();
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let token = EventData::new_u64(port.into());
        if epoll::add(&self.epoll, &stream, token, flags).is_ok() {
            self.connections.insert(port, Connection::new(stream));
        }
    }

    /// A port of this side that no connection has. There are far more ports than connections.
    fn free_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = port.wrapping_add(1).max(FIRST_PORT);
            if port < u32::MAX && !self.connections.contains_key(&port) {
                return port;
            }
        }
    }

    /// Takes one packet of the guest.
    pub(super) fn take_packet(&mut self, memory: &GuestMemoryMmap, chain: &Chain) -> Served {
        if self.resets.len() >= MAX_RESETS {
            return Served::Later;
        }
        let mut raw = [0; HEADER_LEN];
        if chain.readable.read(memory, 0, &mut raw) == HEADER_LEN {
            let header = Header::parse(&raw);
            let room = chain.readable.len() - HEADER_LEN as u64;
            // Packets of others (the identifier of before a restore), or with less data than they
            // claim, are dropped.
            if header.source_cid == self.cid
                && header.target_cid == HOST_CID
                && u64::from(header.len) <= room
            {
                self.dispatch(&header, memory, chain);
            }
        }
        Served::Used(0)
    }

    fn dispatch(&mut self, header: &Header, memory: &GuestMemoryMmap, chain: &Chain) {
        let port = header.target_port;
        let connection = self
            .connections
            .get_mut(&port)
            .filter(|connection| connection.linked_to(header.source_port));
        match connection {
            Some(connection) if header.kind == TYPE_STREAM => {
                let fate = connection.receive(port, header, memory, chain);
                self.settle(port, fate);
            }
            // Requests of the guest end here, too: nothing on this side listens for them.
            _ if header.op != OP_RST => self.resets.push_back(header.reset()),
            _ => {}
        }
    }

    /// There may be a packet for the guest.
    pub(super) fn has_output(&self) -> bool {
        !self.resets.is_empty() || !self.outgoing.is_empty()
    }

    /// Too many resets wait, so the guest is not listened to.
    pub(super) fn is_choked(&self) -> bool {
        self.resets.len() >= MAX_RESETS
    }

    /// Writes the next packet into a guest buffer: resets first, then each connection in turn.
    pub(super) fn give_packet(&mut self, memory: &GuestMemoryMmap, chain: &Chain) -> Served {
        if chain.writable.len() <= HEADER_LEN as u64 {
            // No room for any data: of no use, and no driver offers it.
            return Served::Used(0);
        }
        let Some(header) = self.next_packet(memory, chain) else {
            return Served::Later;
        };
        let written = chain.writable.write(memory, 0, &header.to_bytes());
        // A header and at most one chain's data, which is less than 4 GiB.
        Served::Used(written as u32 + header.len)
    }

    fn next_packet(&mut self, memory: &GuestMemoryMmap, chain: &Chain) -> Option<Header> {
        if let Some(reset) = self.resets.pop_front() {
            return Some(reset);
        }
        while let Some(port) = self.outgoing.pop_front() {
            let Some(connection) = self.connections.get_mut(&port) else {
                continue;
            };
            connection.queued = false;
            let guest_port = connection.guest_port;
            match connection.next_packet(memory, chain) {
                Ok(packet) => {
                    self.settle(port, Fate::Keep);
                    if let Some(packet) = packet {
                        return Some(self.address(packet, port, guest_port));
                    }
                }
                Err(fate) => {
                    self.settle(port, fate);
                    if let Some(reset) = self.resets.pop_front() {
                        return Some(reset);
                    }
                }
            }
        }
        None
    }

    fn address(&self, packet: Header, port: u32, guest_port: u32) -> Header {
        Header {
            source_cid: HOST_CID,
            target_cid: self.cid,
            source_port: port,
            target_port: guest_port,
            kind: TYPE_STREAM,
            ..packet
        }
    }

    /// Removes a connection that ended, or queues one that has something for the guest.
    fn settle(&mut self, port: u32, fate: Fate) {
        let Some(connection) = self.connections.get_mut(&port) else {
            return;
        };
        if fate == Fate::Keep && !connection.is_over() {
            if connection.has_output() && !connection.queued {
                connection.queued = true;
                self.outgoing.push_back(port);
            }
            return;
        }
        let guest_port = connection.guest_port;
        self.connections.remove(&port);
        // A place and a descriptor are free again.
        self.listener_ready = true;
        if fate == Fate::Reset {
            let packet = Header {
                op: OP_RST,
                ..Header::default()
            };
            self.resets
                .push_back(self.address(packet, port, guest_port));
        }
    }
}
