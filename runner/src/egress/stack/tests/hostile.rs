//! Frames that no driver sends: none ends the stack, and none makes it grow.

use std::time::{Duration, Instant};

use super::frames::{Segment, datagram, framed, segment, v4};
use super::guest::{MAC, Wire, stack};
use crate::egress::stack::packet::{ACK, FIN, ICMP, RST, SYN, TCP, UDP};
use crate::egress::stack::{
    Addresses, IncomingReceiver, Limits, Pending, Refusal, Stack, Statistics,
};

/// Numbers that look random and are the same each time (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.roll() as u8).collect()
    }
}

/// A frame that is nearly right, and then is not.
fn noise(dice: &mut Dice) -> Vec<u8> {
    let length = dice.below(80);
    let content = dice.bytes(length);
    let from = 1024 + dice.below(64) as u16;
    let any = Segment {
        from,
        sequence: dice.below(4) as u32 * 1000,
        acknowledged: dice.roll() as u32,
        flags: dice.roll() as u8,
    };
    let mut frame = match dice.below(10) {
        0 => content,
        1 => framed([dice.roll() as u8 % 9, dice.roll() as u8 % 9], &content),
        2 => framed([0x86, 0xdd], &[&[0x60], &content[..]].concat()),
        3 => v6(dice, &content),
        4 => v4([10, 0, 2, 2], dice.roll() as u8, &content),
        5 => v4([192, 0, 2, 1], ICMP, &content),
        6 => datagram(from, (std::net::Ipv4Addr::new(192, 0, 2, 1), 53), &content),
        7 => fragment(dice, &content),
        8 => any.with(&content),
        _ => Segment { flags: SYN, ..any }.with(&[]),
    };
    // Of three, one is left whole, one gets a wrong byte, one gets another end.
    match dice.below(3) {
        0 if !frame.is_empty() => {
            let at = dice.below(frame.len());
            frame[at] ^= 1 << dice.below(8);
        }
        1 => {
            let length = dice.below(frame.len() + 40);
            frame.resize(length, 0xaa);
        }
        _ => {}
    }
    // A message without a byte is how a link ends.
    if frame.is_empty() { vec![0] } else { frame }
}

fn v6(dice: &mut Dice, content: &[u8]) -> Vec<u8> {
    let addresses = Addresses::of(MAC);
    let protocols = [0, 6, 17, 43, 44, 58, 59, 60];
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend((content.len() as u16).to_be_bytes());
    ip.extend([protocols[dice.below(protocols.len())], 64]);
    ip.extend(addresses.guest_v6.octets());
    ip.extend(addresses.gateway_v6.octets());
    ip.extend(content);
    framed([0x86, 0xdd], &ip)
}

fn fragment(dice: &mut Dice, content: &[u8]) -> Vec<u8> {
    let protocol = if dice.below(2) == 0 { TCP } else { UDP };
    let mut frame = v4([192, 0, 2, 1], protocol, content);
    let place = (dice.below(8192) as u16 | ((dice.below(2) as u16) << 13)).to_be_bytes();
    frame[14 + 4..14 + 6].copy_from_slice(&[0, dice.below(4) as u8]);
    frame[14 + 6..14 + 8].copy_from_slice(&place);
    checksum(&mut frame);
    frame
}

fn checksum(frame: &mut [u8]) {
    use crate::egress::stack::packet::{fold, sum};
    frame[24..26].copy_from_slice(&[0, 0]);
    let check = !fold(sum(0, &frame[14..34]));
    frame[24..26].copy_from_slice(&check.to_be_bytes());
}

/// Accepts every second flow and keeps what it accepted, refuses the others.
fn answer_all(mut incoming: IncomingReceiver) {
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(incoming) = incoming.recv().await {
            match incoming.pending {
                pending if incoming.flow.id % 2 == 0 => pending.refuse(Refusal::Unreachable),
                Pending::Stream(pending) => {
                    tokio::spawn(async move {
                        if let Ok(stream) = pending.accept().await {
                            let _ = stream.take_with(|bytes| Ok(bytes.len())).await;
                        }
                    });
                }
                Pending::Datagrams(pending) => kept.extend(pending.accept()),
            }
        }
    });
}

/// The stack still answers.
async fn is_alive(wire: &Wire) {
    while wire.take().is_some() {}
    let ping = v4([10, 0, 2, 2], ICMP, &[8, 0, 0, 0, 1, 2, 3, 4, 99]);
    wire.put(&ping);
    loop {
        let frame = wire.next().await;
        if frame.last() == Some(&99) && frame[23] == ICMP {
            return;
        }
    }
}

