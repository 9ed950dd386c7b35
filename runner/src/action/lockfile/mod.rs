//! Lock files: GitHub's `actions.lock`, and `mayfly.lock` beside it with what that format lacks.
//!
//! Both are read into a tree that keeps unknown fields and are changed in place, so that a file whose
//! pins stay the same stays the same byte for byte.

mod actions;
mod companion;
mod document;
mod fields;

pub use actions::{ActionsLock, Dependency};
pub use companion::{ActionPin, Companion, ImagePin, LocalPin, PinKey, Resolution};
pub use document::MAX_BYTES;
pub use fields::LockfileError;

/// Where GitHub's lock file stands, from the repository's root.
pub const ACTIONS_LOCK: &str = ".github/workflows/actions.lock";
/// Where Mayfly's own stands.
pub const MAYFLY_LOCK: &str = ".github/workflows/mayfly.lock";

#[cfg(test)]
mod tests;
