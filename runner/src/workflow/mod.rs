//! Workflow files: YAML with places, the model of a workflow, and the plan that becomes job requests.

pub mod token;
