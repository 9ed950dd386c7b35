//! Registers as a driver meets them: identification, negotiation, activation, restore.

use virtio_bindings::virtio_mmio as mmio;

use super::super::device::VirtioDevice;
use super::super::rng::{Rng, RngState};
use super::super::testing::{Guest, HIGH_BASE, HIGH_LEN, QUEUE_SIZE};
use super::{MmioTransport, RestoreTransportError, TransportState};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

fn powered() -> Guest {
    Guest::power_on(Box::new(Rng::new()))
}

/// Asks for random bytes in the buffer at `address` and tells how many came.
fn ask(guest: &mut Guest, address: u64, len: u32) -> Option<u32> {
    guest.chain(0, 0, &[(address, len, true)]);
    guest.notify(0);
    guest.take_used(0).map(|(_, len)| len)
}

#[test]
fn registers_identify_a_virtio_1_device() {
    let guest = powered();
    let identity: Vec<u32> = (0..4)
        .map(|register| guest.register(register * 4))
        .collect();
    assert_eq!(identity, [0x7472_6976, 2, 4, 0x594c_464d]);
    assert_eq!(guest.register(mmio::VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
}

#[test]
fn a_queue_that_does_not_exist_has_no_size() {
    let mut guest = powered();
    guest.set(mmio::VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_eq!(guest.register(mmio::VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let mut guest = powered();
    guest.set(mmio::VIRTIO_MMIO_STATUS, 3);
    guest.set(mmio::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    guest.set(mmio::VIRTIO_MMIO_DRIVER_FEATURES, 0x8000_0001);
    guest.set(mmio::VIRTIO_MMIO_STATUS, 11);
    assert_eq!(guest.register(mmio::VIRTIO_MMIO_STATUS), 3);
}

#[test]
fn a_legacy_driver_without_version_1_is_refused() {
    let mut guest = powered();
    guest.negotiate(0);
    assert_eq!(guest.register(mmio::VIRTIO_MMIO_STATUS), 3);
}

#[test]
fn driver_ok_without_features_ok_does_not_start_the_device() {
    let mut guest = powered();
    guest.set(mmio::VIRTIO_MMIO_STATUS, 7);
    assert_eq!(guest.register(mmio::VIRTIO_MMIO_STATUS), 3);
    assert!(guest.transport.device().queues().is_none());
}

#[test]
fn status_bits_cannot_be_taken_back_but_by_reset() {
    let mut guest = Guest::start(Box::new(Rng::new()));
    guest.set(mmio::VIRTIO_MMIO_STATUS, 3);
    assert_eq!(guest.register(mmio::VIRTIO_MMIO_STATUS), 15);
    guest.set(mmio::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(guest.register(mmio::VIRTIO_MMIO_STATUS), 0);
    assert!(guest.transport.device().queues().is_none());
    assert_eq!(guest.register(mmio::VIRTIO_MMIO_QUEUE_READY), 0);
}

#[test]
fn a_ring_that_is_not_valid_asks_for_a_reset_with_an_interrupt() {
    type Break = fn(&mut Guest);
    let broken: [(&str, Break); 8] = [
        ("size 0", |g| g.set(mmio::VIRTIO_MMIO_QUEUE_NUM, 0)),
        ("size 3", |g| g.set(mmio::VIRTIO_MMIO_QUEUE_NUM, 3)),
        ("size above the maximum", |g| {
            g.set(mmio::VIRTIO_MMIO_QUEUE_NUM, 128);
        }),
        ("size above 16 bits", |g| {
            g.set(mmio::VIRTIO_MMIO_QUEUE_NUM, 0x1_0040);
        }),
        ("descriptors misaligned", |g| {
            g.set(mmio::VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1008);
        }),
        ("descriptors in the hole", |g| {
            g.set(mmio::VIRTIO_MMIO_QUEUE_DESC_LOW, 0x20_0000);
        }),
        ("used ring across the end", |g| {
            g.set(
                mmio::VIRTIO_MMIO_QUEUE_USED_LOW,
                (HIGH_BASE + HIGH_LEN) as u32 - 16,
            );
        }),
        ("available ring at the end of the address space", |g| {
            g.set(mmio::VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0xffff_fffe);
            g.set(mmio::VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 0xffff_ffff);
        }),
    ];
    for (name, break_it) in broken {
        let mut guest = powered();
        guest.negotiate(u64::MAX);
        guest.set_up_queues();
        break_it(&mut guest);
        guest.set(mmio::VIRTIO_MMIO_STATUS, 15);
        assert_eq!(guest.register(mmio::VIRTIO_MMIO_STATUS), 15 | 64, "{name}");
        assert_eq!(guest.interrupt(), 2, "{name}");
        assert!(guest.transport.device().queues().is_none(), "{name}");
    }
}

#[test]
fn an_index_that_jumps_asks_for_a_reset_and_a_reset_heals() {
    let mut guest = Guest::start(Box::new(Rng::new()));
    for _ in 0..=QUEUE_SIZE {
        guest.offer(0, 0);
    }
    guest.notify(0);
    assert_eq!(guest.register(mmio::VIRTIO_MMIO_STATUS), 15 | 64);
    assert_eq!(guest.interrupt(), 2);
    guest.notify(0);
    assert_eq!(guest.interrupt(), 0, "a broken device rests");

    guest.set(mmio::VIRTIO_MMIO_STATUS, 0);
    guest.forget_rings();
    guest.negotiate(u64::MAX);
    guest.set_up_queues();
    guest.set(mmio::VIRTIO_MMIO_STATUS, 15);
    let buffer = guest.allocate(16);
    assert_eq!(ask(&mut guest, buffer, 16), Some(16));
}

#[test]
fn an_interrupt_stands_until_it_is_acknowledged() {
    let mut guest = Guest::start(Box::new(Rng::new()));
    let buffer = guest.allocate(16);
    ask(&mut guest, buffer, 16);
    assert_eq!(guest.register(mmio::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    guest.set(mmio::VIRTIO_MMIO_INTERRUPT_ACK, 2);
    assert_eq!(guest.register(mmio::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    guest.set(mmio::VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(guest.register(mmio::VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn event_indexes_hold_back_interrupts_that_the_driver_does_not_want() {
    let mut guest = powered();
    guest.negotiate(u64::MAX);
    guest.set_up_queues();
    guest.set(mmio::VIRTIO_MMIO_STATUS, 15);
    let buffer = guest.allocate(16);
    guest.set_used_event(0, 1);
    assert_eq!(ask(&mut guest, buffer, 16), Some(16));
    assert_eq!(guest.interrupt(), 0, "wanted after the second buffer only");
    assert_eq!(ask(&mut guest, buffer, 16), Some(16));
    assert_eq!(guest.interrupt(), 1);
}

#[test]
fn odd_accesses_read_zero_and_write_nothing() {
    let mut guest = powered();
    for (offset, len) in [(0, 1), (1, 4), (2, 2), (0, 8), (0xffff_ffff_ffff_fff0, 8)] {
        let mut data = vec![0xee; len];
        guest.transport.read(offset, &mut data);
        assert_eq!(data, vec![0; len], "{offset:#x}+{len}");
        guest.transport.write(offset, &data);
    }
    guest.transport.write(0x70, &[1]);
    assert_eq!(guest.register(mmio::VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn a_restored_transport_goes_on_where_the_saved_one_was() {
    let mut guest = Guest::start(Box::new(Rng::new()));
    let buffer = guest.allocate(64);
    assert_eq!(ask(&mut guest, buffer, 16), Some(16));
    // Offered, but the notification is still under way when the machine is saved.
    guest.chain(0, 4, &[(buffer + 16, 32, true)]);
    let state = guest.transport.save();
    let text = serde_json::to_string(&state).unwrap();
    let state: TransportState = serde_json::from_str(&text).unwrap();

    let mut guest = guest.restore(Box::new(Rng::restore(&RngState {})), &state);
    assert_eq!(
        guest.interrupt(),
        0,
        "the interrupt controller is not restored yet"
    );
    assert!(
        guest.transport.queue_events()[0].read().is_ok(),
        "a notification may have been lost"
    );
    guest.transport.queue_event_ready(0);
    assert_eq!(guest.interrupt(), 1);
    assert_eq!(guest.take_used(0), Some((4, 32)));
    assert_eq!(
        guest.transport.save().driver_features,
        state.driver_features
    );
}

#[test]
fn a_restored_driver_is_interrupted_once_even_if_nothing_is_to_be_done() {
    let guest = Guest::start(Box::new(Rng::new()));
    let state = guest.transport.save();
    let mut guest = guest.restore(Box::new(Rng::new()), &state);
    guest.transport.queue_event_ready(0);
    assert_eq!(guest.interrupt(), 1, "an interrupt may have been lost");
    guest.transport.queue_event_ready(0);
    assert_eq!(guest.interrupt(), 0);
}

#[test]
fn a_damaged_or_foreign_state_is_refused() {
    let guest = Guest::start(Box::new(Rng::new()));
    let good = guest.transport.save();
    let restore = |state: &TransportState| {
        let irq = EventFd::new(EFD_NONBLOCK).unwrap();
        MmioTransport::restore(guest.memory().clone(), Box::new(Rng::new()), irq, state)
    };
    assert!(restore(&good).is_ok());

    let foreign = TransportState {
        device_type: 2,
        ..good.clone()
    };
    assert!(matches!(
        restore(&foreign),
        Err(RestoreTransportError::DeviceType { saved: 2, .. })
    ));
    let features = TransportState {
        driver_features: 1 << 40,
        ..good.clone()
    };
    assert!(matches!(
        restore(&features),
        Err(RestoreTransportError::Features { .. })
    ));
    let mut short = good.clone();
    short.queues.clear();
    assert!(matches!(
        restore(&short),
        Err(RestoreTransportError::QueueCount { saved: 0, .. })
    ));
    let mut ring = good.clone();
    ring.rings.as_mut().unwrap()[0].used = u64::MAX - 3;
    assert!(matches!(
        restore(&ring),
        Err(RestoreTransportError::Ring { index: 0, .. })
    ));
}

#[test]
fn a_device_that_was_never_started_restores_to_power_on() {
    let guest = powered();
    let state = guest.transport.save();
    assert_eq!(state.rings, None);
    let mut guest = guest.restore(Box::new(Rng::new()), &state);
    assert_eq!(guest.interrupt(), 0);
    guest.negotiate(u64::MAX);
    assert_eq!(guest.register(mmio::VIRTIO_MMIO_STATUS), 11);
    assert_eq!(Rng::new().offered_features() >> 32, 1);
}
