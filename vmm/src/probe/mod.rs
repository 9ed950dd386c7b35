//! Whether `/dev/kvm` of this machine can run a Linux guest.
//!
//! A device node that opens proves little: some hosts offer a KVM that emulates guest ring 0 and
//! leaves the privilege level at 3 after SYSCALL. So a guest of a few instructions is run, and what
//! the VMM needs beside that is asked for by capability.

mod guest;

use std::fmt;
use std::io;

use kvm_ioctls::{Cap, Kvm};
use serde::{Deserialize, Serialize};

/// The only version of the KVM interface there has ever been since it is stable.
const API_VERSION: i32 = 12;

/// What the VMM relies on, by the name that the kernel's documentation has for it.
const CAPABILITIES: [(Cap, &str); 17] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::PitState2, "KVM_CAP_PIT_STATE2"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
    (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ"),
    (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
    (Cap::GetMsrFeatures, "KVM_CAP_GET_MSR_FEATURES"),
];

/// What became of the attempt to use KVM. Its `Display` is a sentence with the next step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum KvmStatus {
    /// There is no `/dev/kvm`, or nothing behind it.
    Absent,
    /// `/dev/kvm` may not be opened by this user.
    NotPermitted,
    /// It opens, but cannot run a Linux guest.
    Unusable {
        /// What it cannot do.
        why: String,
    },
    /// A guest went from ring 3 through SYSCALL into ring 0.
    Usable {
        /// Version of the interface.
        api_version: i32,
    },
}

impl KvmStatus {
    /// Whether a microVM can run.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        matches!(self, KvmStatus::Usable { .. })
    }
}

impl fmt::Display for KvmStatus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvmStatus::Absent => out.write_str(
                "there is no /dev/kvm: load the module kvm_intel or kvm_amd, and turn on \
                 virtualization in the firmware or nested virtualization in the hypervisor",
            ),
            KvmStatus::NotPermitted => out.write_str(
                "/dev/kvm may not be opened by this user: add it to the group kvm with \
                 `usermod -aG kvm USER` and log in again",
            ),
            KvmStatus::Unusable { why } => {
                write!(out, "/dev/kvm cannot run a Linux guest: {why}")
            }
            KvmStatus::Usable { api_version } => {
                write!(
                    out,
                    "/dev/kvm runs guests (interface version {api_version})"
                )
            }
        }
    }
}

/// Finds out whether KVM is usable here: some milliseconds where it is, seconds at worst.
#[must_use]
pub fn probe() -> KvmStatus {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => return status_of_open(error.errno()),
    };
    let api_version = kvm.get_api_version();
    let checked = check_interface(&kvm, api_version).and_then(|()| guest::run(kvm));
    match checked {
        Ok(()) => KvmStatus::Usable { api_version },
        Err(why) => KvmStatus::Unusable { why },
    }
}

fn status_of_open(errno: i32) -> KvmStatus {
    match errno {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmStatus::Absent,
        libc::EACCES | libc::EPERM => KvmStatus::NotPermitted,
        other => {
            let why = format!("it does not open ({})", io::Error::from_raw_os_error(other));
            KvmStatus::Unusable { why }
        }
    }
}

fn check_interface(kvm: &Kvm, api_version: i32) -> Result<(), String> {
    if api_version != API_VERSION {
        return Err(format!(
            "its interface has version {api_version} instead of {API_VERSION}"
        ));
    }
    let missing: Vec<&str> = CAPABILITIES
        .into_iter()
        .filter(|(capability, _)| !kvm.check_extension(*capability))
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("it lacks {}", missing.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn each_way_in_which_the_device_does_not_open_has_its_own_status() {
        assert_eq!(status_of_open(libc::ENOENT), KvmStatus::Absent);
        assert_eq!(status_of_open(libc::EACCES), KvmStatus::NotPermitted);
        assert!(matches!(
            status_of_open(libc::EMFILE),
            KvmStatus::Unusable { .. }
        ));
    }

    #[test]
    fn the_probe_ends_soon_whatever_the_machine_is() {
        let start = Instant::now();
        let status = probe();
        let took = start.elapsed();
        println!("{status} ({} ms)", took.as_millis());
        assert!(took < guest::LIMIT + Duration::from_secs(10), "{took:?}");
    }
}
