//! The launch service: what references stand for, asked for many at a time, with the job's token.

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::{Response, StatusCode, header::LOCATION};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value as Json, json};
use tokio::{
    io::{AsyncRead, AsyncWriteExt},
    sync::oneshot,
    time::sleep,
};
use url::Url;

use crate::{
    action::{
        digest::CommitId,
        reference::{ActionKey, RepositoryName},
    },
    github::{
        http::{Answer, Http, TransportError},
        jit::web,
        pause::between,
    },
    job::request::{JobRequest, Variable},
    printable,
    tolerant::Fields,
};

/// Most references of one question.
const AT_ONCE: usize = 100;
/// How long the first of some references waits for company.
const COMPANY: Duration = Duration::from_millis(10);
/// How long an archive may take, as in the official runner.
const DOWNLOAD: Duration = Duration::from_secs(20 * 60);
/// How often an archive may be elsewhere.
const MAX_REDIRECTS: usize = 5;
/// Bytes that may wait between the network and verifying.
const PIPE_BYTES: usize = 256 << 10;

/// Waits and numbers of tries. The defaults are those of the official runner.
#[derive(Debug, Clone)]
pub struct LaunchTimes {
    /// Tries of a question, and to begin an archive.
    pub tries: u32,
    /// Between them.
    pub retry: RangeInclusive<Duration>,
}

impl Default for LaunchTimes {
    fn default() -> Self {
        Self {
            tries: 3,
            retry: Duration::from_secs(10)..=Duration::from_secs(30),
        }
    }
}

/// What a reference stands for.
#[derive(Debug, Clone)]
pub struct DownloadInfo {
    /// The commit.
    pub commit: CommitId,
    /// The repository's archive at it.
    pub archive: Url,
    /// What the archive is asked for with, if not with the job's own token.
    token: Option<SecretString>,
}

/// Why the job message names no launch service.
#[derive(Debug, thiserror::Error)]
#[error("the job message names no usable launch service, so no action can be looked up: {0}")]
pub struct NoLaunch(&'static str);

/// Why a reference is not known to the service.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LaunchError {
    /// The service refuses it, in its own words; a policy of GitHub may stand behind it.
    #[error("GitHub does not resolve it: {0}")]
    Unresolved(String),
    /// The service was not reached, or is not well.
    #[error("GitHub's launch service did not answer: {0}")]
    Failed(String),
    /// The answer has nothing of it, or something else.
    #[error("the launch service's answer {0}")]
    Answer(String),
    /// The archive is not to be had.
    #[error("its archive cannot be had from {host}: {why}")]
    Archive {
        /// The host.
        host: String,
        /// What happened.
        why: String,
    },
}

/// A question that waits for company.
type Asking = (
    ActionKey,
    oneshot::Sender<Result<Arc<DownloadInfo>, LaunchError>>,
);

#[derive(Debug, Default)]
struct Known {
    found: HashMap<ActionKey, Arc<DownloadInfo>>,
    waiting: Vec<Asking>,
}

/// The launch service of one job. Clones share what they know.
#[derive(Clone, Debug)]
pub struct Launch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: Http,
    url: Url,
    token: SecretString,
    own: Option<SecretString>,
    /// The workflow's lock file as the message has it: passed on, and checked here.
    dependencies: Vec<String>,
    times: LaunchTimes,
    known: Mutex<Known>,
}

impl Launch {
    /// The service that a job message names.
    ///
    /// # Errors
    /// [`NoLaunch`].
    pub fn of(http: Http, job: &JobRequest, times: LaunchTimes) -> Result<Self, NoLaunch> {
        let endpoint = job.variables.get("system.github.launch_endpoint");
        let endpoint = endpoint.map(Variable::expose).filter(|url| !url.is_empty());
        let endpoint = endpoint.ok_or(NoLaunch("system.github.launch_endpoint is missing"))?;
        let mut url = web(endpoint).map_err(NoLaunch)?;
        let (plan, id) = (&job.plan.plan_id, &job.job_id);
        url.set_path(&format!(
            "/actions/build/{plan}/jobs/{id}/runnerresolve/actions"
        ));
        let connection = job.system_connection();
        let token = connection.and_then(|connection| connection.access_token.clone());
        Ok(Self(Arc::new(Inner {
            http,
            url,
            token: token.ok_or(NoLaunch("the job has no token"))?,
            own: super::token(job),
            dependencies: job.dependencies.clone(),
            times,
            known: Mutex::default(),
        })))
    }

