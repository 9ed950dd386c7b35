//! A stock kernel in a real machine: boot, pause, snapshot, restore, and every way to end.
//!
//! Needs usable KVM (else: under `softkvm`), a `vmlinux` named by `MAYFLY_TEST_VMLINUX` and a static
//! busybox; so these tests are ignored unless asked for: `cargo test -p mayfly-vmm -- --ignored`.

mod guest;

use std::time::Duration;

use guest::{Files, Guest, PATIENCE, busybox_guest};
use mayfly_vmm::{
    config::MachineConfig,
    control::{Command, Outcome},
    exit::ExitReason,
};

const ONE: MachineConfig = MachineConfig {
    vcpus: 1,
    memory_mib: 256,
};
const TWO: MachineConfig = MachineConfig {
    vcpus: 2,
    memory_mib: 256,
};

#[test]
#[ignore = "needs KVM and MAYFLY_TEST_VMLINUX"]
fn a_guest_goes_on_from_its_snapshot_twice_and_shuts_down() {
    for machine in [ONE, TWO] {
        let mut guest = Guest::boot(machine, "");
        guest.wait_for("tick 3");
        guest.command(Command::Pause);
        let before = guest.console();
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(guest.console(), before, "a paused guest writes nothing");
        guest.command(Command::Resume);
        guest.wait_for("tick 5");
        guest.command(Command::Pause);
        let last = guest.last_tick();
        let files = guest.snapshot();
        assert_eq!(
            guest.end(Command::Shutdown).reason,
            Some(ExitReason::Killed)
        );
        for _ in 0..2 {
            let mut clone = Guest::restore(machine, &files);
            clone.wait_for(&format!("tick {}", last + 1));
            let console = clone.console();
            assert!(!console.contains(&format!("tick {last}\n")), "{console}");
            assert!(!console.contains("cpus"), "it did not boot: {console}");
            clone.wait_for("OFF");
            assert_eq!(clone.wait().reason, Some(ExitReason::GuestShutDown));
        }
        files.assert_unchanged();
    }
}

#[test]
#[ignore = "needs KVM and MAYFLY_TEST_VMLINUX"]
fn a_machine_has_the_cpus_and_the_memory_that_were_asked_for() {
    let machine = MachineConfig {
        vcpus: 3,
        memory_mib: 3500,
    };
    let mut guest = Guest::boot(machine, "");
    guest.wait_for("tick 1");
    let console = guest.console();
    assert!(console.contains("cpus 3\n"), "{console}");
    let kib: u64 = guest::field(&console, "MemTotal:");
    // The kernel keeps some for itself; without the part above 4 GiB there would be 3072 MiB.
    assert!((3300 << 10..3500 << 10).contains(&kib), "{kib} KiB");
    guest.end(Command::Shutdown);
}

#[test]
#[ignore = "needs KVM and MAYFLY_TEST_VMLINUX"]
fn each_way_to_reset_is_a_panic() {
    for how in ["k", "t", "a"] {
        let guest = Guest::boot(ONE, &format!("panic=-1 reboot={how} mayfly.panic"));
        let ended = guest.wait();
        assert!(
            matches!(ended.reason, Some(ExitReason::GuestPanicked { .. })),
            "reboot={how}: {ended}"
        );
        assert_eq!(ended.status.code(), Some(10));
    }
}

#[test]
#[ignore = "needs KVM and MAYFLY_TEST_VMLINUX"]
fn a_snapshot_that_does_not_fit_is_refused_with_both_sides() {
    let files = snapshot_of(ONE);
    let ended = Guest::restore(TWO, &files).wait();
    assert_eq!(ended.status.code(), Some(2), "{ended}");
    let said = ended.to_string();
    assert!(
        said.contains("1 vCPUs") && said.contains("2 vCPUs"),
        "{said}"
    );

    files.damage_state();
    let ended = Guest::restore(ONE, &files).wait();
    assert_eq!(ended.status.code(), Some(2), "{ended}");

    let files = snapshot_of(ONE);
    files.truncate_memory();
    let ended = Guest::restore(ONE, &files).wait();
    assert_eq!(ended.status.code(), Some(2), "{ended}");
    assert!(ended.to_string().contains("268435456"), "{ended}");
}

#[test]
#[ignore = "needs KVM and MAYFLY_TEST_VMLINUX"]
fn a_running_machine_is_not_saved_and_goes_on() {
    let mut guest = Guest::boot(ONE, "");
    guest.wait_for("tick 1");
    let error = guest.try_snapshot().unwrap_err();
    assert!(error.contains("pause it before"), "{error}");
    guest.wait_for("tick 3");
    guest.end(Command::Shutdown);
}

#[test]
#[ignore = "needs KVM and MAYFLY_TEST_VMLINUX"]
fn statistics_tell_the_start_in_order() {
    let mut guest = Guest::boot(ONE, "");
    guest.wait_for("tick 1");
    let Outcome::Statistics(figures) = guest.command(Command::Statistics) else {
        panic!("no statistics");
    };
    let points = [
        figures.process_started_ns,
        figures.configured_ns,
        figures.memory_mapped_ns,
        figures.state_ready_ns,
        figures.first_entry_ns,
    ];
    assert!(points.is_sorted() && points[0].is_some(), "{points:?}");
    assert!(figures.vcpu_exits > 100);
    guest.end(Command::Shutdown);
}

fn snapshot_of(machine: MachineConfig) -> Files {
    let mut guest = Guest::boot(machine, "");
    guest.wait_for("tick 1");
    guest.command(Command::Pause);
    let files = guest.snapshot();
    guest.end(Command::Shutdown);
    files
}

#[test]
fn the_test_guest_is_an_archive_that_a_kernel_unpacks() {
    let archive = busybox_guest(b"#!program");
    assert!(archive.starts_with(b"070701"));
    assert_eq!(archive.len() % 4, 0);
    assert!(PATIENCE > Duration::from_secs(60));
}
