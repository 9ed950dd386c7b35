//! Identity, capabilities and the promise to gain none again.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::set_no_new_privs;

use super::{JailError, JailReport, Layer, mandatory};

/// Forbids to gain privileges by exec, and others to read this process's memory.
pub(super) fn forbid_new(report: &mut JailReport) -> Result<(), JailError> {
    set_no_new_privs(true).map_err(mandatory("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(mandatory("prctl(PR_SET_DUMPABLE)"))?;
    report.applied(Layer::NoNewPrivileges, "no_new_privs, not dumpable");
    Ok(())
}
