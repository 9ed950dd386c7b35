//! What a worker tells its supervisor, a line of JSON each, on a named pipe. Names, times and numbers:
//! never a job message, never a secret.
//!
//! The pipe has a name so that a supervisor that was started again goes on where the one before it was
//! ended: the worker holds the pipe open, and with it what nobody has read yet.

use std::{fmt, io, os::fd::OwnedFd, path::Path, sync::Arc};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use serde::{Deserialize, Serialize};

/// Longest line: what the kernel writes to a pipe whole or not at all.
pub const MAX_LINE: usize = 4096;
/// Most bytes of a name in a line: five of them fit.
const MAX_NAME: usize = 700;

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
        /// `unpinned`, `moved`, `mismatch`, `unverifiable`, `unreachable`.
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

impl JobNames {
    /// The names, each no longer than fits into a line with all others.
    #[must_use]
    pub fn shortened(mut self) -> Self {
        for name in [
            &mut self.job_id,
            &mut self.repository,
            &mut self.job_name,
            &mut self.job_workflow_ref,
            &mut self.event_name,
        ] {
            let mut left = MAX_NAME;
            let fits = |c: &char| {
                let bytes = c.len_utf8() + usize::from(matches!(c, '"' | '\\'));
                left.checked_sub(bytes).map(|rest| left = rest).is_some()
            };
            let shown = name.chars().filter(|c| !c.is_control());
            let short: String = shown.take_while(fits).collect();
            *name = short;
        }
        self
    }
}

/// The worker's end of the pipe; or none, where there is no supervisor.
#[derive(Clone, Default)]
pub struct Notices(Option<Arc<OwnedFd>>);

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Notices(pipe)"
        } else {
            "Notices(none)"
        })
    }
}

impl Notices {
    /// Opens the pipe of this name.
    ///
    /// # Errors
    /// If it is none, or cannot be opened.
    pub fn open(pipe: &Path) -> io::Result<Self> {
        // For reading too: the pipe then stays whole while no supervisor has it open.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let pipe = open(pipe, flags, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&pipe)?.st_mode) != FileType::Fifo {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no named pipe",
            ));
        }
        Ok(Self(Some(Arc::new(pipe))))
    }

    /// Tells something. Never waits: what does not fit, because nobody reads, is not told.
    pub fn tell(&self, notice: &Notice) {
        let Some(pipe) = &self.0 else { return };
        let Ok(mut line) = serde_json::to_vec(notice) else {
            return;
        };
        line.push(b'\n');
        if line.len() > MAX_LINE {
            tracing::warn!("a notice to the supervisor is too long and is not told");
            return;
        }
        if let Err(error) = rustix::io::write(pipe, &line) {
            tracing::debug!(%error, "a notice to the supervisor was not taken");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read};

    use super::*;

    #[test]
    fn what_nobody_reads_yet_is_kept_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let notices = Notices::open(&path).unwrap();
        let names = JobNames {
            job_name: "\u{1}\u{10348}\"".repeat(2000),
            repository: "\"\\".repeat(4000),
            ..JobNames::default()
        };
        notices.tell(&Notice::Listening);
        notices.tell(&Notice::Job(names.shortened()));
        let read = OFlags::RDONLY | OFlags::NONBLOCK;
        let mut reader = fs::File::from(open(&path, read, Mode::empty()).unwrap());
        let mut buffer = vec![0; 1 << 16];
        let count = reader.read(&mut buffer).unwrap();
        let lines: Vec<Notice> = buffer[..count]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(lines[0], Notice::Listening);
        assert!(matches!(&lines[1], Notice::Job(names) if names.repository.len() > 300));
        // Nobody reads: it must come back all the same, with whole lines only in the pipe.
        for _ in 0..10_000 {
            notices.tell(&Notice::Renewal { ok: true });
        }
        let count = reader.read(&mut buffer).unwrap();
        assert_eq!(buffer[count - 1], b'\n');
        assert!(Notices::open(folder.path()).is_err());
    }
}
