//! The KVM virtual machine without its vCPUs: interrupt controllers, timer, clock, notifications.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY,
    kvm_clock_data, kvm_irqchip, kvm_pit_config, kvm_pit_state2,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use serde::{Deserialize, Serialize};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{arch::layout, memory};

/// What KVM must be able to do.
const REQUIRED: [(Cap, &str); 7] = [
    (Cap::Irqchip, "in-kernel interrupt controllers"),
    (Cap::Pit2, "an in-kernel timer"),
    (Cap::Irqfd, "irqfd"),
    (Cap::Ioeventfd, "ioeventfd"),
    (Cap::AdjustClock, "a clock that can be set"),
    (Cap::VcpuEvents, "saving of pending events"),
    (Cap::ImmediateExit, "immediate_exit"),
];

const IRQCHIPS: [u32; 3] = [
    KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE,
    KVM_IRQCHIP_IOAPIC,
];

/// Why a virtual machine could not be made, saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// KVM lacks something.
    #[error("this host's KVM does not offer {0}; use a newer kernel")]
    Missing(&'static str),
    /// A KVM call failed.
    #[error("{action}: {cause}")]
    Kvm {
        /// What was tried.
        action: &'static str,
        /// KVM's answer.
        cause: kvm_ioctls::Error,
    },
    /// Memory could not be registered.
    #[error(transparent)]
    Memory(#[from] memory::MemoryError),
    /// No eventfd is left.
    #[error("creating an eventfd: {0}")]
    EventFd(std::io::Error),
}

/// Names the action in an error of KVM.
fn kvm_error(action: &'static str) -> impl Fn(kvm_ioctls::Error) -> VmError {
    move |cause| VmError::Kvm { action, cause }
}

/// A virtual machine with its memory; vCPUs and devices are added to it.
#[derive(Debug)]
pub struct Vm {
    // Declared before `memory`, hence dropped first: KVM must not know memory that is gone.
    fd: VmFd,
    memory: GuestMemoryMmap,
}

/// State of a virtual machine in a snapshot, without vCPUs and devices.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct VmState {
    irqchips: Vec<kvm_irqchip>,
    pit: kvm_pit_state2,
    clock: kvm_clock_data,
}

impl std::fmt::Debug for VmState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VmState")
            .field("clock_ns", &self.clock.clock)
            .finish_non_exhaustive()
    }
}

impl Vm {
    /// Makes a virtual machine with `memory`, interrupt controllers and timer.
    ///
    /// # Errors
    /// [`VmError`] when KVM lacks a capability or a call fails.
    pub fn new(kvm: &Kvm, memory: GuestMemoryMmap) -> Result<Self, VmError> {
        if let Some((_, name)) = REQUIRED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(VmError::Missing(name));
        }
        let fd = kvm
            .create_vm()
            .map_err(kvm_error("creating a virtual machine"))?;
        // Before the interrupt controllers: their set-up starts grace periods of KVM's SRCU, for
        // which a new memory slot would have to wait (5 ms instead of 0.1 ms).
        memory::register(&fd, &memory)?;
        fd.set_identity_map_address(layout::KVM_IDENTITY_MAP)
            .map_err(kvm_error("placing KVM's identity map"))?;
        fd.set_tss_address(layout::KVM_TSS)
            .map_err(kvm_error("placing KVM's task state segment"))?;
        fd.create_irq_chip()
            .map_err(kvm_error("creating the interrupt controllers"))?;
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        fd.create_pit2(pit)
            .map_err(kvm_error("creating the timer"))?;
        Ok(Self { fd, memory })
    }

    /// The KVM descriptor, for vCPUs.
    #[must_use]
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Guest memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// An eventfd that raises interrupt line `gsi` once per write.
    ///
    /// # Errors
    /// [`VmError`] when no descriptor is left or KVM refuses the line.
    pub fn interrupt(&self, gsi: u32) -> Result<EventFd, VmError> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(VmError::EventFd)?;
        self.fd
            .register_irqfd(&event, gsi)
            .map_err(kvm_error("registering an interrupt"))?;
        Ok(event)
    }

    /// Has KVM signal `event` when the guest writes `datum` (4 bytes) to `address`.
    ///
    /// # Errors
    /// [`VmError`] when KVM refuses the address.
    pub fn notify(&self, event: &EventFd, address: u64, datum: u32) -> Result<(), VmError> {
        self.fd
            .register_ioevent(event, &IoEventAddress::Mmio(address), datum)
            .map_err(kvm_error("registering a queue notification"))
    }

    /// Saves controllers, timer and clock; all vCPUs are paused.
    ///
    /// # Errors
    /// [`VmError`] names the call that failed.
    pub fn save(&self) -> Result<VmState, VmError> {
        let mut irqchips = Vec::with_capacity(IRQCHIPS.len());
        for chip_id in IRQCHIPS {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            self.fd
                .get_irqchip(&mut chip)
                .map_err(kvm_error("saving an interrupt controller"))?;
            irqchips.push(chip);
        }
        let pit = self.fd.get_pit2().map_err(kvm_error("saving the timer"))?;
        let mut clock = self.fd.get_clock().map_err(kvm_error("saving the clock"))?;
        // KVM_SET_CLOCK must go on from this value. With KVM_CLOCK_REALTIME it would add the time
        // since the snapshot: the guest's monotonic clock would jump by days, which overflows its
        // clocksource arithmetic and fires every timer. The guest agent sets the wall clock.
        clock.flags = 0;
        Ok(VmState {
            irqchips,
            pit,
            clock,
        })
    }

    /// Restores controllers and timer.
    ///
    /// # Errors
    /// [`VmError`] names the call that failed.
    pub fn restore(&self, state: &VmState) -> Result<(), VmError> {
        for chip in &state.irqchips {
            self.fd
                .set_irqchip(chip)
                .map_err(kvm_error("restoring an interrupt controller"))?;
        }
        self.fd
            .set_pit2(&state.pit)
            .map_err(kvm_error("restoring the timer"))
    }

    /// Lets the guest's clock go on from where it was saved; the last call before vCPUs run.
    ///
    /// # Errors
    /// [`VmError`] when KVM refuses.
    pub fn restore_clock(&self, state: &VmState) -> Result<(), VmError> {
        self.fd
            .set_clock(&state.clock)
            .map_err(kvm_error("restoring the clock"))
    }
}
