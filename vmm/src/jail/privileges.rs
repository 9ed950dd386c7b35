//! Capabilities, and the promise to gain no privilege again.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{JailError, Journal, Layer, mandatory};

/// Empties all capability sets and checks that they are empty.
pub(super) fn drop_capabilities(journal: &mut Journal) -> Result<(), JailError> {
    empty_bounding_set();
    let bounding = match bounding_set() {
        0 => "bounding set empty",
        _ => "bounding set as it was, made void by no_new_privs",
    };
    rustix::thread::clear_ambient_capability_set()
        .map_err(mandatory("clearing ambient capabilities"))?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    rustix::thread::set_capabilities(None, sets).map_err(mandatory("capset"))?;
    let left = rustix::thread::capabilities(None).map_err(mandatory("capget"))?;
    if left != sets {
        return Err(JailError::CapabilitiesLeft {
            left: format!("{left:?}"),
        });
    }
    journal.applied(Layer::Capabilities, format!("none; {bounding}"));
    Ok(())
}

/// Empties the bounding set as far as allowed: `CAP_SETPCAP` is needed, which root has until it
/// changes its uid, and the maker of a user namespace, who starts with a full set again. For
/// others the bounding set is of no effect: it only limits what an exec may gain.
pub(super) fn empty_bounding_set() {
    for capability in known_capabilities() {
        if rustix::thread::remove_capability_from_bounding_set(capability).is_err() {
            return;
        }
    }
}

fn bounding_set() -> usize {
    known_capabilities()
        .filter(|set| rustix::thread::capability_is_in_bounding_set(*set) == Ok(true))
        .count()
}

/// Each capability that this kernel knows: it answers `EINVAL` for the first that it does not.
fn known_capabilities() -> impl Iterator<Item = CapabilitySet> {
    (0..u64::BITS)
        .map(|number| CapabilitySet::from_bits_retain(1 << number))
        .take_while(|set| rustix::thread::capability_is_in_bounding_set(*set).is_ok())
}

/// Forbids to gain privileges by exec, and others to read this process's memory.
pub(super) fn forbid_new(journal: &mut Journal) -> Result<(), JailError> {
    rustix::thread::set_no_new_privs(true).map_err(mandatory("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(mandatory("prctl(PR_SET_DUMPABLE)"))?;
    journal.applied(Layer::NoNewPrivileges, "no_new_privs, not dumpable");
    Ok(())
}
