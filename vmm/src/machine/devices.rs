//! Makes the devices of a machine from its configuration, fresh or as they were saved.
//!
//! The order of the slots is part of what a snapshot means: disks, vsock, network, random numbers.

use std::fs::File;

use serde::{Deserialize, Serialize};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::MachineError;
use crate::{
    arch::layout,
    config::{ConsoleConfig, OTHER_DEVICES, VmmConfig, adopt},
    devices::{
        Devices,
        serial::{BoundedLog, SerialConsole, SerialConsoleState},
        virtio::{
            block::Block,
            device::VirtioDevice,
            net::Net,
            persist::VirtioDeviceState,
            rng::Rng,
            transport::{MmioTransport, TransportState},
            vsock::Vsock,
        },
    },
    vm::Vm,
};

/// Devices in a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicesState {
    serial: SerialConsoleState,
    virtio: Vec<TransportState>,
}

/// Offset of the notification register of virtio-mmio.
const QUEUE_NOTIFY: u64 = 0x50;

/// Number of virtio devices of a configuration.
pub(super) fn count(config: &VmmConfig) -> u32 {
    (config.disks.len() + OTHER_DEVICES) as u32
}

/// Makes fresh devices.
pub(super) fn create(vm: &Vm, config: &VmmConfig) -> Result<Devices, MachineError> {
    let mut all: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for disk in &config.disks {
        all.push(Box::new(Block::new(disk).map_err(MachineError::device)?));
    }
    all.push(Box::new(
        Vsock::new(&config.vsock).map_err(MachineError::device)?,
    ));
    all.push(Box::new(
        Net::new(&config.net).map_err(MachineError::device)?,
    ));
    all.push(Box::new(Rng::new()));
    let mut transports = Vec::with_capacity(all.len());
    for (slot, device) in (0..).zip(all) {
        let irq = vm.interrupt(layout::VIRTIO_GSI_BASE + slot)?;
        let transport =
            MmioTransport::new(vm.memory().clone(), device, irq).map_err(MachineError::device)?;
        transports.push(transport);
    }
    let serial = SerialConsole::new(vm.interrupt(layout::SERIAL_GSI)?, log(&config.console)?);
    connect(vm, serial, transports)
}

/// Makes devices that go on where `state` was saved.
pub(super) fn restore(
    vm: &Vm,
    config: &VmmConfig,
    state: &DevicesState,
) -> Result<Devices, MachineError> {
    if state.virtio.len() != count(config) as usize {
        return Err(MachineError::DeviceCount {
            snapshot: state.virtio.len(),
            configured: count(config) as usize,
        });
    }
    let mut transports = Vec::with_capacity(state.virtio.len());
    let mut disks = config.disks.iter();
    for (slot, saved) in (0..).zip(&state.virtio) {
        let device: Box<dyn VirtioDevice> = match &saved.device {
            VirtioDeviceState::Block(block) => {
                let disk = disks.next().ok_or_else(|| MachineError::DeviceCount {
                    snapshot: state.virtio.len(),
                    configured: count(config) as usize,
                })?;
                Box::new(Block::restore(disk, block).map_err(MachineError::device)?)
            }
            VirtioDeviceState::Vsock(vsock) => {
                Box::new(Vsock::restore(&config.vsock, vsock).map_err(MachineError::device)?)
            }
            VirtioDeviceState::Net(net) => {
                Box::new(Net::restore(&config.net, net).map_err(MachineError::device)?)
            }
            VirtioDeviceState::Rng(rng) => Box::new(Rng::restore(rng)),
        };
        let irq = vm.interrupt(layout::VIRTIO_GSI_BASE + slot)?;
        transports.push(restore_transport(vm.memory(), device, irq, saved)?);
    }
    let interrupt = vm.interrupt(layout::SERIAL_GSI)?;
    let serial = SerialConsole::restore(interrupt, log(&config.console)?, &state.serial)
        .map_err(MachineError::device)?;
    connect(vm, serial, transports)
}

fn restore_transport(
    memory: &GuestMemoryMmap,
    device: Box<dyn VirtioDevice>,
    irq: EventFd,
    state: &TransportState,
) -> Result<MmioTransport, MachineError> {
    MmioTransport::restore(memory.clone(), device, irq, state).map_err(MachineError::device)
}

/// Saves devices; the machine is paused.
pub(super) fn save(devices: &Devices) -> DevicesState {
    DevicesState {
        serial: devices.serial().save(),
        virtio: (0..devices.virtio_count())
            .filter_map(|slot| Some(devices.virtio(slot)?.save()))
            .collect(),
    }
}

fn log(config: &ConsoleConfig) -> Result<BoundedLog, MachineError> {
    let file = config.log_fd.map(adopt).transpose()?;
    Ok(BoundedLog::new(file.map(File::from), config.limit_bytes))
}

/// Has KVM signal queue notifications without an exit to a vCPU thread.
fn connect(
    vm: &Vm,
    serial: SerialConsole,
    transports: Vec<MmioTransport>,
) -> Result<Devices, MachineError> {
    for (slot, transport) in (0_u64..).zip(&transports) {
        let register = layout::VIRTIO_MMIO_BASE + slot * layout::VIRTIO_MMIO_SIZE + QUEUE_NOTIFY;
        for (index, event) in (0_u32..).zip(transport.queue_events()) {
            vm.notify(event, register, index)?;
        }
    }
    Devices::new(serial, transports).map_err(MachineError::device)
}
