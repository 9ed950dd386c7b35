//! Frames both ways, back-pressure, and a link that goes down.

use std::io::{self, Read};
use std::os::fd::{IntoRawFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

use super::super::testing::{Guest, QUEUE_SIZE};
use super::{Net, NetState, OpenNetError};
use crate::config::NetConfig;

const MAC: &str = "02:00:00:0a:0b:01";
const RX: usize = 0;
const TX: usize = 1;

fn config(socket: Option<OwnedFd>) -> NetConfig {
    NetConfig {
        mac: MAC.into(),
        socket_fd: socket.map(IntoRawFd::into_raw_fd),
    }
}

fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

fn connected(kind: SocketType) -> (Guest, OwnedFd) {
    let (ours, theirs) = pair(kind);
    let device = Net::new(&config(Some(ours))).unwrap();
    (Guest::start(Box::new(device)), theirs)
}

fn run(guest: &mut Guest) {
    for _ in 0..4 {
        for fd in guest.transport.event_fds() {
            guest.transport.event_ready(fd);
        }
        for queue in [RX, TX] {
            if guest.transport.queue_events()[queue].read().is_ok() {
                guest.transport.queue_event_ready(queue);
            }
        }
    }
}

/// Sends a frame of the guest; whether its buffer came back.
fn transmit(guest: &mut Guest, frame: &[u8]) -> bool {
    guest.recycle();
    let header = guest.place(&[0; 12]);
    let data = guest.place(frame);
    guest.chain(
        TX,
        0,
        &[(header, 12, false), (data, frame.len() as u32, false)],
    );
    guest.notify(TX);
    guest.take_used(TX).is_some()
}

fn frame(fill: u8, len: usize) -> Vec<u8> {
    vec![fill; len]
}

fn take(peer: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut data = vec![0; 70_000];
    let (n, _) = recv(peer, &mut data, RecvFlags::DONTWAIT)?;
    data.truncate(n);
    Ok(data)
}

fn put(peer: &OwnedFd, data: &[u8]) -> bool {
    send(peer, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok()
}

#[test]
fn frames_go_both_ways_over_either_kind_of_socket() {
    for kind in [SocketType::SEQPACKET, SocketType::DGRAM] {
        let (mut guest, peer) = connected(kind);
        assert!(transmit(&mut guest, &frame(1, 60)));
        assert!(transmit(&mut guest, &frame(2, 1514)));
        assert_eq!(take(&peer).unwrap(), frame(1, 60));
        assert_eq!(take(&peer).unwrap(), frame(2, 1514));

        let buffer = guest.allocate(1526);
        guest.chain(RX, 0, &[(buffer, 7, true), (buffer + 7, 1519, true)]);
        guest.notify(RX);
        guest.interrupt();
        assert!(put(&peer, &frame(3, 100)));
        run(&mut guest);
        assert_eq!(guest.take_used(RX), Some((0, 112)));
        assert_eq!(guest.interrupt(), 1);
        let received = guest.bytes(buffer, 113);
        assert_eq!(received[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(received[12..112], frame(3, 100));
        assert_eq!(received[112], 0);
    }
}

#[test]
fn configuration_tells_address_link_and_mtu() {
    let (guest, _peer) = connected(SocketType::SEQPACKET);
    assert_eq!(
        guest.config(0, 12),
        [2, 0, 0, 0xa, 0xb, 1, 1, 0, 0, 0, 0xf0, 0xff]
    );
    let guest = Guest::start(Box::new(Net::new(&config(None)).unwrap()));
    assert_eq!(guest.config(0, 8), [2, 0, 0, 0xa, 0xb, 1, 0, 0]);
}

#[test]
fn without_a_socket_frames_are_dropped() {
    let mut guest = Guest::start(Box::new(Net::new(&config(None)).unwrap()));
    assert!(transmit(&mut guest, &frame(1, 60)));
    assert!(guest.transport.event_fds().is_empty());
}

#[test]
fn a_peer_that_hangs_up_takes_the_link_down_with_one_interrupt() {
    let (mut guest, peer) = connected(SocketType::SEQPACKET);
    run(&mut guest);
    let generation = guest.register(0xfc);
    drop(peer);
    run(&mut guest);
    assert_eq!(guest.interrupt(), 2);
    assert_ne!(guest.register(0xfc), generation);
    assert_eq!(guest.config(6, 2), [0, 0]);
    run(&mut guest);
    assert!(
        transmit(&mut guest, &frame(1, 60)),
        "frames are dropped, not held"
    );
    assert_eq!(guest.interrupt() & 2, 0, "told once");
}

#[test]
fn a_peer_that_stops_sending_is_gone_as_well() {
    let (mut guest, peer) = connected(SocketType::SEQPACKET);
    let buffer = guest.allocate(1526);
    guest.chain(RX, 0, &[(buffer, 1526, true)]);
    guest.notify(RX);
    rustix::net::shutdown(&peer, rustix::net::Shutdown::Write).unwrap();
    run(&mut guest);
    assert_eq!(guest.interrupt(), 2);
    assert_eq!(guest.config(6, 2), [0, 0]);
}

#[test]
fn a_hang_up_before_the_driver_starts_is_not_forgotten() {
    let (ours, theirs) = pair(SocketType::SEQPACKET);
    let mut guest = Guest::power_on(Box::new(Net::new(&config(Some(ours))).unwrap()));
    drop(theirs);
    run(&mut guest);
    guest.negotiate(!(1 << 29));
    guest.set_up_queues();
    guest.set(0x70, 15);
    assert_eq!(guest.config(6, 2), [0, 0]);
    assert!(transmit(&mut guest, &frame(1, 60)));
}

#[test]
fn frames_of_impossible_size_are_dropped() {
    let (mut guest, peer) = connected(SocketType::SEQPACKET);
    assert!(transmit(&mut guest, &frame(1, 13)));
    assert!(transmit(&mut guest, &frame(1, 65_551)));
    assert!(transmit(&mut guest, &frame(2, 65_550)));
    assert_eq!(take(&peer).unwrap(), frame(2, 65_550));
    assert!(take(&peer).is_err());

    let buffer = guest.allocate(1526);
    guest.chain(RX, 0, &[(buffer, 1526, true)]);
    for (fill, len) in [(1, 13), (2, 1515), (3, 60_000), (4, 1514)] {
        assert!(put(&peer, &frame(fill, len)));
    }
    guest.notify(RX);
    run(&mut guest);
    assert_eq!(guest.take_used(RX), Some((0, 1526)));
    assert_eq!(guest.bytes(buffer + 12, 1514), frame(4, 1514));
}

#[test]
fn chains_without_room_for_a_frame_come_back_unused() {
    let (mut guest, peer) = connected(SocketType::SEQPACKET);
    let buffer = guest.allocate(64);
    guest.chain(RX, 0, &[(buffer, 25, true)]);
    guest.chain(RX, 1, &[(buffer, 64, false)]);
    assert!(put(&peer, &frame(1, 60)));
    guest.notify(RX);
    assert_eq!(guest.take_used(RX), Some((0, 0)));
    assert_eq!(guest.take_used(RX), Some((1, 0)));
    guest.chain(TX, 0, &[(buffer, 5, false)]);
    guest.notify(TX);
    assert_eq!(guest.take_used(TX), Some((0, 0)));
}

#[test]
fn a_peer_that_does_not_read_holds_the_guest_back_without_loss() {
    let (mut guest, peer) = connected(SocketType::SEQPACKET);
    let mut sent = 0_u32;
    while transmit(
        &mut guest,
        &[&[0; 14][..], &sent.to_le_bytes(), &[0; 1400]].concat(),
    ) {
        sent += 1;
        assert!(sent < 10_000, "the guest must be held back");
    }
    let mut seen = 0_u32;
    while let Ok(data) = take(&peer) {
        assert_eq!(data[14..18], seen.to_le_bytes());
        seen += 1;
        run(&mut guest);
    }
    // The one that was held back went as well.
    assert_eq!(seen, sent + 1);
    assert!(guest.take_used(TX).is_some());
}

#[test]
fn frames_wait_for_guest_buffers() {
    let (mut guest, peer) = connected(SocketType::SEQPACKET);
    let mut sent = 0_u8;
    while put(&peer, &frame(sent, 1000)) {
        sent += 1;
        run(&mut guest);
        assert!(sent < 250, "the peer must be held back");
    }
    let buffer = guest.allocate(1526);
    for expected in 0..sent {
        guest.chain(RX, 0, &[(buffer, 1526, true)]);
        guest.notify(RX);
        assert_eq!(guest.take_used(RX), Some((0, 1012)));
        assert_eq!(guest.bytes(buffer + 12, 1000), frame(expected, 1000));
    }
}

#[test]
fn a_burst_larger_than_the_ring_is_delivered_whole() {
    let (mut guest, peer) = connected(SocketType::SEQPACKET);
    for fill in 0..100 {
        assert!(put(&peer, &frame(fill, 60)));
    }
    let buffer = guest.allocate(72 * u64::from(QUEUE_SIZE));
    let mut seen = 0;
    while seen < 100 {
        for slot in 0..QUEUE_SIZE {
            guest.chain(RX, slot, &[(buffer + 72 * u64::from(slot), 72, true)]);
        }
        guest.notify(RX);
        run(&mut guest);
        for slot in 0..QUEUE_SIZE.min(100 - seen) {
            assert_eq!(guest.take_used(RX).map(|(_, len)| len), Some(72));
            let data = guest.bytes(buffer + 72 * u64::from(slot) + 12, 60);
            assert_eq!(data, frame((seen + slot) as u8, 60));
        }
        seen += QUEUE_SIZE.min(100 - seen);
    }
}

#[test]
fn a_restored_guest_is_told_to_look_at_the_link_again() {
    let guest = Guest::start(Box::new(Net::new(&config(None)).unwrap()));
    let state = guest.transport.save();
    let (ours, peer) = pair(SocketType::SEQPACKET);
    let config = NetConfig {
        mac: "06:00:00:00:00:02".into(),
        ..config(Some(ours))
    };
    let device = Net::restore(&config, &NetState { mac: [2; 6] }).unwrap();
    let mut guest = guest.restore(Box::new(device), &state);
    run(&mut guest);
    assert_eq!(guest.interrupt(), 3);
    assert_eq!(guest.config(0, 8), [6, 0, 0, 0, 0, 2, 1, 0]);
    assert!(transmit(&mut guest, &frame(1, 60)));
    assert_eq!(take(&peer).unwrap(), frame(1, 60));
}

#[test]
fn a_configuration_that_cannot_be_is_refused_by_name() {
    for mac in [
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:01:02",
        "01:00:00:00:00:01",
        "00:00:00:00:00:00",
        "02-00-00-00-00-01",
        "2:0:0:0:0:1",
        "+2:00:00:00:00:01",
    ] {
        let config = NetConfig {
            mac: mac.into(),
            socket_fd: None,
        };
        assert!(
            matches!(Net::new(&config), Err(OpenNetError::Mac { .. })),
            "{mac:?}"
        );
    }
    let (stream, mut other) = std::os::unix::net::UnixStream::pair().unwrap();
    let bad = config(Some(stream.into()));
    assert!(matches!(Net::new(&bad), Err(OpenNetError::Socket { .. })));
    assert!(
        matches!(other.read(&mut [0]), Ok(0)),
        "the descriptor was taken and closed"
    );
}
