//! What a frame carries, as far as it is whole. Everything here is the guest's word.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// Protocol numbers.
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP_V6: u8 = 58;
const FRAGMENT_V6: u8 = 44;

/// Flags of TCP's header.
pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

/// What a frame carries.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    Arp(&'a [u8]),
    Ip(Packet<'a>),
    /// Neither, which is not wrong.
    Other,
}

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    /// All of it, without what follows in the frame.
    pub(super) bytes: &'a [u8],
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) payload: &'a [u8],
    /// It is a piece of a larger one.
    pub(super) piece: Option<Piece>,
}

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) ident: u32,
    pub(super) offset: usize,
    pub(super) more: bool,
}

/// Reads a frame; `None` when it is broken.
pub(super) fn frame(frame: &[u8]) -> Option<Frame<'_>> {
    let (header, rest) = frame.split_at_checked(ETHERNET)?;
    match u16::from_be_bytes([header[12], header[13]]) {
        0x0806 => Some(Frame::Arp(rest)),
        0x0800 => v4(rest).map(Frame::Ip),
        0x86dd => v6(rest).map(Frame::Ip),
        _ => Some(Frame::Other),
    }
}

/// Reads an IP packet of either version.
pub(super) fn ip(bytes: &[u8]) -> Option<Packet<'_>> {
    match bytes.first()? >> 4 {
        4 => v4(bytes),
        6 => v6(bytes),
        _ => None,
    }
}

fn v4(bytes: &[u8]) -> Option<Packet<'_>> {
    let fixed: &[u8; 20] = bytes.first_chunk()?;
    let header = usize::from(fixed[0] & 15) * 4;
    let total = usize::from(u16_at(fixed, 2));
    if fixed[0] >> 4 != 4 || header < 20 || total < header {
        return None;
    }
    let bytes = bytes.get(..total)?;
    if fold(sum(0, &bytes[..header])) != 0xffff {
        return None;
    }
    let flags = u16_at(fixed, 6);
    let offset = usize::from(flags & 0x1fff) * 8;
    let more = flags & 0x2000 != 0;
    let piece = (more || offset != 0).then_some(Piece {
        ident: u16_at(fixed, 4).into(),
        offset,
        more,
    });
    Some(Packet {
        bytes,
        source: Ipv4Addr::from_octets(*fixed[12..].first_chunk()?).into(),
        destination: Ipv4Addr::from_octets(*fixed[16..].first_chunk()?).into(),
        protocol: fixed[9],
        payload: &bytes[header..],
        piece,
    })
}

fn v6(bytes: &[u8]) -> Option<Packet<'_>> {
    let fixed: &[u8; 40] = bytes.first_chunk()?;
    let length = usize::from(u16_at(fixed, 4));
    if fixed[0] >> 4 != 6 {
        return None;
    }
    let bytes = bytes.get(..40 + length)?;
    let mut packet = Packet {
        bytes,
        source: Ipv6Addr::from_octets(*fixed[8..].first_chunk()?).into(),
        destination: Ipv6Addr::from_octets(*fixed[24..].first_chunk()?).into(),
        protocol: fixed[6],
        payload: &bytes[40..],
        piece: None,
    };
    if packet.protocol == FRAGMENT_V6 {
        let (header, rest) = packet.payload.split_first_chunk::<8>()?;
        let place = u16_at(header, 2);
        packet.protocol = header[0];
        packet.payload = rest;
        packet.piece = Some(Piece {
            ident: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            offset: usize::from(place & 0xfff8),
            more: place & 1 != 0,
        });
    }
    Some(packet)
}

/// Ports and flags of a TCP segment whose header is whole.
pub(super) fn tcp(segment: &[u8]) -> Option<(u16, u16, u8)> {
    let fixed: &[u8; 20] = segment.first_chunk()?;
    let header = usize::from(fixed[12] >> 4) * 4;
    let (from, to) = (u16_at(fixed, 0), u16_at(fixed, 2));
    (header >= 20 && header <= segment.len() && from != 0 && to != 0)
        .then_some((from, to, fixed[13]))
}

/// Ports and content of a datagram.
pub(super) fn udp(datagram: &[u8]) -> Option<(u16, u16, &[u8])> {
    let header: &[u8; 8] = datagram.first_chunk()?;
    let length = usize::from(u16_at(header, 4));
    let content = datagram.get(8..length)?;
    let (from, to) = (u16_at(header, 0), u16_at(header, 2));
    (from != 0 && to != 0).then_some((from, to, content))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .map_or(0, |two| u16::from_be_bytes([two[0], two[1]]))
}

/// Adds 16-bit words, as the Internet checksum does (RFC 1071).
pub(super) fn sum(start: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum = start;
    for word in words {
        sum += u64::from(u32::from_be_bytes(*word));
    }
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum + u64::from(u32::from_be_bytes(last))
}

/// Makes 16 bits of a sum.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Just made small enough.
    sum as u16
}
