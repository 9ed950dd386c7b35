//! CPUID as the guest sees it, and what of it a snapshot is bound to.
//!
//! Starts from what KVM supports; takes away what a job has no use for (nested virtualisation,
//! performance counters, transactional memory) or what does not survive a snapshot (asynchronous
//! page faults); and replaces the host's topology by the machine's: one socket, no threads.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Why CPUID could not be determined.
#[derive(Debug, thiserror::Error)]
pub enum CpuidError {
    /// KVM does not say what it supports.
    #[error("asking KVM for the CPUID it supports: {0}")]
    Supported(kvm_ioctls::Error),
}

/// The processor as guests of this VMM see it; a restore needs the very same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GuestCpu {
    /// `GenuineIntel`, `AuthenticAMD`, …
    pub vendor: String,
    /// Brand string, for people.
    pub model: String,
    /// Family, model and stepping as CPUID leaf 1 has them in EAX.
    pub signature: u32,
    /// SHA-256 of all CPUID leaves that a guest with one vCPU sees here, in hexadecimal.
    pub features: String,
}

impl std::fmt::Display for GuestCpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let features = self.features.get(..12).unwrap_or(&self.features);
        write!(
            f,
            "{} \"{}\" signature {:#x} features {features}",
            self.vendor, self.model, self.signature
        )
    }
}

/// CPUID of a host, before it is given to a vCPU.
#[derive(Debug, Clone)]
pub struct CpuTemplate {
    entries: Vec<kvm_cpuid_entry2>,
}

const AMD: &str = "AuthenticAMD";
const HYGON: &str = "HygonGenuine";

mod bit {
    pub const MONITOR: u32 = 1 << 3;
    pub const VMX: u32 = 1 << 5;
    pub const TSC_DEADLINE: u32 = 1 << 24;
    pub const HYPERVISOR: u32 = 1 << 31;
    pub const HTT: u32 = 1 << 28;
    /// Leaf 6 EAX: the timer runs in all idle states.
    pub const ARAT: u32 = 1 << 2;
    /// Leaf 7 EBX: SGX, HLE, RTM.
    pub const SGX_TSX: u32 = 1 << 2 | 1 << 4 | 1 << 11;
    /// Leaf 7 ECX: user-level wait, SGX launch control.
    pub const WAITPKG_SGX: u32 = 1 << 5 | 1 << 30;
    /// Leaf 0x80000001 ECX.
    pub const CMP_LEGACY: u32 = 1 << 1;
    pub const SVM: u32 = 1 << 2;
    /// Leaf 0x80000001 ECX: instruction sampling, performance counters of core, NB and L2.
    pub const AMD_COUNTERS: u32 = 1 << 10 | 1 << 23 | 1 << 24 | 1 << 28;
    /// Leaf 0x40000001 EAX: asynchronous page faults. A request that is under way when the
    /// machine is saved is never answered in the restored one.
    pub const ASYNC_PAGE_FAULT: u32 = 1 << 4 | 1 << 10 | 1 << 14;
}

