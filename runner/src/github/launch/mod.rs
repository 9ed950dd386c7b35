//! Actions of a job from GitHub: the launch service says which commit a reference stands for and where
//! its archive is; the pins say whether that may run.

mod actions;
mod locks;
mod service;
#[cfg(test)]
mod tests;
mod upstream;

use std::sync::Arc;

use secrecy::SecretString;

use super::http::Http;
use crate::{
    action::{
        history::History,
        policy::PinPolicy,
        source::{GITHUB_API, GitHub, GitMirror, SourceError, Upstream},
        store::ActionStore,
    },
    config::Installation,
    job::request::{JobRequest, StepAction, Variable},
    notice::Notices,
};

pub use actions::JobActions;
pub use locks::{JobLocks, JobLocksError};
pub use service::{DownloadInfo, Launch, LaunchError, LaunchTimes, NoLaunch};
pub use upstream::LaunchUpstream;

/// What this machine says of actions.
#[derive(Clone, Debug)]
pub struct ActionPolicy {
    /// What must be known of them.
    pub pins: PinPolicy,
    /// Git repositories that commits are fetched from instead of GitHub's archives.
    pub mirror: Option<String>,
    /// Where they are kept.
    pub store: ActionStore,
    /// What was seen of them.
    pub history: History,
}

impl ActionPolicy {
    /// The policy of an installation.
    #[must_use]
    pub fn new(installation: &Installation, pins: PinPolicy, mirror: Option<String>) -> Self {
        Self {
            pins,
            mirror,
            store: ActionStore::at(installation.actions()),
            history: History::at(installation.pins()),
        }
    }
}

/// Why a job has no source of actions.
#[derive(Debug, thiserror::Error)]
pub enum NoActionsError {
    /// The job message does not say whom to ask.
    #[error(transparent)]
    Launch(#[from] NoLaunch),
    /// The place that commits come from cannot be asked.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The lock files cannot be read.
    #[error(transparent)]
    Locks(#[from] JobLocksError),
}

/// Whether a job uses anything that pins are about.
#[must_use]
pub fn is_needed(job: &JobRequest) -> bool {
    let is_used = |action: &StepAction| match action {
        StepAction::Repository { .. } | StepAction::ContainerRegistry { .. } => true,
        StepAction::Script | StepAction::BackgroundControl { .. } => false,
    };
    job.job_container.is_some()
        || job.job_service_containers.is_some()
        || job.steps.iter().any(|step| is_used(&step.action))
}

/// The actions of a job.
///
/// # Errors
/// [`NoActionsError`]; a job that needs none does without.
pub async fn actions(
    http: &Http,
    job: &JobRequest,
    policy: &ActionPolicy,
    notices: Notices,
    times: LaunchTimes,
) -> Result<JobActions, NoActionsError> {
    let api = github(job, "api_url").unwrap_or(GITHUB_API).to_owned();
    let token = token(job);
    let inner: Arc<dyn Upstream> = match &policy.mirror {
        Some(base) => Arc::new(GitMirror::open(base)?),
        None => Arc::new(GitHub::open(&api, token.clone())?),
    };
    let launch = Launch::of(http.clone(), job, times)?;
    let archives = policy.mirror.is_none();
    let upstream = LaunchUpstream::new(launch.clone(), inner, archives);
    let locks = JobLocks::read(http, &api, token.as_ref(), job).await?;
    Ok(JobActions::new(
        job, launch, upstream, locks, policy, notices,
    ))
}

/// The job's token for GitHub's API and git.
fn token(job: &JobRequest) -> Option<SecretString> {
    let token = job.variables.get("system.github.token");
    let token = token.or_else(|| job.variables.get("github_token"));
    let token = token
        .map(Variable::expose)
        .filter(|token| !token.is_empty());
    token.map(SecretString::from)
}

/// A text of the job's `github` context.
fn github<'a>(job: &'a JobRequest, name: &str) -> Option<&'a str> {
    let github = job.context_data.get("github")?.as_object()?;
    let text = github.get(name)?.as_str()?;
    Some(text).filter(|text| !text.is_empty())
}
