//! State of a vCPU: at boot, saved into a snapshot, restored from it.

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_RUNNABLE, kvm_debugregs, kvm_lapic_state,
    kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use crate::arch::{msr, registers};

/// Frequencies closer than this are taken for the same clock, as KVM's own tolerance does.
const TSC_TOLERANCE_PPM: u64 = 250;

/// Why a vCPU could not be set up, saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// A KVM call failed.
    #[error("{action} of a vCPU: {cause}")]
    Kvm {
        /// What was tried.
        action: &'static str,
        /// KVM's answer.
        cause: kvm_ioctls::Error,
    },
    /// Model-specific registers.
    #[error(transparent)]
    Msr(#[from] msr::MsrError),
    /// The time-stamp counter runs at another rate and cannot be scaled.
    #[error(
        "the snapshot's time-stamp counter runs at {snapshot} kHz, this host's at {host} kHz, and \
         this processor cannot scale it: make the snapshot again on this host"
    )]
    TscFrequency {
        /// Frequency in the snapshot.
        snapshot: u32,
        /// Frequency of this host.
        host: u32,
    },
    /// The vCPU's thread ended.
    #[error("the thread of vCPU {id} has ended")]
    ThreadGone {
        /// Which vCPU.
        id: u8,
    },
}

fn kvm_error(action: &'static str) -> impl Fn(kvm_ioctls::Error) -> VcpuError {
    move |cause| VcpuError::Kvm { action, cause }
}

/// State of one vCPU in a snapshot.
#[derive(Serialize, Deserialize)]
pub struct VcpuState {
    cpuid: Vec<kvm_bindings::kvm_cpuid_entry2>,
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Box<kvm_xsave>,
    xcrs: kvm_xcrs,
    debug_regs: kvm_debugregs,
    lapic: Box<kvm_lapic_state>,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
    tsc_khz: Option<u32>,
}

impl std::fmt::Debug for VcpuState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VcpuState")
            .field("rip", &self.regs.rip)
            .field("msrs", &self.msrs.len())
            .finish_non_exhaustive()
    }
}

impl VcpuState {
    /// The model-specific registers in it, in the order in which they must be restored.
    #[must_use]
    pub fn msr_indices(&self) -> Vec<u32> {
        self.msrs.iter().map(|msr| msr.index).collect()
    }
}

/// Puts a vCPU in front of the kernel's entry point (`entry` for the boot processor; the others
/// wait for its start-up message).
///
/// # Errors
/// [`VcpuError`] names the call that failed.
pub fn boot(vcpu: &VcpuFd, cpuid: &CpuId, entry: Option<u64>) -> Result<(), VcpuError> {
    vcpu.set_cpuid2(cpuid).map_err(kvm_error("setting CPUID"))?;
    msr::write(vcpu, &msr::boot_msrs())?;
    vcpu.set_fpu(&registers::boot_fpu())
        .map_err(kvm_error("setting floating-point registers"))?;
    let mut lapic = vcpu
        .get_lapic()
        .map_err(kvm_error("reading the interrupt controller"))?;
    registers::set_local_interrupts(&mut lapic);
    vcpu.set_lapic(&lapic)
        .map_err(kvm_error("setting the interrupt controller"))?;
    if let Some(entry) = entry {
        vcpu.set_regs(&registers::boot_regs(entry))
            .map_err(kvm_error("setting registers"))?;
        let mut sregs = vcpu
            .get_sregs()
            .map_err(kvm_error("reading system registers"))?;
        registers::enter_long_mode(&mut sregs);
        vcpu.set_sregs(&sregs)
            .map_err(kvm_error("setting system registers"))?;
    }
    Ok(())
}

