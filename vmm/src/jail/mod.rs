//! What the VMM process gives up before the first guest instruction.
//!
//! The border of a sandbox is the VM, then this process: a guest that takes over the VMM must find
//! nothing worth having. [`enter_process`] is called once, by the only thread, when the
//! configuration is read and `/dev/kvm` is open; [`filter_thread`] is called by every thread when
//! all threads exist, just before it does guest-facing work. Nothing of it can be undone.
//!
//! | layer | takes away | host may forbid it |
//! |---|---|---|
//! | [`Layer::Descriptors`] | every descriptor that the configuration does not name | no |
//! | [`Layer::Namespaces`] | the host's mounts, IPC objects, names and network | yes |
//! | [`Layer::EmptyRoot`] | every path: `/` is an empty read-only file system | yes |
//! | [`Layer::Identity`] | uid 0; no two VMMs started by root share a uid | yes |
//! | [`Layer::UserNamespace`] | every id: none is mapped, so no file can be made or owned | yes |
//! | [`Layer::Landlock`] | opening, TCP, abstract sockets, signals to others | yes |
//! | [`Layer::Capabilities`] | every capability, now and after any exec | no |
//! | [`Layer::Limits`] | core dumps, locked memory, further descriptors and processes | no |
//! | [`Layer::NoNewPrivileges`] | set-user-ID programs; `/proc/PID/mem` and ptrace by others | no |
//! | seccomp ([`filter_thread`]) | every system call that this thread kind does not need | no |
//!
//! Layers that a host may forbid are reported, never silently skipped; the others are errors.

mod allowlist;
mod descriptors;
mod filter;
mod landlock;
mod limits;
mod namespaces;
mod privileges;

use std::io;
use std::os::fd::RawFd;
use std::time::Instant;

use serde::{Deserialize, Serialize};

pub use self::filter::{compile, filter_thread};

/// What depends on the machine that this process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JailOptions {
    /// Largest file that the process may write, in bytes: the largest of private disks, console
    /// log and snapshot files. A longer write fails with `EFBIG`.
    pub max_file_bytes: u64,
    /// Number of descriptors that the process may hold, those made later (vCPUs, eventfds, vsock
    /// connections) included.
    pub max_descriptors: u64,
    /// Number of threads that the process will have, this one included.
    pub max_threads: u64,
}

/// One thing that the process gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Descriptors that the configuration does not name are closed.
    Descriptors,
    /// Own mount, IPC, UTS and (where it is cheap) network namespaces.
    Namespaces,
    /// An empty read-only root.
    EmptyRoot,
    /// An unprivileged uid and gid, and no supplementary groups.
    Identity,
    /// A user namespace in which no id is mapped.
    UserNamespace,
    /// A landlock domain without any rule.
    Landlock,
    /// Empty capability sets.
    Capabilities,
    /// Resource limits.
    Limits,
    /// `no_new_privs`, and not dumpable.
    NoNewPrivileges,
}

/// How a layer went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// In force; the text says in what form.
    Applied(String),
    /// In force in part, or not at all, because the host forbids it; the text says what and why.
    Unavailable(String),
}

/// One line of a [`JailReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Which layer.
    pub layer: Layer,
    /// How it went.
    pub outcome: Outcome,
    /// What it cost, in microseconds.
    pub microseconds: u64,
}

/// What the process gave up, layer by layer in the order of application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailReport {
    /// Each layer of [`enter_process`] once.
    pub layers: Vec<LayerReport>,
}

impl JailReport {
    /// How `layer` went; `None` only in a report that is not of [`enter_process`].
    #[must_use]
    pub fn outcome(&self, layer: Layer) -> Option<&Outcome> {
        self.layers
            .iter()
            .find(|line| line.layer == layer)
            .map(|line| &line.outcome)
    }
}

/// Takes the outcomes as the layers are applied, one after the other.
struct Journal {
    layers: Vec<LayerReport>,
    since: Instant,
}

