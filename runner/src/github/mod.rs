//! GitHub's services as a runner sees them: credentials, the broker that hands out jobs, and the run
//! service that owns a job.
//!
//! The protocol is not documented by GitHub. What is implemented here was read from the official runner
//! (actions/runner) and from what the services were seen to answer; names are theirs.

pub mod broker;
pub mod feed;
pub mod http;
pub mod jit;
pub mod key;
pub mod launch;
pub mod message;
pub mod pause;
pub mod report;
pub mod rest;
pub mod run_service;
pub mod scale_set;
pub mod session_key;
pub mod token;
mod told;
pub mod worker;

#[cfg(test)]
mod tests;
