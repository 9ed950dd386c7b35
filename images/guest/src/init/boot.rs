//! The order in which a machine comes up, from the initramfs to a listener.

use std::{fs, io, net::Ipv4Addr, path::Path};

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use thiserror::Error;

use super::{
    activation::Activation,
    modules::{self, ModuleError},
    mounts::{self, MountError},
    network,
    settings::{self, Options},
    vsock::{Listener, VsockError},
};
use crate::{
    AGENT_PORT, FORWARD_PORT, SANDBOX_SOCKET,
    agent::{Cgroup, Context, ExecError, FileError, Forward, Root, run_once},
};

/// Why a machine did not come up.
#[derive(Debug, Error)]
pub(super) enum BootError {
    /// A kernel module.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// A file system.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The root.
    #[error(transparent)]
    Root(#[from] FileError),
    /// Control groups.
    #[error("limiting what steps may use: {0}")]
    Cgroup(io::Error),
    /// The first process.
    #[error("running /bin/true as a first step: {0}")]
    FirstStep(#[from] ExecError),
    /// The listener, at boot or later.
    #[error(transparent)]
    Vsock(#[from] VsockError),
    /// The kernel refused PID 1 something for itself.
    #[error("{0}: {1}")]
    Own(&'static str, io::Error),
}

/// What the server needs of a machine that came up.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) listener: Listener,
    pub(super) context: Context,
    pub(super) steps: Cgroup,
    pub(super) activation: Option<Activation>,
}

/// Brings the machine up, to the state of which a snapshot is taken.
pub(super) fn boot() -> Result<Machine, BootError> {
    mounts::kernel_file_systems()?;
    let options = Options::read();
    modules::load(Path::new("/modules"))?;
    mounts::switch_root(&options.disk)?;
    protect_agent()?;
    network::loopback_up();
    settings::names();
    let steps = make_steps_group().map_err(BootError::Cgroup)?;
    settings::harden(&options);
    let context = Context {
        root: Root::open(Path::new("/"))?,
        steps: Some(steps.clone()),
        forward: forward(),
    };
    warm_up(&context)?;
    let activation = activation(&options, &context);
    let listener = Listener::bind(AGENT_PORT)?;
    eprintln!("mayfly-guest: ready");
    Ok(Machine {
        listener,
        context,
        steps,
        activation,
    })
}

/// What steps reach the worker's services by. Services are of use to some steps only, so a machine
/// without them comes up too.
fn forward() -> Option<Forward> {
    // Not of loopback alone: containers in the sandbox have networks of their own.
    let address = (Ipv4Addr::UNSPECIFIED, FORWARD_PORT).into();
    let mut forward = Forward::listen(address)
        .inspect_err(|error| eprintln!("mayfly-guest: listening on {address}: {error}"))
        .ok()?;
    if let Err(error) = forward.add_socket(Path::new(SANDBOX_SOCKET)) {
        eprintln!("mayfly-guest: listening at {SANDBOX_SOCKET}: {error}");
    }
    Some(forward)
}

/// The socket that the command line names. A recipe that is wrong there is still of use.
fn activation(options: &Options, context: &Context) -> Option<Activation> {
    let socket = options.socket.as_ref()?;
    let name = Path::new(&socket.argv[0]).file_name()?.to_string_lossy();
    let log = format!("/var/log/{name}.log");
    let bound = Activation::bind(socket, Path::new(&log), context);
    if let Err(error) = &bound {
        eprintln!("mayfly-guest: the socket {}: {error}", socket.path);
    }
    bound.ok()
}

/// Runs a first step, so that the paths that every step takes are in memory, and so in the snapshot.
/// A root without that program boots a little colder.
fn warm_up(context: &Context) -> Result<(), ExecError> {
    match run_once("/bin/true", context) {
        Err(ExecError::Program(program, error)) => {
            eprintln!("mayfly-guest: no warm-up: {program}: {error}");
            Ok(())
        }
        other => other,
    }
}

/// Keeps steps from ending PID 1 by accident, and other users from looking into it. A root step
/// owns the machine anyway, and finds no secret here (see the crate's documentation).
fn protect_agent() -> Result<(), BootError> {
    let own = |what| move |error: io::Error| BootError::Own(what, error);
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|errno| BootError::Own("making the agent not dumpable", errno.into()))?;
    fs::write("/proc/self/oom_score_adj", "-1000").map_err(own("exempting it from OOM"))?;
    let files = Rlimit {
        current: Some(65_536),
        maximum: Some(1 << 20),
    };
    rustix::process::setrlimit(Resource::Nofile, files)
        .map_err(|errno| BootError::Own("raising the limit of open files", errno.into()))?;
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    Ok(())
}

/// The group of all steps: a fork bomb or a memory hog meets its limits before the agent does. With
/// the cpu controller all steps together weigh as much as the agent alone, so that it gets to run
/// beside thousands of them, and to end them.
///
/// `memory.oom.group` stays 0: the kernel kills the largest process of a step, as it does on any
/// runner, and the step's shell lives to report that.
fn make_steps_group() -> io::Result<Cgroup> {
    let root = Cgroup::create(Path::new("/sys/fs/cgroup"))?;
    root.set("cgroup.subtree_control", "+cpu +memory +pids")?;
    let steps = root.child("steps")?;
    let limits = StepLimits::of(memory("MemTotal:")?, memory("MemAvailable:")?);
    steps.set("memory.max", &limits.memory.to_string())?;
    steps.set("pids.max", &limits.processes.to_string())?;
    Ok(steps)
}

#[derive(Debug, PartialEq, Eq)]
struct StepLimits {
    memory: u64,
    processes: u64,
}

impl StepLimits {
    /// Of what is `available` after boot steps get all but a sixteenth of the `total`, at least
    /// 24 MiB; and one process for each 256 KiB, which is what a shell costs with its page tables.
    fn of(total: u64, available: u64) -> Self {
        let reserve = (total / 16).max(24 << 20);
        Self {
            memory: available.saturating_sub(reserve),
            processes: (total >> 18).clamp(512, 16_384),
        }
    }
}

/// A line of /proc/meminfo, in bytes.
fn memory(line: &str) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = text.lines().find_map(|found| found.strip_prefix(line));
    let kib = kib.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let kib = kib.ok_or_else(|| io::Error::other(format!("/proc/meminfo does not tell {line}")))?;
    Ok(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_get_less_than_the_machine_has() {
        let small = StepLimits::of(256 << 20, 190 << 20);
        assert_eq!((small.memory, small.processes), (166 << 20, 1024));
        let large = StepLimits::of(16 << 30, 15 << 30);
        assert_eq!((large.memory, large.processes), (14 << 30, 16_384));
    }

    #[test]
    fn the_size_of_memory_is_read() {
        let total = memory("MemTotal:").expect("reads");
        let available = memory("MemAvailable:").expect("reads");
        assert!(available > 1 << 20 && available < total);
    }
}
