//! Secrets that are bound to hosts: the guest gets a placeholder, and the worker puts the value in on
//! the way to those hosts only.

mod inject;
mod placeholder;

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::{
    Target,
    leak::{MIN_LENGTH, Watch, Watched},
};
use crate::egress::policy::SecretBinding;

pub use inject::InjectError;
pub use placeholder::{PlaceholderError, Placeholders};

/// Why a secret cannot be bound. The value is never part of the message.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Too short to be told apart from innocent text.
    #[error(
        "secret {0} is shorter than {MIN_LENGTH} characters and cannot be bound to hosts; make it longer \
         or leave it out of [secrets]"
    )]
    Short(String),
    /// A header cannot hold it.
    #[error(
        "secret {0} has characters that no header can hold (line breaks, for instance), so it cannot be put \
         into requests; with `inject = \"nowhere\"` it is only watched"
    )]
    Form(String),
    /// A rule says nothing about where it goes.
    #[error("[secrets.{0}] names no host; add `hosts = [\"…\"]`")]
    NoHosts(String),
    /// A placeholder could not be drawn.
    #[error(transparent)]
    Placeholder(#[from] PlaceholderError),
    /// There are too many secrets to search for.
    #[error("the bound secrets cannot be searched for: {0}")]
    Search(#[from] aho_corasick::BuildError),
}

/// One bound secret.
struct Bound {
    name: String,
    value: SecretString,
    placeholder: Option<String>,
    binding: SecretBinding,
}

/// The bound secrets of one sandbox.
pub struct Bindings {
    bound: Vec<Bound>,
    watch: Arc<Watch>,
}

impl std::fmt::Debug for Bindings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.bound.iter().map(|bound| &bound.name);
        f.debug_list().entries(names).finish()
    }
}

impl Bindings {
    /// Binds each secret by its rule and draws a placeholder for those that are put into requests.
    ///
    /// # Errors
    /// [`BindError`] when a value cannot be bound.
    pub fn new(
        secrets: impl IntoIterator<Item = (String, SecretString, SecretBinding)>,
    ) -> Result<Self, BindError> {
        let mut bound = Vec::new();
        for (name, value, binding) in secrets {
            bound.push(bind(name, value, binding)?);
        }
        let watched: Vec<_> = bound.iter().map(Bound::watched).collect();
        let watch = Arc::new(Watch::new(&watched)?);
        Ok(Self { bound, watch })
    }

    /// No secrets.
    ///
    /// # Errors
    /// None that can happen; that of [`Self::new`].
    pub fn none() -> Result<Self, BindError> {
        Self::new([])
    }

    /// What the executor gives to steps in place of values.
    #[must_use]
    pub fn placeholders(&self) -> Placeholders {
        let pairs = self.bound.iter().filter_map(|bound| {
            let placeholder = bound.placeholder.clone()?;
            Some((bound.value.clone(), placeholder))
        });
        Placeholders::new(pairs.collect())
    }

    /// The search for all of them.
    #[must_use]
    pub fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// Numbers of the secrets that may go to `target`.
    #[must_use]
    pub fn allowed(&self, target: &Target) -> Arc<[usize]> {
        let bound = self.bound.iter().enumerate();
        let allowed = bound.filter(|(_, bound)| bound.binding.is_bound_to(target.name()));
        allowed.map(|(index, _)| index).collect()
    }

    /// Names and values of the secrets with these numbers.
    pub(super) fn values(&self, numbers: &[usize]) -> Vec<Watched<'_>> {
        let bound = numbers.iter().filter_map(|index| self.bound.get(*index));
        bound.map(Bound::watched).collect()
    }
}

impl Bound {
    fn watched(&self) -> Watched<'_> {
        Watched {
            name: &self.name,
            value: self.value.expose_secret(),
            placeholder: self.placeholder.as_deref(),
        }
    }
}

fn bind(name: String, value: SecretString, binding: SecretBinding) -> Result<Bound, BindError> {
    let text = value.expose_secret();
    if binding.hosts.is_empty() {
        return Err(BindError::NoHosts(name));
    }
    if text.len() < MIN_LENGTH {
        return Err(BindError::Short(name));
    }
    let is_hidden = binding.is_hidden();
    if is_hidden
        && !text
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic())
    {
        return Err(BindError::Form(name));
    }
    let placeholder = is_hidden.then(|| placeholder::draw(text)).transpose()?;
    Ok(Bound {
        name,
        value,
        placeholder,
        binding,
    })
}

#[cfg(test)]
mod tests;
