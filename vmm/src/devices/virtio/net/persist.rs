//! Saved state of the network device. Its address and its link are the new machine's own.

use serde::{Deserialize, Serialize};

use super::device::{Net, OpenNetError};
use crate::config::NetConfig;

/// What a snapshot keeps of the network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetState {
    /// MAC address that the guest read.
    pub mac: [u8; 6],
}

impl Net {
    /// A device for a restored guest, with the address and the socket of `config`. The guest is
    /// told that the configuration space changed, for it may know another state of the link; the
    /// address it reads only when asked to.
    ///
    /// # Errors
    /// The configuration is wrong; see [`OpenNetError`].
    pub fn restore(config: &NetConfig, _state: &NetState) -> Result<Self, OpenNetError> {
        let mut this = Self::new(config)?;
        this.announce_change();
        Ok(this)
    }
}
