//! Node.js runtimes from npm packages, by integrity.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

/// A subresource integrity value: SHA-512 in base64.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Integrity([u8; 64]);

impl Integrity {
    /// Reads `sha512-<base64>`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        BASE64
            .decode(text.strip_prefix("sha512-")?)
            .ok()?
            .try_into()
            .ok()
            .map(Self)
    }
}

impl fmt::Debug for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha512 {}", hex::encode(self.0))
    }
}
