//! A simulated guest driver and peers for the tests of `connecting` and `streams`.

mod connecting;
mod streams;

use std::io::{Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::super::testing::{BUFFERS, Guest, QUEUE_SIZE};
use super::Vsock;
use super::connection::BUFFER_SIZE;
use super::packet::{HEADER_LEN, HOST_CID, Header, OP_REQUEST, OP_RESPONSE, TYPE_STREAM};
use crate::config::VsockConfig;

const CID: u64 = 5;
const PORT: u32 = 1024;
const RX: usize = 0;
const TX: usize = 1;
const EVENT: usize = 2;
/// What Linux offers: a header and a page of data.
const RX_LEN: u32 = HEADER_LEN as u32 + 4096;

/// A guest with its driver, and the socket that peers connect to.
struct Setup {
    guest: Guest,
    path: PathBuf,
    _folder: TempDir,
    tx: u64,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock");
        let device = Vsock::new(&config(&path)).unwrap();
        let mut guest = Guest::start(Box::new(device));
        let tx = guest.allocate(0x1_8000);
        Self {
            guest,
            path,
            _folder: folder,
            tx,
        }
    }

    fn with_buffers() -> Self {
        let mut this = Self::new();
        for slot in 0..QUEUE_SIZE {
            this.offer_buffer(slot);
        }
        this
    }

    fn buffer(slot: u16) -> u64 {
        BUFFERS + 0x2_0000 + u64::from(slot) * 4352
    }

    fn offer_buffer(&mut self, slot: u16) {
        self.guest
            .descriptor(RX, slot, (Self::buffer(slot), RX_LEN, 2, 0));
        self.guest.offer(RX, slot);
        self.guest.notify(RX);
    }

    /// Lets the device thread do all it has to do.
    fn run(&mut self) {
        for _ in 0..20 {
            for fd in self.guest.transport.event_fds() {
                self.guest.transport.event_ready(fd);
            }
            for queue in 0..3 {
                if self.guest.transport.queue_events()[queue].read().is_ok() {
                    self.guest.transport.queue_event_ready(queue);
                }
            }
        }
    }

    fn packet(&mut self) -> Option<(Header, Vec<u8>)> {
        self.run();
        let (slot, len) = self.guest.take_used(RX)?;
        let at = Self::buffer(slot as u16);
        let raw = self.guest.bytes(at, HEADER_LEN);
        let header = Header::parse(raw.as_slice().try_into().unwrap());
        let data = self
            .guest
            .bytes(at + HEADER_LEN as u64, header.len as usize);
        assert_eq!(len, HEADER_LEN as u32 + header.len);
        assert_eq!((header.source_cid, header.target_cid), (HOST_CID, CID));
        self.offer_buffer(slot as u16);
        Some((header, data))
    }

    fn expect(&mut self, op: u16) -> (Header, Vec<u8>) {
        let packet = self
            .packet()
            .unwrap_or_else(|| panic!("no packet, expected op {op}"));
        assert_eq!(packet.0.op, op, "{:?}", packet.0);
        packet
    }

    fn send_raw(&mut self, header: &Header, data: &[u8]) {
        let bytes = [&header.to_bytes()[..], data].concat();
        let memory = self.guest.memory();
        vm_memory::Bytes::write_slice(memory, &bytes, vm_memory::GuestAddress(self.tx)).unwrap();
        self.guest
            .chain(TX, 0, &[(self.tx, bytes.len() as u32, false)]);
        self.guest.notify(TX);
    }

    /// Sends a packet of the guest's connection to host port `to`.
    fn send(&mut self, to: u32, op: u16, data: &[u8], adjust: impl FnOnce(&mut Header)) {
        let mut header = Header {
            source_cid: CID,
            target_cid: HOST_CID,
            source_port: PORT,
            target_port: to,
            len: data.len() as u32,
            kind: TYPE_STREAM,
            op,
            buffer_size: 1 << 18,
            ..Header::default()
        };
        adjust(&mut header);
        self.send_raw(&header, data);
        assert!(self.guest.take_used(TX).is_some());
    }

    fn peer(&mut self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        self.run();
        stream
    }

    /// A connection that the guest accepted, and its port on this side.
    fn connected(&mut self) -> (UnixStream, u32) {
        let mut peer = self.peer();
        peer.write_all(b"CONNECT 1024\n").unwrap();
        let (request, _) = self.expect(OP_REQUEST);
        assert_eq!(
            (request.target_port, request.buffer_size),
            (PORT, BUFFER_SIZE)
        );
        let port = request.source_port;
        self.send(port, OP_RESPONSE, &[], |_| {});
        assert_eq!(
            read(&mut peer, format!("OK {port}\n").len()),
            format!("OK {port}\n").as_bytes()
        );
        (peer, port)
    }
}

fn config(path: &std::path::Path) -> VsockConfig {
    let listener = UnixListener::bind(path).unwrap();
    VsockConfig {
        cid: CID,
        listener_fd: listener.into_raw_fd(),
    }
}

fn read(stream: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    stream.read_exact(&mut data).unwrap();
    data
}

/// The stream ended with nothing left to read.
fn ended(stream: &mut UnixStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0))
}
