//! The REST API: who asks, just-in-time runners, runners listed and removed, versions, rate limits.
//!
//! Paths are those of an Enterprise Server, `/api/v3/…`. The scope is the repository `octo/hello` or the
//! organization `octo`, whichever is asked for first.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value as Json, json};

use super::{Asked, FakeGitHub, Said, State, registry::KEY};

/// The App.
pub const APP: &str = "12345";
/// Its installation.
const INSTALLATION: u64 = 77;
/// Requests in an hour.
const LIMIT: u64 = 5000;

/// What the REST API knows beside the runners.
#[derive(Debug)]
pub struct RestState {
    /// Tokens of the installation, with their ends.
    installation_tokens: BTreeMap<String, Instant>,
    registration_tokens: Vec<String>,
    /// How long a token of the installation is good.
    token_life: Duration,
    /// The newest version of actions/runner.
    newest: String,
    /// Whether the repository of actions/runner is there; it need not be on an Enterprise Server.
    has_releases: bool,
    used: u64,
}

impl Default for RestState {
    fn default() -> Self {
        Self {
            installation_tokens: BTreeMap::new(),
            registration_tokens: Vec::new(),
            token_life: Duration::from_secs(3600),
            newest: "2.340.1".to_owned(),
            has_releases: true,
            used: 0,
        }
    }
}

/// A registered runner, as tests see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerFacts {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// Whether it has a session.
    pub online: bool,
}

impl FakeGitHub {
    /// The App's private key, as GitHub gives it to people.
    ///
    /// # Panics
    /// If the fake's own key is broken.
    #[must_use]
    pub fn app_key(&self) -> String {
        let key: Json = serde_json::from_str(KEY).expect("our own file");
        let body = key["pkcs8"].as_str().expect("our own file");
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    }

    /// Everything that it gave out and that nobody but its receiver may read: keys and tokens.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let state = self.shared.lock();
        let key: Json = serde_json::from_str(KEY).unwrap_or_default();
        let key = key["pkcs8"].as_str().map(|body| body[..64].to_owned());
        let rest = &state.rest;
        let tokens = state.tokens.keys().chain(rest.registration_tokens.iter());
        let tokens = tokens.chain(rest.installation_tokens.keys()).cloned();
        key.into_iter().chain(tokens).collect()
    }

    /// Runners that are registered and have not had their job.
    #[must_use]
    pub fn runners(&self) -> Vec<RunnerFacts> {
        let state = self.shared.lock();
        let living = state.runners.values().filter(|runner| !runner.finished);
        let facts = living.map(|runner| RunnerFacts {
            id: runner.id,
            name: runner.name.clone(),
            labels: runner.labels.clone(),
            online: runner.session.is_some(),
        });
        facts.collect()
    }

    /// How long tokens of the App's installation are good from now on.
    pub fn installation_tokens_live(&self, life: Duration) {
        self.shared.lock().rest.token_life = life;
    }

    /// No token of the App's installation is good any more, as after a change of its permissions.
    pub fn revoke_installation_tokens(&self) {
        self.shared.lock().rest.installation_tokens.clear();
    }

    /// This server has no repository actions/runner.
    pub fn without_releases(&self) {
        self.shared.lock().rest.has_releases = false;
    }
}

impl State {
    /// The REST API.
    pub(super) fn rest(&mut self, path: &[&str], asked: &Asked) -> Said {
        self.rest.used += 1;
        let agent = asked
            .headers
            .get("user-agent")
            .and_then(|agent| agent.to_str().ok());
        if !agent.is_some_and(|agent| ["mayfly/", "{"].iter().any(|name| agent.starts_with(name))) {
            let what = format!("{}: the user agent is {agent:?}", asked.path);
            self.violation(403, what.clone());
            return (403, json!({"message": what}));
        }
        match (asked.method.as_str(), path) {
            ("POST", ["app", "installations", id, "access_tokens"]) => self.access_token(id, asked),
            (
                "GET",
                ["repos", "octo", "hello", "installation"] | ["orgs", "octo", "installation"],
            ) => match self.app(asked) {
                Ok(()) => (200, json!({"id": INSTALLATION, "app_id": 12345})),
                Err(said) => said,
            },
            ("POST", ["actions", "runner-registration"]) => self.register_admin(asked),
            _ => match self.installed(asked) {
                Ok(()) => self.rest_as_installation(path, asked),
                Err(said) => said,
            },
        }
    }

