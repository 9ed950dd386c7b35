//! Runners through the REST API: made just in time, listed, removed.

use hyper::Method;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use super::{Numbered, Rest, RestError, Scope};
use crate::config::DEFAULT_GROUP;

/// Runners of a page.
const PAGE: usize = 100;
/// Most pages that are read.
const PAGES: usize = 100;
/// The group of every scope: its number is 1 everywhere.
const DEFAULT_GROUP_ID: u64 = 1;

/// A runner that was registered just now.
#[derive(Debug)]
pub struct JitRunner {
    /// Its number.
    pub id: u64,
    /// Its configuration, which holds its key.
    pub config: SecretString,
}

/// A registered runner.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Runner {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// `online` or `offline`.
    #[serde(default)]
    pub status: String,
    /// Whether it has a job.
    #[serde(default)]
    pub busy: bool,
}

/// What became of a runner that was to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It is removed.
    Yes,
    /// There was none.
    Gone,
    /// It has a job, so it stays.
    Busy,
}

#[derive(Deserialize)]
struct JitAnswer {
    runner: Numbered,
    encoded_jit_config: SecretString,
}

#[derive(Deserialize)]
struct RunnersAnswer {
    runners: Vec<Runner>,
}

#[derive(Deserialize)]
struct GroupsAnswer {
    runner_groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    id: u64,
    name: String,
}

#[derive(Deserialize)]
struct Release {
    tag_name: String,
}

#[derive(Deserialize)]
struct Download {
    os: String,
    architecture: String,
    filename: String,
}

#[derive(Deserialize)]
struct RegistrationAnswer {
    token: SecretString,
}

impl Rest {
    /// Registers a runner that takes one job.
    ///
    /// # Errors
    /// [`RestError`]; [`RestError::Conflict`] if there is one of this name.
    pub async fn jit_config(
        &self,
        name: &str,
        group: u64,
        labels: &[String],
    ) -> Result<JitRunner, RestError> {
        let path = format!("{}/actions/runners/generate-jitconfig", self.scope.path());
        let body = json!({
            "name": name, "runner_group_id": group, "labels": labels, "work_folder": "_work",
        });
        let answer = self
            .ask("generate-jitconfig", Method::POST, &path, Some(&body))
            .await?;
        let answer: JitAnswer = answer.json()?;
        Ok(JitRunner {
            id: answer.runner.id,
            config: answer.encoded_jit_config,
        })
    }

    /// All runners of the scope.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn runners(&self) -> Result<Vec<Runner>, RestError> {
        let mut all = Vec::new();
        for page in 1..=PAGES {
            let path = format!(
                "{}/actions/runners?per_page={PAGE}&page={page}",
                self.scope.path()
            );
            let answer = self.ask("runners", Method::GET, &path, None).await?;
            let found = answer.json::<RunnersAnswer>()?.runners;
            let last = found.len() < PAGE;
            all.extend(found);
            if last {
                break;
            }
        }
        Ok(all)
    }

    /// Removes a runner, unless it has a job: GitHub knows for sure.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn remove(&self, id: u64) -> Result<Removed, RestError> {
        let path = format!("{}/actions/runners/{id}", self.scope.path());
        match self.ask("remove-runner", Method::DELETE, &path, None).await {
            Ok(_) => Ok(Removed::Yes),
            Err(RestError::NotFound { .. }) => Ok(Removed::Gone),
            Err(RestError::Refused { status: 422, .. } | RestError::Conflict { .. }) => {
                Ok(Removed::Busy)
            }
            Err(error) => Err(error),
        }
    }

    /// The number of a runner group.
    ///
    /// # Errors
    /// [`RestError`]; there may be none of this name.
    pub async fn group(&self, name: &str) -> Result<u64, RestError> {
        if name.eq_ignore_ascii_case(DEFAULT_GROUP)
            || matches!(self.scope, Scope::Repository { .. })
        {
            return Ok(DEFAULT_GROUP_ID);
        }
        let path = format!(
            "{}/actions/runner-groups?per_page={PAGE}",
            self.scope.path()
        );
        let answer = self.ask("runner-groups", Method::GET, &path, None).await?;
        let groups = answer.json::<GroupsAnswer>()?.runner_groups;
        let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
        let found = groups.iter().find(|g| g.name.eq_ignore_ascii_case(name));
        found
            .map(|group| group.id)
            .ok_or_else(|| RestError::Answer {
                endpoint: "runner-groups",
                why: format!(
                    "there is no group `{name}`, but {}; make it, or name one of them",
                    names.join(", ")
                ),
            })
    }

    /// The newest version of actions/runner that this GitHub knows.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn newest_runner(&self) -> Result<String, RestError> {
        let latest = "/repos/actions/runner/releases/latest";
        match self.ask("releases", Method::GET, latest, None).await {
            Ok(answer) => {
                let tag = answer.json::<Release>()?.tag_name;
                checked("releases", tag.strip_prefix('v').unwrap_or(&tag))
            }
            // An Enterprise Server need not have that repository; it offers the program itself.
            Err(RestError::NotFound { .. }) => self.offered_runner().await,
            Err(error) => Err(error),
        }
    }

    async fn offered_runner(&self) -> Result<String, RestError> {
        let path = format!("{}/actions/runners/downloads", self.scope.path());
        let answer = self.ask("downloads", Method::GET, &path, None).await?;
        let downloads: Vec<Download> = answer.json()?;
        let ours = downloads
            .iter()
            .find(|d| d.os == "linux" && d.architecture == "x64");
        let version = ours.and_then(|download| {
            let name = download.filename.strip_suffix(".tar.gz")?;
            name.rsplit('-').next()
        });
        checked("downloads", version.unwrap_or_default())
    }

    /// A token with which runners and scale sets are registered, good for an hour.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn registration_token(&self) -> Result<SecretString, RestError> {
        let path = format!("{}/actions/runners/registration-token", self.scope.path());
        let answer = self
            .ask("registration-token", Method::POST, &path, None)
            .await?;
        Ok(answer.json::<RegistrationAnswer>()?.token)
    }
}

/// A version that may be passed on.
fn checked(endpoint: &'static str, version: &str) -> Result<String, RestError> {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let good =
        version.split('.').count() == 3 && version.len() < 32 && version.split('.').all(part);
    good.then(|| version.to_owned())
        .ok_or_else(|| RestError::Answer {
            endpoint,
            why: "it names no version of actions/runner; set runner_version in the configuration"
                .to_owned(),
        })
}
