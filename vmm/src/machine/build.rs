//! Puts a machine together: from a kernel, or from a snapshot.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{Arc, atomic::AtomicU64},
};

use kvm_ioctls::{Kvm, VcpuFd};

use super::{Machine, devices};
use crate::{
    arch::{
        acpi, boot,
        cpuid::{self, CpuTemplate, GuestCpu},
        layout, msr, registers,
    },
    config::{ConfigError, MachineConfig, Start, VmmConfig, adopt},
    devices::{Devices, event_loop::DevicesHandle},
    exit::ExitSignal,
    jail::{self, ThreadKind},
    memory,
    snapshot::state::{MachineState, STATE_MAX, StateError},
    statistics::{Timeline, mark},
    vcpu::{self, Shared, VcpuError, VcpuHandle, VcpuState},
    vm::{Vm, VmError},
};

/// Why a machine could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A descriptor of the configuration is unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] memory::MemoryError),
    /// The virtual machine.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// CPUID.
    #[error(transparent)]
    Cpuid(#[from] cpuid::CpuidError),
    /// Model-specific registers.
    #[error(transparent)]
    Msr(#[from] msr::MsrError),
    /// Kernel, initramfs or command line.
    #[error(transparent)]
    Boot(#[from] boot::BootError),
    /// ACPI tables.
    #[error(transparent)]
    Acpi(#[from] acpi::AcpiError),
    /// Boot tables and generation identifier.
    #[error("writing to guest memory: {0}")]
    GuestMemory(#[from] vm_memory::GuestMemoryError),
    /// A vCPU could not be created.
    #[error("creating vCPU {id}: {cause}")]
    CreateVcpu {
        /// Which.
        id: u8,
        /// KVM's answer.
        cause: kvm_ioctls::Error,
    },
    /// A vCPU could not be set up.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// A device.
    #[error("device: {0}")]
    Device(Box<dyn std::error::Error + Send + Sync>),
    /// Configuration and snapshot have different devices.
    #[error(
        "the snapshot has {snapshot} virtio devices, the configuration {configured}; restore with \
         the devices that the snapshot was made with"
    )]
    DeviceCount {
        /// Devices in the snapshot.
        snapshot: usize,
        /// Devices in the configuration.
        configured: usize,
    },
    /// The state file cannot be read.
    #[error("reading the snapshot's state: {0}")]
    ReadState(std::io::Error),
    /// The state file is of no use.
    #[error(transparent)]
    State(#[from] StateError),
    /// The snapshot is of a machine of another size.
    #[error(
        "the snapshot is of a machine with {} vCPUs and {} MiB, the configuration says {} vCPUs \
         and {} MiB; restore with the snapshot's size or make another snapshot",
        .snapshot.vcpus, .snapshot.memory_mib, .configured.vcpus, .configured.memory_mib
    )]
    Size {
        /// Size in the snapshot.
        snapshot: MachineConfig,
        /// Size in the configuration.
        configured: MachineConfig,
    },
    /// The snapshot was made on another processor.
    #[error(
        "the snapshot was made on {snapshot}, this host has {here}; make the snapshot again here"
    )]
    Cpu {
        /// Processor of the snapshot.
        snapshot: Box<GuestCpu>,
        /// Processor here.
        here: Box<GuestCpu>,
    },
    /// A thread or an eventfd.
    #[error("starting the machine's threads: {0}")]
    Thread(std::io::Error),
}

impl MachineError {
    /// Whether other input would have worked, as opposed to another host or another VMM.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Config(_)
                | Self::Memory(memory::MemoryError::FileSize { .. })
                | Self::Boot(_)
                | Self::Device(_)
                | Self::DeviceCount { .. }
                | Self::State(_)
                | Self::Size { .. }
                | Self::Cpu { .. }
        )
    }

    pub(super) fn device(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Device(Box::new(cause))
    }
}

impl Machine {
    /// Puts together what `config` describes, paused before its first instruction.
    ///
    /// # Errors
    /// [`MachineError`] names the part that failed.
    pub fn new(
        kvm: &Kvm,
        config: &VmmConfig,
        timeline: Arc<Timeline>,
    ) -> Result<Self, MachineError> {
        match &config.start {
            Start::Boot {
                kernel_fd,
                initramfs_fd,
                cmdline,
            } => {
                let kernel = File::from(adopt(*kernel_fd)?);
                let initramfs = File::from(adopt(*initramfs_fd)?);
                Self::boot(kvm, config, kernel, initramfs, cmdline, timeline)
            }
            Start::Restore {
                state_fd,
                memory_fd,
            } => {
                let state = read_state(&File::from(adopt(*state_fd)?))?;
                let memory = File::from(adopt(*memory_fd)?);
                Self::restore(kvm, config, &state, memory, timeline)
            }
        }
    }

