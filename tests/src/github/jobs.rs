//! The run service: jobs in the shape of the captured message, acquired once, kept, completed once.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value as Json, json};

use super::{Asked, FakeGitHub, FeedLines, Said, State, results::Blob};

/// How long a renewal keeps a job.
const LOCK: Duration = Duration::from_secs(600);

/// A job to be queued.
#[derive(Debug, Clone)]
pub struct FakeJob {
    /// Its name, and its key in the workflow.
    pub name: String,
    /// Its steps: shell scripts by name.
    pub scripts: Vec<(String, String)>,
    /// Its secrets.
    pub secrets: Vec<(String, String)>,
}

/// A job that was queued.
#[derive(Debug, Clone, Default)]
pub struct Job {
    /// Its identity.
    pub id: String,
    /// What its offer is called.
    pub request_id: String,
    /// The plan it belongs to.
    pub plan_id: String,
    /// The whole message.
    pub message: Json,
    /// Clients that it was offered to.
    pub offered_to: Vec<String>,
    /// Whether its offer was acknowledged.
    pub acknowledged: bool,
    /// The client that acquired it.
    pub runner: Option<String>,
    /// How often it was renewed.
    pub renewals: u32,
    /// What `completejob` said.
    pub completed: Option<Json>,
    /// Its logs and summaries by name: `log-STEP`, `log-job`, `summary-STEP`.
    pub blobs: BTreeMap<String, Blob>,
    /// Calls about whole documents, by name of the document.
    pub metadata: BTreeMap<String, Json>,
    /// The steps as the last updates left them, by number.
    pub steps: BTreeMap<u64, Json>,
    /// What its live log showed.
    pub feed: FeedLines,
    /// When it was acquired.
    pub acquired_at: Option<SystemTime>,
    /// Whether it was acquired for a scale set.
    pub(super) acquired: bool,
    /// Whether GitHub gave it up, because its lock ended.
    pub lost: bool,
    pub(super) change_order: u64,
    pub(super) cancel_wanted: bool,
    pub(super) cancel_told: bool,
    pub(super) cancel_grace: Option<String>,
    pub(super) locked_until: Option<Instant>,
}

impl FakeGitHub {
    /// Queues a job; returns its identity.
    pub fn queue(&self, job: &FakeJob) -> String {
        self.queue_with(job, |_| {})
    }

    /// Queues a job whose message was changed.
    pub fn queue_with(&self, job: &FakeJob, change: impl FnOnce(&mut Json)) -> String {
        let mut state = self.shared.lock();
        let number = state.next();
        let id = format!("00000000-0000-4000-8000-{number:012}");
        let plan_id = format!("00000000-0000-4000-9000-{number:012}");
        let mut message = message(&state.base, &id, &plan_id, job);
        change(&mut message);
        let queued = Job {
            id: id.clone(),
            request_id: format!("request-{number}"),
            plan_id,
            message,
            ..Job::default()
        };
        state.jobs.insert(id.clone(), queued);
        state.queue.push_back(id.clone());
        drop(state);
        self.shared.news.notify_waiters();
        id
    }

    /// Delivers the offer of a job once more.
    pub fn offer_again(&self, id: &str) {
        self.shared.lock().queue.push_back(id.to_owned());
        self.shared.news.notify_waiters();
    }

    /// Cancels a job, as a person does on its page.
    pub fn cancel(&self, id: &str) {
        if let Some(job) = self.shared.lock().jobs.get_mut(id) {
            job.cancel_wanted = true;
        }
        self.shared.news.notify_waiters();
    }

    /// Cancels a job, which has so long (`hh:mm:ss`) to end by itself.
    pub fn cancel_within(&self, id: &str, grace: &str) {
        if let Some(job) = self.shared.lock().jobs.get_mut(id) {
            job.cancel_grace = Some(grace.to_owned());
        }
        self.cancel(id);
    }

    /// Delivers the offer of a job to the runner that has it, as delivery is at least once.
    pub fn deliver_again(&self, id: &str) {
        let mut state = self.shared.lock();
        let job = &state.jobs[id];
        let name = job
            .runner
            .as_ref()
            .map(|client| state.runners[client].name.clone());
        let body = json!({
            "id": id, "runner_request_id": job.request_id,
            "run_service_url": format!("{}run/", state.base), "billing_owner_id": "owner",
            "should_acknowledge": true,
        });
        let message = json!({"messageType": "RunnerJobRequest", "body": body.to_string()});
        if let Some(name) = name {
            state.told.push((name, message));
        }
        drop(state);
        self.shared.news.notify_waiters();
    }

