//! Connections, data, credit, shutdown and restore, against a simulated guest driver.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::IntoRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::super::testing::{BUFFERS, Guest, QUEUE_SIZE};
use super::connection::BUFFER_SIZE;
use super::mux::{MAX_CONNECTIONS, MAX_RESETS};
use super::packet::{
    HEADER_LEN, HOST_CID, Header, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE,
    OP_RST, OP_RW, OP_SHUTDOWN, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM,
};
use super::{OpenVsockError, Vsock, VsockState};
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

#[test]
fn a_peer_connects_and_data_flows_both_ways() {
    let mut setup = Setup::with_buffers();
    let (mut peer, port) = setup.connected();
    setup.send(port, OP_RW, b"from the guest", |_| {});
    assert_eq!(read(&mut peer, 14), b"from the guest");
    peer.write_all(b"from the host").unwrap();
    let (header, data) = setup.expect(OP_RW);
    assert_eq!((header.source_port, header.target_port), (port, PORT));
    assert_eq!(
        (data.as_slice(), header.forwarded),
        (&b"from the host"[..], 14)
    );
    assert_ne!(setup.guest.interrupt() & 1, 0);
}

#[test]
fn bytes_after_the_connect_line_wait_for_the_guest() {
    let mut setup = Setup::with_buffers();
    let mut peer = setup.peer();
    peer.write_all(b"CONNECT 1024\nearly").unwrap();
    let (request, _) = setup.expect(OP_REQUEST);
    assert!(
        setup.packet().is_none(),
        "nothing is sent before the guest accepts"
    );
    setup.send(request.source_port, OP_RESPONSE, &[], |_| {});
    assert_eq!(setup.expect(OP_RW).1, b"early");
}

#[test]
fn a_connect_line_may_arrive_in_pieces() {
    let mut setup = Setup::with_buffers();
    let mut peer = setup.peer();
    for piece in [&b"CON"[..], b"NECT 10", b"24"] {
        peer.write_all(piece).unwrap();
        assert!(setup.packet().is_none());
    }
    peer.write_all(b"\n").unwrap();
    assert_eq!(setup.expect(OP_REQUEST).0.target_port, PORT);
}

#[test]
fn a_line_that_is_no_connect_ends_the_stream() {
    let mut setup = Setup::with_buffers();
    for line in [
        "GET / HTTP/1.1\n",
        "CONNECT \n",
        "CONNECT +1\n",
        "CONNECT 4294967296\n",
        "CONNECT 1024 \n",
        "connect 1\n",
        "\n",
        "CONNECT 11111111111111111111111111111111111\n",
    ] {
        let mut peer = setup.peer();
        peer.write_all(line.as_bytes()).unwrap();
        assert!(setup.packet().is_none(), "{line:?}");
        // Unread bytes make the end a reset of the stream.
        assert!(!matches!(peer.read(&mut [0]), Ok(1..)), "{line:?}");
    }
}

#[test]
fn a_port_without_listener_ends_the_stream() {
    let mut setup = Setup::with_buffers();
    let mut peer = setup.peer();
    peer.write_all(b"CONNECT 7\n").unwrap();
    let (request, _) = setup.expect(OP_REQUEST);
    setup.send(request.source_port, OP_RST, &[], |header| {
        header.source_port = 7
    });
    setup.run();
    assert!(ended(&mut peer));
}

#[test]
fn a_peer_that_leaves_before_the_answer_is_reset_at_the_guest() {
    let mut setup = Setup::with_buffers();
    let mut peer = setup.peer();
    peer.write_all(b"CONNECT 1024\n").unwrap();
    setup.expect(OP_REQUEST);
    drop(peer);
    setup.expect(OP_RST);
}

#[test]
fn the_guest_cannot_open_a_connection() {
    let mut setup = Setup::with_buffers();
    setup.send(80, OP_REQUEST, &[], |_| {});
    let (reset, _) = setup.expect(OP_RST);
    assert_eq!((reset.source_port, reset.target_port), (80, PORT));
}

#[test]
fn packets_of_no_connection_are_reset_and_resets_are_not() {
    let mut setup = Setup::with_buffers();
    let (_peer, port) = setup.connected();
    for op in [OP_RESPONSE, OP_RW, OP_SHUTDOWN, OP_CREDIT_UPDATE, 0, 99] {
        setup.send(port + 1, op, &[], |_| {});
        setup.expect(OP_RST);
        setup.send(port, op, &[], |header| header.source_port = PORT + 1);
        assert_eq!(setup.expect(OP_RST).0.target_port, PORT + 1);
    }
    setup.send(port + 1, OP_RST, &[], |_| {});
    assert!(setup.packet().is_none());
}

