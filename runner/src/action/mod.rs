//! Actions: what stands behind `uses:`.

pub mod manifest;