/// Saves a vCPU; its thread is outside of `KVM_RUN`.
///
/// The multiprocessing state comes first because reading it lets KVM take pending INIT and start-up
/// messages, which changes the rest; events come last because reading the other registers may move
/// a pending exception into them.
pub fn save(vcpu: &VcpuFd, msr_indices: &[u32]) -> Result<VcpuState, VcpuError> {
    let mp_state = vcpu
        .get_mp_state()
        .map_err(kvm_error("saving the run state"))?;
    let regs = vcpu.get_regs().map_err(kvm_error("saving registers"))?;
    let sregs = vcpu
        .get_sregs()
        .map_err(kvm_error("saving system registers"))?;
    // 4 KiB hold all state of the features that `arch::cpuid` lets through: KVM needs more
    // (KVM_GET_XSAVE2) only for AMX, which a process must ask for first, and this one does not.
    let xsave = vcpu
        .get_xsave()
        .map_err(kvm_error("saving extended registers"))?;
    let xcrs = vcpu
        .get_xcrs()
        .map_err(kvm_error("saving extended control registers"))?;
    let debug_regs = vcpu
        .get_debug_regs()
        .map_err(kvm_error("saving debug registers"))?;
    let lapic = vcpu
        .get_lapic()
        .map_err(kvm_error("saving the interrupt controller"))?;
    let cpuid = vcpu
        .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
        .map_err(kvm_error("saving CPUID"))?;
    let mut msrs = msr::read(vcpu, msr_indices)?;
    msr::rearm_expired_timer(&mut msrs);
    let events = vcpu
        .get_vcpu_events()
        .map_err(kvm_error("saving pending events"))?;
    Ok(VcpuState {
        cpuid: cpuid.as_slice().to_vec(),
        mp_state: resumable(mp_state),
        regs,
        sregs,
        xsave: Box::new(xsave),
        xcrs,
        debug_regs,
        lapic: Box::new(lapic),
        msrs,
        events,
        tsc_khz: vcpu.get_tsc_khz().ok().filter(|khz| *khz > 0),
    })
}

/// A halted vCPU stays halted; anything that KVM would not take back runs.
fn resumable(state: kvm_mp_state) -> kvm_mp_state {
    match state.mp_state {
        0..=4 => state,
        _ => kvm_mp_state {
            mp_state: KVM_MP_STATE_RUNNABLE,
        },
    }
}

/// Restores a vCPU. The order matters:
/// CPUID first, for it decides which registers exist; the run state before registers, for INIT
/// resets them; REGS before events, for setting them clears a pending exception; the local
/// interrupt controller after SREGS (its base address) and before the model-specific registers
/// (the timer's deadline needs its mode); events last.
///
/// # Errors
/// [`VcpuError`] names the call that failed.
pub fn restore(vcpu: &VcpuFd, state: &VcpuState) -> Result<(), VcpuError> {
    let cpuid = CpuId::from_entries(&state.cpuid).map_err(|_| VcpuError::Kvm {
        action: "restoring CPUID",
        cause: kvm_ioctls::Error::new(libc::E2BIG),
    })?;
    vcpu.set_cpuid2(&cpuid)
        .map_err(kvm_error("restoring CPUID"))?;
    restore_tsc_frequency(vcpu, state.tsc_khz)?;
    vcpu.set_mp_state(state.mp_state)
        .map_err(kvm_error("restoring the run state"))?;
    vcpu.set_regs(&state.regs)
        .map_err(kvm_error("restoring registers"))?;
    vcpu.set_sregs(&state.sregs)
        .map_err(kvm_error("restoring system registers"))?;
    // SAFETY: KVM reads 4 KiB unless this process was permitted a larger state (AMX), which it
    // never asks for; `kvm_xsave` has them.
    unsafe { vcpu.set_xsave(&state.xsave) }.map_err(kvm_error("restoring extended registers"))?;
    vcpu.set_xcrs(&state.xcrs)
        .map_err(kvm_error("restoring extended control registers"))?;
    vcpu.set_debug_regs(&state.debug_regs)
        .map_err(kvm_error("restoring debug registers"))?;
    vcpu.set_lapic(&state.lapic)
        .map_err(kvm_error("restoring the interrupt controller"))?;
    msr::write(vcpu, &state.msrs)?;
    vcpu.set_vcpu_events(&state.events)
        .map_err(kvm_error("restoring pending events"))
}

/// Keeps the guest's counter at the rate that its kernel measured.
fn restore_tsc_frequency(vcpu: &VcpuFd, snapshot: Option<u32>) -> Result<(), VcpuError> {
    let (Some(snapshot), Ok(host)) = (snapshot, vcpu.get_tsc_khz()) else {
        return Ok(());
    };
    if same_frequency(snapshot, host) {
        return Ok(());
    }
    vcpu.set_tsc_khz(snapshot)
        .map_err(|_| VcpuError::TscFrequency { snapshot, host })
}

fn same_frequency(a: u32, b: u32) -> bool {
    u64::from(a.abs_diff(b)) * 1_000_000 <= u64::from(a) * TSC_TOLERANCE_PPM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_differences_of_the_counter_are_the_same_clock() {
        assert!(same_frequency(2_000_000, 2_000_400));
        assert!(!same_frequency(2_000_000, 2_001_000));
    }

    #[test]
    fn a_halted_vcpu_stays_halted() {
        let halted = kvm_mp_state { mp_state: 3 };
        assert_eq!(resumable(halted).mp_state, 3);
        let unknown = kvm_mp_state { mp_state: 77 };
        assert_eq!(resumable(unknown).mp_state, KVM_MP_STATE_RUNNABLE);
    }
}
