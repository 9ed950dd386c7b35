//! Random bytes arrive, are bounded, and go only where the driver allows it.

use super::super::testing::Guest;
use super::Rng;

#[test]
fn every_request_gets_other_bytes() {
    let mut guest = Guest::start(Box::new(Rng::new()));
    let (first, second) = (guest.allocate(64), guest.allocate(64));
    guest.chain(0, 0, &[(first, 24, true), (first + 24, 40, true)]);
    guest.chain(0, 2, &[(second, 64, true)]);
    guest.notify(0);
    assert_eq!(guest.take_used(0), Some((0, 64)));
    assert_eq!(guest.take_used(0), Some((2, 64)));
    assert_eq!(guest.interrupt(), 1);
    let (first, second) = (guest.bytes(first, 64), guest.bytes(second, 64));
    assert_ne!(first, second);
    assert_ne!(first[..24], [0; 24]);
    assert_ne!(first[24..], [0; 40]);
}

#[test]
fn a_large_request_is_filled_only_in_part() {
    let mut guest = Guest::start(Box::new(Rng::new()));
    let buffer = guest.allocate(0x1_0000);
    guest.chain(0, 0, &[(buffer, 0x1_0000, true)]);
    guest.notify(0);
    assert_eq!(guest.take_used(0), Some((0, 4096)));
    assert_eq!(guest.bytes(buffer + 4096, 16), [0; 16]);
}

#[test]
fn a_read_only_buffer_stays_as_it_is() {
    let mut guest = Guest::start(Box::new(Rng::new()));
    let buffer = guest.place(&[7; 64]);
    guest.chain(0, 0, &[(buffer, 64, false)]);
    guest.notify(0);
    assert_eq!(guest.take_used(0), Some((0, 0)));
    assert_eq!(guest.bytes(buffer, 64), [7; 64]);
}