impl Journal {
    fn applied(&mut self, layer: Layer, how: impl Into<String>) {
        self.record(layer, Outcome::Applied(how.into()));
    }

    fn unavailable(&mut self, layer: Layer, why: impl Into<String>) {
        self.record(layer, Outcome::Unavailable(why.into()));
    }

    fn record(&mut self, layer: Layer, outcome: Outcome) {
        let now = Instant::now();
        let microseconds = now.duration_since(self.since).as_micros();
        let microseconds = u64::try_from(microseconds).unwrap_or(u64::MAX);
        self.layers.push(LayerReport {
            layer,
            outcome,
            microseconds,
        });
        self.since = now;
    }
}

/// What a thread does; each kind has its own system call filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThreadKind {
    /// Serves the control socket, writes snapshots, ends the process.
    Main,
    /// Runs the device event loop.
    Devices,
    /// Runs one vCPU.
    Vcpu,
}

/// Why the process could not be jailed. The VMM must not run a guest after any of these.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JailError {
    /// A descriptor of the configuration is not open.
    #[error(
        "jail: descriptor {fd}, named in the configuration, is not usable: {source}; \
         the parent must pass it open and not close-on-exec"
    )]
    KeptDescriptor {
        /// Number in the configuration.
        fd: RawFd,
        /// What `fstat` said.
        source: io::Error,
    },
    /// A descriptor of the configuration is a directory, which would lead out of the empty root.
    #[error(
        "jail: descriptor {fd}, named in the configuration, is a directory; pass files and sockets only"
    )]
    KeptDirectory {
        /// Number in the configuration.
        fd: RawFd,
    },
    /// A mandatory layer failed.
    #[error("jail: {what} failed: {source}; Linux 5.10 or later with seccomp is needed")]
    Mandatory {
        /// The call and its object.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A thread could not install its system call filter.
    #[error(
        "jail: seccomp filter of thread kind {kind:?} failed: {source}; the kernel needs CONFIG_SECCOMP_FILTER"
    )]
    Filter {
        /// Whose filter.
        kind: ThreadKind,
        /// What the compiler or the kernel said.
        source: seccompiler::Error,
    },
    /// Capabilities are left after they were dropped.
    #[error(
        "jail: capabilities {left} are still held after dropping them; this is a bug, report it"
    )]
    CapabilitiesLeft {
        /// What is left, in the kernel's notation.
        left: String,
    },
}

/// Makes the error of a mandatory call.
fn mandatory<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> JailError {
    move |source| JailError::Mandatory {
        what,
        source: source.into(),
    }
}

/// Jails the process: keeps `kept_fds` and gives up what this module's table names.
///
/// Standard input, output and error that are not in `kept_fds` become `/dev/null`. Must be called
/// by the only thread, the main one, after every file was opened.
///
/// # Errors
///
/// [`JailError`] if a mandatory layer fails or a kept descriptor is unfit. The process may then be
/// half-way jailed and must end.
pub fn enter_process(kept_fds: &[RawFd], options: &JailOptions) -> Result<JailReport, JailError> {
    let mut journal = Journal {
        layers: Vec::new(),
        since: Instant::now(),
    };
    filter::keep_allocator_off_files();
    // A change of identity clears it; a parent that asked for it must still get it.
    let death_signal = rustix::process::parent_process_death_signal()
        .map_err(mandatory("prctl(PR_GET_PDEATHSIG)"))?;
    descriptors::close_all_but(kept_fds, &mut journal)?;
    let own_uid = namespaces::isolate(&mut journal);
    landlock::restrict(&mut journal);
    limits::apply(options, own_uid, &mut journal)?;
    privileges::drop_capabilities(&mut journal)?;
    privileges::forbid_new(&mut journal)?;
    rustix::process::set_parent_process_death_signal(death_signal)
        .map_err(mandatory("prctl(PR_SET_PDEATHSIG)"))?;
    Ok(JailReport {
        layers: journal.layers,
    })
}
