//! Making connections, refusing them, their bounds, and what a restore does to them.

use std::io::{Read, Write};

use super::super::super::testing::{BUFFERS, QUEUE_SIZE};
use super::super::mux::{MAX_CONNECTIONS, MAX_RESETS};
use super::super::packet::{
    HEADER_LEN, HOST_CID, Header, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_RST, OP_RW,
    OP_SHUTDOWN, TYPE_STREAM,
};
use super::super::{OpenVsockError, Vsock, VsockState};
use super::{CID, EVENT, PORT, RX, RX_LEN, Setup, TX, config, ended, read};
use crate::config::VsockConfig;

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
        header.source_port = 7;
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
fn packets_that_were_held_back_go_on_without_another_notification() {
    let mut setup = Setup::new();
    let header = Header {
        source_cid: CID,
        target_cid: HOST_CID,
        kind: TYPE_STREAM,
        op: OP_RW,
        ..Header::default()
    };
    for _ in 0..MAX_RESETS + 10 {
        setup.send_raw(&header, &[]);
    }
    while setup.guest.take_used(TX).is_some() {}
    for slot in 0..20 {
        setup
            .guest
            .descriptor(RX, slot, (Setup::buffer(slot), RX_LEN, 2, 0));
        setup.guest.offer(RX, slot);
    }
    setup.guest.notify(RX);
    for queue in 0..2 {
        let event = &setup.guest.transport.queue_events()[queue];
        assert!(
            event.read().is_ok(),
            "queue {queue} must be worked on again"
        );
        setup.guest.transport.queue_event_ready(queue);
    }
    let mut taken = 0;
    while setup.guest.take_used(TX).is_some() {
        taken += 1;
    }
    assert_eq!(taken, 10);
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
