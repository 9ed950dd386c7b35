//! A worker without descriptors left: what the guest asks for is refused at once, what is open goes on, and
//! nothing is left behind. A program of its own, because the limit is the whole process's.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use mayfly::egress::{
    dns::Names,
    stack::{Addresses, Limits, Pending, Refusal, Stack, StackConfig, refusal},
};
use rustix::{
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tokio::net::{TcpListener, TcpStream};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Connections that the guest asks for, and descriptors beyond those open that the limit leaves: with numbers
/// that are free below, a few more.
const ASKED: u16 = 40;
const LEFT: u64 = 16;

/// The guest's first segment from a port to 192.0.2.1:80.
fn first(from: u16) -> Vec<u8> {
    let addresses = Addresses::of(MAC);
    let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    ip.extend(addresses.guest_v4.octets());
    ip.extend([192, 0, 2, 1]);
    let words = ip
        .chunks(2)
        .map(|two| u32::from(two[0]) << 8 | u32::from(two[1]));
    let sum: u32 = words.sum();
    let check = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    ip.extend(from.to_be_bytes());
    ip.extend([
        0,
        80,
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        5 << 4,
        2,
        0xff,
        0xff,
        0,
        0,
        0,
        0,
    ]);
    [&addresses.gateway_mac[..], &MAC, &[0x08, 0x00], &ip].concat()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd")
        .expect("/proc is mounted")
        .count()
}

#[tokio::test]
async fn without_descriptors_connections_are_refused_at_once_and_nothing_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to: SocketAddr = listener.local_addr().unwrap();
    let before = descriptors();
    let (ours, guest) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let config = StackConfig {
        addresses: Addresses::of(MAC),
        limits: Limits::default(),
        names: Arc::new(Names::default()),
    };
    let (stack, mut incoming) = Stack::start(ours, config).unwrap();
    let old = getrlimit(Resource::Nofile);
    let limit = |current| {
        let new = Rlimit { current, ..old };
        setrlimit(Resource::Nofile, new).unwrap();
    };
    limit(Some(descriptors() as u64 + LEFT));
    for from in 1..=ASKED {
        send(&guest, &first(from), SendFlags::NOSIGNAL).unwrap();
    }
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..ASKED {
        let asked = incoming.recv().await.unwrap();
        match TcpStream::connect(to).await {
            Ok(host) => {
                let Pending::Stream(pending) = asked.pending else {
                    panic!("a stream");
                };
                open.push((host, tokio::spawn(pending.accept())));
            }
            Err(error) => {
                assert_eq!(refusal(&error), Refusal::Unreachable, "{error}");
                asked.pending.refuse(refusal(&error));
                refused += 1;
            }
        }
    }
    assert!(
        !open.is_empty() && refused >= usize::from(ASKED) / 4,
        "{refused}"
    );
    // Each was answered: by the second segment, or by "unreachable".
    let (mut second, mut unreachable) = (0, 0);
    while second + unreachable < usize::from(ASKED) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let mut frame = [0; 1500];
        while let Ok((length @ 1.., _)) = recv(&guest, &mut frame[..], RecvFlags::DONTWAIT) {
            assert!(length > 34);
            match frame[23] {
                6 => second += 1,
                1 => unreachable += 1,
                other => panic!("protocol {other}"),
            }
        }
    }
    assert_eq!((second, unreachable), (open.len(), refused));
    limit(old.current);
    drop(guest);
    assert!(incoming.recv().await.is_none());
    for (_, accepting) in open {
        accepting.await.unwrap().unwrap_err();
    }
    assert_eq!(stack.statistics().connections, 0);
    drop((stack, incoming));
    for _ in 0..500 {
        if descriptors() == before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} descriptors are left", descriptors() - before);
}
