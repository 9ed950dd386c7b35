//! Interception between a guest and a server that both are in this process, over real TLS.

mod attacks;
mod certificates;
pub(in crate::egress) mod lab;
mod protocols;
mod secrets;