#[test]
fn packets_to_or_from_others_are_dropped() {
    let mut setup = Setup::with_buffers();
    let (mut peer, port) = setup.connected();
    setup.send(port, OP_RW, b"old", |header| header.source_cid = CID + 1);
    setup.send(port, OP_RW, b"far", |header| header.target_cid = 3);
    setup.send(port, OP_RW, b"long", |header| header.len = 5);
    setup.send_raw(&Header::default(), &[]);
    assert!(setup.guest.take_used(TX).is_some());
    assert!(setup.packet().is_none());
    setup.send(port, OP_RW, b"good", |_| {});
    assert_eq!(read(&mut peer, 4), b"good");
}

#[test]
fn packets_out_of_order_end_the_connection() {
    for op in [OP_REQUEST, OP_RESPONSE, 0, 8, 0xffff] {
        let mut setup = Setup::with_buffers();
        let (mut peer, port) = setup.connected();
        setup.send(port, op, &[], |_| {});
        setup.expect(OP_RST);
        assert!(ended(&mut peer), "op {op}");
    }
}

#[test]
fn the_guest_is_not_sent_more_than_it_has_room_for() {
    let mut setup = Setup::with_buffers();
    let (mut peer, port) = setup.connected();
    setup.send(port, OP_CREDIT_UPDATE, &[], |header| {
        header.buffer_size = 6000
    });
    peer.write_all(&[7; 20_000]).unwrap();
    assert_eq!(setup.expect(OP_RW).1.len(), 4096);
    assert_eq!(setup.expect(OP_RW).1.len(), 1904);
    setup.expect(OP_CREDIT_REQUEST);
    assert!(setup.packet().is_none());
    // An answer without credit is not asked again.
    setup.send(port, OP_CREDIT_UPDATE, &[], |header| {
        header.buffer_size = 6000
    });
    assert!(setup.packet().is_none());
    setup.send(port, OP_CREDIT_UPDATE, &[], |header| {
        (header.buffer_size, header.forwarded) = (6000, 100);
    });
    assert_eq!(setup.expect(OP_RW).1.len(), 100);
}

#[test]
fn a_slow_peer_holds_the_guest_back_and_nothing_is_lost() {
    let mut setup = Setup::with_buffers();
    let (mut peer, port) = setup.connected();
    let content: Vec<u8> = (0..4_000_000_u32).map(|at| (at % 251) as u8).collect();
    let (mut sent, mut told, mut got) = (0_usize, 0_usize, Vec::new());
    peer.set_nonblocking(true).unwrap();
    let mut held_back = 0;
    while got.len() < content.len() {
        let credit = BUFFER_SIZE as usize - (sent - told);
        let n = credit.min(65_000).min(content.len() - sent);
        if n > 0 {
            setup.send(port, OP_RW, &content[sent..sent + n], |_| {});
            sent += n;
        }
        while let Some((header, _)) = setup.packet() {
            assert_eq!(header.op, OP_CREDIT_UPDATE);
            told = header.forwarded as usize;
        }
        if n == 0 || credit == 0 {
            held_back += 1;
            let mut part = vec![0; 50_000];
            if let Ok(n) = peer.read(&mut part) {
                got.extend_from_slice(&part[..n]);
            }
        }
    }
    assert!(held_back > 10, "the guest was held back {held_back} times");
    assert!(got == content);
}

#[test]
fn a_guest_that_ignores_its_credit_is_reset() {
    let mut setup = Setup::with_buffers();
    let (_peer, port) = setup.connected();
    let mut packets = 0;
    loop {
        setup.send(port, OP_RW, &[1; 65_000], |_| {});
        packets += 1;
        match setup.packet() {
            Some((Header { op: OP_RST, .. }, _)) => break,
            _ => assert!(packets < 20, "more than socket and buffer hold"),
        }
    }
}

#[test]
fn a_guest_without_room_stops_the_peer_and_goes_on_later() {
    let mut setup = Setup::with_buffers();
    let (mut peer, port) = setup.connected();
    peer.set_nonblocking(true).unwrap();
    let mut written = 0;
    while let Ok(n) = peer.write(&[3; 65_536]) {
        written += n;
        setup.run();
        assert!(written < 4 << 20, "the peer must be stopped");
    }
    let mut taken = 0;
    while taken < 8 << 20 {
        let (header, data) = setup.packet().expect("the peer always has more");
        if header.op == OP_RW {
            taken += data.len();
        }
        setup.send(port, OP_CREDIT_UPDATE, &[], |header| {
            header.forwarded = taken as u32
        });
        while peer.write(&[3; 65_536]).is_ok() {}
    }
}

