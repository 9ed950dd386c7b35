//! One test per way to break a chain, each against every queue of every device.

use super::super::testing::{
    Guest, HIGH_BASE, HIGH_LEN, INDIRECT, LOW_LEN, NEXT, QUEUE_SIZE, RINGS, WRITE,
};
use super::rig::{Kind, Rig};

/// What must come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The chain is given back, and nothing was written by it.
    Refused,
    /// The ring is beyond use, and the driver is asked to reset the device.
    ResetDue,
    /// It is well-formed in itself; only memory is watched.
    Survived,
}

/// Breaks a chain on `queue` of every device and checks the outcome.
fn against_all(name: &str, outcome: Outcome, break_it: impl Fn(&mut Guest, usize)) {
    for kind in Kind::ALL {
        for queue in 0..kind.queues() {
            let mut rig = Rig::started(kind);
            rig.provoke(4000);
            break_it(&mut rig.guest, queue);
            rig.watched(|rig| {
                rig.events();
                rig.guest.notify(queue);
            });
            let context = format!("{name}: {kind:?}, queue {queue}");
            let reset_due = rig.guest.register(0x70) & 64 != 0;
            // The event queue of a vsock has work only after a restore.
            let idle =
                kind == Kind::Vsock && queue == 2 || kind == Kind::RestoredVsock && queue == 0;
            match outcome {
                _ if idle => {}
                Outcome::Refused => {
                    assert_eq!(
                        rig.guest.take_used(queue).map(|(_, len)| len),
                        Some(0),
                        "{context}"
                    );
                    assert!(!reset_due, "{context}");
                }
                Outcome::ResetDue => assert!(reset_due, "{context}"),
                Outcome::Survived => {}
            }
            rig.assert_alive();
        }
    }
}

/// Makes one descriptor available at index 0.
fn one(address: u64, len: u32, flags: u16, next: u16) -> impl Fn(&mut Guest, usize) {
    move |guest, queue| {
        guest.descriptor(queue, 0, (address, len, flags, next));
        guest.offer(queue, 0);
    }
}

/// Both directions of a single descriptor.
fn one_either_way(name: &str, address: u64, len: u32) {
    for flags in [0, WRITE] {
        against_all(name, Outcome::Refused, one(address, len, flags, 0));
    }
}

const BUFFER: u64 = 0x8_0000;

#[test]
fn a_descriptor_that_points_to_itself() {
    against_all("self", Outcome::Refused, one(BUFFER, 64, NEXT, 0));
    against_all("self", Outcome::Refused, one(BUFFER, 64, NEXT | WRITE, 0));
}

#[test]
fn a_loop_of_two_descriptors() {
    against_all("loop", Outcome::Refused, |guest, queue| {
        guest.descriptor(queue, 0, (BUFFER, 64, NEXT, 1));
        guest.descriptor(queue, 1, (BUFFER, 64, NEXT, 0));
        guest.offer(queue, 0);
    });
}

#[test]
fn a_next_index_outside_of_the_table() {
    for next in [QUEUE_SIZE, QUEUE_SIZE + 1, u16::MAX] {
        against_all(
            "next",
            Outcome::Refused,
            one(BUFFER, 64, NEXT | WRITE, next),
        );
    }
}

#[test]
fn a_head_outside_of_the_table() {
    for head in [QUEUE_SIZE, u16::MAX] {
        against_all("head", Outcome::ResetDue, |guest, queue| {
            guest.offer(queue, head);
        });
    }
}

#[test]
fn an_address_outside_of_guest_memory() {
    for address in [
        LOW_LEN,
        LOW_LEN + 4096,
        HIGH_BASE - 1,
        HIGH_BASE + HIGH_LEN,
        1 << 63,
    ] {
        one_either_way("address", address, 64);
    }
}

#[test]
fn a_buffer_across_the_end_of_guest_memory() {
    one_either_way("low end", LOW_LEN - 63, 64);
    one_either_way("high end", HIGH_BASE + HIGH_LEN - 1, 2);
    one_either_way("before the second region", HIGH_BASE - 32, 64);
}

#[test]
fn an_address_that_overflows() {
    for (address, len) in [
        (u64::MAX, 1),
        (u64::MAX - 15, 16),
        (u64::MAX - 4096, u32::MAX),
    ] {
        one_either_way("overflow", address, len);
    }
}

#[test]
fn a_buffer_of_no_length() {
    one_either_way("zero", BUFFER, 0);
    one_either_way("zero at the end of memory", LOW_LEN, 0);
}

#[test]
fn a_huge_length() {
    one_either_way("huge", BUFFER, u32::MAX);
    one_either_way("all of memory and one more", 0, LOW_LEN as u32 + 1);
}

