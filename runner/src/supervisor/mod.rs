//! `mayfly serve`: keeps workers ready for GitHub's jobs, one process for each job.
//!
//! The supervisor holds the GitHub App's key, and never a job message or a secret of a job: those are
//! the worker's alone, and end with it.

pub mod credentials;
pub mod state;
pub mod status;
