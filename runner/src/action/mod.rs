//! Actions: what stands behind `uses:`.

pub mod image;
pub mod lockfile;
pub mod manifest;
pub mod reference;
