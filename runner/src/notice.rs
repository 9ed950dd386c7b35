//! What a worker tells its supervisor, a line of JSON each, on a pipe that it inherits. Names, times and
//! numbers: never a job message, never a secret.

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "notice", rename_all = "snake_case", deny_unknown_fields)]
pub enum Notice {
    /// The session is open: the worker waits for its job.
    Listening,
    /// The worker has a job.
    Job(JobNames),
    /// A phase of the job is over.
    Phase {
        /// Which.
        phase: Phase,
        /// How long it took, in seconds.
        seconds: f64,
    },
    /// A sandbox was restored for the job.
    Sandbox {
        /// Process id of its VMM.
        vmm: u32,
    },
    /// The job's lock was renewed, or not.
    Renewal {
        /// Whether it was.
        ok: bool,
    },
    /// A call to GitHub failed; it may have been tried again.
    ProtocolError {
        /// The endpoint by its name in the protocol: `session`, `message`, `acquirejob`, ….
        endpoint: String,
        /// The kind of failure: `unauthorized`, `timeout`, `server`, ….
        kind: String,
    },
    /// A reference was not what the pins say.
    PinViolation {
        /// `unpinned`, `moved`, `mismatch`.
        kind: String,
    },
    /// The sandbox reached, or did not reach, something: counts since the last such line.
    Egress {
        /// `allow` or `deny`.
        verdict: String,
        /// Connections.
        connections: u64,
        /// Bytes to the outside.
        sent: u64,
        /// Bytes from the outside.
        received: u64,
    },
    /// The job is over and GitHub knows.
    Ended {
        /// `succeeded`, `failed`, `canceled`, ….
        result: String,
    },
}

/// Names of a job, as GitHub's page and metrics show them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobNames {
    /// Of the request to the runner.
    pub request_id: u64,
    /// The job's id, a UUID.
    pub job_id: String,
    /// `owner/name`.
    pub repository: String,
    /// The job's display name.
    pub job_name: String,
    /// `owner/name/.github/workflows/file.yml@ref`.
    pub job_workflow_ref: String,
    /// The event's name.
    pub event_name: String,
    /// The run's id.
    pub run_id: u64,
}

/// Parts of the time between a job's queueing and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// From queued at GitHub to offered to the worker.
    Queue,
    /// From the offer to the job message.
    Acquire,
    /// From the message to a running machine.
    Restore,
    /// From a running machine to its acknowledged identity.
    Identity,
    /// From the job message to the first step's begin.
    FirstStep,
    /// The job's steps.
    Run,
    /// From the last step's end to GitHub's knowledge of the result.
    Report,
}