#[test]
fn a_peer_that_stops_writing_still_reads() {
    let mut setup = Setup::with_buffers();
    let (mut peer, port) = setup.connected();
    peer.write_all(b"last").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(setup.expect(OP_RW).1, b"last");
    assert_eq!(setup.expect(OP_SHUTDOWN).0.flags, SHUTDOWN_SEND);
    assert!(setup.packet().is_none(), "told once");
    setup.send(port, OP_RW, b"answer", |_| {});
    assert_eq!(read(&mut peer, 6), b"answer");
}

#[test]
fn a_guest_that_stops_sending_still_receives() {
    let mut setup = Setup::with_buffers();
    let (mut peer, port) = setup.connected();
    setup.send(port, OP_RW, b"last", |_| {});
    setup.send(port, OP_SHUTDOWN, &[], |header| {
        header.flags = SHUTDOWN_SEND
    });
    assert_eq!(read(&mut peer, 4), b"last");
    assert!(ended(&mut peer));
    peer.write_all(b"answer").unwrap();
    assert_eq!(setup.expect(OP_RW).1, b"answer");
    setup.send(port, OP_RW, b"liar", |_| {});
    setup.expect(OP_RST);
}

#[test]
fn a_guest_that_stops_receiving_still_sends() {
    let mut setup = Setup::with_buffers();
    let (mut peer, port) = setup.connected();
    setup.send(port, OP_SHUTDOWN, &[], |header| {
        header.flags = SHUTDOWN_RECEIVE
    });
    setup.run();
    assert!(peer.write_all(b"nobody").is_err());
    setup.send(port, OP_RW, b"data", |_| {});
    assert_eq!(read(&mut peer, 4), b"data");
    drop(peer);
    setup.expect(OP_RST);
}

#[test]
fn a_guest_that_closes_gets_a_reset_after_its_data_is_out() {
    let mut setup = Setup::with_buffers();
    let (mut peer, port) = setup.connected();
    for _ in 0..4 {
        setup.send(port, OP_RW, &[9; 65_000], |_| {});
    }
    setup.send(port, OP_SHUTDOWN, &[], |header| {
        header.flags = SHUTDOWN_BOTH
    });
    let mut content = Vec::new();
    peer.set_nonblocking(true).unwrap();
    let mut reset = false;
    for _ in 0..100 {
        reset |= setup
            .packet()
            .is_some_and(|(header, _)| header.op == OP_RST);
        let _ = peer.read_to_end(&mut content);
    }
    assert!(reset);
    assert_eq!(content.len(), 260_000);
    assert!(ended(&mut peer));
}

#[test]
fn data_of_a_guest_that_reset_its_connection_still_arrives() {
    let mut setup = Setup::with_buffers();
    let (mut peer, port) = setup.connected();
    for _ in 0..4 {
        setup.send(port, OP_RW, &[9; 65_000], |_| {});
    }
    while setup.packet().is_some() {}
    setup.send(port, OP_RST, &[], |_| {});
    let mut content = Vec::new();
    peer.set_nonblocking(true).unwrap();
    for _ in 0..100 {
        setup.run();
        let _ = peer.read_to_end(&mut content);
    }
    assert_eq!(content.len(), 260_000);
    assert!(ended(&mut peer) && setup.packet().is_none());
}

#[test]
fn a_peer_that_closes_shuts_both_directions_of_the_guest() {
    let mut setup = Setup::with_buffers();
    let (mut peer, port) = setup.connected();
    peer.write_all(b"bye").unwrap();
    drop(peer);
    assert_eq!(setup.expect(OP_RW).1, b"bye");
    assert_eq!(setup.expect(OP_SHUTDOWN).0.flags, SHUTDOWN_BOTH);
    setup.send(port, OP_RW, b"too late", |_| {});
    setup.expect(OP_RST);
}

