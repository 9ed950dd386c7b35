//! The executor: a job request becomes steps in a sandbox, an outcome and a stream of reports.

pub mod commands;
pub mod env_files;
pub mod lines;
mod mask_encodings;
pub mod masking;
pub mod outcome;
pub mod reporter;
pub mod request;