    /// What a reference stands for. Those that are asked for at the same time are one question.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub async fn info(
        &self,
        repository: &RepositoryName,
        reference: &str,
    ) -> Result<Arc<DownloadInfo>, LaunchError> {
        let text = format!("{repository}@{reference}");
        let key = ActionKey::parse(&text)
            .ok_or_else(|| LaunchError::Answer(format!("can have nothing of `{text}`")))?;
        let (sender, answer) = oneshot::channel();
        let is_first = {
            let mut known = self.lock();
            if let Some(found) = known.found.get(&key) {
                return Ok(Arc::clone(found));
            }
            known.waiting.push((key, sender));
            known.waiting.len() == 1
        };
        if is_first {
            // On its own, so that it goes on for the others when this caller goes away.
            let launch = self.clone();
            tokio::spawn(async move {
                sleep(COMPANY).await;
                launch.ask_waiting().await;
            });
        }
        let gone = || LaunchError::Failed("the question was broken off".to_owned());
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    async fn ask_waiting(&self) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        let mut keys: Vec<ActionKey> = waiting.iter().map(|(key, _)| key.clone()).collect();
        keys.sort();
        keys.dedup();
        let mut answers = HashMap::new();
        for some in keys.chunks(AT_ONCE) {
            let answered = self.ask(some).await;
            for key in some {
                let answer = match &answered {
                    Ok(found) => found.get(key).cloned().unwrap_or_else(|| {
                        Err(LaunchError::Answer(format!("has nothing of `{key}`")))
                    }),
                    Err(error) => Err(error.clone()),
                };
                answers.insert(key.clone(), answer);
            }
        }
        let mut known = self.lock();
        for (key, answer) in &answers {
            if let Ok(found) = answer {
                known.found.insert(key.clone(), Arc::clone(found));
            }
        }
        drop(known);
        for (key, sender) in waiting {
            if let Some(answer) = answers.get(&key) {
                // Nobody waits any more for some of them.
                let _ = sender.send(answer.clone());
            }
        }
    }

    /// Asks for some references, and again while the service is not well.
    async fn ask(
        &self,
        keys: &[ActionKey],
    ) -> Result<HashMap<ActionKey, Result<Arc<DownloadInfo>, LaunchError>>, LaunchError> {
        let action = |key: &ActionKey| {
            let (repository, reference) = key.parts();
            json!({"action": repository.to_string(), "version": reference, "path": ""})
        };
        let actions: Vec<Json> = keys.iter().map(action).collect();
        let body = json!({"actions": actions, "actions_dependencies": self.0.dependencies});
        for attempt in 1.. {
            let post = self.0.http.client().post(self.0.url.clone()).json(&body);
            let sent = post.bearer_auth(self.0.token.expose_secret());
            let why = match self.0.http.send(sent).await {
                Ok(answer) if answer.status.is_success() => return read(&answer),
                Ok(answer) if answer.status == StatusCode::UNPROCESSABLE_ENTITY => {
                    return Ok(unresolved(&answer, keys));
                }
                Ok(answer) => {
                    let (why, status) = (answer.refusal().to_string(), answer.status);
                    if status == StatusCode::TOO_MANY_REQUESTS || !is_passing(status) {
                        return Err(LaunchError::Failed(why));
                    }
                    why
                }
                Err(error @ TransportError::Exchange { .. }) => error.to_string(),
                Err(error) => return Err(LaunchError::Failed(error.to_string())),
            };
            if attempt >= self.0.times.tries {
                return Err(LaunchError::Failed(why));
            }
            tracing::warn!(why, "actions were not looked up; trying again");
            sleep(between(self.0.times.retry.clone())).await;
        }
        Err(LaunchError::Failed("it was not asked".to_owned()))
    }

    /// What was found of a commit, under whatever name.
    pub(super) fn of_commit(
        &self,
        repository: &RepositoryName,
        commit: CommitId,
    ) -> Option<Arc<DownloadInfo>> {
        let known = self.lock();
        let is_it = |(key, info): &(&ActionKey, &Arc<DownloadInfo>)| {
            info.commit == commit && key.parts().0.key() == repository.key()
        };
        let found = known.found.iter().find(is_it);
        found.map(|(_, info)| Arc::clone(info))
    }

    /// The archive of a commit, as a stream. The token goes to the host that the service named, only.
    ///
    /// # Errors
    /// [`LaunchError::Archive`].
    pub async fn archive(
        &self,
        info: &DownloadInfo,
    ) -> Result<Box<dyn AsyncRead + Send + Unpin>, LaunchError> {
        let host = info.archive.host_str().unwrap_or_default().to_owned();
        let failed = |why: String| LaunchError::Archive {
            host: host.clone(),
            why: printable::line(&why),
        };
        let mut attempt = 1;
        let response = loop {
            match self.begin(info).await {
                Ok(response) => break response,
                Err((_, true)) if attempt < self.0.times.tries => {
                    attempt += 1;
                    sleep(between(self.0.times.retry.clone())).await;
                }
                Err((why, _)) => return Err(failed(why)),
            }
        };
        Ok(stream(response))
    }

    /// Begins an archive; or why not, and whether another try may help.
    async fn begin(&self, info: &DownloadInfo) -> Result<Response, (String, bool)> {
        let token = info.token.as_ref().or(self.0.own.as_ref());
        let mut url = info.archive.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut get = self.0.http.client().get(url.clone()).timeout(DOWNLOAD);
            if let Some(token) = token.filter(|_| url.origin() == info.archive.origin()) {
                get = get.basic_auth("x-access-token", Some(token.expose_secret()));
            }
            let response = get.send().await;
            let response = response.map_err(|error| (error.without_url().to_string(), true))?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if !status.is_redirection() {
                return Err((format!("the answer is {status}"), is_passing(status)));
            }
            let next = response.headers().get(LOCATION);
            let next = next.and_then(|next| url.join(next.to_str().ok()?).ok());
            let next = next.and_then(|next| web(next.as_str()).ok());
            url = next.ok_or_else(|| ("its answer leads nowhere".to_owned(), false))?;
        }
        Err(("its answers lead in a circle".to_owned(), false))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a status may be another one soon.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status)
}

