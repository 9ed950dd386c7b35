//! The executor: a job request becomes steps in a sandbox, an outcome and a stream of reports.

mod mask_encodings;
pub mod masking;
pub mod request;