    fn boot(
        kvm: &Kvm,
        config: &VmmConfig,
        kernel: File,
        initramfs: File,
        cmdline: &str,
        timeline: Arc<Timeline>,
    ) -> Result<Self, MachineError> {
        let vcpu_count = config.machine.vcpus;
        let memory = memory::anonymous(config.machine)?;
        let rsdp = acpi::write_tables(&memory, vcpu_count, devices::count(config))?;
        let entry = boot::load(&memory, kernel, initramfs, cmdline, rsdp)?;
        registers::write_boot_tables(&memory)?;
        config.generation_id()?.write(&memory)?;
        mark(&timeline.memory_mapped);
        let vm = Vm::new(kvm, memory)?;
        let devices = devices::create(&vm, config)?;
        let template = CpuTemplate::of_host(kvm)?;
        let mut vcpus = Vec::with_capacity(vcpu_count.into());
        for id in 0..vcpu_count {
            let vcpu = create_vcpu(&vm, id)?;
            let entry = (id == 0).then_some(entry.0);
            vcpu::boot(&vcpu, &template.for_vcpu(id, vcpu_count), entry)?;
            vcpus.push(vcpu);
        }
        let parts = Parts {
            vm,
            devices,
            vcpus,
            cpu: template.identity(),
            msrs: msr::snapshot_indices(kvm)?,
        };
        Self::assemble(parts, config, timeline)
    }

    /// The order matters: a vCPU before the interrupt controllers, which hand it what they hold;
    /// devices after both, for they raise interrupts that may have been lost; the clock last, for
    /// it runs from then on.
    fn restore(
        kvm: &Kvm,
        config: &VmmConfig,
        state: &MachineState,
        memory: File,
        timeline: Arc<Timeline>,
    ) -> Result<Self, MachineError> {
        if state.machine != config.machine {
            return Err(MachineError::Size {
                snapshot: state.machine,
                configured: config.machine,
            });
        }
        let here = CpuTemplate::of_host(kvm)?.identity();
        if state.cpu != here {
            return Err(MachineError::Cpu {
                snapshot: Box::new(state.cpu.clone()),
                here: Box::new(here),
            });
        }
        let memory = memory::from_snapshot(config.machine, memory)?;
        config.generation_id()?.write(&memory)?;
        mark(&timeline.memory_mapped);
        let vm = Vm::new(kvm, memory)?;
        let mut vcpus = Vec::with_capacity(state.vcpus.len());
        for (id, saved) in (0..).zip(&state.vcpus) {
            let vcpu = create_vcpu(&vm, id)?;
            vcpu::restore(&vcpu, saved)?;
            vcpus.push(vcpu);
        }
        vm.restore(&state.vm)?;
        let devices = devices::restore(&vm, config, &state.devices)?;
        vm.restore_clock(&state.vm)?;
        let parts = Parts {
            vm,
            devices,
            vcpus,
            cpu: here,
            msrs: state
                .vcpus
                .first()
                .map_or_else(Vec::new, VcpuState::msr_indices),
        };
        Self::assemble(parts, config, timeline)
    }

    /// Starts the threads around what is ready.
    fn assemble(
        parts: Parts,
        config: &VmmConfig,
        timeline: Arc<Timeline>,
    ) -> Result<Self, MachineError> {
        mark(&timeline.state_ready);
        let exit = Arc::new(ExitSignal::new().map_err(MachineError::Thread)?);
        let devices = Arc::new(parts.devices);
        let generation_event = parts.vm.interrupt(layout::GED_GSI)?;
        if let Start::Restore { .. } = config.start {
            // The identifier in memory is another one than the guest knows. The counter cannot
            // overflow: this is its first write.
            let _ = generation_event.write(1);
        }
        let shared = Shared {
            devices: Arc::clone(&devices),
            exit: Arc::clone(&exit),
            timeline: Arc::clone(&timeline),
            exits: Arc::new(AtomicU64::new(0)),
        };
        let filter = |kind: ThreadKind| {
            let enabled = config.jail.enabled;
            move || match enabled {
                true => jail::filter_thread(kind).map_err(|e| e.to_string()),
                false => Ok(()),
            }
        };
        let devices_thread = DevicesHandle::start(
            Arc::clone(&devices),
            Arc::clone(&exit),
            filter(ThreadKind::Devices),
        )
        .map_err(MachineError::Thread)?;
        let mut handles = Vec::with_capacity(parts.vcpus.len());
        for (id, vcpu) in (0..).zip(parts.vcpus) {
            let handle = VcpuHandle::start(id, vcpu, shared.clone(), filter(ThreadKind::Vcpu))
                .map_err(MachineError::Thread)?;
            handles.push(handle);
        }
        Ok(Self {
            vcpus: handles,
            devices_thread,
            devices,
            vm: parts.vm,
            config: config.machine,
            cpu: parts.cpu,
            msrs: parts.msrs,
            _generation_event: generation_event,
            exit,
            timeline,
            exits: shared.exits,
            paused: true,
        })
    }
}

/// What is ready before threads start.
struct Parts {
    msrs: Vec<u32>,
    vm: Vm,
    devices: Devices,
    vcpus: Vec<VcpuFd>,
    cpu: GuestCpu,
}

/// Reads without moving the file's position, which restores at the same time may share.
fn read_state(file: &File) -> Result<MachineState, MachineError> {
    let read = || {
        let length = file.metadata()?.len().min(STATE_MAX) as usize;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    let bytes = read().map_err(MachineError::ReadState)?;
    Ok(MachineState::decode(&bytes)?)
}

fn create_vcpu(vm: &Vm, id: u8) -> Result<VcpuFd, MachineError> {
    vm.fd()
        .create_vcpu(id.into())
        .map_err(|cause| MachineError::CreateVcpu { id, cause })
}
