//! Under what conditions a figure was measured.

use std::{env, fmt, fs, thread};

use mayfly_vmm::{config::MachineConfig, softkvm};
use serde::Serialize;

use crate::guests::Guests;

/// The machine of a measurement.
#[derive(Debug, Serialize)]
pub struct Host {
    /// Model of the processor.
    pub cpu: String,
    /// Logical CPUs.
    pub cpus: usize,
    /// Its kernel.
    pub kernel: String,
    /// Processes that ran or waited to run over the last minute: more than CPUs, and figures are worse.
    pub load: String,
}

/// Host, guest and programs of a measurement.
#[derive(Debug, Serialize)]
pub struct Conditions {
    /// The machine that runs the VMM.
    #[serde(flatten)]
    pub host: Host,
    /// Whether KVM is the machine's own or that of an emulated machine.
    pub kvm: &'static str,
    /// Size of the guest.
    pub guest: String,
    /// Digest of the image.
    pub image: String,
}

impl Host {
    /// That of this process.
    #[must_use]
    pub fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .unwrap_or("unknown");
        let load = read("/proc/loadavg");
        Self {
            cpu: model.trim_start_matches([':', '\t', ' ']).to_owned(),
            cpus: thread::available_parallelism().map_or(1, Into::into),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

impl Conditions {
    /// Those of this process.
    #[must_use]
    pub fn here(size: MachineConfig, guests: &Guests) -> Self {
        let emulated = env::var_os(softkvm::INSIDE_VARIABLE).is_some();
        Self {
            host: Host::here(),
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

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu,
            cpus,
            kernel,
            load,
        } = self;
        write!(f, "host   {cpu}, {cpus} CPUs, Linux {kernel}, load {load}")
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.host)?;
        writeln!(f, "KVM    {}", self.kvm)?;
        write!(f, "guest  {}, image {}", self.guest, self.image)
    }
}