/// A body as it comes. One that breaks off is an archive that does, which verifying notices.
fn stream(mut response: Response) -> Box<dyn AsyncRead + Send + Unpin> {
    let (mut sink, stream) = tokio::io::duplex(PIPE_BYTES);
    tokio::spawn(async move {
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    if sink.write_all(&chunk).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(error = %error.without_url(), "an archive broke off");
                    return;
                }
            }
        }
    });
    Box::new(stream)
}

type Answers = HashMap<ActionKey, Result<Arc<DownloadInfo>, LaunchError>>;

/// What an answer says of each reference.
fn read(answer: &Answer) -> Result<Answers, LaunchError> {
    let wrong = |why: String| LaunchError::Answer(format!("cannot be read: {why}"));
    let json: Json = answer.json().map_err(wrong)?;
    let fields = Fields::new(json, String::new());
    let mut fields = fields.map_err(|why| wrong(why.to_string()))?;
    let mut found = HashMap::new();
    for (name, fields) in fields
        .map("actions")
        .map_err(|why| wrong(why.to_string()))?
    {
        if let Some(key) = ActionKey::parse(&name) {
            let info = info(fields).map(Arc::new);
            found.insert(key, info.map_err(|why| wrong(format!("`{name}`: {why}"))));
        }
    }
    Ok(found)
}

fn info(mut fields: Fields) -> Result<DownloadInfo, String> {
    let mut text = |name: &str| fields.required(name).map_err(|why| why.to_string());
    let (sha, tar) = (text("resolved_sha")?, text("tar_url")?);
    let commit = sha.to_ascii_lowercase().parse();
    let token = |mut fields: Fields| fields.text("token");
    let token = fields.object("authentication", token);
    let token = token.map_err(|why| why.to_string())?.flatten();
    Ok(DownloadInfo {
        commit: commit.map_err(|_| "resolved_sha is no commit id".to_owned())?,
        archive: web(&tar).map_err(|why| format!("tar_url {why}"))?,
        token: token.filter(|token| !token.is_empty()).map(Into::into),
    })
}

/// What a refusal says of each reference: `{"errors": {"owner/repo@ref": {"message": …}}}`.
fn unresolved(answer: &Answer, keys: &[ActionKey]) -> Answers {
    let json: Json = answer.json().unwrap_or_default();
    let mut said: HashMap<ActionKey, String> = HashMap::new();
    for (name, error) in json["errors"].as_object().into_iter().flatten() {
        let message = error["message"].as_str().unwrap_or("it says no reason");
        if let Some(key) = ActionKey::parse(name) {
            let words: String = message.chars().take(1000).collect();
            said.insert(key, printable::line(&words));
        }
    }
    let of = |key: &ActionKey| {
        let why = said.get(key).cloned();
        let why = why.unwrap_or_else(|| "it refuses others that were asked for with it".to_owned());
        (key.clone(), Err(LaunchError::Unresolved(why)))
    };
    keys.iter().map(of).collect()
}
