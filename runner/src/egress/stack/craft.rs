//! Frames that the gateway writes itself: answers that belong to no connection, and datagrams.

use std::net::{IpAddr, SocketAddr};

use super::address::Addresses;
use super::incoming::Refusal;
use super::packet::{self, ACK, ETHERNET, FIN, ICMP, ICMP_V6, Packet, RST, SYN, TCP, UDP};
use super::shared::Shared;

/// Bytes of a refused packet that its refusal quotes: what RFC 1812 allows, and RFC 4443 too.
const QUOTED: usize = 548;
const HOP_LIMIT: u8 = 64;

/// A frame with an IP packet to the guest, whose payload is still to be written.
fn packet(
    addresses: &Addresses,
    (from, to): (IpAddr, IpAddr),
    protocol: u8,
    length: usize,
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET + 40 + length);
    frame.extend(ethernet_header(addresses, from.is_ipv6()));
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // The callers keep packets below the MTU.
            let total = (20 + length) as u16;
            let start = frame.len();
            frame.extend([0x45, 0]);
            frame.extend(total.to_be_bytes());
            frame.extend([0, 0, 0x40, 0, HOP_LIMIT, protocol, 0, 0]);
            frame.extend(from.octets());
            frame.extend(to.octets());
            let check = !packet::fold(packet::sum(0, &frame[start..]));
            frame[start + 10..start + 12].copy_from_slice(&check.to_be_bytes());
        }
        (from, to) => {
            frame.extend([0x60, 0, 0, 0]);
            frame.extend((length as u16).to_be_bytes());
            // Neighbours believe what cannot have been forwarded (RFC 4861).
            let hops = if protocol == ICMP_V6 { 255 } else { HOP_LIMIT };
            frame.extend([protocol, hops]);
            for address in [from, to] {
                if let IpAddr::V6(address) = address {
                    frame.extend(address.octets());
                }
            }
        }
    }
    frame
}

/// The header of a frame from the gateway to the guest.
pub(super) fn ethernet_header(addresses: &Addresses, v6: bool) -> [u8; ETHERNET] {
    let mut header = [0; ETHERNET];
    header[..6].copy_from_slice(&addresses.guest_mac);
    header[6..12].copy_from_slice(&addresses.gateway_mac);
    header[12..].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
    header
}

/// Writes the checksum of the last `length` bytes of a frame at `at` within them.
fn seal(
    frame: &mut [u8],
    (from, to): (IpAddr, IpAddr),
    protocol: u8,
    at: usize,
    length: usize,
) -> Option<()> {
    let start = frame.len().checked_sub(length)?;
    let content = frame.get_mut(start..)?;
    let mut sum = packet::sum(0, content);
    if protocol != ICMP {
        for address in [from, to] {
            sum = match address {
                IpAddr::V4(address) => packet::sum(sum, &address.octets()),
                IpAddr::V6(address) => packet::sum(sum, &address.octets()),
            };
        }
        sum += u64::from(protocol) + length as u64;
    }
    // Zero would say that there is none.
    let check = match !packet::fold(sum) {
        0 if protocol == UDP => 0xffff,
        check => check,
    };
    content
        .get_mut(at..at + 2)?
        .copy_from_slice(&check.to_be_bytes());
    Some(())
}

/// A frame with a datagram to the guest; `None` when it is larger than the link takes.
pub(super) fn datagram(
    addresses: &Addresses,
    from: SocketAddr,
    to: SocketAddr,
    content: &[u8],
) -> Option<Vec<u8>> {
    let length = 8 + content.len();
    let header = if from.is_ipv6() { 40 } else { 20 };
    if header + length > addresses.mtu {
        return None;
    }
    let ends = (from.ip(), to.ip());
    let mut frame = packet(addresses, ends, UDP, length);
    for number in [from.port(), to.port(), length as u16, 0] {
        frame.extend(number.to_be_bytes());
    }
    frame.extend(content);
    seal(&mut frame, ends, UDP, 6, length)?;
    Some(frame)
}

/// Refuses the flow of which `bytes` is the IP packet.
pub(super) fn refuse(shared: &Shared, bytes: &[u8], refusal: Refusal) {
    let Some(packet) = packet::ip(bytes) else {
        return;
    };
    let frame = match (refusal, packet.protocol) {
        (Refusal::Reset, TCP) => reset(&shared.addresses, &packet),
        (Refusal::Reset, _) => Some(unreachable(&shared.addresses, &packet, 3, 4)),
        (Refusal::Unreachable, _) => Some(unreachable(&shared.addresses, &packet, 13, 1)),
    };
    if let Some(frame) = frame {
        shared.send_or_lose(&frame);
    }
}

