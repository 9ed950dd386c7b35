//! Actions: what stands behind `uses:`.

pub mod archive;
pub mod bytes;
pub mod digest;
pub mod dockerfile;
pub mod enforce;
pub mod fetch;
pub mod find;
#[cfg(test)]
pub(crate) mod fixture;
pub mod folders;
pub mod history;
pub mod image;
pub mod image_archives;
pub mod image_content;
pub mod lockfile;
#[cfg(test)]
pub(crate) mod loopback;
pub mod manifest;
pub mod own;
#[cfg(test)]
mod own_action_tests;
pub mod policy;
pub mod reference;
pub mod registry;
pub mod resolve;
pub mod rewrite;
pub mod source;
pub mod store;
pub mod tree;
