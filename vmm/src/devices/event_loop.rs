//! The devices thread: waits for queue notifications and host events, lets devices work on them.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender},
    },
    thread::{self, JoinHandle},
};

use vmm_sys_util::{
    epoll::{ControlOperation, Epoll, EpollEvent, EventSet},
    eventfd::{EFD_NONBLOCK, EventFd},
};

use super::bus::Devices;
use crate::exit::{ExitReason, ExitSignal};

/// Events taken from the kernel at once.
const BATCH: usize = 32;

/// What the event loop waits for: an epoll set whose data tell slot and source.
#[derive(Debug)]
pub struct DeviceEvents {
    epoll: Epoll,
    wake: EventFd,
}

/// Who woke the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Command,
    Queue { slot: usize, index: usize },
    Device { slot: usize, fd: RawFd },
}

const COMMAND: u64 = u64::MAX;
/// Set in data of a device's own descriptor.
const DEVICE: u64 = 1 << 31;

impl Source {
    fn data(self) -> u64 {
        match self {
            Self::Command => COMMAND,
            Self::Queue { slot, index } => (slot as u64) << 32 | index as u64,
            Self::Device { slot, fd } => {
                (slot as u64) << 32 | DEVICE | u64::from(fd.cast_unsigned())
            }
        }
    }

    fn of(data: u64) -> Self {
        let slot = (data >> 32) as usize;
        let low = data as u32 & !(DEVICE as u32);
        match data {
            COMMAND => Self::Command,
            data if data & DEVICE != 0 => Self::Device {
                slot,
                fd: low.cast_signed(),
            },
            _ => Self::Queue {
                slot,
                index: low as usize,
            },
        }
    }
}

impl DeviceEvents {
    /// An empty set.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let this = Self {
            epoll: Epoll::new()?,
            wake: EventFd::new(EFD_NONBLOCK)?,
        };
        this.add(this.wake.as_raw_fd(), Source::Command)?;
        Ok(this)
    }

    fn add(&self, fd: RawFd, source: Source) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN, source.data());
        self.epoll.ctl(ControlOperation::Add, fd, event)
    }

    /// Watches the notifications of a device.
    pub(super) fn watch_queues(&self, slot: usize, events: &[EventFd]) -> io::Result<()> {
        events.iter().enumerate().try_for_each(|(index, event)| {
            self.add(event.as_raw_fd(), Source::Queue { slot, index })
        })
    }

    /// Watches the own descriptors of a device, or no longer. Asking twice is no error.
    pub(super) fn watch_device(&self, slot: usize, fds: &[RawFd], watch: bool) {
        for &fd in fds {
            if watch {
                let _ = self.add(fd, Source::Device { slot, fd });
            } else {
                let _ = self
                    .epoll
                    .ctl(ControlOperation::Delete, fd, EpollEvent::default());
            }
        }
    }
}

/// What the main thread asks of the devices thread.
#[derive(Debug)]
enum Command {
    Pause(SyncSender<()>),
    Resume,
    Stop,
}

/// The main thread's hold on the devices thread. Dropping it stops and joins the thread.
#[derive(Debug)]
pub struct DevicesHandle {
    events: Arc<DeviceEvents>,
    commands: mpsc::Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl DevicesHandle {
    /// Starts the thread, paused. `enter` runs first on it (the jail's filter).
    ///
    /// # Errors
    /// When the host has no thread left.
    pub fn start(
        devices: Arc<Devices>,
        exit: Arc<ExitSignal>,
        enter: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> io::Result<Self> {
        let (commands, receiver) = mpsc::channel();
        let events = Arc::clone(devices.events());
        let thread = thread::Builder::new()
            .name("devices".into())
            .stack_size(256 << 10)
            .spawn(move || {
                let served =
                    enter().and_then(|()| serve(&devices, &receiver).map_err(|e| e.to_string()));
                if let Err(message) = served {
                    exit.raise(ExitReason::internal(format!("devices thread: {message}")));
                }
            })?;
        Ok(Self {
            events,
            commands,
            thread: Some(thread),
        })
    }

    /// Stops work on devices; `false` when the thread is gone.
    #[must_use]
    pub fn pause(&self) -> bool {
        let (reply, receiver) = mpsc::sync_channel(1);
        self.send(Command::Pause(reply));
        receiver.recv().is_ok()
    }

    /// Lets devices work.
    pub fn resume(&self) {
        self.send(Command::Resume);
    }

    fn send(&self, command: Command) {
        let _ = self.commands.send(command);
        let _ = self.events.wake.write(1);
    }
}

impl Drop for DevicesHandle {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(devices: &Devices, commands: &Receiver<Command>) -> io::Result<()> {
    let mut running = false;
    let mut batch = [EpollEvent::default(); BATCH];
    loop {
        if !running {
            match commands.recv() {
                Ok(Command::Resume) => running = true,
                Ok(Command::Pause(reply)) => drop(reply.send(())),
                Ok(Command::Stop) | Err(mpsc::RecvError) => return Ok(()),
            }
            continue;
        }
        let count = match devices.events().epoll.wait(-1, &mut batch) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        for event in &batch[..count] {
            match Source::of(event.data()) {
                Source::Command => {
                    let _ = devices.events().wake.read();
                    match commands.try_recv() {
                        Ok(Command::Pause(reply)) => {
                            running = false;
                            let _ = reply.send(());
                            // What is left of the batch stays readable: it is for after the pause.
                            break;
                        }
                        Ok(Command::Stop) => return Ok(()),
                        Ok(Command::Resume) | Err(_) => {}
                    }
                }
                source => dispatch(devices, source),
            }
        }
    }
}

fn dispatch(devices: &Devices, source: Source) {
    match source {
        Source::Command => {}
        Source::Queue { slot, index } => {
            if let Some(mut transport) = devices.virtio(slot) {
                transport.queue_event_ready(index);
            }
        }
        Source::Device { slot, fd } => {
            if let Some(mut transport) = devices.virtio(slot) {
                transport.event_ready(fd);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_survives_the_kernel() {
        let sources = [
            Source::Command,
            Source::Queue { slot: 0, index: 0 },
            Source::Queue { slot: 17, index: 2 },
            Source::Device { slot: 0, fd: 0 },
            Source::Device {
                slot: 17,
                fd: RawFd::MAX,
            },
        ];
        for source in sources {
            assert_eq!(Source::of(source.data()), source);
        }
    }
}
