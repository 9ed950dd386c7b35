//! What scale sets are told and tell, as JSON. Read tolerantly: unknown fields are nobody's business.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// A list.
#[derive(Deserialize)]
pub(super) struct Listed<T> {
    #[serde(default = "Vec::new")]
    pub value: Vec<T>,
}

/// What the registration answers.
#[derive(Deserialize)]
pub(super) struct Registered {
    pub url: String,
    pub token: SecretString,
}

/// A runner group.
#[derive(Deserialize)]
pub(super) struct Group {
    pub id: u64,
    pub name: String,
}

/// A runner.
#[derive(Deserialize)]
pub(super) struct Agent {
    pub id: u64,
    #[serde(default)]
    pub name: String,
}

/// A runner that was made.
#[derive(Deserialize)]
pub(super) struct JitAnswer {
    pub runner: Agent,
    #[serde(rename = "encodedJITConfig")]
    pub config: SecretString,
}

/// A scale set.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaleSet {
    /// Its number.
    pub id: u64,
    /// Its name, which is its label.
    pub name: String,
    /// Its group.
    #[serde(default)]
    pub runner_group_id: u64,
    /// How it stands.
    #[serde(default)]
    pub statistics: Option<Statistics>,
}

/// How a scale set stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Statistics {
    /// Jobs that may be acquired.
    pub total_available_jobs: u64,
    /// Jobs that were acquired.
    pub total_acquired_jobs: u64,
    /// Jobs that need a runner, those that run included.
    pub total_assigned_jobs: u64,
    /// Jobs that run.
    pub total_running_jobs: u64,
    /// Runners.
    pub total_registered_runners: u64,
    /// Runners with a job.
    pub total_busy_runners: u64,
    /// Runners without one.
    pub total_idle_runners: u64,
}

/// A session as it is opened or refreshed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionAnswer {
    pub session_id: String,
    pub message_queue_url: String,
    pub message_queue_access_token: SecretString,
    #[serde(default)]
    pub statistics: Option<Statistics>,
}

/// A message of the queue.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueMessage {
    /// Its number.
    pub message_id: i64,
    /// `RunnerScaleSetJobMessages`.
    #[serde(default)]
    pub message_type: String,
    /// A JSON array as text.
    #[serde(default)]
    pub body: String,
    /// How the set stands now.
    #[serde(default)]
    pub statistics: Option<Statistics>,
}

/// An entry of a message: names of a job and what became of it. Never the job itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobEntry {
    /// `JobAvailable`, `JobAssigned`, `JobStarted` or `JobCompleted`.
    pub message_type: String,
    /// The number of the request; 0 where jobs are assigned without being asked for.
    pub runner_request_id: i64,
    /// The job's id.
    pub job_id: String,
    /// The job's name.
    pub job_display_name: String,
    /// The runner's name, once it has one.
    pub runner_name: String,
    /// How it ended.
    pub result: String,
    /// When it was queued.
    pub queue_time: String,
    /// When it got its runner.
    pub runner_assign_time: String,
}

impl JobEntry {
    /// How long it waited for its runner, in seconds, once both times are known.
    #[must_use]
    pub fn waited(&self) -> Option<f64> {
        let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
        let (queued, assigned) = (time(&self.queue_time)?, time(&self.runner_assign_time)?);
        let waited = assigned.duration_since(queued).as_secs_f64();
        // A time that is not known yet is one of the year 1.
        (queued > jiff::Timestamp::UNIX_EPOCH && waited >= 0.0).then_some(waited)
    }
}

impl QueueMessage {
    /// The entries.
    ///
    /// # Errors
    /// If the body is not of the known form.
    pub fn entries(&self) -> Result<Vec<JobEntry>, String> {
        if self.body.trim().is_empty() {
            return Ok(Vec::new());
        }
        serde_json::from_str(&self.body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("the body of a message is not of the known form (line {line}, column {column})")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_wait_is_known_once_both_times_are() {
        let entry = |queued: &str, assigned: &str| JobEntry {
            queue_time: queued.into(),
            runner_assign_time: assigned.into(),
            ..JobEntry::default()
        };
        let (queued, assigned) = ("2026-07-01T10:00:00.5Z", "2026-07-01T10:00:02Z");
        assert_eq!(entry(queued, assigned).waited(), Some(1.5));
        assert_eq!(entry(assigned, queued).waited(), None);
        assert_eq!(entry("0001-01-01T00:00:00Z", assigned).waited(), None);
        assert_eq!(entry(queued, "").waited(), None);
    }

    #[test]
    fn a_message_is_read_whatever_else_is_in_it() {
        let message: QueueMessage = serde_json::from_str(
            r#"{"messageId": 7, "messageType": "RunnerScaleSetJobMessages", "new": 1,
                "body": "[{\"messageType\": \"JobAssigned\", \"runnerRequestId\": 0, \"jobId\": \"j\", \"requestLabels\": [\"x\"]}]",
                "statistics": {"totalAssignedJobs": 3, "totalOther": 1}}"#,
        )
        .unwrap();
        assert_eq!(message.statistics.unwrap().total_assigned_jobs, 3);
        assert_eq!(message.entries().unwrap()[0].message_type, "JobAssigned");
        let broken = QueueMessage {
            body: "[{\"jobId\": 1}]".into(),
            ..message
        };
        assert!(broken.entries().unwrap_err().contains("line 1"));
    }
}
