//! The executor: a job request becomes steps in a sandbox, an outcome and a stream of reports.
//!
//! [`execute`] is the entry. The same executor serves `mayfly run`, where the planner makes the
//! [`request::JobRequest`] from a workflow file, and GitHub's job message, which decodes to it
//! ([`request::decode`]). Data flows one way: request, contexts, steps, output, reporter.

mod cancel;
pub mod commands;
pub mod contexts;
pub mod env_files;
pub mod environment;
mod executor;
mod files;
pub mod layout;
pub mod lines;
mod log;
mod mask_encodings;
pub mod masking;
mod options;
pub mod outcome;
mod output;
mod process;
pub mod reporter;
pub mod request;
mod step;
mod steps;
mod stop;
pub mod template;
#[cfg(test)]
mod tests;

pub use cancel::{Cancellation, Canceller, cancellation};
pub use executor::execute;
pub use options::Options;