#[test]
fn connections_are_bounded_and_a_place_that_is_freed_is_taken() {
    let mut setup = Setup::with_buffers();
    let mut peers = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        peers.push(setup.connected());
    }
    let mut late = setup.peer();
    late.write_all(b"CONNECT 1024\n").unwrap();
    assert!(setup.packet().is_none(), "no place for another");
    let (_, port) = peers[100];
    setup.send(port, OP_RST, &[], |_| {});
    let (request, _) = setup.expect(OP_REQUEST);
    assert!(
        peers.iter().all(|&(_, port)| port != request.source_port),
        "ports are unique"
    );
}

#[test]
fn resets_wait_for_buffers_and_are_bounded() {
    let mut setup = Setup::new();
    let header = Header {
        source_cid: CID,
        target_cid: HOST_CID,
        source_port: PORT,
        kind: TYPE_STREAM,
        op: OP_RW,
        ..Header::default()
    };
    let mut taken = 0;
    for _ in 0..MAX_RESETS + 10 {
        setup.send_raw(&header, &[]);
        taken += usize::from(setup.guest.take_used(TX).is_some());
    }
    assert_eq!(
        taken, MAX_RESETS,
        "the guest is not listened to beyond that"
    );
    for slot in 0..QUEUE_SIZE {
        setup.offer_buffer(slot);
    }
    let mut resets = 0;
    while let Some((header, _)) = setup.packet() {
        assert_eq!(header.op, OP_RST);
        resets += 1;
    }
    assert_eq!(resets, MAX_RESETS + 10);
}

#[test]
fn a_restored_guest_is_told_first_and_connections_wait_for_it() {
    let mut setup = Setup::with_buffers();
    let (mut old, _) = setup.connected();
    for slot in 0..8 {
        let at = setup.guest.allocate(16);
        setup.guest.chain(EVENT, slot, &[(at, 8, true)]);
    }
    let event = BUFFERS + 0x1_8000;
    let state = setup.guest.transport.save();

    let path = setup.path.with_extension("restored");
    let config = VsockConfig {
        cid: 77,
        ..config(&path)
    };
    let device = Vsock::restore(&config, &VsockState { cid: CID }).unwrap();
    let _ = vm_memory::Bytes::write_slice(
        setup.guest.memory(),
        &[0xff; 8],
        vm_memory::GuestAddress(event),
    );
    let mut setup = Setup {
        guest: setup.guest.restore(Box::new(device), &state),
        path,
        ..setup
    };
    assert!(ended(&mut old), "no connection survives");
    assert_eq!(
        setup.guest.config(0, 12),
        [77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );

    let mut peer = setup.peer();
    peer.write_all(b"CONNECT 1024\n").unwrap();
    setup.run();
    assert_eq!(setup.guest.take_used(EVENT), Some((0, 4)));
    assert_eq!(setup.guest.bytes(event, 4), [0; 4]);
    assert!(setup.guest.take_used(EVENT).is_none());
    assert!(
        setup.guest.take_used(RX).is_none(),
        "the guest has not handled the event"
    );

    setup.guest.chain(EVENT, 0, &[(event, 8, true)]);
    setup.guest.notify(EVENT);
    setup.run();
    let (slot, _) = setup.guest.take_used(RX).unwrap();
    let raw = setup.guest.bytes(Setup::buffer(slot as u16), HEADER_LEN);
    let header = Header::parse(raw.as_slice().try_into().unwrap());
    assert_eq!((header.op, header.target_cid), (OP_REQUEST, 77));
}

#[test]
fn a_driver_that_resets_the_device_ends_all_connections() {
    let mut setup = Setup::with_buffers();
    let (mut peer, _) = setup.connected();
    setup.guest.set(0x70, 0);
    assert!(ended(&mut peer));
    let mut waiting = setup.peer();
    waiting.write_all(b"CONNECT 1024\n").unwrap();
    setup.run();
    setup.guest.forget_rings();
    setup.guest.negotiate(!(1 << 29));
    setup.guest.set_up_queues();
    setup.guest.set(0x70, 15);
    for slot in 0..4 {
        setup.offer_buffer(slot);
    }
    setup.expect(OP_REQUEST);
}

#[test]
fn a_configuration_that_cannot_be_is_refused_by_name() {
    for cid in [0, 2, u64::from(u32::MAX), u64::MAX] {
        let config = VsockConfig {
            cid,
            listener_fd: -1,
        };
        assert!(matches!(
            Vsock::new(&config),
            Err(OpenVsockError::Cid { .. })
        ));
    }
    let config = VsockConfig {
        cid: 3,
        listener_fd: -1,
    };
    assert!(matches!(
        Vsock::new(&config),
        Err(OpenVsockError::Listener { fd: -1, .. })
    ));
}
