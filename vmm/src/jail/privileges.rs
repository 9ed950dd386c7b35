//! Capabilities, and the promise to gain no privilege again.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{JailError, Journal, Layer, mandatory};

/// Empties all capability sets and checks that they are empty. The bounding set can only be
/// emptied with `CAP_SETPCAP`, which root and the maker of a user namespace have; for others it is
/// of no effect, since there is no exec that could gain from it.
pub(super) fn drop_capabilities(journal: &mut Journal) -> Result<(), JailError> {
    let bounding = match empty_bounding_set() {
        Ok(()) => "bounding set empty",
        Err(_) => "bounding set as it was, made void by no_new_privs",
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

fn empty_bounding_set() -> Result<(), Errno> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The first number that this kernel does not know.
            Err(Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Forbids to gain privileges by exec, and others to read this process's memory.
pub(super) fn forbid_new(journal: &mut Journal) -> Result<(), JailError> {
    rustix::thread::set_no_new_privs(true).map_err(mandatory("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(mandatory("prctl(PR_SET_DUMPABLE)"))?;
    journal.applied(Layer::NoNewPrivileges, "no_new_privs, not dumpable");
    Ok(())
}