    /// Lets ten minutes pass in which nobody renews a job: those that run are failed.
    pub fn end_locks(&self) {
        let mut state = self.shared.lock();
        for job in state.jobs.values_mut() {
            if job.locked_until.take().is_some() && job.completed.is_none() {
                job.lost = true;
                job.plan_id = "given up".to_owned();
            }
        }
    }

    /// Gives a job up, as GitHub does when its lock is over.
    pub fn give_up(&self, id: &str) {
        if let Some(job) = self.shared.lock().jobs.get_mut(id) {
            job.plan_id = "given up".to_owned();
        }
    }

    /// A job as it stands.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn job(&self, id: &str) -> Job {
        self.shared
            .lock()
            .jobs
            .get(id)
            .expect("a queued job")
            .clone()
    }
}

impl State {
    pub(super) fn acquire(&mut self, asked: &Asked) -> Said {
        let client = match self.client(asked) {
            Ok(client) => client,
            Err(said) => return said,
        };
        let body = match self.object(asked, &["jobMessageId", "runnerOS"], &["billingOwnerId"]) {
            Ok(body) => body,
            Err(said) => return said,
        };
        let id = body["jobMessageId"].as_str().unwrap_or_default().to_owned();
        let Some(job) = self.jobs.values_mut().find(|job| job.request_id == id) else {
            return (
                404,
                json!({"source": "actions-run-service", "errorMessage": "no such job"}),
            );
        };
        if job.runner.is_some() {
            return (
                409,
                json!({"source": "actions-run-service", "errorMessage": "already acquired"}),
            );
        }
        if !job.offered_to.contains(&client) {
            return self.violation(403, format!("acquirejob: {id} was not offered to {client}"));
        }
        job.runner = Some(client.clone());
        job.acquired_at = Some(SystemTime::now());
        job.locked_until = Some(Instant::now() + LOCK);
        let message = job.message.clone();
        if let Some(runner) = self.runners.get_mut(&client) {
            runner.used = true;
        }
        (200, message)
    }

    /// The job of a call with a job's token.
    pub(super) fn job_of(&mut self, asked: &Asked, plan: &Json, id: &Json) -> Result<String, Said> {
        let id = id.as_str().unwrap_or_default().to_owned();
        let token = asked.bearer.clone().unwrap_or_default();
        if token != format!("job-token-{id}") {
            let what = format!("{}: not the token of job {id}", asked.path);
            return Err(self.violation(401, what));
        }
        let Some(job) = self.jobs.get(&id) else {
            return Err((404, json!({"errorMessage": "no such job"})));
        };
        if job.plan_id == "given up" {
            return Err((404, json!({"errorMessage": "the job is given up"})));
        }
        if json!(job.plan_id) != *plan {
            return Err(self.violation(400, format!("{}: the plan is {plan}", asked.path)));
        }
        if job.runner.is_none() || job.completed.is_some() {
            return Err(self.violation(400, format!("{}: the job does not run", asked.path)));
        }
        Ok(id)
    }

    pub(super) fn renew(&mut self, asked: &Asked) -> Said {
        let body = match self.object(asked, &["planId", "jobId"], &[]) {
            Ok(body) => body,
            Err(said) => return said,
        };
        match self.job_of(asked, &body["planId"], &body["jobId"]) {
            Ok(id) => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.renewals += 1;
                    job.locked_until = Some(Instant::now() + LOCK);
                }
                (200, json!({"lockedUntil": "2099-01-01T00:00:00.0000000Z"}))
            }
            Err(said) => said,
        }
    }

    pub(super) fn complete(&mut self, asked: &Asked) -> Said {
        let required = [
            "planId",
            "jobId",
            "conclusion",
            "outputs",
            "stepResults",
            "annotations",
        ];
        let optional = [
            "telemetry",
            "environmentUrl",
            "billingOwnerId",
            "infrastructureFailureCategory",
        ];
        let body = match self.object(asked, &required, &optional) {
            Ok(body) => body,
            Err(said) => return said,
        };
        // The answer to the first time may have been lost.
        let again =
            |job: &Job| json!(job.id) == body["jobId"] && job.completed.as_ref() == Some(&body);
        if self.jobs.values().any(again) {
            return (404, json!({"errorMessage": "the job is over"}));
        }
        let id = match self.job_of(asked, &body["planId"], &body["jobId"]) {
            Ok(id) => id,
            Err(said) => return said,
        };
        let words = [
            "succeeded",
            "succeededWithIssues",
            "failed",
            "canceled",
            "skipped",
            "abandoned",
        ];
        let word = body["conclusion"].as_str().unwrap_or_default();
        if !words.contains(&word) {
            return self.violation(400, format!("completejob: the conclusion is {word}"));
        }
        let Some(job) = self.jobs.get_mut(&id) else {
            return (404, json!({}));
        };
        if job.renewals == 0 {
            return self.violation(400, "completejob: the job was never renewed");
        }
        let known: Vec<&Json> = job
            .steps
            .values()
            .map(|step| &step["external_id"])
            .collect();
        let told = body["stepResults"].as_array().cloned().unwrap_or_default();
        let stranger = told
            .iter()
            .find(|step| !known.contains(&&step["external_id"]))
            .cloned();
        let open = job
            .blobs
            .iter()
            .find(|(_, blob)| !blob.sealed)
            .map(|(name, _)| name.clone());
        job.completed = Some(body);
        let runner = job.runner.as_ref();
        if let Some(runner) = runner.and_then(|client| self.runners.get_mut(client)) {
            runner.finished = true;
        }
        if let Some(step) = stranger {
            return self.violation(200, format!("completejob: {step} was never told of"));
        }
        if let Some(name) = open {
            return self.violation(200, format!("completejob: {name} is not sealed"));
        }
        (200, json!({}))
    }
}

