//! Frames of the guest, made by hand.

use std::net::Ipv4Addr;

use super::guest::MAC;
use crate::egress::stack::{Addresses, packet};

/// A frame to the gateway.
pub(super) fn framed(kind: [u8; 2], content: &[u8]) -> Vec<u8> {
    let addresses = Addresses::of(MAC);
    [&addresses.gateway_mac[..], &MAC, &kind, content].concat()
}

/// An IPv4 packet of the guest in its frame.
pub(super) fn v4(to: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let addresses = Addresses::of(MAC);
    let mut ip = vec![0x45, 0];
    ip.extend((20 + payload.len() as u16).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    ip.extend(addresses.guest_v4.octets());
    ip.extend(to);
    let check = !packet::fold(packet::sum(0, &ip));
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    ip.extend(payload);
    framed([0x08, 0x00], &ip)
}

/// A datagram of the guest.
pub(super) fn datagram(from: u16, to: (Ipv4Addr, u16), content: &[u8]) -> Vec<u8> {
    let mut udp = Vec::new();
    for number in [from, to.1, 8 + content.len() as u16, 0] {
        udp.extend(number.to_be_bytes());
    }
    udp.extend(content);
    v4(to.0.octets(), packet::UDP, &udp)
}

/// A segment of the guest to port 80.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    pub(super) from: u16,
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    pub(super) flags: u8,
}

impl Segment {
    pub(super) fn with(self, content: &[u8]) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.from.to_be_bytes());
        tcp.extend(80_u16.to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledged.to_be_bytes());
        tcp.extend([5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(content);
        v4([192, 0, 2, 1], packet::TCP, &tcp)
    }
}

/// The fields of a segment to the guest: sequence, acknowledgement, flags, content.
pub(super) fn segment(frame: &[u8]) -> Option<(u32, u32, u8, Vec<u8>)> {
    let packet = packet::ip(frame.get(14..)?)?;
    let tcp: &[u8; 20] = packet.payload.first_chunk()?;
    let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
    let header = usize::from(tcp[12] >> 4) * 4;
    let content = packet.payload.get(header..)?.to_vec();
    (packet.protocol == packet::TCP).then_some((word(4), word(8), tcp[13], content))
}
