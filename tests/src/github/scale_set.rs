//! Runner scale sets: administration, one session for each, messages until they are acknowledged.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value as Json, json};
use tokio::time::timeout_at;

use super::{Asked, FakeGitHub, Said, Shared, State, rest::now};

/// How long an administrator's token is good; GitHub's are about 17 minutes.
const ADMIN_LIFE: Duration = Duration::from_secs(1020);

/// All scale sets.
#[derive(Debug, Default)]
pub struct SetState {
    sets: BTreeMap<u64, Set>,
    admins: BTreeMap<String, Instant>,
    admin_life: Option<Duration>,
    /// Whether jobs have to be acquired before they are assigned, as on an Enterprise Server.
    acquire: bool,
    serial: u64,
}

/// A scale set.
#[derive(Debug, Default)]
struct Set {
    name: String,
    group: u64,
    session: Option<Session>,
    queue: VecDeque<Json>,
    /// The statistics that a message has told.
    told: Option<Json>,
    /// Jobs that wait to be acquired, by their number, and whether they were offered.
    available: BTreeMap<u64, (String, bool)>,
    messages: u64,
    polls: u64,
}

/// A session.
#[derive(Debug)]
struct Session {
    id: String,
    token: String,
    expired: bool,
}

impl SetState {
    /// A token for an administrator, in the form of a JWT that nobody checks.
    pub(super) fn new_admin(&mut self) -> String {
        self.serial += 1;
        let life = self.admin_life.unwrap_or(ADMIN_LIFE);
        let end = now() + i64::try_from(life.as_secs()).unwrap_or_default();
        let claims = json!({"exp": end, "serial": self.serial}).to_string();
        let token = format!("admin.{}.x", URL_SAFE_NO_PAD.encode(claims));
        self.admins.insert(token.clone(), Instant::now() + life);
        token
    }
}

impl FakeGitHub {
    /// Jobs have to be acquired before runners get them, as on an Enterprise Server.
    pub fn wants_acquisition(&self) {
        self.shared.lock().sets.acquire = true;
    }

    /// Tokens of the open sessions are good no more.
    pub fn expire_queue_tokens(&self) {
        for set in self.shared.lock().sets.sets.values_mut() {
            if let Some(session) = &mut set.session {
                session.expired = true;
            }
        }
    }

    /// How long administrators' tokens are good from now on.
    pub fn admin_tokens_live(&self, life: Duration) {
        self.shared.lock().sets.admin_life = Some(life);
    }

    /// Names of the scale sets, and whether each has a session.
    #[must_use]
    pub fn scale_sets(&self) -> Vec<(String, bool)> {
        let state = self.shared.lock();
        let sets = state.sets.sets.values();
        sets.map(|set| (set.name.clone(), set.session.is_some()))
            .collect()
    }

    /// Polls of all queues so far.
    #[must_use]
    pub fn queue_polls(&self) -> u64 {
        self.shared
            .lock()
            .sets
            .sets
            .values()
            .map(|set| set.polls)
            .sum()
    }
}

