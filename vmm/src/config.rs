//! The one document that describes a microVM, read once at start from an inherited descriptor.
//!
//! Everything that the VMM may touch is named here by descriptor number: the parent opens, the VMM
//! never does. Numbers are those of the VMM process after exec.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use serde::{Deserialize, Serialize};

/// Version of [`VmmConfig`]; a VMM refuses any other.
pub const CONFIG_VERSION: u32 = 1;

/// A whole microVM: what it starts from, how large it is, and which descriptors it owns.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmmConfig {
    /// [`CONFIG_VERSION`].
    pub version: u32,
    /// Boot a kernel or restore a snapshot.
    pub start: Start,
    /// Size of the machine. On restore it must equal the snapshot's.
    pub machine: MachineConfig,
    /// Block devices in the order in which the guest finds them (`vda`, `vdb`, …).
    pub disks: Vec<DiskConfig>,
    /// The vsock device, the only channel between guest agent and worker.
    pub vsock: VsockConfig,
    /// The network device; always present, its link is down without a socket.
    pub net: NetConfig,
    /// Where the serial console goes.
    pub console: ConsoleConfig,
    /// `SOCK_SEQPACKET` socket that carries [`crate::control`] messages.
    pub control_fd: RawFd,
    /// Fresh generation identifier of this very machine, 32 hex digits (VMGENID).
    pub generation_id: String,
    /// What the process gives up before the first guest instruction.
    #[serde(default)]
    pub jail: JailConfig,
}

/// What a microVM starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Start {
    /// Boot a kernel from power-on.
    Boot {
        /// Extracted `vmlinux` (ELF64).
        kernel_fd: RawFd,
        /// gzip-compressed cpio archive.
        initramfs_fd: RawFd,
        /// Kernel command line; the VMM adds nothing to it.
        cmdline: String,
    },
    /// Resume from a snapshot.
    Restore {
        /// Saved vCPU, interrupt controller, clock and device state.
        state_fd: RawFd,
        /// Guest memory, mapped `MAP_PRIVATE`, never copied.
        memory_fd: RawFd,
    },
}

/// Size of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// Number of vCPUs, 1 to 32.
    pub vcpus: u8,
    /// Guest memory in MiB, at least 128.
    pub memory_mib: u64,
}

/// One virtio block device.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// Name in logs and the virtio-blk serial, at most 20 bytes.
    pub id: String,
    /// Image below the device, opened read-only.
    pub base_fd: RawFd,
    /// Size of the device in bytes, a multiple of 512; bytes past the end of the base read as zero.
    pub size: u64,
    /// Empty sparse private file that takes all writes; `None` makes the device read-only.
    pub private_fd: Option<RawFd>,
}

/// The vsock device.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// Context identifier of the guest, at least 3.
    pub cid: u64,
    /// Listening Unix stream socket. A peer connects, writes `CONNECT <port>\n`, and reads
    /// `OK <local port>\n` once the guest accepted; the stream then carries the connection.
    pub listener_fd: RawFd,
}

/// The network device.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// MAC address as `02:00:00:00:00:01`.
    pub mac: String,
    /// `SOCK_SEQPACKET` or `SOCK_DGRAM` socket of which each message is one Ethernet frame.
    pub socket_fd: Option<RawFd>,
}

/// The serial console.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleConfig {
    /// File that receives what the guest writes to its serial port; `None` discards it.
    pub log_fd: Option<RawFd>,
    /// Bytes after which output is dropped, with one note that it was.
    pub limit_bytes: u64,
}

/// What the process gives up before the first guest instruction.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailConfig {
    /// Apply namespaces, landlock, seccomp and rlimits. Only debugging turns it off.
    pub enabled: bool,
}

/// Fewest and most vCPUs of a machine.
pub const VCPUS: std::ops::RangeInclusive<u8> = 1..=32;
/// Least and most memory of a machine in MiB.
pub const MEMORY_MIB: std::ops::RangeInclusive<u64> = 128..=1 << 20;
/// Devices beside the disks: vsock, net, rng.
pub const OTHER_DEVICES: usize = 3;
/// Most disks of a machine.
pub const DISKS_MAX: usize = crate::arch::layout::VIRTIO_SLOTS as usize - OTHER_DEVICES;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not a [`VmmConfig`].
    #[error("not a configuration: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It is of another version.
    #[error(
        "configuration version {0}, this VMM reads {CONFIG_VERSION}; use a VMM of the worker's version"
    )]
    Version(u32),
    /// A number is out of its range.
    #[error("{what} is {value}, possible are {least} to {most}")]
    Range {
        /// Which.
        what: &'static str,
        /// Its value.
        value: u64,
        /// Least possible.
        least: u64,
        /// Most possible.
        most: u64,
    },
    /// Two things have one descriptor, or one is a standard stream.
    #[error("descriptor {0} is named twice or is a standard stream")]
    Descriptor(RawFd),
    /// A descriptor is not open.
    #[error("descriptor {0} of the configuration is not open; the parent must pass it on")]
    Closed(RawFd),
    /// The generation identifier is none.
    #[error(transparent)]
    GenerationId(#[from] crate::devices::generation::GenerationIdError),
}

