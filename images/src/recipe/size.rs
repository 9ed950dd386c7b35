//! Sizes in recipes: `"16GiB"`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A size in bytes, written as a whole number of `MiB` or `GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(u64);

impl Size {
    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl Default for Size {
    /// What GitHub's own runners leave free for a job.
    fn default() -> Self {
        Self(16 << 30)
    }
}

/// Text that is no size.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no size: write a whole number of MiB or GiB, from 64MiB to 4096GiB")]
pub struct SizeSyntax(String);

impl FromStr for Size {
    type Err = SizeSyntax;

    fn from_str(text: &str) -> Result<Self, SizeSyntax> {
        let syntax = || SizeSyntax(text.chars().take(40).collect());
        let (number, shift) = match (text.strip_suffix("GiB"), text.strip_suffix("MiB")) {
            (Some(number), _) => (number, 30),
            (_, Some(number)) => (number, 20),
            _ => return Err(syntax()),
        };
        let number: u64 = number.trim_end().parse().map_err(|_| syntax())?;
        let bytes = number.checked_mul(1 << shift).ok_or_else(syntax)?;
        if (64 << 20..=4096 << 30).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(syntax())
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1 << 30) {
            write!(f, "{}GiB", self.0 >> 30)
        } else {
            write!(f, "{}MiB", self.0 >> 20)
        }
    }
}

impl TryFrom<String> for Size {
    type Error = SizeSyntax;

    fn try_from(text: String) -> Result<Self, SizeSyntax> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}