async fn until(stack: &Stack, what: impl Fn(&Statistics) -> bool) -> Statistics {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let now = stack.statistics();
        if what(&now) {
            return now;
        }
        assert!(Instant::now() < end, "{now:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn broken_frames_of_every_kind_end_nothing_and_cost_no_memory() {
    let limits = Limits {
        connections: 100,
        datagram_flows: 50,
        handshake: Duration::from_millis(200),
        ..Limits::default()
    };
    let (stack, incoming, wire, _) = stack(limits);
    answer_all(incoming);
    let mut dice = Dice(1);
    for number in 0..40_000 {
        wire.put(&noise(&mut dice));
        // Nobody reads the answers of a guest that floods, but they must not be what is waited for.
        while wire.take().is_some() {}
        if number % 4000 == 0 {
            let now = stack.statistics();
            assert!(
                now.connections <= 100 && now.datagram_flows <= 50,
                "{now:?}"
            );
            assert!(now.buffer_bytes <= 100 * 512 * 1024, "{now:?}");
        }
    }
    let giant = vec![0xff; 65_535 + 14 + 1];
    wire.put(&giant);
    is_alive(&wire).await;
    let now = stack.statistics();
    assert!(now.frames_in > 40_000 && now.malformed > 1000, "{now:?}");
    assert!(now.spoofed > 100, "{now:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_flood_of_first_segments_is_bounded_and_passes() {
    let limits = Limits {
        half_open: 64,
        handshake: Duration::from_millis(300),
        ..Limits::default()
    };
    let (stack, mut incoming, wire, _) = stack(limits);
    let syn = |from| Segment {
        from,
        sequence: 7,
        acknowledged: 0,
        flags: SYN,
    };
    for from in 1..=5000 {
        wire.put(&syn(from).with(&[]));
    }
    let now = until(&stack, |now| now.frames_in == 5000).await;
    assert_eq!((now.half_open, now.connections), (64, 64), "{now:?}");
    assert_eq!(now.over_limit, 5000 - 64);
    // Accepted, they wait for a third segment that never comes.
    let mut accepting = Vec::new();
    for _ in 0..64 {
        let Pending::Stream(pending) = incoming.recv().await.unwrap().pending else {
            panic!("a stream");
        };
        accepting.push(tokio::spawn(pending.accept()));
    }
    assert!(incoming.try_recv().is_err());
    for accepting in accepting {
        accepting.await.unwrap().unwrap_err();
    }
    let now = until(&stack, |now| now.connections == 0).await;
    assert_eq!((now.half_open, now.buffer_bytes), (0, 0), "{now:?}");
    wire.put(&syn(6000).with(&[]));
    assert_eq!(incoming.recv().await.unwrap().flow.source.port(), 6000);
}

#[tokio::test]
async fn segments_out_of_order_doubled_and_overlapping_make_the_stream_that_was_sent() {
    let (_stack, mut incoming, wire, _) = stack(Limits::default());
    let mut ours = Segment {
        from: 5000,
        sequence: 1000,
        acknowledged: 0,
        flags: SYN,
    };
    wire.put(&ours.with(&[]));
    let Pending::Stream(pending) = incoming.recv().await.unwrap().pending else {
        panic!("a stream");
    };
    let accepting = tokio::spawn(pending.accept());
    let (sequence, acknowledged, flags, _) = segment(&wire.next().await).unwrap();
    assert_eq!((acknowledged, flags), (1001, SYN | ACK));
    ours.acknowledged = sequence.wrapping_add(1);
    ours.flags = ACK;
    ours.sequence = 1001;
    wire.put(&ours.with(&[]));
    let stream = accepting.await.unwrap().unwrap();
    let text = b"the quick brown fox jumps over the lazy dog";
    for (start, end) in [
        (20, 30),
        (10, 22),
        (35, 43),
        (10, 22),
        (0, 12),
        (28, 38),
        (0, 43),
    ] {
        ours.sequence = 1001 + start as u32;
        wire.put(&ours.with(&text[start..end]));
    }
    ours.sequence = 1001 + 43;
    ours.flags = FIN | ACK;
    wire.put(&ours.with(&[]));
    let mut heard = Vec::new();
    loop {
        let taken = stream.take_with(|bytes| {
            heard.extend_from_slice(bytes);
            Ok(bytes.len())
        });
        if taken.await.unwrap() == 0 {
            break;
        }
    }
    assert_eq!(heard, text);
    // Left without an end of its own: the guest sees a reset.
    drop(stream);
    while segment(&wire.next().await).is_none_or(|(_, _, flags, _)| flags & RST == 0) {}
}

#[tokio::test]
async fn segments_of_no_connection_are_reset() {
    let (_stack, _incoming, wire, _) = stack(Limits::default());
    let stray = Segment {
        from: 5000,
        sequence: 1,
        acknowledged: 77,
        flags: ACK,
    };
    wire.put(&stray.with(b"data"));
    let (sequence, _, flags, _) = segment(&wire.next().await).unwrap();
    assert_eq!((sequence, flags), (77, RST));
    // Never an answer to a reset.
    wire.put(
        &Segment {
            flags: RST,
            ..stray
        }
        .with(&[]),
    );
    is_alive(&wire).await;
}
