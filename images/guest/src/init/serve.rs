//! The loop of PID 1: takes connections, starts a process for each, buries the dead.
//!
//! Before the sandbox has its identity there is no step, and so nothing to keep from anyone: those
//! connections are served here, without the cost of a fork, one after the other.

use std::{
    collections::HashSet,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, Signal, WaitOptions, wait},
};

use super::{
    activation::Activation, boot::BootError, boot::Machine, identity, power_off, vsock::VsockError,
};
use crate::{
    agent::{Connection, ConnectionError, serve as serve_request},
    wire::{AgentState, Answer, IdentityRequest, Request},
};

/// Most connections that are served at once.
const MAX_HANDLERS: usize = 128;

/// Serves for ever; gives the reason why it cannot go on.
pub(super) fn serve(mut machine: Machine) -> BootError {
    let activation = machine.activation.take();
    match Server::new(&machine, activation).and_then(|mut server| server.run()) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

struct Server<'a> {
    machine: &'a Machine,
    /// Readable when a child ended or the machine shall.
    signals: OwnedFd,
    state: AgentState,
    handlers: HashSet<Pid>,
    activation: Option<Activation>,
}

impl<'a> Server<'a> {
    fn new(machine: &'a Machine, activation: Option<Activation>) -> Result<Self, BootError> {
        let signals = signal_descriptor();
        let signals = signals.map_err(|error| BootError::Own("watching signals", error))?;
        Ok(Self {
            machine,
            signals,
            state: AgentState::Template,
            handlers: HashSet::new(),
            activation,
        })
    }

    fn run(&mut self) -> Result<std::convert::Infallible, BootError> {
        loop {
            let [connection, signal, client] = self.wait()?;
            if signal {
                self.take_signals();
            }
            if client && let Some(activation) = &mut self.activation {
                activation.start(&self.machine.context);
            }
            if connection {
                let accepted = self.machine.listener.accept().map_err(VsockError::Wait)?;
                accepted.into_iter().for_each(|stream| self.take(stream));
            }
        }
    }

    /// Waits for something to do: a connection, a signal, a client of the socket.
    fn wait(&self) -> Result<[bool; 3], BootError> {
        // The template starts nothing: what runs in it would be in every sandbox.
        let activation = self.activation.as_ref();
        let activation = activation.filter(|_| self.state == AgentState::Ready);
        let socket = activation.and_then(Activation::waits);
        let listener = self.machine.listener.as_fd();
        let fds = [Some(listener), Some(self.signals.as_fd()), socket];
        let waited = fds.into_iter().flatten();
        let mut waited: Vec<_> = waited
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut waited, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(VsockError::Wait(errno.into()).into()),
        }
        let ready = |at: usize| waited.get(at).is_some_and(|fd| !fd.revents().is_empty());
        Ok([ready(0), ready(1), ready(2)])
    }

    fn take(&mut self, stream: OwnedFd) {
        let result = match self.state {
            AgentState::Template => self.serve_template(stream),
            AgentState::Ready => {
                self.fork_handler(stream);
                Ok(())
            }
        };
        if let Err(error) = result {
            eprintln!("mayfly-guest: {error}");
        }
    }

    fn serve_template(&mut self, stream: OwnedFd) -> Result<(), ConnectionError> {
        let mut connection = Connection::open(stream)?;
        let answer = match connection.request_or_refuse()? {
            Request::Ping => Answer::Pong { state: self.state },
            Request::Identity(request) => self.take_identity(&request),
            Request::Shutdown => {
                connection.answer(&Answer::Done)?;
                connection.close();
                power_off();
            }
            _ => Answer::Refused {
                why: "this sandbox has no identity yet".to_owned(),
            },
        };
        connection.answer(&answer)?;
        connection.close();
        Ok(())
    }

    fn take_identity(&mut self, request: &IdentityRequest) -> Answer {
        match identity::take(request) {
            Ok(proof) => {
                self.state = AgentState::Ready;
                Answer::Identified(proof)
            }
            Err(error) => Answer::Refused {
                why: error.to_string(),
            },
        }
    }

    fn fork_handler(&mut self, stream: OwnedFd) {
        if self.handlers.len() >= MAX_HANDLERS {
            eprintln!("mayfly-guest: {MAX_HANDLERS} requests at once; one more was dropped");
            return;
        }
        // SAFETY: PID 1 has one thread, so the child has whole locks and a whole heap, and may
        // do anything that a process may.
        match unsafe { libc::fork() } {
            0 => {
                let served = handle(stream, self.machine);
                if let Err(error) = &served {
                    eprintln!("mayfly-guest: {error}");
                }
                // SAFETY: no memory is passed. Destructors are PID 1's to run, not its copy's.
                unsafe { libc::_exit(i32::from(served.is_err())) };
            }
            child => match Pid::from_raw(child) {
                Some(child) if child.as_raw_nonzero().get() > 0 => {
                    self.handlers.insert(child);
                }
                _ => {
                    let error = std::io::Error::last_os_error();
                    eprintln!("mayfly-guest: starting a process for a request: {error}");
                }
            },
        }
    }

    fn take_signals(&mut self) {
        for signal in pending_signals(&self.signals) {
            if signal != Signal::CHILD.as_raw() as u32 {
                power_off();
            }
        }
        // One SIGCHLD may stand for many children.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let handler = self.handlers.remove(&pid);
            if let Some(activation) = &mut self.activation {
                activation.ended(pid.as_raw_nonzero().get().cast_unsigned());
            }
            if handler && status.exit_status() != Some(0) {
                // It did not end well, and cannot have ended what it started.
                self.kill_step(pid);
            }
        }
    }

    fn kill_step(&self, handler: Pid) {
        let name = handler.as_raw_nonzero().to_string();
        if let Ok(group) = self.machine.steps.child(&name) {
            group.kill();
            group.remove_if_empty();
        }
    }
}

/// Serves one connection, in a process of its own.
fn handle(stream: OwnedFd, machine: &Machine) -> Result<(), ConnectionError> {
    let mut connection = Connection::open(stream)?;
    let request = connection.request_or_refuse()?;
    if request == Request::Shutdown {
        connection.answer(&Answer::Done)?;
        connection.close();
        // Cannot fail: PID 1 is there and is ours.
        let _ = rustix::process::kill_process(Pid::INIT, Signal::TERM);
        return Ok(());
    }
    serve_request(&mut connection, request, &machine.context)?;
    connection.close();
    Ok(())
}

/// Blocks the signals that PID 1 acts on and makes them readable.
fn signal_descriptor() -> std::io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: the set is of integers, and `sigemptyset` initialises it before it is used; the
    // pointers are to it, during each call only.
    let descriptor = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGPWR] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if descriptor < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Numbers of the signals that arrived.
fn pending_signals(signals: &impl AsFd) -> Vec<u32> {
    const RECORD: usize = size_of::<libc::signalfd_siginfo>();
    let mut found = Vec::new();
    let mut record = [0; RECORD];
    while let Ok(RECORD) = rustix::io::read(signals, &mut record) {
        // The number is the record's first field.
        let [a, b, c, d, ..] = record;
        found.push(u32::from_ne_bytes([a, b, c, d]));
    }
    found
}
