//! Credit in both directions, half-closed and closed connections.

use std::io::{Read, Write};
use std::net::Shutdown;

use super::super::connection::BUFFER_SIZE;
use super::super::packet::{
    Header, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_RST, OP_RW, OP_SHUTDOWN, SHUTDOWN_BOTH,
    SHUTDOWN_RECEIVE, SHUTDOWN_SEND,
};
use super::{Setup, ended, read};

#[test]
fn the_guest_is_not_sent_more_than_it_has_room_for() {
    let mut setup = Setup::with_buffers();
    let (mut peer, port) = setup.connected();
    setup.send(port, OP_CREDIT_UPDATE, &[], |header| {
        header.buffer_size = 6000;
    });
    peer.write_all(&[7; 20_000]).unwrap();
    assert_eq!(setup.expect(OP_RW).1.len(), 4096);
    assert_eq!(setup.expect(OP_RW).1.len(), 1904);
    setup.expect(OP_CREDIT_REQUEST);
    assert!(setup.packet().is_none());
    // An answer without credit is not asked again.
    setup.send(port, OP_CREDIT_UPDATE, &[], |header| {
        header.buffer_size = 6000;
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
            assert!(held_back < 10_000, "credit never comes back");
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
            header.forwarded = taken as u32;
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
        header.flags = SHUTDOWN_SEND;
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
        header.flags = SHUTDOWN_RECEIVE;
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
        header.flags = SHUTDOWN_BOTH;
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
