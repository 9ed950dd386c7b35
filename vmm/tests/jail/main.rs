//! What a jailed VMM process can still do, and what it cannot.
//!
//! A jail cannot be left, so every case runs in a forked child, as the tests' own user and, where
//! that is root, as `nobody` too.

mod child;
mod kills;
mod seen;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use child::{Case, Ended, Start, in_child};
use mayfly_vmm::jail::{
    JailOptions, JailReport, Layer, Outcome, ThreadKind, enter_process, filter_thread,
};
use rustix::process::Signal;
use rustix::thread::CapabilitySet;

const MAX_FILE: u64 = 1 << 20;

fn enter(kept: &[RawFd]) -> Result<JailReport, String> {
    let options = JailOptions {
        max_file_bytes: MAX_FILE,
        max_descriptors: 64,
        max_threads: 3,
    };
    enter_process(kept, &options).map_err(|error| error.to_string())
}

fn filter(kind: ThreadKind) -> Case {
    filter_thread(kind).map_err(|error| error.to_string())
}

fn check(right: bool, what: impl Into<String>) -> Case {
    if right { Ok(()) } else { Err(what.into()) }
}

/// Runs `case` in a jailed process without system call filters, for each way to start it.
fn jailed(case: impl Fn(&JailReport) -> Case) {
    for start in Start::possible() {
        let ended = in_child(start, |pipe| case(&enter(&[pipe])?));
        assert_eq!(ended, Ended::Well, "started as {start:?}");
    }
}

fn is_applied(report: &JailReport, layer: Layer) -> bool {
    matches!(report.outcome(layer), Some(Outcome::Applied(_)))
}

#[test]
fn every_layer_is_reported_once() {
    jailed(|report| {
        let mut layers: Vec<_> = report.layers.iter().map(|line| line.layer as u8).collect();
        layers.sort_unstable();
        check(layers == (0..9).collect::<Vec<_>>(), format!("{report:#?}"))
    });
}

#[test]
fn no_path_leads_to_a_host_file() {
    jailed(|report| {
        for path in [
            "/etc/passwd",
            "/proc/self/mem",
            "/dev/kvm",
            "/proc/1/root/etc/passwd",
        ] {
            check(File::open(path).is_err(), format!("{path} opens"))?;
        }
        if is_applied(report, Layer::EmptyRoot) {
            for path in ["/proc", "/etc", "/dev", "/../etc", "etc", "../etc"] {
                check(
                    std::fs::symlink_metadata(path).is_err(),
                    format!("{path} exists"),
                )?;
            }
            check(File::create("/x").is_err(), "the root can be written")?;
        }
        // The root directory exists and may be read by all: only landlock refuses it.
        let root = File::open("/").map(drop).map_err(|error| error.kind());
        let refused = root == Err(io::ErrorKind::PermissionDenied);
        check(
            refused == is_applied(report, Layer::Landlock),
            format!("opening /: {root:?}"),
        )
    });
}

#[test]
fn descriptors_that_the_configuration_does_not_name_are_closed() {
    let unnamed = File::open("/etc/passwd").expect("opens");
    let named = tempfile::tempfile().expect("temporary file");
    for start in Start::possible() {
        let ended = in_child(start, |pipe| {
            enter(&[pipe, named.as_raw_fd()])?;
            check(
                seen::is_open(named.as_raw_fd()),
                "the named descriptor is closed",
            )?;
            check(
                !seen::is_open(unnamed.as_raw_fd()),
                "the unnamed descriptor is open",
            )?;
            for fd in (3..1024).filter(|fd| ![pipe, named.as_raw_fd()].contains(fd)) {
                check(!seen::is_open(fd), format!("{fd} is open"))?;
            }
            Ok(())
        });
        assert_eq!(ended, Ended::Well, "started as {start:?}");
    }
}

#[test]
fn standard_streams_that_are_not_kept_go_nowhere() {
    let null = std::fs::metadata("/dev/null").expect("/dev/null");
    let null = Some(std::os::unix::fs::MetadataExt::rdev(&null));
    let file = tempfile::tempfile().expect("temporary file");
    let ended = in_child(Start::AsIs, |pipe| {
        rustix::stdio::dup2_stderr(&file).map_err(|error| error.to_string())?;
        enter(&[pipe, 2])?;
        check(seen::device_of(0) == null, "standard input")?;
        check(seen::device_of(1) == null, "standard output")?;
        check(
            seen::device_of(2).is_some_and(|device| Some(device) != null),
            "standard error",
        )
    });
    assert_eq!(ended, Ended::Well);
}

