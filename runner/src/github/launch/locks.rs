//! The lock files of a job: what its message passes on of `actions.lock`, and both files as the
//! workflow's own repository has them at the workflow's commit.
//!
//! Whoever may change the workflow may change the lock files beside it, and is seen to do so in the same
//! diff; so they are read at the workflow's own commit, and nowhere else.

use std::time::Duration;

use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::sleep;
use url::Url;

use crate::{
    action::{
        lockfile::{
            ACTIONS_LOCK, ActionsLock, Companion, Dependency, LockfileError, MAX_BYTES, MAYFLY_LOCK,
        },
        reference::{ActionKey, RepositoryName, is_commit_id},
        resolve::Locks,
    },
    github::{
        http::{Http, TransportError},
        jit::base,
        pause::Backoff,
    },
    job::request::JobRequest,
};

/// Tries to read a lock file.
const TRIES: u32 = 3;

/// What is locked for a job.
#[derive(Debug, Default)]
pub struct JobLocks {
    /// Both files.
    pub locks: Locks,
    /// Whether the message has entries of `actions.lock`.
    pub in_message: bool,
}

/// Why the lock files of a job cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JobLocksError {
    /// One cannot be read.
    #[error(
        "cannot read {file} of {repository} at {commit}: {why}; without it nothing says which actions are meant"
    )]
    Read {
        /// The file.
        file: &'static str,
        /// The repository.
        repository: String,
        /// The commit.
        commit: String,
        /// What happened.
        why: String,
    },
    /// One is not well formed.
    #[error(transparent)]
    Broken(#[from] LockfileError),
    /// An entry of the message is none.
    #[error(
        "the job message locks `{0}`, which is not of the form owner/repository@ref:sha1-<commit>; Mayfly \
         checks no other algorithm"
    )]
    Dependency(String),
    /// The message and the file say different things.
    #[error(
        "the job message locks {key} to {told}, and {ACTIONS_LOCK} at the workflow's commit to {written}"
    )]
    Contradiction {
        /// The action.
        key: String,
        /// The commit in the message.
        told: String,
        /// The commit in the file.
        written: String,
    },
}

impl JobLocks {
    /// Reads the lock files of a job.
    ///
    /// # Errors
    /// [`JobLocksError`] if one is there and cannot be used, or whether one is there is not known.
    pub async fn read(
        http: &Http,
        api: &str,
        token: Option<&SecretString>,
        job: &JobRequest,
    ) -> Result<Self, JobLocksError> {
        let mut locks = Locks::default();
        if let Some((repository, commit)) = origin(job) {
            let files = Files {
                http,
                api,
                token,
                repository: &repository,
                commit: &commit,
            };
            let actions = files.text(ACTIONS_LOCK).await?;
            locks.actions = actions.map(|text| ActionsLock::parse(&text)).transpose()?;
            let companion = files.text(MAYFLY_LOCK).await?;
            locks.companion = companion.map(|text| Companion::parse(&text)).transpose()?;
        }
        let mut read = Self {
            locks,
            in_message: !job.dependencies.is_empty(),
        };
        for told in &job.dependencies {
            read.add(told)?;
        }
        Ok(read)
    }

    /// Adds an entry of the message: `owner/repo@ref:sha1-<commit>`.
    fn add(&mut self, told: &str) -> Result<(), JobLocksError> {
        let wrong = || JobLocksError::Dependency(told.to_owned());
        let (name, digest) = told.rsplit_once(':').ok_or_else(wrong)?;
        let key = ActionKey::parse(name).ok_or_else(wrong)?;
        let commit = digest.strip_prefix("sha1-").ok_or_else(wrong)?;
        if !is_commit_id(commit) {
            return Err(wrong());
        }
        let actions = self.locks.actions.get_or_insert_default();
        if let Some(written) = actions.dependency(&key) {
            if written.commit.eq_ignore_ascii_case(digest) {
                return Ok(());
            }
            return Err(JobLocksError::Contradiction {
                key: key.to_string(),
                told: digest.to_owned(),
                written: written.commit,
            });
        }
        let dependency = Dependency {
            reference: key.reference().to_owned(),
            commit: digest.to_ascii_lowercase(),
            // The message has none; nothing that is done with it looks at them.
            owner_id: 1,
            repo_id: 1,
            uses: Vec::new(),
        };
        actions.set_dependency(&key, &dependency);
        Ok(())
    }
}

