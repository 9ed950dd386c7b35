//! A GitHub on loopback for tests: strict about what a runner may say, in which order, with which token.
//!
//! What is against the protocol is refused and remembered ([`FakeGitHub::violations`]), so that a test
//! fails even where a client would shrug the refusal off.

mod broker;
mod feed;
mod jobs;
mod launch;
mod registry;
mod rest;
mod results;
mod scale_set;
mod secret;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value as Json, json};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};

pub use feed::{FeedLines, FeedManner};
pub use jobs::{FakeJob, Job};
pub use rest::{APP, RunnerFacts};
pub use secret::Encryption;

/// How long a poll is held when there is nothing to say.
const HOLD: Duration = Duration::from_millis(400);

/// The fake. It ends when it is dropped.
#[derive(Debug)]
pub struct FakeGitHub {
    shared: Shared,
    server: JoinHandle<()>,
}

/// Requests that are answered wrongly.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What the path of such a request contains.
    pub path: &'static str,
    /// Requests that are let through before.
    pub after: u32,
    /// How many are answered wrongly.
    pub times: u32,
    /// The status; 0 drops the connection after the request was carried out.
    pub status: u16,
    /// The body.
    pub body: Json,
    /// Headers that limit, as `retry-after`.
    pub headers: Vec<(&'static str, String)>,
}

impl Fault {
    /// The next `times` requests whose path contains `path` are answered with `status`.
    #[must_use]
    pub fn status(path: &'static str, times: u32, status: u16) -> Self {
        Self {
            path,
            after: 0,
            times,
            status,
            body: json!({}),
            headers: Vec::new(),
        }
    }

    /// The next `times` such requests are too many, and none is wanted for so many seconds.
    #[must_use]
    pub fn limited(path: &'static str, times: u32, seconds: u64) -> Self {
        Self {
            headers: vec![("retry-after", seconds.to_string())],
            body: json!({"message": "You have exceeded a secondary rate limit."}),
            ..Self::status(path, times, 403)
        }
    }
}

/// Everything that the fake knows.
#[derive(Debug, Default)]
struct State {
    base: String,
    runners: BTreeMap<String, registry::Runner>,
    tokens: BTreeMap<String, String>,
    assertions: HashSet<String>,
    queue: VecDeque<String>,
    jobs: BTreeMap<String, Job>,
    faults: Vec<Fault>,
    violations: Vec<String>,
    requests: Vec<String>,
    serial: u64,
    feed: FeedManner,
    rest: rest::RestState,
    sets: scale_set::SetState,
    hold: Option<Duration>,
    latest_requests: Option<usize>,
    repositories: Option<std::path::PathBuf>,
    encryption: Encryption,
    count_blobs: bool,
    slow: Vec<(&'static str, Duration)>,
    /// Messages about no job, by the name of the runner that they are for.
    told: Vec<(String, Json)>,
}

#[derive(Debug, Clone, Default)]
struct Shared {
    state: Arc<Mutex<State>>,
    news: Arc<Notify>,
}

/// A request, read whole.
#[derive(Debug)]
struct Asked {
    method: Method,
    path: String,
    query: BTreeMap<String, String>,
    bearer: Option<String>,
    headers: hyper::HeaderMap,
    body: Bytes,
}

/// What is answered: a status and a body.
type Said = (u16, Json);

impl FakeGitHub {
    /// Starts it on a free port of loopback.
    ///
    /// # Errors
    /// Whatever keeps it from listening.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let shared = Shared::default();
        shared.lock().base = format!("http://{}/", listener.local_addr()?);
        let served = shared.clone();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = served.clone();
                let answer = service_fn(move |request| {
                    let shared = shared.clone();
                    async move { shared.answer(request).await }
                });
                let connection = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), answer)
                    .with_upgrades();
                tokio::spawn(connection);
            }
        });
        Ok(Self { shared, server })
    }

    /// Its address, with a slash at the end.
    #[must_use]
    pub fn base(&self) -> String {
        self.shared.lock().base.clone()
    }

    /// Misbehaves from now on.
    pub fn fault(&self, fault: Fault) {
        self.shared.lock().faults.push(fault);
    }

    /// How long polls are held from now on when there is nothing to say.
    pub fn hold(&self, hold: Duration) {
        self.shared.lock().hold = Some(hold);
    }

    /// Remembers only so many requests from now on, for tests with very many.
    pub fn remember(&self, requests: usize) {
        self.shared.lock().latest_requests = Some(requests);
    }

    /// Answers requests whose path contains `path` only after a while.
    pub fn slow(&self, path: &'static str, delay: Duration) {
        self.shared.lock().slow.push((path, delay));
    }

    /// What was against the protocol.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.shared.lock().violations.clone()
    }

    /// All requests so far, as `METHOD /path status`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.shared.lock().requests.clone()
    }
}

