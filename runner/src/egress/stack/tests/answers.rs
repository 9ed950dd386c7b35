//! What the gateway answers itself, and what it refuses.

use super::frames::{framed, v4};
use super::guest::{MAC, stack};
use crate::egress::stack::{Addresses, Limits, packet};

fn arp(target: [u8; 4]) -> Vec<u8> {
    let addresses = Addresses::of(MAC);
    let message = [
        &[0, 1, 8, 0, 6, 4, 0, 1],
        &MAC[..],
        &addresses.guest_v4.octets(),
        &[0; 6],
        &target,
    ]
    .concat();
    framed([0x08, 0x06], &message)
}

#[tokio::test]
async fn arp_and_echo_are_answered_for_the_gateway_alone() {
    let (_stack, _incoming, wire, _) = stack(Limits::default());
    let addresses = Addresses::of(MAC);
    wire.put(&arp([10, 0, 2, 99]));
    wire.put(&arp(addresses.gateway_v4.octets()));
    let answer = wire.next().await;
    assert_eq!(answer[20..22], [0, 2]);
    assert_eq!(answer[22..28], addresses.gateway_mac);
    assert_eq!(answer[28..32], addresses.gateway_v4.octets());

    let ping = [8, 0, 0, 0, 0, 7, 0, 1, b'a', b'b'];
    wire.put(&v4(addresses.gateway_v4.octets(), packet::ICMP, &ping));
    let answer = wire.next().await;
    let answer = packet::ip(&answer[14..]).unwrap();
    assert_eq!(answer.payload[0], 0);
    assert_eq!(answer.payload[4..], ping[4..]);
    assert_eq!(packet::fold(packet::sum(0, answer.payload)), 0xffff);
    wire.put(&v4([192, 0, 2, 1], packet::ICMP, &ping));
    let answer = wire.next().await;
    assert_eq!(packet::ip(&answer[14..]).unwrap().payload[..2], [3, 13]);
    assert!(wire.take().is_none());
}

#[tokio::test]
async fn other_protocols_are_refused_and_counted() {
    let (stack, mut incoming, wire, _) = stack(Limits::default());
    for protocol in [2, 41, 47, 132, 255] {
        wire.put(&v4([192, 0, 2, 1], protocol, &[0; 40]));
        let answer = wire.next().await;
        let answer = packet::ip(&answer[14..]).unwrap();
        assert_eq!(
            (answer.protocol, answer.payload[..2].to_vec()),
            (1, vec![3, 13])
        );
    }
    assert_eq!(stack.statistics().other_protocols, 5);
    assert!(incoming.try_recv().is_err());
}
