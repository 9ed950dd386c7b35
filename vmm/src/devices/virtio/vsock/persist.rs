//! Saved state of the vsock device. Connections are not in it: they end with the machine they were
//! made to, and the restored guest is told so.

use serde::{Deserialize, Serialize};

use super::device::{OpenVsockError, Vsock};
use crate::config::VsockConfig;

/// What a snapshot keeps of the vsock device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockState {
    /// Context identifier that the guest had.
    pub cid: u64,
}

impl Vsock {
    /// A device for a restored guest, with the context identifier of `config`. It sends
    /// `TRANSPORT_RESET` first, and takes no connection before the guest handled it.
    ///
    /// # Errors
    /// The configuration is wrong; see [`OpenVsockError`].
    pub fn restore(config: &VsockConfig, _state: &VsockState) -> Result<Self, OpenVsockError> {
        let mut this = Self::new(config)?;
        this.announce_reset();
        Ok(this)
    }
}
