//! Services that actions expect of the runner, answered by the worker itself: caches and artifacts.
//!
//! Steps reach them at a port of their sandbox, which the guest agent carries to the worker
//! ([`crate::sandbox::agent::AgentClient::accept`]); nothing listens on the host. Each job has a key
//! of its own, so that no address or token is good in another sandbox.

pub mod artifacts;
pub mod blobs;
pub mod cache;
pub mod files;
pub mod http;
pub mod rpc;
pub mod service;
#[cfg(test)]
mod tests;
pub mod token;