#[test]
fn lengths_that_add_up_to_more_than_32_bits() {
    against_all("sum", Outcome::Refused, |guest, queue| {
        for index in 0..QUEUE_SIZE {
            let next = if index + 1 == QUEUE_SIZE { 0 } else { NEXT };
            guest.descriptor(queue, index, (0, 0xf000_0000, WRITE | next, index + 1));
        }
        guest.offer(queue, 0);
    });
}

#[test]
fn a_readable_buffer_behind_a_writable_one() {
    against_all("order", Outcome::Refused, |guest, queue| {
        guest.chain(queue, 0, &[(BUFFER, 64, true), (BUFFER + 64, 64, false)]);
    });
}

#[test]
fn a_broken_buffer_behind_good_ones() {
    against_all("late", Outcome::Refused, |guest, queue| {
        let parts = [
            (BUFFER, 64, false),
            (BUFFER + 64, 64, true),
            (LOW_LEN, 64, true),
        ];
        guest.chain(queue, 0, &parts);
    });
}

#[test]
fn the_same_megabyte_many_times() {
    against_all("many", Outcome::Survived, |guest, queue| {
        for index in 0..QUEUE_SIZE {
            let next = if index + 1 == QUEUE_SIZE { 0 } else { NEXT };
            let flags = if index == 0 { next } else { next | WRITE };
            guest.descriptor(queue, index, (HIGH_BASE, HIGH_LEN as u32, flags, index + 1));
        }
        for _ in 0..QUEUE_SIZE {
            guest.offer(queue, 0);
        }
    });
}

#[test]
fn an_indirect_table_outside_of_guest_memory() {
    for address in [LOW_LEN, LOW_LEN - 15, u64::MAX - 15, HIGH_BASE + HIGH_LEN] {
        against_all("table", Outcome::Refused, one(address, 16, INDIRECT, 0));
    }
}

#[test]
fn an_indirect_table_of_impossible_length() {
    for len in [0, 1, 15, 17, 16 * 65_536, u32::MAX] {
        against_all(
            "table length",
            Outcome::Refused,
            one(BUFFER, len, INDIRECT, 0),
        );
    }
}

#[test]
fn an_indirect_table_inside_of_another() {
    against_all("nested", Outcome::Refused, |guest, queue| {
        guest.write_descriptor(BUFFER, (BUFFER + 64, 64, INDIRECT, 0));
        guest.write_descriptor(BUFFER + 64, (BUFFER + 256, 64, WRITE, 0));
        one(BUFFER, 64, INDIRECT, 0)(guest, queue);
    });
}

#[test]
fn an_indirect_table_that_loops() {
    against_all("indirect loop", Outcome::Refused, |guest, queue| {
        guest.write_descriptor(BUFFER, (BUFFER + 256, 64, NEXT | WRITE, 1));
        guest.write_descriptor(BUFFER + 16, (BUFFER + 256, 64, NEXT | WRITE, 0));
        one(BUFFER, 32, INDIRECT, 0)(guest, queue);
    });
}

#[test]
fn an_indirect_table_with_more_entries_than_a_chain_may_have() {
    against_all("indirect length", Outcome::Refused, |guest, queue| {
        for entry in 0..300_u16 {
            let next = if entry == 299 { 0 } else { NEXT };
            let at = BUFFER + 16 * u64::from(entry);
            guest.write_descriptor(at, (BUFFER + 0x2000, 64, WRITE | next, entry + 1));
        }
        one(BUFFER, 300 * 16, INDIRECT, 0)(guest, queue);
    });
}

#[test]
fn a_good_indirect_table_is_followed() {
    let mut rig = Rig::started(Kind::Rng);
    rig.guest
        .write_descriptor(BUFFER, (BUFFER + 256, 40, NEXT | WRITE, 1));
    rig.guest
        .write_descriptor(BUFFER + 16, (BUFFER + 512, 8, WRITE, 0));
    one(BUFFER, 32, INDIRECT, 0)(&mut rig.guest, 0);
    rig.watched(|rig| rig.guest.notify(0));
    assert_eq!(rig.guest.take_used(0), Some((0, 48)));
}

#[test]
fn an_available_index_that_jumps() {
    for index in [QUEUE_SIZE + 40, 0x8000, u16::MAX] {
        against_all("index", Outcome::ResetDue, |guest, queue| {
            guest.set_available_index(queue, index);
        });
    }
}

#[test]
fn buffers_that_are_the_rings_themselves() {
    for offset in [0, 0x1000, 0x2000] {
        against_all("rings", Outcome::Survived, |guest, queue| {
            guest.chain(queue, 0, &[(RINGS + offset, 0x1000, true)]);
            guest.chain(
                queue,
                1,
                &[(BUFFER, 16, false), (RINGS + offset, 0x1000, true)],
            );
        });
    }
}