/// Answers a segment of no connection (RFC 9293, 3.10.7.1).
pub(super) fn reset(addresses: &Addresses, packet: &Packet<'_>) -> Option<Vec<u8>> {
    let segment: &[u8; 20] = packet.payload.first_chunk()?;
    let (from, to, flags) = packet::tcp(packet.payload)?;
    if flags & RST != 0 {
        return None;
    }
    let header = usize::from(segment[12] >> 4) * 4;
    let word = |at: usize| {
        u32::from_be_bytes([
            segment[at],
            segment[at + 1],
            segment[at + 2],
            segment[at + 3],
        ])
    };
    let (sequence, acknowledged, answer) = if flags & ACK != 0 {
        (word(8), 0, RST)
    } else {
        let counted = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        // A segment is shorter than 64 KiB.
        let length = packet.payload.len().saturating_sub(header) as u32;
        let next = word(4).wrapping_add(length).wrapping_add(counted);
        (0, next, RST | ACK)
    };
    let ends = (packet.destination, packet.source);
    let mut frame = self::packet(addresses, ends, TCP, 20);
    frame.extend(to.to_be_bytes());
    frame.extend(from.to_be_bytes());
    frame.extend(sequence.to_be_bytes());
    frame.extend(acknowledged.to_be_bytes());
    frame.extend([5 << 4, answer, 0, 0, 0, 0, 0, 0]);
    seal(&mut frame, ends, TCP, 16, 20)?;
    Some(frame)
}

/// "Destination unreachable" from the gateway, with the code for either version of IP.
fn unreachable(addresses: &Addresses, packet: &Packet<'_>, v4: u8, v6: u8) -> Vec<u8> {
    let quoted = &packet.bytes[..packet.bytes.len().min(QUOTED)];
    let length = 8 + quoted.len();
    let (protocol, head, from) = match packet.source {
        IpAddr::V4(_) => (ICMP, [3, v4], IpAddr::V4(addresses.gateway_v4)),
        IpAddr::V6(_) => (ICMP_V6, [1, v6], IpAddr::V6(addresses.gateway_v6)),
    };
    let ends = (from, packet.source);
    let mut frame = self::packet(addresses, ends, protocol, length);
    frame.extend(head);
    frame.extend([0; 6]);
    frame.extend(quoted);
    // Both are in the frame just made.
    let _ = seal(&mut frame, ends, protocol, 2, length);
    frame
}

/// Answers an echo request to the gateway with what it carries.
pub(super) fn echo(addresses: &Addresses, packet: &Packet<'_>) -> Option<Vec<u8>> {
    let v6 = packet.source.is_ipv6();
    let answer = match (packet.protocol, packet.payload.first()?) {
        (ICMP, 8) if !v6 => 0,
        (ICMP_V6, 128) if v6 => 129,
        _ => return None,
    };
    icmp(addresses, packet, |content| {
        content[..4].copy_from_slice(&[answer, 0, 0, 0]);
    })
}

fn icmp(
    addresses: &Addresses,
    packet: &Packet<'_>,
    write: impl FnOnce(&mut [u8]),
) -> Option<Vec<u8>> {
    let length = packet.payload.len();
    let header = packet.bytes.len().checked_sub(length)?;
    if length < 8 || header + length > addresses.mtu {
        return None;
    }
    let ends = (packet.destination, packet.source);
    let mut frame = self::packet(addresses, ends, packet.protocol, length);
    let start = frame.len();
    frame.extend(packet.payload);
    write(&mut frame[start..]);
    seal(&mut frame, ends, packet.protocol, 2, length)?;
    Some(frame)
}

/// An ICMPv6 message to the guest.
pub(super) fn icmp_v6(
    addresses: &Addresses,
    ends: (IpAddr, IpAddr),
    message: &[u8],
) -> Option<Vec<u8>> {
    let mut frame = packet(addresses, ends, ICMP_V6, message.len());
    frame.extend(message);
    seal(&mut frame, ends, ICMP_V6, 2, message.len())?;
    Some(frame)
}
