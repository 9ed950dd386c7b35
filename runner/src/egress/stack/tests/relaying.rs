//! From the guest through the stack to real sockets of the host.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use smoltcp::socket::tcp::State;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::frames::{datagram, segment};
use super::guest::{Guest, stack};
use crate::egress::stack::{IncomingReceiver, Limits, Pending, Stack, forward, packet};

/// Has every flow go to `to`.
fn forward_all(mut incoming: IncomingReceiver, to: SocketAddr) {
    tokio::spawn(async move {
        while let Some(incoming) = incoming.recv().await {
            tokio::spawn(forward(incoming, Some(to)));
        }
    });
}

async fn listening(limits: Limits) -> (Stack, Guest, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (stack, incoming, wire, _) = stack(limits);
    forward_all(incoming, listener.local_addr().unwrap());
    (stack, Guest::new(wire), listener)
}

/// A connection of the guest, and what the host's listener got.
async fn connected(
    guest: &mut Guest,
    listener: &TcpListener,
) -> (smoltcp::iface::SocketHandle, TcpStream) {
    let handle = guest.connect("192.0.2.1:80");
    guest
        .until(|guest| guest.state(handle) == State::Established)
        .await;
    (handle, listener.accept().await.unwrap().0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_both_ways_unchanged_however_slowly_they_are_taken() {
    let (stack, mut guest, listener) = listening(Limits::default()).await;
    // More than all buffers hold between the guest and who does not read yet.
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 64 << 10).unwrap();
    let (handle, host) = connected(&mut guest, &listener).await;
    let data: Vec<u8> = (0..8_000_000_u32)
        .map(|at| ((at / 7) ^ (at >> 3)) as u8)
        .collect();
    let (mut read, mut write) = host.into_split();
    let expected = data.clone();
    let (stalled, begin) = tokio::sync::oneshot::channel();
    let host = tokio::spawn(async move {
        begin.await.unwrap();
        let mut heard = Vec::new();
        read.read_to_end(&mut heard).await.unwrap();
        assert!(heard == expected);
        write.write_all(&heard).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let (mut sent, mut moved) = (0, std::time::Instant::now());
    let (mut stalled, mut early) = (Some(stalled), 0);
    let mut heard = Vec::new();
    guest
        .until(|guest| {
            let socket = guest.socket(handle);
            if sent < data.len() && socket.can_send() {
                sent += socket.send_slice(&data[sent..]).unwrap();
                moved = std::time::Instant::now();
                if sent == data.len() {
                    socket.close();
                }
            }
            let still = moved.elapsed() > Duration::from_millis(300);
            if (still || sent == data.len())
                && let Some(stalled) = stalled.take()
            {
                early = sent;
                stalled.send(()).unwrap();
            }
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = socket.recv_slice(&mut piece) {
                heard.extend_from_slice(&piece[..length]);
            }
            heard.len() == data.len() && !socket.may_recv()
        })
        .await;
    host.await.unwrap();
    assert!(heard == data);
    assert!(early < data.len(), "the guest was never held back");
    guest.until(|_| stack.statistics().connections == 0).await;
}

#[tokio::test]
async fn a_reset_at_one_end_is_a_reset_at_the_other() {
    let (_stack, mut guest, listener) = listening(Limits::default()).await;
    let (handle, host) = connected(&mut guest, &listener).await;
    rustix::net::sockopt::set_socket_linger(&host, Some(Duration::ZERO)).unwrap();
    drop(host);
    guest
        .until(|guest| guest.state(handle) == State::Closed)
        .await;

    let (handle, mut host) = connected(&mut guest, &listener).await;
    guest.socket(handle).abort();
    guest
        .until(|guest| guest.socket(handle).remote_endpoint().is_none())
        .await;
    let error = host.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_refused() {
    let (_stack, mut guest, listener) = listening(Limits::default()).await;
    drop(listener);
    let handle = guest.connect("192.0.2.1:80");
    guest
        .until(|guest| guest.state(handle) == State::Closed)
        .await;
}

#[tokio::test]
async fn connections_that_carry_nothing_end() {
    let limits = Limits {
        idle: Duration::from_millis(300),
        ..Limits::default()
    };
    let (stack, mut guest, listener) = listening(limits).await;
    let (handle, mut host) = connected(&mut guest, &listener).await;
    guest
        .until(|guest| guest.state(handle) == State::Closed)
        .await;
    host.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(stack.statistics().connections, 0);
}

#[tokio::test]
async fn a_machine_that_vanishes_leaves_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (stack, mut incoming, wire, _) = stack(Limits::default());
    let mut guest = Guest::new(wire);
    let handles: Vec<_> = (0..20).map(|_| guest.connect("192.0.2.1:80")).collect();
    let mut relays = Vec::new();
    let mut hosts = Vec::new();
    while hosts.len() < 19 {
        guest.until(|_| true).await;
        while let Ok(asked) = incoming.try_recv() {
            if relays.len() < 19 {
                relays.push(tokio::spawn(forward(asked, listener.local_addr().ok())));
            } else {
                // One is never answered.
                std::mem::forget(asked);
            }
        }
        if let Ok(accepted) =
            tokio::time::timeout(Duration::from_millis(1), listener.accept()).await
        {
            hosts.push(accepted.unwrap().0);
        }
    }
    for host in &mut hosts {
        let _ = host.try_write(&[7; 100_000]);
    }
    guest
        .until(|guest| {
            handles
                .iter()
                .filter(|handle| guest.state(**handle) == State::Established)
                .count()
                >= 19
        })
        .await;
    drop(guest);
    assert!(incoming.recv().await.is_none());
    for relay in relays {
        let ended = tokio::time::timeout(Duration::from_secs(5), relay).await;
        let error = ended.expect("it ends").unwrap().unwrap_err();
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionAborted,
            "{error}"
        );
    }
    for mut host in hosts {
        // Not an end in order: what was sent is not all.
        host.read(&mut [0; 8]).await.unwrap_err();
    }
    let now = stack.statistics();
    assert_eq!(
        (now.connections, now.half_open, now.buffer_bytes),
        (0, 0, 0),
        "{now:?}"
    );
}

#[tokio::test]
async fn datagrams_go_both_ways_in_their_flow() {
    let host = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (stack, incoming, wire, _) = stack(Limits::default());
    forward_all(incoming, host.local_addr().unwrap());
    let there = (Ipv4Addr::new(192, 0, 2, 9), 443);
    let large = vec![5; 60_000];
    for (from, content) in [(1000, &b"one"[..]), (1001, b"two"), (1000, &large)] {
        wire.put(&datagram(from, there, content));
        let mut buffer = vec![0; 65_535];
        let (length, peer) = host.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], content);
        host.send_to(&buffer[..length], peer).await.unwrap();
        let answer = wire.next().await;
        assert!(segment(&answer).is_none());
        let answer = packet::ip(&answer[14..]).unwrap();
        assert_eq!(packet::udp(answer.payload), Some((443, from, content)));
        assert_eq!(answer.source, there.0);
    }
    assert_eq!(stack.statistics().datagram_flows, 2);
}

#[tokio::test]
async fn a_datagram_in_fragments_is_one_datagram() {
    let (_stack, mut incoming, wire, _) = stack(Limits::default());
    let whole = datagram(1000, (Ipv4Addr::new(192, 0, 2, 9), 443), &[6; 100]);
    let udp = &whole[34..];
    for (start, end, more) in [(64, 108, 0_u16), (0, 64, 1 << 13)] {
        let mut frame = super::frames::v4([192, 0, 2, 9], packet::UDP, &udp[start..end]);
        frame[20..22].copy_from_slice(&((start as u16 / 8) | more).to_be_bytes());
        frame[24..26].copy_from_slice(&[0, 0]);
        let check = !packet::fold(packet::sum(0, &frame[14..34]));
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        wire.put(&frame);
    }
    let Pending::Datagrams(pending) = incoming.recv().await.unwrap().pending else {
        panic!("datagrams");
    };
    let mut flow = pending.accept().unwrap();
    assert_eq!(flow.recv().await.unwrap(), [6; 100]);
}
