//! Saved state of virtio devices, one variant per device.

use serde::{Deserialize, Serialize};

use super::block::BlockState;
use super::net::NetState;
use super::rng::RngState;
use super::vsock::VsockState;

/// What a device keeps across a snapshot besides its queues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VirtioDeviceState {
    /// A disk.
    Block(BlockState),
    /// The network device.
    Net(NetState),
    /// The random number source.
    Rng(RngState),
    /// The vsock device.
    Vsock(VsockState),
}

impl VirtioDeviceState {
    /// Name of the kind of device, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Block(_) => "block",
            Self::Net(_) => "net",
            Self::Rng(_) => "rng",
            Self::Vsock(_) => "vsock",
        }
    }
}