impl State {
    /// Routes below the tenant's address.
    pub(super) fn tenant(&mut self, path: &[&str], asked: &Asked) -> Said {
        if let ["_apis", "runtime", "runnerscalesets", id, "acquirejobs"] = path {
            return self.acquire_jobs(id, asked);
        }
        let token = asked.bearer.clone().unwrap_or_default();
        match self.sets.admins.get(&token) {
            None => {
                return self
                    .violation(401, format!("{}: not an administrator's token", asked.path));
            }
            Some(end) if Instant::now() >= *end => return (401, json!({"message": "expired"})),
            Some(_) => {}
        }
        if asked.query.get("api-version").map(String::as_str) != Some("6.0-preview") {
            return self.violation(400, format!("{}: no api-version", asked.path));
        }
        let unknown = format!("{} {}: no such route", asked.method, asked.path);
        match (asked.method.as_str(), path) {
            ("GET", ["_apis", "runtime", "runnergroups"]) => {
                let name = asked.query.get("groupName").cloned().unwrap_or_default();
                let known = [(1, "Default"), (5, "builders")];
                let found: Vec<Json> = known
                    .iter()
                    .filter(|(_, known)| *known == name)
                    .map(|(id, name)| json!({"id": id, "name": name, "isDefault": *id == 1}))
                    .collect();
                (200, json!({"count": found.len(), "value": found}))
            }
            ("GET", ["_apis", "runtime", "runnerscalesets"]) => self.find_sets(asked),
            ("POST", ["_apis", "runtime", "runnerscalesets"]) => self.make_set(asked),
            (_, ["_apis", "runtime", "runnerscalesets", id, rest @ ..]) => {
                let id = id.parse().unwrap_or_default();
                if !self.sets.sets.contains_key(&id) {
                    return (
                        404,
                        json!({"typeName": "RunnerScaleSetNotFoundException", "message": "no such set"}),
                    );
                }
                self.of_set(id, rest, asked)
            }
            ("GET", ["_apis", "distributedtask", "pools", "0", "agents"]) => {
                let name = asked.query.get("agentName").cloned().unwrap_or_default();
                let living = self
                    .runners
                    .values()
                    .filter(|runner| runner.name == name && !runner.finished);
                let found: Vec<Json> = living
                    .map(|runner| json!({"id": runner.id, "name": runner.name}))
                    .collect();
                (200, json!({"count": found.len(), "value": found}))
            }
            ("DELETE", ["_apis", "distributedtask", "pools", "0", "agents", id]) => {
                self.remove_agent(id)
            }
            _ => self.violation(404, unknown),
        }
    }

    fn find_sets(&mut self, asked: &Asked) -> Said {
        let name = asked.query.get("name").cloned().unwrap_or_default();
        let group = asked
            .query
            .get("runnerGroupId")
            .cloned()
            .unwrap_or_default();
        let of = |set: &&u64| {
            let set = &self.sets.sets[*set];
            set.name == name && set.group.to_string() == group
        };
        let ids: Vec<u64> = self.sets.sets.keys().filter(of).copied().collect();
        let found: Vec<Json> = ids.iter().map(|id| self.shown_set(*id)).collect();
        (200, json!({"count": found.len(), "value": found}))
    }

    fn shown_set(&self, id: u64) -> Json {
        let set = &self.sets.sets[&id];
        json!({"id": id, "name": set.name, "runnerGroupId": set.group, "runnerGroupName": "Default",
               "labels": [{"name": set.name, "type": "System"}], "statistics": self.statistics()})
    }

    fn make_set(&mut self, asked: &Asked) -> Said {
        let fields = ["name", "runnerGroupId", "labels", "RunnerSetting"];
        let body = match self.object(asked, &fields, &[]) {
            Ok(body) => body,
            Err(said) => return said,
        };
        let name = body["name"].as_str().unwrap_or_default().to_owned();
        if body["labels"] != json!([{"name": name, "type": "System"}]) {
            return self.violation(
                400,
                format!("runnerscalesets: the labels are {}", body["labels"]),
            );
        }
        if self.sets.sets.values().any(|set| set.name == name) {
            return (
                409,
                json!({"typeName": "RunnerScaleSetExistsException", "message": "it exists"}),
            );
        }
        let id = self.next();
        let group = body["runnerGroupId"].as_u64().unwrap_or_default();
        let set = Set {
            name,
            group,
            ..Set::default()
        };
        self.sets.sets.insert(id, set);
        (200, self.shown_set(id))
    }

