//! `mayfly serve`: keeps workers ready for GitHub's jobs, one process for each job.
//!
//! The supervisor holds the GitHub App's key, and never a job message or a secret of a job: those are
//! the worker's alone, and end with it.

mod cgroup;
pub mod credentials;
mod crew;
mod listener;
pub mod notify;
mod pool;
mod process;
mod record;
mod run;
mod source;
pub mod state;
pub mod status;
mod times;

pub use process::Program;
pub use run::{Order, Setup, StartError, Supervisor};
pub use times::Times;