impl VmmConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// [`ConfigError`] names the field and what is possible.
    pub fn parse(document: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_slice(document)?;
        if config.version != CONFIG_VERSION {
            return Err(ConfigError::Version(config.version));
        }
        let vcpus = (
            VCPUS.start().to_owned().into(),
            VCPUS.end().to_owned().into(),
        );
        in_range("machine.vcpus", config.machine.vcpus.into(), vcpus)?;
        let memory = (*MEMORY_MIB.start(), *MEMORY_MIB.end());
        in_range("machine.memory_mib", config.machine.memory_mib, memory)?;
        in_range(
            "the number of disks",
            config.disks.len() as u64,
            (0, DISKS_MAX as u64),
        )?;
        config.generation_id()?;
        let mut seen = std::collections::BTreeSet::new();
        for fd in config.descriptors() {
            if fd <= 2 || !seen.insert(fd) {
                return Err(ConfigError::Descriptor(fd));
            }
        }
        Ok(config)
    }

    /// The generation identifier as the guest gets it.
    ///
    /// # Errors
    /// [`ConfigError::GenerationId`] when it is not 32 hex digits.
    pub fn generation_id(&self) -> Result<crate::devices::generation::GenerationId, ConfigError> {
        Ok(self.generation_id.parse()?)
    }

    /// Every descriptor that the configuration names.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        let mut all = vec![self.control_fd, self.vsock.listener_fd];
        match &self.start {
            Start::Boot {
                kernel_fd,
                initramfs_fd,
                ..
            } => all.extend([*kernel_fd, *initramfs_fd]),
            Start::Restore {
                state_fd,
                memory_fd,
            } => all.extend([*state_fd, *memory_fd]),
        }
        all.extend(self.disks.iter().map(|disk| disk.base_fd));
        all.extend(self.disks.iter().filter_map(|disk| disk.private_fd));
        all.extend(self.net.socket_fd);
        all.extend(self.console.log_fd);
        all
    }

    /// Largest file in bytes that the VMM writes: private disk, memory of a snapshot, console.
    #[must_use]
    pub fn max_file_bytes(&self) -> u64 {
        let disks = self.disks.iter().filter(|disk| disk.private_fd.is_some());
        let note = 4096;
        disks
            .map(|disk| disk.size)
            .chain([
                self.machine.memory_mib << 20,
                self.console.limit_bytes.saturating_add(note),
            ])
            .max()
            .unwrap_or(0)
    }
}

fn in_range(what: &'static str, value: u64, range: (u64, u64)) -> Result<(), ConfigError> {
    let (least, most) = range;
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::Range {
        what,
        value,
        least,
        most,
    })
}

/// Takes ownership of a descriptor of the configuration.
///
/// # Errors
/// [`ConfigError::Closed`] when this process has no such descriptor.
pub(crate) fn adopt(fd: RawFd) -> Result<OwnedFd, ConfigError> {
    // SAFETY: F_GETFD takes no pointer; an unknown number is answered with EBADF.
    if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(ConfigError::Closed(fd));
    }
    // SAFETY: the descriptor is open (checked above), and `VmmConfig::parse` made sure that the
    // configuration names it once; its one user takes it here.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Default for JailConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> serde_json::Value {
        json!({
            "version": 1,
            "start": {"boot": {"kernel_fd": 3, "initramfs_fd": 4, "cmdline": "console=ttyS0"}},
            "machine": {"vcpus": 1, "memory_mib": 256},
            "disks": [{"id": "root", "base_fd": 5, "size": 4096, "private_fd": null}],
            "vsock": {"cid": 3, "listener_fd": 6},
            "net": {"mac": "02:00:00:00:00:01", "socket_fd": null},
            "console": {"log_fd": 7, "limit_bytes": 65536},
            "control_fd": 8,
            "generation_id": "00112233445566778899aabbccddeeff",
        })
    }

    fn refused(change: impl FnOnce(&mut serde_json::Value)) -> ConfigError {
        let mut document = document();
        change(&mut document);
        VmmConfig::parse(document.to_string().as_bytes()).unwrap_err()
    }

    #[test]
    fn a_whole_configuration_is_read_and_jails_by_default() {
        let config = VmmConfig::parse(document().to_string().as_bytes()).unwrap();
        assert!(config.jail.enabled);
        let mut fds = config.descriptors();
        fds.sort_unstable();
        assert_eq!(fds, [3, 4, 5, 6, 7, 8]);
        assert_eq!(config.max_file_bytes(), 256 << 20);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let error = refused(|d| d["version"] = json!(2));
        assert!(matches!(error, ConfigError::Version(2)));
        let error = refused(|d| d["machine"]["vcpus"] = json!(33));
        assert!(error.to_string().contains("machine.vcpus is 33"), "{error}");
        let error = refused(|d| d["machine"]["memory_mib"] = json!(64));
        assert!(error.to_string().contains("memory_mib is 64"), "{error}");
        let error = refused(|d| d["console"]["log_fd"] = json!(3));
        assert!(matches!(error, ConfigError::Descriptor(3)));
        let error = refused(|d| d["control_fd"] = json!(1));
        assert!(matches!(error, ConfigError::Descriptor(1)));
        let error = refused(|d| d["generation_id"] = json!("0"));
        assert!(matches!(error, ConfigError::GenerationId(_)));
        let error = refused(|d| d["surprise"] = json!(1));
        assert!(error.to_string().contains("surprise"), "{error}");
    }
}