impl CpuTemplate {
    /// Asks KVM what it supports and removes what guests do not get.
    ///
    /// # Errors
    /// [`CpuidError::Supported`] when KVM does not answer.
    pub fn of_host(kvm: &Kvm) -> Result<Self, CpuidError> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(CpuidError::Supported)?;
        let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
        Ok(Self::from_supported(supported.as_slice(), deadline))
    }

    fn from_supported(supported: &[kvm_cpuid_entry2], tsc_deadline: bool) -> Self {
        let mut entries: Vec<_> = supported
            .iter()
            .filter(|entry| !hidden_leaf(entry.function))
            .copied()
            .collect();
        for entry in &mut entries {
            restrict(entry, tsc_deadline);
        }
        Self { entries }
    }

    /// CPUID of vCPU `id` in a machine of `vcpus`.
    #[must_use]
    pub fn for_vcpu(&self, id: u8, vcpus: u8) -> CpuId {
        let amd = matches!(self.vendor().as_str(), AMD | HYGON);
        let mut entries = self.entries.clone();
        entries.retain(|entry| entry.function != 0xb || entry.index < 3);
        for entry in &mut entries {
            set_topology(entry, id, vcpus, amd);
        }
        CpuId::from_entries(&entries).expect("KVM gave no more than KVM_MAX_CPUID_ENTRIES entries")
    }

    /// What a snapshot made here is bound to.
    #[must_use]
    pub fn identity(&self) -> GuestCpu {
        let guest = self.for_vcpu(0, 1);
        let mut digest = Sha256::new();
        for entry in guest.as_slice() {
            let words = [
                entry.function,
                entry.index,
                entry.eax,
                entry.ebx,
                entry.ecx,
                entry.edx,
            ];
            words
                .iter()
                .for_each(|word| digest.update(word.to_le_bytes()));
        }
        GuestCpu {
            vendor: self.vendor(),
            model: self.brand(),
            signature: self.leaf(1).map_or(0, |leaf| leaf.eax),
            features: hex::encode(digest.finalize()),
        }
    }

    fn leaf(&self, function: u32) -> Option<&kvm_cpuid_entry2> {
        self.entries.iter().find(|entry| entry.function == function)
    }

    fn vendor(&self) -> String {
        self.leaf(0)
            .map_or_else(String::new, |leaf| text(&[leaf.ebx, leaf.edx, leaf.ecx]))
    }

    fn brand(&self) -> String {
        (0x8000_0002..=0x8000_0004)
            .filter_map(|function| self.leaf(function))
            .map(|leaf| text(&[leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]))
            .collect::<String>()
            .trim()
            .to_owned()
    }
}

fn text(words: &[u32]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    bytes
        .filter(|byte| byte.is_ascii_graphic() || *byte == b' ')
        .map(char::from)
        .collect()
}

/// Leaves of counters, SGX, nested SVM, memory encryption, and the second form of topology
/// (guests prefer 0x1f to 0xb; one of them is enough).
fn hidden_leaf(function: u32) -> bool {
    matches!(
        function,
        0xa | 0x12 | 0x1f | 0x8000_000a | 0x8000_001f | 0x8000_0022
    )
}

