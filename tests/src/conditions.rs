//! Under what conditions a figure was measured.

use std::{env, fmt, fs, thread};

use mayfly_vmm::{config::MachineConfig, softkvm};
use serde::Serialize;

use crate::guests::Guests;

/// Host, guest and programs of a measurement.
#[derive(Debug, Serialize)]
pub struct Conditions {
    /// Model of the processor.
    pub cpu: String,
    /// Logical CPUs.
    pub cpus: usize,
    /// Kernel of the machine that runs the VMM.
    pub kernel: String,
    /// Whether KVM is the machine's own or that of an emulated machine.
    pub kvm: &'static str,
    /// Size of the guest.
    pub guest: String,
    /// Digest of the image.
    pub image: String,
}

impl Conditions {
    /// Those of this process.
    #[must_use]
    pub fn here(size: MachineConfig, guests: &Guests) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        let emulated = env::var_os(softkvm::INSIDE_VARIABLE).is_some();
        Self {
            cpu: model
                .unwrap_or("unknown")
                .trim_start_matches([':', '\t', ' '])
                .to_owned(),
            cpus: thread::available_parallelism().map_or(1, Into::into),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            kvm: if emulated {
                "emulated (softkvm): only ratios mean something"
            } else {
                "the machine's own"
            },
            guest: format!("{} vCPU, {} MiB", size.vcpus, size.memory_mib),
            image: guests.template().image.digest.to_string(),
        }
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "host   {}, {} CPUs, Linux {}",
            self.cpu, self.cpus, self.kernel
        )?;
        writeln!(f, "KVM    {}", self.kvm)?;
        write!(f, "guest  {}, image {}", self.guest, self.image)
    }
}
