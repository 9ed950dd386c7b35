//! A running machine: vCPU threads, the devices thread, and what can be asked of them.

mod build;
mod devices;
mod save;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use vmm_sys_util::eventfd::EventFd;

use crate::{
    arch::cpuid::GuestCpu,
    config::MachineConfig,
    devices::{Devices, event_loop::DevicesHandle},
    exit::ExitSignal,
    statistics::{Statistics, Timeline},
    vcpu::VcpuHandle,
    vm::Vm,
};

pub use build::MachineError;
pub use devices::DevicesState;
pub use save::SaveError;

/// How long a vCPU may take to leave the guest before the pause fails.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A machine. Dropping it stops all its threads.
#[derive(Debug)]
pub struct Machine {
    // Threads first: they are joined before what they use is dropped.
    vcpus: Vec<VcpuHandle>,
    devices_thread: DevicesHandle,
    devices: Arc<Devices>,
    vm: Vm,
    config: MachineConfig,
    cpu: GuestCpu,
    // Model-specific registers that a snapshot carries.
    msrs: Vec<u32>,
    exit: Arc<ExitSignal>,
    timeline: Arc<Timeline>,
    exits: Arc<AtomicU64>,
    // Keeps the generation event's line registered.
    _generation_event: EventFd,
    paused: bool,
}

/// Why a machine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// A thread of the machine did not answer.
    #[error("vCPU {0} did not stop within 10 s; the machine is not usable any more")]
    NotStopping(usize),
    /// The devices thread ended.
    #[error("the devices thread has ended; the machine is not usable any more")]
    DevicesGone,
}

impl Machine {
    /// Raised when the machine ends.
    #[must_use]
    pub fn exit(&self) -> &Arc<ExitSignal> {
        &self.exit
    }

    /// Lets devices and vCPUs go on.
    pub fn resume(&mut self) {
        // Devices first: the guest's first notification must find a listener.
        self.devices_thread.resume();
        self.vcpus.iter().for_each(VcpuHandle::resume);
        self.paused = false;
    }

    /// Stops all vCPUs, then devices; returns when they stand still. Twice is no error.
    ///
    /// # Errors
    /// [`OperateError`] when a thread does not answer.
    pub fn pause(&mut self) -> Result<(), OperateError> {
        if self.paused {
            return Ok(());
        }
        // All are asked before the first is waited for, so that they stop at once.
        let answers: Vec<_> = self.vcpus.iter().map(VcpuHandle::pause).collect();
        for (id, answer) in answers.iter().enumerate() {
            answer
                .recv_timeout(PAUSE_TIMEOUT)
                .map_err(|_| OperateError::NotStopping(id))?;
        }
        if !self.devices_thread.pause() {
            return Err(OperateError::DevicesGone);
        }
        self.paused = true;
        Ok(())
    }

    /// Figures about this machine.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.timeline.statistics(&self.exits)
    }

    /// Stops all threads and writes out what is buffered.
    pub fn stop(self) {
        // All are told before the first is joined.
        self.vcpus.iter().for_each(VcpuHandle::stop);
        drop(self.vcpus);
        drop(self.devices_thread);
        self.devices.serial().flush();
    }
}