fn restrict(entry: &mut kvm_cpuid_entry2, tsc_deadline: bool) {
    match (entry.function, entry.index) {
        (1, _) => {
            entry.ecx &= !(bit::MONITOR | bit::VMX | bit::TSC_DEADLINE);
            entry.ecx |= bit::HYPERVISOR;
            if tsc_deadline {
                entry.ecx |= bit::TSC_DEADLINE;
            }
        }
        (5, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        (6, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (entry.eax & bit::ARAT, 0, 0, 0),
        (7, 0) => {
            entry.ebx &= !bit::SGX_TSX;
            entry.ecx &= !bit::WAITPKG_SGX;
        }
        (0x4000_0001, _) => entry.eax &= !bit::ASYNC_PAGE_FAULT,
        (0x8000_0001, _) => entry.ecx &= !(bit::SVM | bit::AMD_COUNTERS),
        _ => {}
    }
}

/// One socket with `vcpus` cores of one thread; all share the last-level cache.
fn set_topology(entry: &mut kvm_cpuid_entry2, id: u8, vcpus: u8, amd: bool) {
    let (id, vcpus) = (u32::from(id), u32::from(vcpus));
    let cores_bits = vcpus.next_power_of_two().trailing_zeros();
    match entry.function {
        1 => {
            entry.ebx = (entry.ebx & 0xffff) | vcpus << 16 | id << 24;
            entry.edx = with_bit(entry.edx, bit::HTT, vcpus > 1);
        }
        4 => {
            let sharing = if entry.eax >> 5 & 7 >= 3 {
                vcpus - 1
            } else {
                0
            };
            // A subleaf of type 0 ends the list and stays empty.
            if entry.eax & 0x1f != 0 {
                entry.eax = (entry.eax & 0x3fff) | sharing << 14 | (vcpus - 1) << 26;
            }
        }
        0xb => {
            entry.edx = id;
            (entry.eax, entry.ebx, entry.ecx) = match entry.index {
                0 => (0, 1, 0x100),
                1 => (cores_bits, vcpus, 0x201),
                other => (0, 0, other),
            };
        }
        0x8000_0001 if amd => {
            entry.ecx = with_bit(entry.ecx, bit::CMP_LEGACY, vcpus > 1);
        }
        0x8000_0008 if amd => entry.ecx = cores_bits << 12 | (vcpus - 1),
        0x8000_001d => {
            let sharing = if entry.eax >> 5 & 7 >= 3 {
                vcpus - 1
            } else {
                0
            };
            entry.eax = (entry.eax & !0x03ff_c000) | sharing << 14;
        }
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id & 0xff, 0),
        _ => {}
    }
}

fn with_bit(word: u32, bit: u32, set: bool) -> u32 {
    if set { word | bit } else { word & !bit }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: registers[0],
            ebx: registers[1],
            ecx: registers[2],
            edx: registers[3],
            ..Default::default()
        }
    }

    fn word(text: &[u8; 4]) -> u32 {
        u32::from_le_bytes(*text)
    }

    fn template() -> CpuTemplate {
        let all = [
            entry(0, 0, [0x1f, word(b"Auth"), word(b"cAMD"), word(b"enti")]),
            entry(1, 0, [0xa20f10, 0x0715_0800, u32::MAX, u32::MAX]),
            entry(7, 0, [0, u32::MAX, u32::MAX, 0]),
            entry(0xa, 0, [1, 2, 3, 4]),
            entry(0xb, 0, [9, 9, 9, 9]),
            entry(0xb, 1, [9, 9, 9, 9]),
            entry(0x4000_0001, 0, [u32::MAX, 0, 0, 0]),
            entry(0x8000_0001, 0, [0, 0, u32::MAX, 0]),
        ];
        CpuTemplate::from_supported(&all, true)
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid
            .as_slice()
            .iter()
            .find(|entry| (entry.function, entry.index) == (function, index))
            .unwrap()
    }

    #[test]
    fn a_guest_knows_its_hypervisor_and_gets_no_nested_virtualisation() {
        let cpuid = template().for_vcpu(0, 1);
        let one = find(&cpuid, 1, 0);
        assert_ne!(one.ecx & bit::HYPERVISOR, 0);
        assert_ne!(one.ecx & bit::TSC_DEADLINE, 0);
        assert_eq!(one.ecx & (bit::VMX | bit::MONITOR), 0);
        assert_eq!(find(&cpuid, 0x8000_0001, 0).ecx & bit::SVM, 0);
        assert_eq!(find(&cpuid, 0x4000_0001, 0).eax & bit::ASYNC_PAGE_FAULT, 0);
        assert!(cpuid.as_slice().iter().all(|leaf| leaf.function != 0xa));
    }

    #[test]
    fn topology_is_one_socket_of_single_threaded_cores() {
        let cpuid = template().for_vcpu(2, 3);
        assert_eq!(find(&cpuid, 1, 0).ebx >> 16, 0x0203);
        let cores = find(&cpuid, 0xb, 1);
        assert_eq!((cores.eax, cores.ebx, cores.edx), (2, 3, 2));
        assert_eq!(find(&cpuid, 0xb, 0).ebx, 1);
    }

    #[test]
    fn the_identity_does_not_depend_on_the_host_cpu_that_was_asked() {
        let first = template().identity();
        let mut other = template();
        other.entries[1].ebx |= 0x3300_0000;
        assert_eq!(first, other.identity());
        other.entries[2].ebx &= !1;
        assert_ne!(first.features, other.identity().features);
        assert_eq!(first.vendor, AMD);
    }
}
