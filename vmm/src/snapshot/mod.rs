//! Snapshots of a machine: what is saved, how it lies on disk, and who may restore it.

pub mod digest;
pub mod directory;
pub mod manifest;
pub mod state;
