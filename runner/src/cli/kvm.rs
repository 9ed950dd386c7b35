//! Whether this machine's KVM is used, an emulated one, or none.

use std::path::PathBuf;

use clap::ValueEnum;
use mayfly_vmm::{
    probe::{self, KvmStatus},
    softkvm,
};

use super::Failure;

/// How to reach KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvmMode {
    /// This machine's KVM where it is usable, else an emulated machine's.
    Auto,
    /// This machine's KVM or nothing.
    Require,
    /// Always an emulated machine's.
    Soft,
}

/// Returns where KVM is usable; runs the whole command again on an emulated machine where it is
/// not and the mode allows it. Called before a command does anything, because that replaces the
/// process.
pub fn ensure(mode: KvmMode) -> Result<(), Failure> {
    ensure_writing(mode, &[])
}

/// As [`ensure`], for a command that writes into these folders too.
pub fn ensure_writing(mode: KvmMode, folders: &[PathBuf]) -> Result<(), Failure> {
    let inside = std::env::var_os(softkvm::INSIDE_VARIABLE).is_some();
    let status = match mode {
        KvmMode::Soft if !inside => KvmStatus::Unusable {
            why: "emulation was asked for with --kvm=soft".to_owned(),
        },
        _ => probe::probe(),
    };
    if status.is_usable() {
        return Ok(());
    }
    if mode == KvmMode::Require {
        return Err(anyhow::anyhow!("{status}").into());
    }
    match softkvm::rerun_under(&status, folders)? {}
}
