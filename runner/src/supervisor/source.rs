//! Where a pool's runners come from: the REST API, or a runner scale set.

use std::sync::Arc;

use super::{
    crew::{Leftover, Recruit},
    state::State,
};
use crate::{
    config::{Mode, Pool},
    github::{
        http::TransportError,
        rest::{JitRunner, Removed, Rest, RestError},
        scale_set::{ScaleSetError, ScaleSets},
    },
};

/// Why GitHub did not do what the supervisor asked.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The REST API.
    #[error(transparent)]
    Rest(#[from] RestError),
    /// The scale set.
    #[error(transparent)]
    Set(#[from] ScaleSetError),
    /// The client cannot be set up.
    #[error(transparent)]
    Setup(#[from] TransportError),
}

impl SourceError {
    /// Its kind, as metrics name it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Rest(error) => error.kind(),
            Self::Set(error) => error.kind(),
            Self::Setup(_) => "setup",
        }
    }

    /// How long GitHub wants not to be asked.
    #[must_use]
    pub fn wait(&self) -> Option<std::time::Duration> {
        match self {
            Self::Rest(error) => error.wait(),
            Self::Set(error) => error.wait(),
            Self::Setup(_) => None,
        }
    }
}

/// Where runners come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Just-in-time runners of a group.
    Jit {
        /// The API.
        rest: Arc<Rest>,
        /// The group's number.
        group: u64,
    },
    /// A scale set.
    Set {
        /// The API, for what it says of limits.
        rest: Arc<Rest>,
        /// The client.
        sets: Arc<ScaleSets>,
        /// The set's number.
        set: u64,
    },
}

impl Source {
    /// Finds the pool's group, or its scale set, which is made where it is missing.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn open(pool: &Pool, rest: &Arc<Rest>, state: &State) -> Result<Self, SourceError> {
        let rest = Arc::clone(rest);
        match pool.mode {
            Mode::Jit => {
                let group = rest.group(&pool.runner_group).await;
                let group = told(state, &rest, "runner-groups", group)?;
                Ok(Self::Jit { rest, group })
            }
            Mode::ScaleSet => {
                let sets = ScaleSets::new(Arc::clone(&rest), env!("CARGO_PKG_VERSION"))?;
                let group = sets.group(&pool.runner_group).await;
                let group = told(state, &rest, "runnergroups", group)?;
                let set = sets.ensure(&pool.name, group).await;
                let set = told(state, &rest, "runnerscalesets", set)?;
                tracing::info!(pool = pool.name, set = set.id, "serving a runner scale set");
                Ok(Self::Set {
                    rest,
                    sets: Arc::new(sets),
                    set: set.id,
                })
            }
        }
    }

    /// Registers a runner.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn recruit(
        &self,
        pool: &Pool,
        name: &str,
        state: &State,
    ) -> Result<Recruit, SourceError> {
        let JitRunner { id, config } = match self {
            Self::Jit { rest, group } => {
                let made = rest.jit_config(name, *group, &pool.labels).await;
                told(state, rest, "generate-jitconfig", made)?
            }
            Self::Set { rest, sets, set } => {
                let made = sets.jit_config(*set, name).await;
                told(state, rest, "generate-jitconfig", made)?
            }
        };
        Ok(Recruit { id, config })
    }

    /// Removes a runner, unless it has a job.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn remove(&self, left: &Leftover, state: &State) -> Result<Removed, SourceError> {
        match self {
            Self::Jit { rest, .. } => remove_by_rest(rest, left, state).await,
            Self::Set { rest, sets, .. } => {
                let id = match left.id {
                    Some(id) => Some(id),
                    None => told(state, rest, "agents", sets.runner(&left.name).await)?,
                };
                let Some(id) = id else {
                    return Ok(Removed::Gone);
                };
                told(state, rest, "remove-runner", sets.remove(id).await)
            }
        }
    }
}

/// Removes a runner through the REST API.
///
/// # Errors
/// [`SourceError`].
pub async fn remove_by_rest(
    rest: &Rest,
    left: &Leftover,
    state: &State,
) -> Result<Removed, SourceError> {
    let id = match left.id {
        Some(id) => Some(id),
        None => {
            let all = told(state, rest, "runners", rest.runners().await)?;
            let found = all.into_iter().find(|runner| runner.name == left.name);
            found.map(|runner| runner.id)
        }
    };
    match id {
        Some(id) => told(state, rest, "remove-runner", rest.remove(id).await),
        None => Ok(Removed::Gone),
    }
}

/// Notes how a call went.
///
/// # Errors
/// The call's own.
pub fn told<T, E: Into<SourceError>>(
    state: &State,
    rest: &Rest,
    endpoint: &'static str,
    asked: Result<T, E>,
) -> Result<T, SourceError> {
    let asked = asked.map_err(Into::into);
    let failure = asked.as_ref().err();
    state.called(
        endpoint,
        failure.map(|error| (error.kind(), error.to_string())),
    );
    if let Some(limit) = rest.rate_limit() {
        state.limited(limit);
    }
    asked
}
