//! One VMM process with its files and sockets: what booting a template and restoring a sandbox share.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::fd::OwnedFd,
    os::unix::{
        fs::{DirBuilderExt, FileExt, MetadataExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use mayfly_vmm::{
    config::{
        CONFIG_VERSION, ConsoleConfig, DiskConfig, JailConfig, MachineConfig, NetConfig, Start,
        VmmConfig, VsockConfig,
    },
    process::{Descriptors, Ended, SpawnVmmError, VmmProcess},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with},
};

use super::{agent::AgentClient, identity::Uniqueness};
use crate::{
    config::{Installation, LocateError},
    printable,
};

/// How the name of a machine's folder begins.
const FOLDER: &str = "mayfly-";
/// Name of the vsock device's socket in it.
const SOCKET: &str = "vsock";
/// After this time a machine's socket listens, if it ever will.
const SETTLED: Duration = Duration::from_secs(10);
/// Console output that is kept, in bytes.
const CONSOLE_LIMIT: u64 = 1 << 20;
/// How much of the console's end an error shows, in bytes.
const CONSOLE_TAIL: u64 = 2048;
/// How long a VMM that was told to end may take.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A VMM process and what belongs to it on the host; all of it vanishes when this is dropped.
#[derive(Debug)]
pub struct Machine {
    /// The guest's agent.
    pub agent: AgentClient,
    /// The process.
    pub vmm: VmmProcess,
    console: File,
    /// Holds the socket; mode 0700.
    _folder: tempfile::TempDir,
}

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartMachineError {
    /// A program is missing.
    #[error(transparent)]
    Program(#[from] LocateError),
    /// A file, folder or socket of the machine could not be made.
    #[error("cannot prepare a sandbox: {step} {path}: {cause}")]
    Prepare {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// The VMM did not start.
    #[error(transparent)]
    Spawn(#[from] SpawnVmmError),
}

/// What a machine starts from, as open files.
#[derive(Debug)]
pub enum StartFrom {
    /// Power-on.
    Boot {
        /// Extracted `vmlinux`.
        kernel: File,
        /// Compressed cpio archive.
        initramfs: File,
        /// Kernel command line.
        command_line: String,
    },
    /// A snapshot.
    Restore {
        /// Machine state.
        state: File,
        /// Guest memory.
        memory: File,
    },
}

/// The two disks of a machine.
#[derive(Debug)]
pub struct Disks {
    /// Read-only root, with its size in bytes.
    pub root: (File, u64),
    /// What lies below the private disk, with the size of the device in bytes.
    pub base: (File, u64),
}

impl Machine {
    /// Starts a VMM with the given files, a private disk and a socket of its own. Its network card ends
    /// in the message socket `network`; without one its link is down.
    ///
    /// # Errors
    /// [`StartMachineError`] names the step, the path and the cause.
    pub fn start(
        installation: &Installation,
        size: MachineConfig,
        from: StartFrom,
        disks: Disks,
        unique: &Uniqueness,
        network: Option<OwnedFd>,
    ) -> Result<Self, StartMachineError> {
        let program = installation.vmm()?;
        let folder = tempfile::Builder::new()
            .prefix(FOLDER)
            .tempdir()
            .map_err(|cause| prepare("create a folder in", &std::env::temp_dir(), cause))?;
        let socket = folder.path().join(SOCKET);
        let listener =
            UnixListener::bind(&socket).map_err(|cause| prepare("listen on", &socket, cause))?;
        let console = unnamed_file(&std::env::temp_dir())?;
        let log = console
            .try_clone()
            .map_err(|cause| prepare("share", folder.path(), cause))?;
        let private = unnamed_file(&installation.run_folder())?;

        let mut descriptors = Descriptors::default();
        let config = VmmConfig {
            version: CONFIG_VERSION,
            start: start(from, &mut descriptors),
            machine: size,
            disks: vec![
                DiskConfig {
                    id: "root".to_owned(),
                    base_fd: descriptors.pass(disks.root.0),
                    size: disks.root.1,
                    private_fd: None,
                },
                DiskConfig {
                    id: "private".to_owned(),
                    base_fd: descriptors.pass(disks.base.0),
                    size: disks.base.1,
                    private_fd: Some(descriptors.pass(private)),
                },
            ],
            vsock: VsockConfig {
                cid: unique.cid,
                listener_fd: descriptors.pass(listener),
            },
            net: NetConfig {
                mac: unique.mac_text(),
                socket_fd: network.map(|socket| descriptors.pass(socket)),
            },
            console: ConsoleConfig {
                log_fd: Some(descriptors.pass(log)),
                limit_bytes: CONSOLE_LIMIT,
            },
            control_fd: -1,
            generation_id: unique.generation_id.clone(),
            jail: JailConfig::default(),
        };
        let vmm = VmmProcess::spawn(&program, config, descriptors)?;
        Ok(Self {
            agent: AgentClient::new(&socket),
            vmm,
            console,
            _folder: folder,
        })
    }

    /// The end of what the guest wrote to its console.
    #[must_use]
    pub fn console_tail(&self) -> String {
        tail(&self.console)
    }

    /// Ends the machine at once and tells how it ended: by itself before, or now.
    ///
    /// # Errors
    /// Passes on what killing or waiting said.
    pub fn end(mut self) -> io::Result<(Ended, String)> {
        let ended = if self.vmm.is_running() {
            self.vmm.kill()?
        } else {
            self.vmm.wait(END_LIMIT)?
        };
        Ok((ended, tail(&self.console)))
    }

    /// As [`Self::end`] for a machine that is expected to end by itself within `limit`.
    ///
    /// # Errors
    /// Passes on what killing or waiting said.
    pub fn wait(self, limit: Duration) -> io::Result<(Ended, String)> {
        let ended = self.vmm.wait(limit)?;
        Ok((ended, tail(&self.console)))
    }
}

fn start(from: StartFrom, descriptors: &mut Descriptors) -> Start {
    match from {
        StartFrom::Boot {
            kernel,
            initramfs,
            command_line,
        } => Start::Boot {
            kernel_fd: descriptors.pass(kernel),
            initramfs_fd: descriptors.pass(initramfs),
            cmdline: command_line,
        },
        StartFrom::Restore { state, memory } => Start::Restore {
            state_fd: descriptors.pass(state),
            memory_fd: descriptors.pass(memory),
        },
    }
}

fn prepare(step: &'static str, path: &Path, cause: io::Error) -> StartMachineError {
    StartMachineError::Prepare {
        step,
        path: path.to_owned(),
        cause,
    }
}

/// Removes folders of machines whose `mayfly` was killed: at their socket nobody listens any more.
pub(super) fn remove_abandoned(parent: &Path) {
    let own = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let named = entry.file_name().to_string_lossy().starts_with(FOLDER);
        let settled = |metadata: &fs::Metadata| {
            let age = metadata.modified().ok().and_then(|at| at.elapsed().ok());
            age.is_some_and(|age| age > SETTLED)
        };
        // Does not follow a symbolic link.
        let ours = |metadata: fs::Metadata| {
            metadata.is_dir() && metadata.uid() == own && settled(&metadata)
        };
        if named && entry.metadata().is_ok_and(ours) && is_abandoned(&entry.path().join(SOCKET)) {
            // What another command removes at the same time is removed.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A machine that lives takes the connection, or has no room for it; either is no refusal.
fn is_abandoned(socket: &Path) -> bool {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let connected = SocketAddrUnix::new(socket).and_then(|address| {
        let ours = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&ours, &address)
    });
    connected == Err(Errno::CONNREFUSED)
}

/// A file without a name: it vanishes with its last descriptor, however the processes end.
fn unnamed_file(folder: &Path) -> Result<File, StartMachineError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|cause| prepare("create", folder, cause))?;
    tempfile::tempfile_in(folder).map_err(|cause| prepare("create a file in", folder, cause))
}

/// The end of the log, as it may be shown. Its position is shared with the VMM, which writes there,
/// and so is left alone.
fn tail(console: &File) -> String {
    let length = console.metadata().map_or(0, |metadata| metadata.len());
    let from = length.saturating_sub(CONSOLE_TAIL);
    let mut end = [0; CONSOLE_TAIL as usize];
    let mut filled = 0;
    while let Ok(read @ 1..) = console.read_at(&mut end[filled..], from + filled as u64) {
        filled += read;
    }
    printable::lines(&String::from_utf8_lossy(&end[..filled]))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::{Read, Seek, Write},
        os::unix::net::UnixListener,
        path::Path,
        time::SystemTime,
    };

    use super::{SETTLED, remove_abandoned, tail};

    #[test]
    fn folders_of_machines_whose_mayfly_was_killed_are_removed_and_no_others() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let folder = parent.path().join(name);
            fs::create_dir(&folder).unwrap();
            folder
        };
        let age = |folder: &Path| {
            let past = SystemTime::now() - 2 * SETTLED;
            File::open(folder).unwrap().set_modified(past).unwrap();
        };
        let (dead, alive) = (folder("mayfly-dead"), folder("mayfly-alive"));
        drop(UnixListener::bind(dead.join("vsock")).unwrap());
        let _listener = UnixListener::bind(alive.join("vsock")).unwrap();
        let (beginning, other) = (folder("mayfly-beginning"), folder("other"));
        for folder in [&beginning, &other] {
            drop(UnixListener::bind(folder.join("vsock")).unwrap());
        }
        for folder in [&dead, &alive, &other] {
            age(folder);
        }

        remove_abandoned(parent.path());

        assert!(!dead.exists());
        assert!(alive.exists() && beginning.exists() && other.exists());
    }

    #[test]
    fn the_consoles_end_is_shown_without_escapes_and_without_moving_its_writer() {
        let mut log = tempfile::tempfile().unwrap();
        let ours = log.try_clone().unwrap();
        log.write_all(&[b'x'; 5000]).unwrap();
        log.write_all(b"\x1b[2Jpanic\n").unwrap();
        let shown = tail(&ours);
        assert!(
            shown.len() <= 2048 && shown.ends_with("x [2Jpanic\n"),
            "{shown}"
        );
        log.write_all(b"more").unwrap();
        let mut all = String::new();
        log.rewind().unwrap();
        log.read_to_string(&mut all).unwrap();
        assert!(all.ends_with("panic\nmore"));
    }
}
