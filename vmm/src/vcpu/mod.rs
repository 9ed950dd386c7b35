//! A vCPU: its thread, how it is stopped, and what it does when the guest leaves guest mode.
//!
//! A vCPU is always stopped inside `KVM_RUN` by `immediate_exit` and a signal. Then no exit is half
//! handled: KVM has completed the I/O instruction before it returns, so the registers are whole.

mod kick;
mod state;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread::{self, JoinHandle},
};

use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::{
    devices::Devices,
    exit::{ExitReason, ExitSignal},
    statistics::{self, Timeline},
};

use kick::Kick;
pub use state::{VcpuError, VcpuState, boot, restore};

/// What all vCPU threads of a machine share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Devices that the guest reaches by ports and memory.
    pub devices: Arc<Devices>,
    /// Raised when the machine ends.
    pub exit: Arc<ExitSignal>,
    /// Takes the time of the first entry.
    pub timeline: Arc<Timeline>,
    /// Counts exits.
    pub exits: Arc<AtomicU64>,
}

/// What the main thread asks of a vCPU thread.
#[derive(Debug)]
enum Command {
    Resume,
    Pause(SyncSender<()>),
    Save(Vec<u32>, SyncSender<Result<VcpuState, VcpuError>>),
    Stop,
}

/// The main thread's hold on a vCPU thread. Dropping it stops and joins the thread.
#[derive(Debug)]
pub struct VcpuHandle {
    id: u8,
    commands: mpsc::Sender<Command>,
    kick: Arc<Kick>,
    thread: Option<JoinHandle<()>>,
}

impl VcpuHandle {
    /// Starts the thread of vCPU `id`, paused. `enter` runs first on it (the jail's filter).
    ///
    /// # Errors
    /// When the host has no thread left.
    pub fn start(
        id: u8,
        mut fd: VcpuFd,
        shared: Shared,
        enter: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> std::io::Result<Self> {
        let kick = Arc::new(Kick::new(&mut fd)?);
        let (commands, receiver) = mpsc::channel();
        let mut vcpu = Vcpu {
            fd,
            shared,
            kick: Arc::clone(&kick),
        };
        let thread = thread::Builder::new()
            .name(format!("vcpu{id}"))
            .stack_size(256 << 10)
            .spawn(move || match enter() {
                Ok(()) => vcpu.serve(&receiver),
                Err(message) => vcpu.shared.exit.raise(ExitReason::internal(message)),
            })?;
        Ok(Self {
            id,
            commands,
            kick,
            thread: Some(thread),
        })
    }

    /// Lets the vCPU enter the guest.
    pub fn resume(&self) {
        self.send(Command::Resume);
    }

    /// Asks the vCPU to leave the guest; the receiver answers when it has.
    #[must_use]
    pub fn pause(&self) -> Receiver<()> {
        let (reply, receiver) = mpsc::sync_channel(1);
        self.send(Command::Pause(reply));
        receiver
    }

    /// Saves the state of the paused vCPU, with the model-specific registers `msrs`.
    ///
    /// # Errors
    /// [`VcpuError`] when a call of KVM fails or the thread is gone.
    pub fn save(&self, msrs: Vec<u32>) -> Result<VcpuState, VcpuError> {
        let (reply, receiver) = mpsc::sync_channel(1);
        self.send(Command::Save(msrs, reply));
        receiver
            .recv()
            .unwrap_or(Err(VcpuError::ThreadGone { id: self.id }))
    }

    /// A thread that is gone is found out by the missing answer.
    fn send(&self, command: Command) {
        let _ = self.commands.send(command);
        if let Some(thread) = &self.thread {
            self.kick.kick(thread);
        }
    }

    /// Asks the thread to end; [`Drop`] waits for it.
    pub fn stop(&self) {
        self.send(Command::Stop);
    }
}

impl Drop for VcpuHandle {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread ended the process already (`panic = "abort"`) or is a test's.
            let _ = thread.join();
        }
    }
}

/// A vCPU on its own thread.
struct Vcpu {
    fd: VcpuFd,
    shared: Shared,
    kick: Arc<Kick>,
}

impl Drop for Vcpu {
    /// The page behind `kick` goes with `fd`, which is dropped after this.
    fn drop(&mut self) {
        self.kick.disarm();
    }
}

/// What a vCPU thread does next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Run,
    Wait,
    End,
}

impl Vcpu {
    fn serve(&mut self, commands: &Receiver<Command>) {
        let mut next = Next::Wait;
        loop {
            next = match next {
                Next::Run => self.run(commands),
                Next::Wait => match commands.recv() {
                    Ok(command) => self.obey(command, Next::Wait),
                    Err(mpsc::RecvError) => Next::End,
                },
                Next::End => return,
            };
        }
    }

    fn obey(&self, command: Command, now: Next) -> Next {
        match command {
            Command::Resume => {
                // Tells the guest's watchdogs that time stood still. A guest that has not set up
                // kvm-clock cannot be told.
                let _ = self.fd.kvmclock_ctrl();
                statistics::mark(&self.shared.timeline.first_entry);
                Next::Run
            }
            Command::Pause(reply) => {
                let _ = reply.send(());
                Next::Wait
            }
            Command::Save(msrs, reply) => {
                let _ = reply.send(state::save(&self.fd, &msrs));
                now
            }
            Command::Stop => Next::End,
        }
    }

    /// Runs the guest until a command or the end of the machine.
    fn run(&mut self, commands: &Receiver<Command>) -> Next {
        let exit = self.fd.run();
        self.shared.exits.fetch_add(1, Ordering::Relaxed);
        let reason = match exit {
            Ok(exit) => handle(&self.shared.devices, exit),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                self.kick.acknowledge();
                let mut next = Next::Run;
                while next != Next::End
                    && let Ok(command) = commands.try_recv()
                {
                    next = self.obey(command, next);
                }
                return next;
            }
            Err(error) => Some(ExitReason::internal(format!("running a vCPU: {error}"))),
        };
        match reason {
            None => Next::Run,
            Some(reason) => {
                self.shared.exit.raise(reason);
                Next::Wait
            }
        }
    }
}

/// Does what the guest's exit asks for; `Some` when it ends the machine.
fn handle(devices: &Devices, exit: VcpuExit<'_>) -> Option<ExitReason> {
    match exit {
        VcpuExit::IoIn(port, data) => devices.read_port(port, data),
        VcpuExit::IoOut(port, data) => return devices.write_port(port, data),
        VcpuExit::MmioRead(address, data) => devices.read_memory(address, data),
        VcpuExit::MmioWrite(address, data) => devices.write_memory(address, data),
        VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Hlt => {}
        VcpuExit::Shutdown => {
            return Some(ExitReason::GuestPanicked {
                how: "triple fault".into(),
            });
        }
        VcpuExit::FailEntry(reason, cpu) => {
            return Some(ExitReason::internal(format!(
                "the processor refused to enter the guest on CPU {cpu}: reason {reason:#x}"
            )));
        }
        VcpuExit::InternalError => {
            return Some(ExitReason::internal(
                "KVM cannot emulate what the guest does (KVM_EXIT_INTERNAL_ERROR); \
                 `mayfly doctor` tells whether this host's KVM is usable",
            ));
        }
        other => {
            return Some(ExitReason::internal(format!(
                "KVM returned an exit that nobody asked for: {other:?}"
            )));
        }
    }
    None
}
