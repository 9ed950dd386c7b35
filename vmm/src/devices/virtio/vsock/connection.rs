//! One stream of a host peer and the guest's connection behind it.
//!
//! Credit bounds both directions: the guest may have [`BUFFER_SIZE`] bytes under way to the host,
//! which is all that is ever buffered; bytes for the guest are read from the stream only when a
//! guest buffer is at hand and the guest has room, so none are buffered.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, recv};
use vm_memory::GuestMemoryMmap;

use super::super::chain::Chain;
use super::super::guest_io::IoVectors;
use super::packet::{
    HEADER_LEN, Header, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_RST,
    OP_RW, OP_SHUTDOWN, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND,
};

/// Bytes that the guest may have under way to the host.
pub(super) const BUFFER_SIZE: u32 = 256 << 10;
/// The guest learns of returned credit in steps of this many bytes.
const CREDIT_STEP: u32 = BUFFER_SIZE / 4;
/// `CONNECT 4294967295\n` and some slack.
const LINE_MAX: usize = 32;
/// A buffer that grew beyond this is given back when it is empty.
const KEEP_CAPACITY: usize = 4096;

/// What becomes of a connection after it was worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It lives on.
    Keep,
    /// It ends, and the guest knows already or never knew of it.
    Close,
    /// It ends, and the guest must be told.
    Reset,
}