    fn of_set(&mut self, id: u64, path: &[&str], asked: &Asked) -> Said {
        match (asked.method.as_str(), path) {
            ("POST", ["generatejitconfig"]) => {
                let body = match self.object(asked, &["name", "workFolder"], &[]) {
                    Ok(body) => body,
                    Err(said) => return said,
                };
                let name = body["name"].as_str().unwrap_or_default();
                let labels = vec![self.sets.sets[&id].name.clone()];
                match self.register(name, labels) {
                    Some((runner, config)) => (
                        200,
                        json!({
                            "runner": {"id": runner, "name": name, "runnerScaleSetId": id}, "encodedJITConfig": config,
                        }),
                    ),
                    None => (
                        409,
                        json!({"typeName": "AgentExistsException", "message": "it exists"}),
                    ),
                }
            }
            ("POST", ["sessions"]) => {
                let body = match self.object(asked, &["ownerName"], &[]) {
                    Ok(body) => body,
                    Err(said) => return said,
                };
                if self.sets.sets[&id].session.is_some() {
                    return (
                        409,
                        json!({"typeName": "RunnerScaleSetSessionConflictException", "message": "a session is open"}),
                    );
                }
                let session = format!("00000000-0000-4000-7000-{:012}", self.next());
                self.open_set_session(id, session, &body["ownerName"])
            }
            ("PATCH", ["sessions", session]) => {
                let open = self.sets.sets[&id]
                    .session
                    .as_ref()
                    .map(|open| open.id.clone());
                if open.as_deref() != Some(*session) {
                    return (404, json!({"message": "no such session"}));
                }
                self.open_set_session(id, (*session).to_owned(), &json!("refreshed"))
            }
            ("DELETE", ["sessions", session]) => {
                let set = self.sets.sets.get_mut(&id);
                let open = set.and_then(|set| set.session.take_if(|open| open.id == *session));
                if open.is_some() {
                    (204, Json::Null)
                } else {
                    (404, json!({"message": "no such session"}))
                }
            }
            _ => self.violation(
                404,
                format!("{} {}: no such route", asked.method, asked.path),
            ),
        }
    }

    fn open_set_session(&mut self, id: u64, session: String, owner: &Json) -> Said {
        let token = format!("queue-{}", self.next());
        let said = json!({
            "sessionId": session, "ownerName": owner, "runnerScaleSet": self.shown_set(id),
            "messageQueueUrl": format!("{}queue/{id}", self.base), "messageQueueAccessToken": token,
            "statistics": self.statistics(),
        });
        if let Some(set) = self.sets.sets.get_mut(&id) {
            set.session = Some(Session {
                id: session,
                token,
                expired: false,
            });
        }
        (200, said)
    }

    /// Jobs by what becomes of them. All are for the one set that there is in a test.
    fn statistics(&self) -> Json {
        let running = self
            .jobs
            .values()
            .filter(|job| job.runner.is_some() && job.completed.is_none())
            .count();
        let waiting = self.queue.len();
        let available: usize = self.sets.sets.values().map(|set| set.available.len()).sum();
        let living = self.runners.values().filter(|runner| !runner.finished);
        let (busy, idle): (Vec<_>, Vec<_>) = living.partition(|runner| runner.used);
        json!({
            "totalAvailableJobs": available, "totalAcquiredJobs": waiting, "totalAssignedJobs": running + waiting,
            "totalRunningJobs": running, "totalRegisteredRunners": busy.len() + idle.len(),
            "totalBusyRunners": busy.len(), "totalIdleRunners": idle.len(),
        })
    }

    /// The set whose queue a request is about.
    fn queue_of(&mut self, id: &str, asked: &Asked) -> Result<u64, Said> {
        let id = id.parse().unwrap_or_default();
        let session = self.sets.sets.get(&id).and_then(|set| set.session.as_ref());
        let token = asked.bearer.as_deref().unwrap_or_default();
        let Some(session) = session else {
            return Err((401, json!({"message": "no session"})));
        };
        if session.token != token || session.expired {
            return Err((401, json!({"message": "the token has ended"})));
        }
        Ok(id)
    }

    fn acquire_jobs(&mut self, id: &str, asked: &Asked) -> Said {
        let id = match self.queue_of(id, asked) {
            Ok(id) => id,
            Err(said) => return said,
        };
        if !self.sets.acquire {
            return (404, json!({"message": "no such route"}));
        }
        let wanted: Vec<u64> = serde_json::from_slice(&asked.body).unwrap_or_default();
        if wanted.is_empty() {
            return self.violation(400, "acquirejobs: the body names no job");
        }
        let Some(set) = self.sets.sets.get_mut(&id) else {
            return (404, json!({}));
        };
        let got: Vec<(u64, String)> = wanted
            .iter()
            .filter_map(|number| Some((*number, set.available.remove(number)?.0)))
            .collect();
        self.queue.extend(got.iter().map(|(_, job)| job.clone()));
        let numbers: Vec<u64> = got.iter().map(|(number, _)| *number).collect();
        (200, json!({"count": numbers.len(), "value": numbers}))
    }

