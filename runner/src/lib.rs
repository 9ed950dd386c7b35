//! Mayfly: a self-hosted GitHub Actions runner that gives every job a fresh microVM.
//!
//! The binary `mayfly` is a thin shell around this library, so that end-to-end tests and benches
//! drive the same code. Rooms are named in the README.
#![forbid(unsafe_code)]

pub mod action;
pub mod attestation;
pub mod checkout;
pub mod cli;
pub mod config;
pub mod egress;
pub mod expression;
pub mod github;
pub mod job;
pub mod metrics;
pub mod notice;
mod printable;
pub mod results;
pub mod sandbox;
pub mod supervisor;
mod tolerant;
mod web;
pub mod workflow;
