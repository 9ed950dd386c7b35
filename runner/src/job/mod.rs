//! The executor: a job request becomes steps in a sandbox, an outcome and a stream of reports.
//!
//! [`execute`] is the entry. The same executor serves `mayfly run`, where the planner makes the
//! [`request::JobRequest`] from a workflow file, and GitHub's job message, which decodes to it
//! ([`request::decode()`]). Data flows one way: request, contexts, steps, output, reporter.
//!
//! ```no_run
//! use mayfly::job::{Options, cancellation, execute, outcome::Conclusion, request::JobRequest};
//! use mayfly::job::reporter::{TerminalOptions, TerminalReporter};
//! use mayfly::sandbox::agent::AgentClient;
//!
//! # async fn example(request: JobRequest, socket: &std::path::Path) -> std::io::Result<()> {
//! let sandbox = AgentClient::new(socket);
//! let reporter = TerminalReporter::new(std::io::stdout(), TerminalOptions::default());
//! let (canceller, cancellation) = cancellation();
//! tokio::spawn(async move {
//!     if tokio::signal::ctrl_c().await.is_ok() {
//!         canceller.cancel();
//!     }
//! });
//! // One reporter and one cancellation serve all jobs of a run; each job has its own sandbox.
//! let outcome = execute(&request, &Options::default(), &sandbox, &reporter, cancellation).await;
//! reporter.finish()?;
//! assert_eq!(outcome.result, Conclusion::Success);
//! # Ok(())
//! # }
//! ```

pub(crate) mod actions;
mod background;
mod cancel;
pub mod commands;
mod containers;
pub mod contexts;
pub mod env_files;
pub mod environment;
mod executor;
mod file_commands;
mod files;
mod glob;
mod hash_files;
pub mod layout;
pub mod lines;
mod log;
mod mask_encodings;
pub mod masking;
mod matcher;
mod network;
mod never_begun;
mod options;
pub mod outcome;
mod output;
mod process;
pub mod reporter;
pub mod request;
mod service_environment;
mod setup;
mod shared;
mod step;
mod steps;
mod stop;
mod task;
pub mod template;
#[cfg(test)]
mod tests;
mod words;

pub use cancel::{Cancellation, Canceller, cancellation};
pub use executor::execute;
pub use never_begun::never_begun;
pub use options::{NodeVersion, Options, Services};
