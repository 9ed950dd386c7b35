//! Puts fragments of IP packets together: few at a time, not for long, and no packet whose fragments
//! overlap, for nobody sends such by mistake (RFC 5722).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::packet::{self, Packet, Piece};

/// Packets that are put together at once.
const PACKETS: usize = 16;
/// Fragments of one packet.
const PIECES: usize = 128;
/// Largest content of a packet.
const LARGEST: usize = 65_535;
/// How long the pieces of a packet may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Packets of which some fragments came.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    packets: Vec<Partial>,
}

#[derive(Debug)]
struct Partial {
    name: Name,
    since: Instant,
    content: Vec<u8>,
    /// Start and end of each piece, in order.
    pieces: Vec<(usize, usize)>,
    total: Option<usize>,
    /// Pieces overlapped or contradicted each other: whatever comes still is for nothing.
    spoiled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ident: u32,
}

impl Fragments {
    /// Takes a fragment and gives the IP packet that is whole with it.
    pub(super) fn add(
        &mut self,
        packet: &Packet<'_>,
        piece: Piece,
        now: Instant,
    ) -> Option<Vec<u8>> {
        self.packets
            .retain(|partial| now.duration_since(partial.since) < PATIENCE);
        let name = Name {
            source: packet.source,
            destination: packet.destination,
            protocol: packet.protocol,
            ident: piece.ident,
        };
        let at = self.find(name, now);
        let partial = self.packets.get_mut(at)?;
        partial.add(piece, packet.payload);
        if !partial.is_whole() {
            return None;
        }
        let whole = self.packets.remove(at);
        whole.packet()
    }

    fn find(&mut self, name: Name, now: Instant) -> usize {
        let known = self.packets.iter().position(|partial| partial.name == name);
        known.unwrap_or_else(|| {
            if self.packets.len() >= PACKETS {
                // The oldest makes room.
                self.packets.remove(0);
            }
            self.packets.push(Partial {
                name,
                since: now,
                content: Vec::new(),
                pieces: Vec::new(),
                total: None,
                spoiled: false,
            });
            self.packets.len() - 1
        })
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.packets
            .iter()
            .map(|partial| partial.content.capacity())
            .sum()
    }
}

impl Partial {
    fn add(&mut self, piece: Piece, content: &[u8]) {
        let (start, end) = (piece.offset, piece.offset + content.len());
        let at = self.pieces.partition_point(|(other, _)| *other < start);
        let before = at.checked_sub(1).and_then(|at| self.pieces.get(at));
        let overlaps = before.is_some_and(|(_, other)| *other > start)
            || self.pieces.get(at).is_some_and(|(other, _)| *other < end);
        let last = self.pieces.last().map_or(0, |(_, end)| *end);
        let contradicts = match (self.total, piece.more) {
            (Some(total), true) => end > total,
            (Some(total), false) => end != total,
            (None, true) => false,
            (None, false) => end < last,
        };
        // Only the last may end between two units of eight bytes.
        let crooked = content.is_empty() || piece.more && !content.len().is_multiple_of(8);
        if self.spoiled
            || overlaps
            || contradicts
            || crooked
            || end > LARGEST
            || self.pieces.len() >= PIECES
        {
            self.spoil();
            return;
        }
        if !piece.more {
            self.total = Some(end);
        }
        if self.content.len() < end {
            self.content.resize(end, 0);
        }
        self.content[start..end].copy_from_slice(content);
        self.pieces.insert(at, (start, end));
    }

    fn spoil(&mut self) {
        self.spoiled = true;
        self.content = Vec::new();
        self.pieces = Vec::new();
    }

    /// Pieces do not overlap, so their lengths tell whether one is missing.
    fn is_whole(&self) -> bool {
        let there: usize = self.pieces.iter().map(|(start, end)| end - start).sum();
        !self.spoiled && self.total == Some(there)
    }

    fn packet(self) -> Option<Vec<u8>> {
        let length = u16::try_from(self.content.len()).ok()?;
        let mut bytes = Vec::with_capacity(40 + self.content.len());
        match (self.name.source, self.name.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes.extend([0x45, 0]);
                bytes.extend(length.checked_add(20)?.to_be_bytes());
                bytes.extend([0, 0, 0, 0, 64, self.name.protocol, 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                let check = !packet::fold(packet::sum(0, &bytes));
                bytes[10..12].copy_from_slice(&check.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes.extend([0x60, 0, 0, 0]);
                bytes.extend(length.to_be_bytes());
                bytes.extend([self.name.protocol, 64]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
            }
            _ => return None,
        }
        bytes.extend(self.content);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn add(
        fragments: &mut Fragments,
        offset: usize,
        more: bool,
        fill: u8,
        length: usize,
    ) -> Option<Vec<u8>> {
        let content = vec![fill; length];
        let packet = Packet {
            bytes: &[],
            source: Ipv4Addr::new(10, 0, 2, 15).into(),
            destination: Ipv4Addr::new(192, 0, 2, 1).into(),
            protocol: packet::UDP,
            payload: &content,
            piece: None,
        };
        let piece = Piece {
            ident: 7,
            offset,
            more,
        };
        fragments.add(&packet, piece, Instant::now())
    }

    #[test]
    fn fragments_in_any_order_make_the_packet() {
        let mut fragments = Fragments::default();
        assert_eq!(add(&mut fragments, 24, false, 3, 5), None);
        assert_eq!(add(&mut fragments, 0, true, 1, 16), None);
        let whole = add(&mut fragments, 16, true, 2, 8).unwrap();
        let packet = packet::ip(&whole).unwrap();
        assert_eq!(packet.piece, None);
        assert_eq!(
            packet.payload,
            [vec![1; 16], vec![2; 8], vec![3; 5]].concat()
        );
        assert_eq!(fragments.bytes(), 0);
    }

    #[test]
    fn a_packet_whose_fragments_overlap_or_contradict_is_lost_whole() {
        let cases: [&[(usize, bool, usize)]; 6] = [
            &[(0, true, 16), (8, true, 16), (24, false, 8)],
            &[(16, false, 8), (0, true, 24), (8, true, 8), (0, true, 8)],
            &[(0, true, 16), (0, true, 16), (16, false, 8)],
            &[(16, false, 8), (24, true, 8), (0, true, 16)],
            &[(0, true, 7), (7, false, 8)],
            &[(65_528, false, 16), (0, true, 65_528)],
        ];
        for case in cases {
            let mut fragments = Fragments::default();
            for (offset, more, length) in case {
                assert_eq!(
                    add(&mut fragments, *offset, *more, 0, *length),
                    None,
                    "{case:?}"
                );
            }
            assert_eq!(fragments.bytes(), 0, "{case:?}");
        }
    }

    #[test]
    fn unfinished_packets_are_few_and_not_kept() {
        let mut fragments = Fragments::default();
        let content = [0; 8];
        for ident in 0..1000 {
            let packet = Packet {
                bytes: &[],
                source: Ipv4Addr::new(10, 0, 2, 15).into(),
                destination: Ipv4Addr::new(192, 0, 2, 1).into(),
                protocol: packet::UDP,
                payload: &content,
                piece: None,
            };
            let piece = Piece {
                ident,
                offset: 65_000,
                more: true,
            };
            let now = Instant::now();
            assert_eq!(fragments.add(&packet, piece, now), None);
            assert!(fragments.bytes() <= PACKETS * LARGEST);
            if ident == 999 {
                fragments.add(&packet, piece, now + PATIENCE);
                assert_eq!(fragments.packets.len(), 1);
            }
        }
    }
}