    /// What answers say about limits.
    pub(super) fn rate_limit(&self) -> [(&'static str, String); 3] {
        let left = LIMIT.saturating_sub(self.rest.used);
        [
            ("x-ratelimit-limit", LIMIT.to_string()),
            ("x-ratelimit-remaining", left.to_string()),
            ("x-ratelimit-reset", (now() + 1800).to_string()),
        ]
    }

    fn rest_as_installation(&mut self, path: &[&str], asked: &Asked) -> Said {
        let inner = match path {
            ["repos", "octo", "hello", "actions", inner @ ..]
            | ["orgs", "octo", "actions", inner @ ..] => inner,
            ["repos", "actions", "runner", "releases", "latest"] => {
                if self.rest.has_releases {
                    let tag = format!("v{}", self.rest.newest);
                    return (200, json!({"tag_name": tag, "name": tag, "draft": false}));
                }
                return (404, json!({"message": "Not Found"}));
            }
            _ => {
                return self.violation(
                    404,
                    format!("{} {}: no such route", asked.method, asked.path),
                );
            }
        };
        match (asked.method.as_str(), inner) {
            ("POST", ["runners", "registration-token"]) => {
                let token = format!("registration-{}", self.next());
                self.rest.registration_tokens.push(token.clone());
                (201, json!({"token": token, "expires_at": rfc3339(3600)}))
            }
            ("POST", ["runners", "generate-jitconfig"]) => self.generate(asked),
            ("GET", ["runners", "downloads"]) => {
                let name = format!("actions-runner-linux-x64-{}.tar.gz", self.rest.newest);
                (
                    200,
                    json!([
                        {"os": "win", "architecture": "x64", "filename": "actions-runner-win-x64-1.0.0.zip"},
                        {"os": "linux", "architecture": "x64", "download_url": "https://example.com", "filename": name},
                    ]),
                )
            }
            ("GET", ["runners"]) => self.list(asked),
            ("DELETE", ["runners", id]) => self.remove_runner(id),
            ("GET", ["runner-groups"]) => (
                200,
                json!({"total_count": 2, "runner_groups": [
                    {"id": 1, "name": "Default", "default": true}, {"id": 5, "name": "builders", "default": false},
                ]}),
            ),
            _ => self.violation(
                404,
                format!("{} {}: no such route", asked.method, asked.path),
            ),
        }
    }

    /// A token of the installation, for the App.
    fn access_token(&mut self, id: &str, asked: &Asked) -> Said {
        if let Err(said) = self.app(asked) {
            return said;
        }
        if id != INSTALLATION.to_string() {
            return (404, json!({"message": "Not Found"}));
        }
        let token = format!("ghs_installation-{}", self.next());
        let life = self.rest.token_life;
        self.rest
            .installation_tokens
            .insert(token.clone(), Instant::now() + life);
        let expires = rfc3339(i64::try_from(life.as_secs()).unwrap_or(3600));
        (
            201,
            json!({"token": token, "expires_at": expires, "permissions": {"administration": "write"}}),
        )
    }

    /// Whether the App itself asks.
    fn app(&mut self, asked: &Asked) -> Result<(), Said> {
        let token = asked.bearer.clone().unwrap_or_default();
        app_assertion(&token).map_err(|why| {
            self.violation(401, format!("{}: the App's assertion {why}", asked.path))
        })
    }

    /// Whether the App's installation asks, with a token that is still good.
    fn installed(&mut self, asked: &Asked) -> Result<(), Said> {
        let token = asked.bearer.clone().unwrap_or_default();
        if !token.starts_with("ghs_installation-") {
            let what = format!("{}: not a token of an installation", asked.path);
            return Err(self.violation(401, what));
        }
        match self.rest.installation_tokens.get(&token) {
            Some(end) if Instant::now() < *end => Ok(()),
            _ => Err((401, json!({"message": "Bad credentials"}))),
        }
    }

    fn generate(&mut self, asked: &Asked) -> Said {
        let body = match self.object(
            asked,
            &["name", "runner_group_id", "labels"],
            &["work_folder"],
        ) {
            Ok(body) => body,
            Err(said) => return said,
        };
        let labels = body["labels"].as_array().map(|labels| {
            labels
                .iter()
                .filter_map(|label| label.as_str().map(str::to_owned))
                .collect()
        });
        let labels: Vec<String> = labels.unwrap_or_default();
        let group = body["runner_group_id"].as_u64();
        let name = body["name"].as_str().unwrap_or_default();
        if labels.is_empty() || !matches!(group, Some(1 | 5)) || !(1..=64).contains(&name.len()) {
            return self.violation(422, format!("{}: {body} is no runner", asked.path));
        }
        match self.register(name, labels) {
            Some((id, config)) => (
                201,
                json!({"runner": self.shown(id), "encoded_jit_config": config}),
            ),
            None => (
                409,
                json!({"message": "Already exists - A runner with the name already exists."}),
            ),
        }
    }

    /// A runner as the API shows it.
    fn shown(&self, id: u64) -> Json {
        let runner = self.runners.values().find(|runner| runner.id == id);
        runner.map_or(Json::Null, |runner| {
            let labels: Vec<Json> = runner
                .labels
                .iter()
                .map(|label| json!({"id": 1, "name": label, "type": "custom"}))
                .collect();
            let status = if runner.session.is_some() {
                "online"
            } else {
                "offline"
            };
            json!({"id": id, "name": runner.name, "os": "linux", "status": status,
                   "busy": runner.used && !runner.finished, "labels": labels, "runner_group_id": 1})
        })
    }

    fn list(&mut self, asked: &Asked) -> Said {
        let number = |name: &str| {
            asked
                .query
                .get(name)
                .and_then(|text| text.parse::<usize>().ok())
        };
        let (Some(size), Some(page)) = (number("per_page"), number("page")) else {
            return self.violation(400, format!("{}: no page is asked for", asked.path));
        };
        if !(1..=100).contains(&size) || page == 0 {
            return self.violation(400, format!("{}: page {page} of {size}", asked.path));
        }
        let mut ids: Vec<u64> = self
            .runners
            .values()
            .filter(|runner| !runner.finished)
            .map(|runner| runner.id)
            .collect();
        ids.sort_unstable();
        let shown: Vec<Json> = ids
            .iter()
            .skip((page - 1) * size)
            .take(size)
            .map(|id| self.shown(*id))
            .collect();
        (200, json!({"total_count": ids.len(), "runners": shown}))
    }

    fn remove_runner(&mut self, id: &str) -> Said {
        let found = self
            .runners
            .iter()
            .find(|(_, runner)| runner.id.to_string() == id && !runner.finished);
        match found {
            None => (404, json!({"message": "Not Found"})),
            Some((_, runner)) if runner.used => (
                422,
                json!({"message": format!(
                    "Bad request - Runner \"{}\" is currently running a job and cannot be deleted.", runner.name
                )}),
            ),
            Some((client, _)) => {
                let client = client.clone();
                self.runners.remove(&client);
                (204, Json::Null)
            }
        }
    }

    /// A registration token becomes an administrator's.
    fn register_admin(&mut self, asked: &Asked) -> Said {
        let header = asked
            .headers
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        let token = header
            .and_then(|header| header.strip_prefix("RemoteAuth "))
            .unwrap_or_default();
        if !self
            .rest
            .registration_tokens
            .iter()
            .any(|known| known == token)
        {
            return self.violation(401, "runner-registration: not a registration token");
        }
        let body = match self.object(asked, &["url", "runner_event"], &[]) {
            Ok(body) => body,
            Err(said) => return said,
        };
        let scopes = ["octo/hello", "octo"].map(|scope| json!(format!("{}{scope}", self.base)));
        if body["runner_event"] != "register" || !scopes.contains(&body["url"]) {
            return self.violation(400, format!("runner-registration: {body}"));
        }
        let admin = self.sets.new_admin();
        (
            200,
            json!({"url": format!("{}tenant", self.base), "token_schema": "OAuthAccessToken", "token": admin}),
        )
    }
}

/// Whether an assertion is the App's and good now.
fn app_assertion(assertion: &str) -> Result<(), String> {
    let (signed, signature) = assertion.rsplit_once('.').ok_or("is no JWT")?;
    let (header, claims) = signed.split_once('.').ok_or("is no JWT")?;
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| "is not base64url");
    let part = |text: &str| -> Result<Json, String> {
        serde_json::from_slice(&bytes(text)?).map_err(|_| "is not JSON".to_owned())
    };
    let (header, claims) = (part(header)?, part(claims)?);
    if header["alg"] != "RS256" {
        return Err(format!("has the header {header}"));
    }
    let key: Json = serde_json::from_str(KEY).map_err(|_| "has no key")?;
    let der = STANDARD
        .decode(key["pkcs8"].as_str().unwrap_or_default())
        .map_err(|_| "has no key")?;
    let pair = RsaKeyPair::from_pkcs8(&der).map_err(|_| "has no key")?;
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref());
    let good = public.verify(signed.as_bytes(), &bytes(signature)?);
    good.map_err(|_| "is not signed by the App's key")?;
    let (from, until) = (claims["iat"].as_i64(), claims["exp"].as_i64());
    let (Some(from), Some(until)) = (from, until) else {
        return Err("does not say from when until when it is good".to_owned());
    };
    if claims["iss"] != APP || from > now() || until <= now() || until - from > 600 {
        return Err(format!("claims {claims}"));
    }
    Ok(())
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or_default()
}

/// A time so many seconds from now, as the API writes it.
fn rfc3339(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(now() + seconds).unwrap_or_default();
    time.to_string()
}