/// The repository and commit of the workflow that has the job.
fn origin(job: &JobRequest) -> Option<(RepositoryName, String)> {
    let text = |context: &str, name: &str| {
        let object = job.context_data.get(context)?.as_object()?;
        let text = object.get(name)?.as_str()?;
        Some(text.to_owned()).filter(|text| !text.is_empty())
    };
    let of_job = text("job", "workflow_repository").zip(text("job", "workflow_sha"));
    let of_run = || {
        let commit = text("github", "workflow_sha").or_else(|| text("github", "sha"));
        text("github", "repository").zip(commit)
    };
    let (repository, commit) = of_job.or_else(of_run)?;
    Some((RepositoryName::parse(&repository)?, commit)).filter(|(_, commit)| is_commit_id(commit))
}

/// Files of a repository at a commit, by GitHub's API.
struct Files<'a> {
    http: &'a Http,
    api: &'a str,
    token: Option<&'a SecretString>,
    repository: &'a RepositoryName,
    commit: &'a str,
}

impl Files<'_> {
    async fn text(&self, file: &'static str) -> Result<Option<String>, JobLocksError> {
        let failed = |why: String| JobLocksError::Read {
            file,
            repository: self.repository.to_string(),
            commit: self.commit.to_owned(),
            why,
        };
        let url = base(self.api).map_err(|why| failed(format!("api_url {why}")))?;
        let url = url.join(&format!("repos/{}/contents/{file}", self.repository));
        let mut url = url.map_err(|_| failed("api_url is no base".to_owned()))?;
        url.query_pairs_mut().append_pair("ref", self.commit);
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
        loop {
            let (why, may_pass) = match self.ask(&url).await {
                Ok(text) => return Ok(text),
                Err(failure) => failure,
            };
            let wait = backoff.after_failure();
            if !may_pass || backoff.failures() >= TRIES {
                return Err(failed(why));
            }
            sleep(wait).await;
        }
    }

    /// A file's text; or why not, and whether another try may help.
    async fn ask(&self, url: &Url) -> Result<Option<String>, (String, bool)> {
        let get = self.http.client().get(url.clone());
        let mut get = get.header("accept", "application/vnd.github.raw+json");
        if let Some(token) = self.token {
            get = get.bearer_auth(token.expose_secret());
        }
        let answer = self.http.send(get).await.map_err(|error| {
            let may_pass = matches!(error, TransportError::Exchange { .. });
            (error.to_string(), may_pass)
        })?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let bytes = answer.bytes();
                if bytes.len() > MAX_BYTES {
                    let why = format!("it has {} bytes, and {MAX_BYTES} are the most", bytes.len());
                    return Err((why, false));
                }
                let text =
                    std::str::from_utf8(bytes).map_err(|_| ("it is no text".to_owned(), false));
                Ok(Some(text?.to_owned()))
            }
            status => {
                let may_pass = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                Err((answer.refusal().to_string(), may_pass))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_the_message_are_taken_as_locked_and_must_not_contradict_the_file() {
        let commit = "a".repeat(40);
        let mut locks = JobLocks::default();
        locks.add(&format!("Octo/Tool@v1:sha1-{commit}")).unwrap();
        locks
            .add(&format!("octo/tool@v1:sha1-{}", commit.to_uppercase()))
            .unwrap();
        let key = ActionKey::parse("octo/tool@v1").unwrap();
        assert_eq!(locks.locks.action(&key).unwrap().commit.hex(), commit);
        let other = format!("octo/tool@v1:sha1-{}", "b".repeat(40));
        assert!(matches!(
            locks.add(&other),
            Err(JobLocksError::Contradiction { .. })
        ));
        for wrong in [
            "octo/tool@v1".to_owned(),
            "octo/tool@v1:sha1-abc".to_owned(),
            format!("octo/tool@v2:sha256-{}", "c".repeat(64)),
            format!("octo:sha1-{commit}"),
        ] {
            let error = locks.add(&wrong).unwrap_err().to_string();
            assert!(error.contains(&wrong), "{error}");
        }
    }
}