    /// What there is to tell a set now.
    fn set_message(&mut self, id: u64, capacity: u64) -> Option<Json> {
        if self.sets.acquire {
            // Nothing is assigned that was not acquired.
            let waiting: Vec<String> = self.queue_of_unacquired();
            let serial = self.serial;
            let set = self.sets.sets.get_mut(&id)?;
            for (index, job) in waiting.into_iter().enumerate() {
                set.available.insert(serial + index as u64, (job, false));
            }
            self.serial += 1000;
        }
        if capacity == 0 {
            return None;
        }
        if let Some(open) = self.sets.sets[&id].queue.front() {
            return Some(open.clone());
        }
        let statistics = self.statistics();
        let set = self.sets.sets.get_mut(&id)?;
        let mut entries = Vec::new();
        for (number, (job, offered)) in &mut set.available {
            if !std::mem::replace(offered, true) {
                entries.push(json!({"messageType": "JobAvailable", "runnerRequestId": number, "jobId": job,
                                    "acquireJobUrl": "https://example.com", "requestLabels": [set.name]}));
            }
        }
        if entries.is_empty() && set.told.as_ref() == Some(&statistics) {
            return None;
        }
        set.told = Some(statistics.clone());
        set.messages += 1;
        let message = json!({"messageId": set.messages, "messageType": "RunnerScaleSetJobMessages",
                             "body": json!(entries).to_string(), "statistics": statistics});
        set.queue.push_back(message.clone());
        Some(message)
    }

    /// Jobs that were queued and that nobody has acquired.
    fn queue_of_unacquired(&mut self) -> Vec<String> {
        let fresh = |job: &&String| self.jobs.get(*job).is_some_and(|job| !job.acquired);
        let ids: Vec<String> = self.queue.iter().filter(fresh).cloned().collect();
        self.queue.retain(|job| !ids.contains(job));
        for id in &ids {
            if let Some(job) = self.jobs.get_mut(id) {
                job.acquired = true;
            }
        }
        ids
    }

    pub(super) fn acknowledge_message(&mut self, id: &str, message: &str, asked: &Asked) -> Said {
        let id = match self.queue_of(id, asked) {
            Ok(id) => id,
            Err(said) => return said,
        };
        let front = self.sets.sets.get_mut(&id).and_then(|set| {
            let first = set.queue.front()?;
            let number = message.parse::<u64>().ok();
            (first["messageId"].as_u64() == number).then(|| set.queue.pop_front())
        });
        match front {
            Some(_) => (204, Json::Null),
            None => (404, json!({"message": "no such message"})),
        }
    }

    fn remove_agent(&mut self, id: &str) -> Said {
        let found = self
            .runners
            .iter()
            .find(|(_, runner)| runner.id.to_string() == id && !runner.finished);
        match found {
            None => (
                404,
                json!({"typeName": "AgentNotFoundException", "message": "no such runner"}),
            ),
            Some((_, runner)) if runner.used => (
                400,
                json!({"typeName": "JobStillRunningException", "message": "it has a job"}),
            ),
            Some((client, _)) => {
                let client = client.clone();
                self.runners.remove(&client);
                (204, Json::Null)
            }
        }
    }
}

impl Shared {
    /// The long poll of a set's queue.
    pub(super) async fn queue_message(&self, id: &str, asked: &Asked) -> Said {
        let capacity = asked
            .headers
            .get("x-scalesetmaxcapacity")
            .and_then(|value| value.to_str().ok());
        let Some(capacity) = capacity.and_then(|text| text.parse().ok()) else {
            return self
                .lock()
                .violation(400, "the queue: no X-ScaleSetMaxCapacity");
        };
        let until = tokio::time::Instant::now() + self.lock().hold();
        loop {
            let news = self.news.notified();
            {
                let mut state = self.lock();
                let id = match state.queue_of(id, asked) {
                    Ok(id) => id,
                    Err(said) => return said,
                };
                if let Some(message) = state.set_message(id, capacity) {
                    return (200, message);
                }
            }
            if timeout_at(until, news).await.is_err() {
                let mut state = self.lock();
                let id: u64 = id.parse().unwrap_or_default();
                if let Some(set) = state.sets.sets.get_mut(&id) {
                    set.polls += 1;
                }
                return (202, Json::Null);
            }
        }
    }
}
