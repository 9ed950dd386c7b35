//! Services that actions expect of the runner, answered by the worker itself: caches and artifacts.

pub mod cache;
pub mod token;
