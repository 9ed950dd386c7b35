//! The executor: a job request becomes steps in a sandbox, an outcome and a stream of reports.

pub mod commands;
pub mod contexts;
pub mod env_files;
pub mod environment;
pub mod layout;
pub mod lines;
mod mask_encodings;
pub mod masking;
mod options;
pub mod outcome;
pub mod reporter;
pub mod request;
pub mod template;

pub use options::Options;
