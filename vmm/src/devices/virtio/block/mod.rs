//! virtio-blk: a read-only image, or a private copy-on-write view of one.
//!
//! `device` is the virtio side, `request` decodes one request, `disk` is the image with its private
//! file and `bitmap` of blocks, `merge` writes both out as one sparse image, `persist` is what a
//! snapshot keeps.

mod bitmap;
mod device;
mod disk;
mod merge;
mod persist;
mod request;
#[cfg(test)]
mod tests;

pub use device::{Block, OpenBlockError};
pub use merge::{MergeDiskError, merge};
pub use persist::{BlockState, RestoreBlockError};