/// A job message in the shape of the captured one.
fn message(base: &str, id: &str, plan_id: &str, job: &FakeJob) -> Json {
    let step = |(index, (name, script)): (usize, &(String, String))| {
        json!({
            "type": "action", "reference": {"type": "script"},
            "id": format!("11111111-0000-4000-8000-{index:012}"),
            "contextName": format!("__run_{index}"), "name": format!("__run_{index}"),
            "displayNameToken": {"type": 0, "file": 1, "line": 11, "col": 15, "lit": name},
            "condition": "success()", "continueOnError": null, "timeoutInMinutes": null,
            "inputs": {"type": 2, "map": [{
                "Key": {"type": 0, "lit": "script"},
                "Value": {"type": 0, "file": 1, "line": 12, "col": 14, "lit": script},
            }]},
        })
    };
    let steps: Vec<Json> = job.scripts.iter().enumerate().map(step).collect();
    let mut variables = json!({
        "system.github.job": {"value": job.name},
        "system.from_run_service": {"value": "true"},
        "system.github.results_endpoint": {"value": base},
        "system.github.launch_endpoint": {"value": base},
        "system.phaseDisplayName": {"value": job.name},
        "github_token": {"value": format!("ghs-{id}"), "isSecret": true},
        "system.github.token": {"value": format!("ghs-{id}"), "isSecret": true},
    });
    for (name, value) in &job.secrets {
        variables[name] = json!({"value": value, "isSecret": true});
    }
    json!({
        "fileTable": [".github/workflows/ci.yml"],
        "mask": [{"type": "regex", "value": "\\bBearer\\s+[^\\s'\";]+"}],
        "steps": steps, "variables": variables, "messageType": "RunnerJobRequest",
        "plan": {"planType": "actions", "version": 0, "planId": plan_id, "artifactUri": "", "artifactLocation": ""},
        "timeline": {"id": plan_id, "changeId": 0, "location": null},
        "jobId": id, "jobDisplayName": job.name, "jobName": "__default", "requestId": 0,
        "lockedUntil": "0001-01-01T00:00:00", "environmentVariables": [], "defaults": [],
        "jobOutputs": null, "jobContainer": null, "jobServiceContainers": null,
        "resources": {"endpoints": [{
            "data": {
                "ServerId": "", "ServerName": "", "ResultsServiceUrl": base, "GenerateIdTokenUrl": "",
                "FeedStreamUrl": format!("{}_ws/ingest.sock", base.replacen("http", "ws", 1)),
            },
            "name": "SystemVssConnection", "url": format!("{base}run/"),
            "authorization": {"parameters": {"AccessToken": format!("job-token-{id}")}, "scheme": "OAuth"},
            "isShared": false, "isReady": true,
        }]},
        "contextData": {
            "github": {"t": 2, "d": [
                {"k": "repository", "v": "octo/hello"}, {"k": "ref", "v": "refs/heads/main"},
                {"k": "event_name", "v": "push"}, {"k": "workspace", "v": ""},
                {"k": "sha", "v": "907e3cb853ee36a18949def5634f39832044baad"},
                {"k": "api_url", "v": format!("{base}contents")},
            ]},
            "inputs": {"t": 2, "d": []}, "needs": {"t": 2, "d": []}, "vars": {"t": 2, "d": []}, "matrix": null,
        },
        "snapshot": null, "billingOwnerId": "owner", "dependencies": [],
    })
}
