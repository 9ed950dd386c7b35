//! How a program that finds KVM unusable runs itself again on the emulated machine.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::INSIDE_VARIABLE;
use crate::probe::KvmStatus;

/// How much longer things take there, as measured: 35 to 110 times for starting programs,
/// interpreting Python, hashing and walking folders, on two shared cores.
pub const SLOWER: &str = "30 to 100 times";

/// Why the program does not run again.
#[derive(Debug, thiserror::Error)]
pub enum RerunError {
    /// It runs on the emulated machine already.
    #[error("{0}; this is the emulated machine already, so running again would not help")]
    Inside(KvmStatus),
    /// Its own path is not known.
    #[error("cannot find this program's own path to run it again: {0}")]
    OwnPath(io::Error),
    /// The program `softkvm` cannot be started.
    #[error("cannot start {program}: {cause}; it belongs beside this program or in PATH")]
    Start {
        /// What was tried.
        program: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
}

/// Replaces this process by the same command line on the emulated machine, after one line on
/// stderr that says why and how slow that is. The exit code of the process is then that of the
/// command there.
///
/// Call it before the program does anything: destructors do not run. `write` names folders that
/// the command writes beside its working directory, home and state folder.
///
/// # Errors
///
/// Comes back only if that is not possible; never twice, so that a machine whose emulated KVM is
/// unusable too is an error and no loop.
pub fn rerun_under(status: &KvmStatus, write: &[PathBuf]) -> Result<Infallible, RerunError> {
    if std::env::var_os(INSIDE_VARIABLE).is_some() {
        return Err(RerunError::Inside(status.clone()));
    }
    let own = std::env::current_exe().map_err(RerunError::OwnPath)?;
    let softkvm = beside(&own);
    let name = own
        .file_name()
        .unwrap_or(OsStr::new("mayfly"))
        .to_string_lossy()
        .into_owned();
    eprintln!(
        "{name}: {status}. Running again on an emulated machine, roughly {SLOWER} slower \
         (--kvm=require refuses instead)."
    );
    let mut command = Command::new(&softkvm);
    for folder in write {
        command.arg("--write").arg(folder);
    }
    command
        .arg("--")
        .arg(&own)
        .args(std::env::args_os().skip(1));
    Err(RerunError::Start {
        program: softkvm,
        cause: command.exec(),
    })
}

/// The `softkvm` installed with this program, or the one that `PATH` gives.
fn beside(own: &Path) -> PathBuf {
    let sibling = own.with_file_name("softkvm");
    if sibling.is_file() {
        sibling
    } else {
        PathBuf::from("softkvm")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_the_same_installation_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("mayfly");
        assert_eq!(beside(&own), PathBuf::from("softkvm"));
        std::fs::write(folder.path().join("softkvm"), "").unwrap();
        assert_eq!(beside(&own), folder.path().join("softkvm"));
    }
}
