//! A machine with KVM, emulated, for hosts that have none which is usable.
//!
//! `softkvm COMMAND` boots Debian's kernel on an AMD CPU with SVM that QEMU emulates, with this
//! machine's own file system as its root, and runs the command there:
//!
//! ```text
//! softkvm ──┬─ virtiofsd   this machine's files
//!           └─ QEMU (TCG)  four serial ports: control, stdin, stdout, stderr
//!               └─ init.sh: modules, overlay
//!                   └─ softkvm --inside: real folders, the command, its end
//! ```
//!
//! Nothing else in the product knows about it: a program that needs KVM runs unchanged.

pub mod args;
mod cpio;
mod folders;
pub mod inside;
mod kernel;
mod machine;
mod rerun;
mod session;
mod tail;
mod terminal;
mod wire;

use std::path::Path;

pub use args::Request;
pub use folders::FolderError;
pub use kernel::KernelError;
pub use machine::MachineError;
pub use rerun::{RerunError, SLOWER, rerun_under};

/// Environment variable that is set for every command inside the emulated machine.
pub const INSIDE_VARIABLE: &str = "MAYFLY_SOFTKVM";

/// Why a command did not run on the emulated machine, or did not end there.
#[derive(Debug, thiserror::Error)]
pub enum SoftkvmError {
    /// The machine cannot be started.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// There is no kernel for it.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A folder cannot be written for real.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The state of this process cannot be read or changed.
    #[error("cannot {what}: {cause}")]
    Process {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        cause: std::io::Error,
    },
    /// The machine ended before the command did.
    #[error("the emulated machine ended before the command did ({how}){words}")]
    Died {
        /// Which part ended first, and how.
        how: String,
        /// The last lines of its console and programs.
        words: String,
    },
}

/// Runs a command on an emulated machine and returns its exit code, 128 + n for signal n.
///
/// `supervisor` is the path of the `softkvm` program, which is started again inside the machine.
/// Meant to be the one task of its process: it blocks signals for good and reads stdin.
///
/// # Errors
///
/// Whatever keeps the machine from starting or the command from ending; never the command's own
/// failure, which is an exit code.
pub fn run(request: &Request, supervisor: &Path) -> Result<u8, SoftkvmError> {
    session::run(request, supervisor)
}

/// Fetches what the machine needs; a newer kernel too if the package lists name one.
///
/// # Errors
///
/// A missing program, or a kernel that cannot be fetched or unpacked.
pub fn set_up(verbose: bool) -> Result<(), SoftkvmError> {
    let tools = machine::Tools::find()?;
    let kernel = kernel::ensure(&tools.busybox, true, &say)?;
    if verbose {
        say(&format!("ready: {}", kernel.vmlinuz.display()));
    }
    Ok(())
}

fn say(line: &str) {
    eprintln!("softkvm: {line}");
}