impl Drop for FakeGitHub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, io::Error> {
        if request.uri().path() == "/_ws/ingest.sock" {
            let response = self.open_feed(&mut request);
            let status = response.status().as_u16();
            let line = format!("GET /_ws/ingest.sock {status}");
            self.lock().note(line);
            return Ok(response);
        }
        let asked = read(request).await.map_err(io::Error::other)?;
        if let Some(response) = self.about_repository(&asked) {
            return Ok(response);
        }
        let slow = self
            .lock()
            .slow
            .iter()
            .find(|(path, _)| asked.path.contains(path))
            .copied();
        if let Some((_, delay)) = slow {
            tokio::time::sleep(delay).await;
        }
        let line = format!("{} {}", asked.method, asked.path);
        let fault = self.lock().due(&asked.path);
        let mut headers = Vec::new();
        let (status, body) = match fault {
            Some(fault) if fault.status != 0 => {
                headers = fault.headers;
                (fault.status, fault.body)
            }
            other => {
                let said = self.route(&asked).await;
                if other.is_some() {
                    self.lock().note(format!("{line} dropped"));
                    return Err(io::Error::other("a fault drops this connection"));
                }
                said
            }
        };
        if asked.path.starts_with("/api/v3/") {
            headers.extend(self.lock().rate_limit());
        }
        self.lock().note(format!("{line} {status}"));
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let response = Response::builder().status(status);
        let response = headers
            .into_iter()
            .fold(response, |response, (name, value)| {
                response.header(name, value)
            });
        response
            .body(Full::new(text.into()))
            .map_err(io::Error::other)
    }

    async fn route(&self, asked: &Asked) -> Said {
        let segments: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
        match (asked.method.as_str(), segments.as_slice()) {
            (_, ["api", "v3", path @ ..]) => self.lock().rest(path, asked),
            (_, ["tenant", path @ ..]) => self.lock().tenant(path, asked),
            ("GET", ["queue", set]) => self.queue_message(set, asked).await,
            ("DELETE", ["queue", set, message]) => {
                self.lock().acknowledge_message(set, message, asked)
            }
            ("POST", ["token"]) => self.lock().exchange(asked),
            ("POST", ["session"]) => self.lock().open_session(asked),
            ("DELETE", ["session"]) => self.lock().close_session(asked),
            ("GET", ["message"]) => self.message(asked).await,
            ("POST", ["acknowledge"]) => self.lock().acknowledge(asked),
            ("POST", ["run", "acquirejob"]) => self.lock().acquire(asked),
            ("POST", ["run", "renewjob"]) => self.lock().renew(asked),
            ("POST", ["run", "completejob"]) => self.lock().complete(asked),
            (
                "POST",
                [
                    "actions",
                    "build",
                    plan,
                    "jobs",
                    job,
                    "runnerresolve",
                    "actions",
                ],
            ) => self.lock().launch(plan, job, asked),
            ("POST", ["twirp", service, call]) => self.lock().results(service, call, asked),
            ("PUT", ["blob", job, name]) => self.lock().blob(job, name, asked),
            _ => self.lock().violation(
                404,
                format!("{} {}: no such route", asked.method, asked.path),
            ),
        }
    }
}

impl State {
    /// How long a poll is held.
    fn hold(&self) -> Duration {
        self.hold.unwrap_or(HOLD)
    }

    /// Remembers a request.
    fn note(&mut self, request: String) {
        if let Some(most) = self.latest_requests {
            let surplus = (self.requests.len() + 1).saturating_sub(most);
            self.requests.drain(..surplus);
        }
        self.requests.push(request);
    }

    /// The fault of a request, if one is due.
    fn due(&mut self, path: &str) -> Option<Fault> {
        for fault in self.faults.iter_mut().filter(|f| path.contains(f.path)) {
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                return Some(fault.clone());
            }
        }
        None
    }

    /// Remembers what was against the protocol.
    fn violation(&mut self, status: u16, what: impl Into<String>) -> Said {
        let what = what.into();
        self.violations.push(what.clone());
        (status, json!({"errorMessage": what}))
    }

    /// A number that was not used yet.
    fn next(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// The body as an object with all of `required` and nothing beyond `optional`.
    fn object(
        &mut self,
        asked: &Asked,
        required: &[&str],
        optional: &[&str],
    ) -> Result<Json, Said> {
        let json: Json = serde_json::from_slice(&asked.body).unwrap_or_default();
        let Some(object) = json.as_object() else {
            return Err(self.violation(400, format!("{}: the body is no JSON object", asked.path)));
        };
        let missing = required.iter().find(|name| !object.contains_key(**name));
        let known =
            |name: &&String| required.contains(&name.as_str()) || optional.contains(&name.as_str());
        let unknown = object.keys().find(|name| !known(name));
        if let Some(name) = missing {
            return Err(self.violation(400, format!("{}: {name} is missing", asked.path)));
        }
        if let Some(name) = unknown {
            return Err(self.violation(400, format!("{}: {name} is unknown", asked.path)));
        }
        Ok(json)
    }
}

async fn read(request: Request<Incoming>) -> Result<Asked, hyper::Error> {
    let (head, body) = request.into_parts();
    let bearer = head.headers.get("authorization").and_then(|value| {
        value
            .to_str()
            .ok()?
            .strip_prefix("Bearer ")
            .map(str::to_owned)
    });
    let query = form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes());
    Ok(Asked {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: query.into_owned().collect(),
        bearer,
        headers: head.headers,
        body: body.collect().await?.to_bytes(),
    })
}
