//! Recipes and archives become bootable, content-addressed images.
//!
//! An image is a guest kernel, an initramfs with the guest agent, a read-only root and an empty
//! writable disk, named by the digest of its [`manifest`]. [`store::ImageStore`] keeps them;
//! [`recipe::Recipe`] says what goes into one.

#![forbid(unsafe_code)]

mod archive;
pub mod build;
pub mod digest;
mod disk;
mod erofs;
mod initramfs;
mod kernel;
pub mod manifest;
mod node;
pub mod progress;
pub mod recipe;
pub mod store;
mod tool;
mod tree;
