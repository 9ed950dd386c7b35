//! Workflow files: YAML with places, the model of a workflow, and the plan that becomes job requests.
//!
//! ```text
//! text -> yaml -> check (schema, events, template) -> tokens -> model -> plan -> job requests
//! ```

mod actions;
mod calls;
mod check;
pub mod diagnostic;
pub mod evaluate;
pub mod github;
pub mod inputs;
mod load;
pub mod matrix;
pub mod model;
pub mod plan;
pub(crate) mod references;
mod request;
mod schema;
pub mod source;
pub(crate) mod template;
#[cfg(test)]
mod tests;
pub mod token;
pub mod triggers;
mod uses;
mod yaml;

pub use calls::Sources;
pub(crate) use load::parse_action;
pub use load::{Findings, LoadError, Loaded, load, parse};