#[test]
fn a_directory_or_a_closed_descriptor_in_the_configuration_is_refused() {
    let directory = File::open("/").expect("opens");
    for (fd, says) in [
        (directory.as_raw_fd(), "is a directory"),
        (999, "is not usable"),
    ] {
        let ended = in_child(Start::AsIs, |pipe| match enter(&[pipe, fd]) {
            Err(error) if error.contains(says) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(ended, Ended::Well);
    }
}

#[test]
fn no_capability_no_root_no_core_no_new_privileges() {
    jailed(|report| {
        let seen = seen::credentials();
        check(seen.capabilities_are_empty, "capabilities are left")?;
        let bounding_must_be_empty = is_applied(report, Layer::UserNamespace);
        check(
            seen.bounding_set_is_empty || !bounding_must_be_empty,
            "the bounding set is full",
        )?;
        if is_applied(report, Layer::UserNamespace) {
            // An id that is not mapped reads as 65534.
            check(seen.ids == [65534; 4], format!("ids {:?}", seen.ids))?;
        }
        if is_applied(report, Layer::Identity) {
            check(
                seen.ids.iter().all(|id| *id != 0),
                format!("ids {:?}", seen.ids),
            )?;
        }
        check(
            seen.core_limit == (Some(0), Some(0)),
            "a core can be dumped",
        )?;
        check(seen.no_new_privs, "no_new_privs is off")?;
        check(!seen.dumpable, "is dumpable")
    });
}

#[test]
fn root_outside_sees_a_uid_of_its_own_no_capabilities_and_own_namespaces() {
    let capabilities = rustix::thread::capabilities(None)
        .expect("capget")
        .effective;
    if !capabilities.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::SETUID) {
        eprintln!("not run: needs root with its capabilities");
        return;
    }
    let seen = seen::seen_from_outside(|pipe| enter(&[pipe]).map(drop));
    let ids: Vec<u32> = seen
        .line("Uid:")
        .split_whitespace()
        .flat_map(str::parse)
        .collect();
    assert_eq!(ids.len(), 4);
    assert!(
        ids.iter().all(|id| *id == ids[0] && *id >= 65534),
        "{ids:?}"
    );
    assert_eq!((seen.line("Groups:"), seen.line("NoNewPrivs:")), ("", "1"));
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(seen.line(set), "0000000000000000", "{set}");
    }
    for (name, ours, theirs) in &seen.namespaces {
        assert_ne!(ours, theirs, "the {name} namespace is shared");
    }
    assert_eq!(
        seen.mounts.lines().count(),
        1,
        "more than the empty root: {}",
        seen.mounts
    );
}

#[test]
fn the_parent_death_signal_survives_the_change_of_identity() {
    let ended = in_child(Start::AsIs, |pipe| {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|error| error.to_string())?;
        enter(&[pipe])?;
        let signal = rustix::process::parent_process_death_signal();
        check(signal == Ok(Some(Signal::KILL)), format!("{signal:?}"))
    });
    assert_eq!(ended, Ended::Well);
}

#[test]
fn where_user_namespaces_are_forbidden_the_rest_still_holds() {
    if !Start::possible().contains(&Start::Nobody) {
        eprintln!("not run: needs root");
        return;
    }
    let ended = in_child(Start::NoUserNamespaces, |pipe| {
        let report = enter(&[pipe])?;
        for layer in [Layer::UserNamespace, Layer::Namespaces, Layer::EmptyRoot] {
            check(
                !is_applied(&report, layer),
                format!("{layer:?} in {report:#?}"),
            )?;
        }
        for layer in [Layer::Descriptors, Layer::Capabilities, Layer::Limits] {
            check(
                is_applied(&report, layer),
                format!("{layer:?} in {report:#?}"),
            )?;
        }
        let seen = seen::credentials();
        check(
            seen.capabilities_are_empty && seen.no_new_privs,
            "capabilities are left",
        )?;
        let opened = File::open("/etc/passwd").is_ok();
        check(
            opened != is_applied(&report, Layer::Landlock),
            "landlock and /etc/passwd",
        )?;
        filter(ThreadKind::Main)
    });
    assert_eq!(ended, Ended::Well);
}
