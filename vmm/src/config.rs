//! The one document that describes a microVM, read once at start from an inherited descriptor.
//!
//! Everything that the VMM may touch is named here by descriptor number: the parent opens, the VMM
//! never does. Numbers are those of the VMM process after exec.

use std::os::fd::RawFd;

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

impl Default for JailConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}
