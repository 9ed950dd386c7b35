//! Model-specific registers: values at boot, and which ones a snapshot carries.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};

/// Time-stamp counter.
pub const IA32_TSC: u32 = 0x10;
/// Deadline of the local timer in TSC ticks.
pub const IA32_TSC_DEADLINE: u32 = 0x6e0;
const IA32_SYSENTER_CS: u32 = 0x174;
const IA32_SYSENTER_ESP: u32 = 0x175;
const IA32_SYSENTER_EIP: u32 = 0x176;
const IA32_MISC_ENABLE: u32 = 0x1a0;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SYSCALL_MASK: u32 = 0xc000_0084;
const KERNEL_GS_BASE: u32 = 0xc000_0102;

const MISC_ENABLE_FAST_STRING: u64 = 1;
/// Memory type range registers enabled, default write-back.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;
/// Hyper-V's synthetic registers: the guest is not told of Hyper-V, so they hold nothing.
const HYPERV: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4000_0fff;
/// Capabilities of nested VMX, constant for the guest, which has no VMX.
const VMX: std::ops::RangeInclusive<u32> = 0x480..=0x493;

/// Why registers could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MsrError {
    /// KVM's list of registers is not available.
    #[error("asking KVM for its model-specific registers: {0}")]
    List(kvm_ioctls::Error),
    /// Reading failed as a whole.
    #[error("reading model-specific registers: {0}")]
    Read(kvm_ioctls::Error),
    /// Writing failed as a whole.
    #[error("writing model-specific registers: {0}")]
    Write(kvm_ioctls::Error),
    /// One register of a snapshot does not exist here, or takes other values.
    #[error(
        "this host's KVM does not accept {value:#x} in model-specific register {index:#x} of the \
         snapshot; it was made on another processor or kernel: make it again on this host"
    )]
    Refused {
        /// The register.
        index: u32,
        /// The snapshot's value.
        value: u64,
    },
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        data,
        ..Default::default()
    }
}

/// Values that firmware would have left.
#[must_use]
pub fn boot_msrs() -> Vec<kvm_msr_entry> {
    let mut msrs: Vec<_> = [
        IA32_SYSENTER_CS,
        IA32_SYSENTER_ESP,
        IA32_SYSENTER_EIP,
        STAR,
        CSTAR,
        KERNEL_GS_BASE,
        SYSCALL_MASK,
        LSTAR,
        IA32_TSC,
    ]
    .into_iter()
    .map(|index| entry(index, 0))
    .collect();
    msrs.push(entry(IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING));
    msrs.push(entry(IA32_MTRR_DEF_TYPE, MTRR_WRITE_BACK));
    msrs
}

/// Registers that a snapshot carries: all that KVM can save, less those that hold no guest state.
///
/// # Errors
/// [`MsrError::List`] when KVM does not answer.
pub fn snapshot_indices(kvm: &Kvm) -> Result<Vec<u32>, MsrError> {
    let list = kvm.get_msr_index_list().map_err(MsrError::List)?;
    let mut indices: Vec<u32> = list
        .as_slice()
        .iter()
        .copied()
        .filter(|index| carried(*index))
        .collect();
    // KVM arms the timer relative to the counter, so the counter must be there first.
    indices.sort_by_key(|index| *index == IA32_TSC_DEADLINE);
    Ok(indices)
}

fn carried(index: u32) -> bool {
    !HYPERV.contains(&index) && !VMX.contains(&index)
}

/// Reads registers; one that this vCPU does not have is left out.
///
/// # Errors
/// [`MsrError::Read`] when KVM refuses the request as a whole.
pub fn read(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, MsrError> {
    let mut values = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let chunk = &rest[..rest.len().min(kvm_bindings::KVM_MAX_MSR_ENTRIES)];
        let wanted: Vec<_> = chunk.iter().map(|index| entry(*index, 0)).collect();
        let mut msrs = fam(&wanted);
        let count = vcpu.get_msrs(&mut msrs).map_err(MsrError::Read)?;
        values.extend_from_slice(&msrs.as_slice()[..count]);
        // KVM stops at the first register that it cannot read: leave that one out.
        let skip = usize::from(count < chunk.len());
        rest = &rest[count + skip..];
    }
    Ok(values)
}

/// Writes registers in the given order.
///
/// A register that KVM refuses is passed over when it already holds the value (constants that KVM
/// lists but does not take).
///
/// # Errors
/// [`MsrError::Refused`] names the first register that cannot be given its value.
pub fn write(vcpu: &VcpuFd, values: &[kvm_msr_entry]) -> Result<(), MsrError> {
    let mut rest = values;
    while !rest.is_empty() {
        let chunk = &rest[..rest.len().min(kvm_bindings::KVM_MAX_MSR_ENTRIES)];
        let count = vcpu.set_msrs(&fam(chunk)).map_err(MsrError::Write)?;
        rest = &rest[count..];
        if count == chunk.len() {
            continue;
        }
        let refused = rest[0];
        let now = read(vcpu, &[refused.index])?;
        if now.first().map(|msr| msr.data) != Some(refused.data) {
            return Err(MsrError::Refused {
                index: refused.index,
                value: refused.data,
            });
        }
        rest = &rest[1..];
    }
    Ok(())
}

fn fam(entries: &[kvm_msr_entry]) -> Msrs {
    Msrs::from_entries(entries).expect("chunks are no longer than KVM_MAX_MSR_ENTRIES")
}

/// Re-arms a timer that expired while it was saved.
///
/// KVM reports a deadline of zero between expiry and delivery; the interrupt would be lost. One
/// at the current count fires at once, and a spurious timer interrupt harms nobody.
pub fn rearm_expired_timer(values: &mut [kvm_msr_entry]) {
    let value_of = |values: &[kvm_msr_entry], index| {
        values.iter().find(|msr| msr.index == index).map(|m| m.data)
    };
    let Some(now) = value_of(values, IA32_TSC) else {
        return;
    };
    for msr in values {
        if msr.index == IA32_TSC_DEADLINE && msr.data == 0 {
            msr.data = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_leaves_out_hyper_v_and_nested_vmx_and_keeps_kvm_clock() {
        assert!(!carried(0x4000_0001));
        assert!(!carried(0x480));
        assert!(carried(0x4b56_4d01), "kvm-clock");
        assert!(carried(IA32_TSC_DEADLINE));
    }

    #[test]
    fn a_timer_that_expired_during_the_snapshot_is_armed_again() {
        let mut values = [entry(IA32_TSC, 500), entry(IA32_TSC_DEADLINE, 0)];
        rearm_expired_timer(&mut values);
        assert_eq!(values[1].data, 500);
        let mut armed = [entry(IA32_TSC, 500), entry(IA32_TSC_DEADLINE, 900)];
        rearm_expired_timer(&mut armed);
        assert_eq!(armed[1].data, 900);
    }
}
