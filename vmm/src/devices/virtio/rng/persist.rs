//! Saved state of the random number source: none, for every byte comes fresh from the host.

use serde::{Deserialize, Serialize};

use super::device::Rng;

/// What a snapshot keeps of the random number source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RngState {}

impl Rng {
    /// A random number source for a restored machine.
    #[must_use]
    pub fn restore(_state: &RngState) -> Self {
        Self::new()
    }
}
