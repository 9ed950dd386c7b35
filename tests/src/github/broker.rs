//! The broker: one session per runner, and the messages of its polls.

use serde_json::{Value as Json, json};
use tokio::time::{Instant, timeout_at};

use super::{Asked, FakeGitHub, Job, Said, Shared, State};

impl FakeGitHub {
    /// Forgets the session of a runner.
    pub fn end_session(&self, name: &str) {
        let mut state = self.shared.lock();
        let runner = state
            .runners
            .values_mut()
            .find(|runner| runner.name == name);
        if let Some(runner) = runner {
            runner.session = None;
        }
    }

    /// Sends a message to a runner, as a person or a change at GitHub causes it.
    pub fn tell(&self, name: &str, kind: &str, body: &Json) {
        let message = json!({"messageType": kind, "body": body.to_string()});
        self.shared.lock().told.push((name.to_owned(), message));
        self.shared.news.notify_waiters();
    }

    /// Whether a runner has a session.
    #[must_use]
    pub fn has_session(&self, name: &str) -> bool {
        let state = self.shared.lock();
        let runner = state.runners.values().find(|runner| runner.name == name);
        runner.is_some_and(|runner| runner.session.is_some())
    }
}

impl State {
    pub(super) fn open_session(&mut self, asked: &Asked) -> Said {
        let client = match self.client(asked) {
            Ok(client) => client,
            Err(said) => return said,
        };
        let fields = ["sessionId", "ownerName", "agent", "useFipsEncryption"];
        let body = match self.object(asked, &fields, &[]) {
            Ok(body) => body,
            Err(said) => return said,
        };
        let runner = &self.runners[&client];
        let (id, name) = (runner.id, runner.name.clone());
        let agent = &body["agent"];
        if agent["id"] != json!(id) || agent["name"] != json!(name) || !agent["version"].is_string()
        {
            return self.violation(400, format!("session: {agent} is not runner {id} ({name})"));
        }
        if self.runners[&client].session.is_some() {
            return (
                409,
                json!({"errorMessage": "another session of this runner is open"}),
            );
        }
        let session = format!("session-{}", self.next());
        if let Some(runner) = self.runners.get_mut(&client) {
            runner.session = Some(session.clone());
        }
        let mut opened =
            json!({"sessionId": session, "ownerName": body["ownerName"], "agent": agent});
        opened["encryptionKey"] = self.encryption.key();
        (200, opened)
    }

    pub(super) fn close_session(&mut self, asked: &Asked) -> Said {
        match self.client(asked) {
            Ok(client) => {
                let runner = self.runners.get_mut(&client);
                if runner.and_then(|runner| runner.session.take()).is_none() {
                    return self.violation(404, "session: closed without one");
                }
                (204, json!(null))
            }
            Err(said) => said,
        }
    }

    /// The client of a request within a session.
    fn in_session(&mut self, asked: &Asked) -> Result<String, Said> {
        let client = self.client(asked)?;
        for name in ["sessionId", "status", "runnerVersion", "os", "architecture"] {
            if !asked.query.contains_key(name) {
                return Err(self.violation(400, format!("{}: {name} is missing", asked.path)));
            }
        }
        if self.runners[&client].session.as_ref() != asked.query.get("sessionId") {
            let kind =
                json!({"source": "actions-broker-listener", "errorKind": "RunnerSessionInvalid"});
            return Err((404, kind));
        }
        Ok(client)
    }

    pub(super) fn acknowledge(&mut self, asked: &Asked) -> Said {
        if let Err(said) = self.in_session(asked) {
            return said;
        }
        let body = match self.object(asked, &["runnerRequestId"], &[]) {
            Ok(body) => body,
            Err(said) => return said,
        };
        let id = body["runnerRequestId"].as_str().unwrap_or_default();
        let job = self.jobs.values_mut().find(|job| job.request_id == id);
        match job {
            Some(job) => {
                job.acknowledged = true;
                (200, json!({}))
            }
            None => self.violation(404, format!("acknowledge: no request {id}")),
        }
    }

    /// What there is to tell a runner now.
    fn message_for(&mut self, client: &str, busy: bool) -> Option<Said> {
        let number = self.next();
        let name = &self.runners[client].name;
        if let Some(at) = self.told.iter().position(|(for_whom, _)| for_whom == name) {
            let (_, mut message) = self.told.remove(at);
            message["messageId"] = json!(number);
            return Some((200, message));
        }
        if busy {
            let job = self.jobs.values_mut().find(|job| {
                job.runner.as_deref() == Some(client) && job.cancel_wanted && !job.cancel_told
            })?;
            job.cancel_told = true;
            let grace = job.cancel_grace.as_deref().unwrap_or("00:05:00");
            let body = json!({"jobId": job.id, "timeout": grace}).to_string();
            let message =
                json!({"messageId": number, "messageType": "JobCancellation", "body": body});
            return Some((200, message));
        }
        if self.runners[client].used {
            return None;
        }
        // An offer that did not lead to an acquisition comes again: its answer may have been lost.
        let open = |job: &&Job| {
            job.runner.is_none() && job.offered_to.last().is_some_and(|last| last == client)
        };
        let again = self.jobs.values().find(open).map(|job| job.id.clone());
        let id = again.or_else(|| self.queue.pop_front())?;
        let run_service_url = format!("{}run/", self.base);
        let job = self.jobs.get_mut(&id)?;
        job.offered_to.push(client.to_owned());
        let body = json!({
            "id": id, "runner_request_id": job.request_id, "run_service_url": run_service_url,
            "billing_owner_id": "owner", "should_acknowledge": true,
        });
        let body = body.to_string();
        Some((
            200,
            json!({"messageId": number, "messageType": "RunnerJobRequest", "body": body}),
        ))
    }
}

impl Shared {
    /// The long poll.
    pub(super) async fn message(&self, asked: &Asked) -> Said {
        let until = Instant::now() + self.lock().hold();
        let status = asked.query.get("status").map(String::as_str);
        if !matches!(status, Some("Online" | "Busy")) {
            return self
                .lock()
                .violation(400, format!("message: the status is {status:?}"));
        }
        loop {
            let news = self.news.notified();
            {
                let mut state = self.lock();
                let client = match state.in_session(asked) {
                    Ok(client) => client,
                    Err(said) => return said,
                };
                if let Some((status, message)) = state.message_for(&client, status == Some("Busy"))
                {
                    return (status, state.encryption.seal(message));
                }
            }
            if timeout_at(until, news).await.is_err() {
                return (202, json!(null));
            }
        }
    }
}
