//! The sandbox's only network: every frame ends in the worker, which decides, connects and writes down.
//!
//! Data flows one way: frames of the VMM -> `stack` (user-space TCP/IP) -> a [`Flow`] that asks for a
//! connection -> the policy's verdict -> a socket of the host, and a line of the record.

pub mod dns;
pub mod flow;
pub mod guard;
pub mod intercept;
pub mod online;
pub mod policy;
pub mod proxy;
pub mod record;
pub mod sniff;
pub mod stack;

pub use flow::{Flow, Transport};
