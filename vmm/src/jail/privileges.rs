//! Capabilities, and the promise to gain no privilege again.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{JailError, Journal, Layer, mandatory};

/// Empties all capability sets and checks that they are empty.
pub(super) fn drop_capabilities(journal: &mut Journal) -> Result<(), JailError> {
    empty_bounding_set();
    let bounding = match bounding_set_is_empty() {
        true => "bounding set empty",
        false => "bounding set as it was, made void by no_new_privs",
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
    // Ends at EPERM, or at EINVAL for the first that this kernel does not know.
    let _ = all_capabilities().try_for_each(rustix::thread::remove_capability_from_bounding_set);
}

fn bounding_set_is_empty() -> bool {
    let has = rustix::thread::capability_is_in_bounding_set;
    !all_capabilities()
        .map_while(|capability| has(capability).ok())
        .any(|is_in| is_in)
}

fn all_capabilities() -> impl Iterator<Item = CapabilitySet> {
    (0..u64::BITS).map(|number| CapabilitySet::from_bits_retain(1 << number))
}

/// Forbids to gain privileges by exec, and others to read this process's memory.
pub(super) fn forbid_new(journal: &mut Journal) -> Result<(), JailError> {
    rustix::thread::set_no_new_privs(true).map_err(mandatory("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(mandatory("prctl(PR_SET_DUMPABLE)"))?;
    journal.applied(Layer::NoNewPrivileges, "no_new_privs, not dumpable");
    Ok(())
}
