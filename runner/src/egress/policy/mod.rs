//! Which hosts, ports, methods and paths a step may reach: the file, its levels, and the verdict.
//!
//! A [`Document`] (one TOML file, the operator's) holds a section for the pool and sections for workflows,
//! jobs and steps. A [`Policy`] is what of it concerns one job. [`decide`] is pure: it looks at a [`Request`]
//! and at nothing else.

mod cidr;
mod condition;
mod decide;
mod document;
mod error;
mod host;
mod job;
mod level;
mod path;
mod place;
mod preset;
mod request;
mod resolvers;
mod rule;
mod secret;
mod section;
#[cfg(test)]
mod tests;

pub use cidr::Cidr;
pub use condition::{Method, Ports, Protocol, Repository};
pub use decide::{decide, may_resolve};
pub use document::Document;
pub use error::PolicyError;
pub use host::{HostPattern, HostPatternError, normalise};
pub use job::{JobPlace, LookedInto, Policy};
pub use level::{Level, Mode};
pub use path::PathPattern;
pub use preset::Preset;
pub use request::{Decision, Needs, Request, Seen, Verdict};
pub use rule::{Effect, Rule, is_web_port};
pub use secret::{Inject, SecretBinding};
pub use section::Section;