/// How far a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The peer has yet to write its `CONNECT` line.
    Handshake,
    /// The guest is to be asked.
    Request,
    /// The guest was asked.
    Requested,
    /// Both sides agreed.
    Established,
    /// The guest is gone; what it sent is still being written to the peer.
    Orphan,
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    pub(super) guest_port: u32,
    /// It waits in the multiplexer's queue of those with something for the guest.
    pub(super) queued: bool,
    phase: Phase,

    /// The stream may have bytes, or an end; edge-triggered, so it stands until a read says no.
    readable: bool,
    writable: bool,
    /// The peer closed both directions.
    hung_up: bool,
    /// The stream ended; whether the guest was told.
    ended: Option<bool>,

    /// Bytes from the guest that the stream had no room for.
    buffer: VecDeque<u8>,
    /// Bytes from the guest that were forwarded, modulo 2^32, and what of it the guest knows.
    forwarded: u32,
    forwarded_told: u32,
    credit_due: bool,
    /// Directions that the guest shut down, and those that the peer was told of.
    guest_shutdown: u32,
    shutdown_told: u32,

    /// Bytes sent to the guest, modulo 2^32.
    sent: u32,
    guest_buffer_size: u32,
    guest_forwarded: u32,
    credit_asked: bool,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            guest_port: 0,
            queued: false,
            phase: Phase::Handshake,
            readable: true,
            writable: true,
            hung_up: false,
            ended: None,
            buffer: VecDeque::new(),
            forwarded: 0,
            forwarded_told: 0,
            credit_due: false,
            guest_shutdown: 0,
            shutdown_told: 0,
            sent: 0,
            guest_buffer_size: 0,
            guest_forwarded: 0,
            credit_asked: false,
        }
    }

    /// The guest knows this connection under `guest_port`.
    pub(super) fn linked_to(&self, guest_port: u32) -> bool {
        self.guest_port == guest_port && matches!(self.phase, Phase::Requested | Phase::Established)
    }

    /// Notes what epoll said and does what needs no guest buffer.
    pub(super) fn event(&mut self, flags: EventFlags) -> Fate {
        self.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP);
        self.writable |= flags.contains(EventFlags::OUT);
        self.hung_up |= flags.intersects(EventFlags::HUP | EventFlags::ERR);
        match self.phase {
            Phase::Handshake => self.handshake(),
            // Nobody waits for the answer any more.
            Phase::Request if self.hung_up => Fate::Close,
            Phase::Requested if self.hung_up => Fate::Reset,
            Phase::Request | Phase::Requested => Fate::Keep,
            Phase::Established | Phase::Orphan => self.flush(),
        }
    }

    /// Reads the `CONNECT <port>` line and not a byte beyond it.
    fn handshake(&mut self) -> Fate {
        let mut line = [0; LINE_MAX];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let seen = match recv(&self.stream, &mut line, flags) {
            Ok((0, _)) => return Fate::Close,
            Ok((seen, _)) => seen,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Fate::Keep,
            Err(_) => return Fate::Close,
        };
        let Some(end) = line[..seen].iter().position(|&byte| byte == b'\n') else {
            return if seen < LINE_MAX && !self.hung_up {
                Fate::Keep
            } else {
                Fate::Close
            };
        };
        let port = std::str::from_utf8(&line[..end])
            .ok()
            .and_then(|text| text.strip_prefix("CONNECT "))
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok());
        let Some(port) = port else {
            return Fate::Close;
        };
        // These very bytes were seen just now, so they are there.
        if self.stream.read_exact(&mut line[..=end]).is_err() {
            return Fate::Close;
        }
        self.guest_port = port;
        self.phase = Phase::Request;
        Fate::Keep
    }

    /// Takes a packet of the guest that belongs here; `port` is this side's.
    pub(super) fn receive(
        &mut self,
        port: u32,
        header: &Header,
        memory: &GuestMemoryMmap,
        chain: &Chain,
    ) -> Fate {
        self.guest_buffer_size = header.buffer_size;
        self.guest_forwarded = header.forwarded;
        // An answer without credit must not be asked for again: the guest tells when it has some.
        self.credit_asked &= self.credit() == 0;
        match (header.op, self.phase) {
            (OP_RESPONSE, Phase::Requested) => self.establish(port),
            (OP_RW, Phase::Established) if self.guest_shutdown & SHUTDOWN_SEND == 0 => {
                self.take_data(header.len, memory, chain)
            }
            (OP_CREDIT_UPDATE, Phase::Established) => Fate::Keep,
            (OP_CREDIT_REQUEST, Phase::Established) => {
                self.credit_due = true;
                Fate::Keep
            }
            (OP_SHUTDOWN, Phase::Established) => {
                self.guest_shutdown |= header.flags & SHUTDOWN_BOTH;
                self.flush()
            }
            (OP_RST, _) if !self.buffer.is_empty() => {
                self.phase = Phase::Orphan;
                Fate::Keep
            }
            (OP_RST, _) => Fate::Close,
            _ => Fate::Reset,
        }
    }

    /// The guest accepted: the peer learns this side's port.
    fn establish(&mut self, port: u32) -> Fate {
        self.phase = Phase::Established;
        let line = format!("OK {port}\n");
        match self.stream.write(line.as_bytes()) {
            Ok(n) if n == line.len() => Fate::Keep,
            _ => Fate::Reset,
        }
    }

    /// Forwards the data of a packet; what the stream does not take now is buffered.
    fn take_data(&mut self, len: u32, memory: &GuestMemoryMmap, chain: &Chain) -> Fate {
        // All that was received and not forwarded is in the buffer, so this is the credit given.
        if u64::from(len) + self.buffer.len() as u64 > u64::from(BUFFER_SIZE) {
            return Fate::Reset;
        }
        let (mut done, len) = (0, u64::from(len));
        while done < len && self.buffer.is_empty() && self.writable {
            let offset = HEADER_LEN as u64 + done;
            let vectors = IoVectors::new(memory, &chain.readable, offset, len - done);
            match vectors.send(self.stream.as_fd()) {
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(_) => return Fate::Reset,
            }
        }
        // At most BUFFER_SIZE, as checked above.
        self.note_forwarded(done as u32);
        self.store(
            memory,
            chain,
            HEADER_LEN as u64 + done,
            (len - done) as usize,
        )
    }

    fn store(&mut self, memory: &GuestMemoryMmap, chain: &Chain, offset: u64, len: usize) -> Fate {
        if len == 0 {
            return Fate::Keep;
        }
        let mut rest = vec![0; len];
        if chain.readable.read(memory, offset, &mut rest) < len {
            return Fate::Reset;
        }
        if self.buffer.is_empty() {
            self.buffer = rest.into();
        } else {
            self.buffer.extend(rest);
        }
        Fate::Keep
    }

    fn note_forwarded(&mut self, n: u32) {
        self.forwarded = self.forwarded.wrapping_add(n);
        if self.forwarded.wrapping_sub(self.forwarded_told) >= CREDIT_STEP {
            self.credit_due = true;
        }
    }

    /// Writes buffered bytes to the stream, then does what waited for their end.
    fn flush(&mut self) -> Fate {
        while !self.buffer.is_empty() && self.writable {
            match self.stream.write(self.buffer.as_slices().0) {
                Ok(n) => {
                    self.buffer.drain(..n);
                    // At most BUFFER_SIZE.
                    self.note_forwarded(n as u32);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.failed(),
            }
        }
        if !self.buffer.is_empty() {
            return Fate::Keep;
        }
        if self.buffer.capacity() > KEEP_CAPACITY {
            self.buffer = VecDeque::new();
        }
        if self.phase == Phase::Orphan {
            return Fate::Close;
        }
        self.shut_down_stream()
    }

    /// Passes on to the peer what the guest shut down, once: each call is an event in itself.
    fn shut_down_stream(&mut self) -> Fate {
        let deaf = self.guest_shutdown & SHUTDOWN_RECEIVE != 0;
        if self.guest_shutdown == SHUTDOWN_BOTH || (deaf && self.hung_up) {
            return Fate::Reset;
        }
        if self.guest_shutdown != self.shutdown_told {
            self.shutdown_told = self.guest_shutdown;
            let direction = if deaf {
                Shutdown::Read
            } else {
                Shutdown::Write
            };
            // Fails only on a stream whose peer is gone, which reading will tell.
            let _ = self.stream.shutdown(direction);
        }
        Fate::Keep
    }

    /// Nothing is left to be done, neither for the guest nor for the peer.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Orphan && self.buffer.is_empty()
    }

    fn failed(&self) -> Fate {
        if self.phase == Phase::Orphan {
            Fate::Close
        } else {
            Fate::Reset
        }
    }

    /// Bytes that the guest has room for. A guest that lies only changes what it is sent itself.
    fn credit(&self) -> u32 {
        self.guest_buffer_size
            .saturating_sub(self.sent.wrapping_sub(self.guest_forwarded))
    }

    /// The stream is worth reading: it may have bytes, and the guest still receives.
    fn may_read(&self) -> bool {
        self.readable && self.ended.is_none() && self.guest_shutdown & SHUTDOWN_RECEIVE == 0
    }

    /// There may be a packet for the guest.
    pub(super) fn has_output(&self) -> bool {
        match self.phase {
            Phase::Request => true,
            Phase::Established => {
                self.credit_due
                    || self.ended == Some(false)
                    || (self.may_read() && (self.credit() > 0 || !self.credit_asked))
            }
            Phase::Handshake | Phase::Requested | Phase::Orphan => false,
        }
    }

    /// Makes the next packet for the guest: its data is in `chain` already, behind the place of the
    /// header, and its ports and context identifiers are yet to be set.
    pub(super) fn next_packet(
        &mut self,
        memory: &GuestMemoryMmap,
        chain: &Chain,
    ) -> Result<Option<Header>, Fate> {
        if self.phase == Phase::Request {
            self.phase = Phase::Requested;
            return Ok(Some(self.packet(OP_REQUEST)));
        }
        if self.phase != Phase::Established {
            return Ok(None);
        }
        if self.may_read() && self.credit() > 0 {
            let len = self.read_stream(memory, chain)?;
            if len > 0 {
                self.sent = self.sent.wrapping_add(len);
                return Ok(Some(Header {
                    len,
                    ..self.packet(OP_RW)
                }));
            }
        }
        if self.ended == Some(false) {
            self.ended = Some(true);
            let mut flags = SHUTDOWN_SEND;
            if self.hung_up {
                // Nobody is left to read or write; whatever the guest still sends is reset.
                flags = SHUTDOWN_BOTH;
                self.buffer.clear();
                self.phase = Phase::Orphan;
            }
            return Ok(Some(Header {
                flags,
                ..self.packet(OP_SHUTDOWN)
            }));
        }
        if self.may_read() && self.credit() == 0 && !self.credit_asked {
            self.credit_asked = true;
            return Ok(Some(self.packet(OP_CREDIT_REQUEST)));
        }
        if self.credit_due {
            return Ok(Some(self.packet(OP_CREDIT_UPDATE)));
        }
        Ok(None)
    }

    /// Reads from the stream straight into the guest's buffer; 0 if there is nothing now.
    fn read_stream(&mut self, memory: &GuestMemoryMmap, chain: &Chain) -> Result<u32, Fate> {
        let room = chain.writable.len() - HEADER_LEN as u64;
        let len = room.min(u64::from(self.credit()));
        let mut vectors = IoVectors::new(memory, &chain.writable, HEADER_LEN as u64, len);
        match vectors.read(self.stream.as_fd()) {
            Ok(0) => self.ended = Some(false),
            // At most the credit, which is a u32.
            Ok(n) => return Ok(n as u32),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(_) => return Err(Fate::Reset),
        }
        Ok(0)
    }

    /// A packet of this connection; every one tells the guest its credit.
    fn packet(&mut self, op: u16) -> Header {
        self.forwarded_told = self.forwarded;
        self.credit_due = false;
        Header {
            op,
            buffer_size: BUFFER_SIZE,
            forwarded: self.forwarded,
            ..Header::default()
        }
    }
}
