//! Between the sandbox's flows and the host's sockets: asks the policy, connects, copies, writes down.
//!
//! A flow is judged three times at most: by address and DNS before anything is answered (`ask`), by what
//! its stream says of itself before anything is sent outside (`open`), and, where a rule looks into TLS, at
//! each request.

mod ask;
mod counted;
mod dial;
mod open;
mod serve;
mod steps;
#[cfg(test)]
mod tests;
mod within;

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;

use super::{
    Transport,
    intercept::Interceptor,
    policy::{self, Mode, Policy, Verdict},
    record::{Line, Record},
};

pub use steps::StepId;
use steps::Steps;
pub use within::Stopped;

/// Whether an address is one of the host's side: loopback, private, link-local, metadata, the host's own.
pub type HostSide = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// Bounds and times of one sandbox's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Sockets of the host at the same time.
    pub sockets: usize,
    /// How long a stream may take to say what it is, where it must.
    pub hello: Duration,
    /// How long it may take where it need not.
    pub patience: Duration,
    /// How long a host may take to answer.
    pub connect: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            sockets: 2048,
            hello: Duration::from_secs(30),
            patience: Duration::from_secs(3),
            connect: Duration::from_secs(20),
        }
    }
}

/// The network of one sandbox. Clones are the same network.
#[derive(Clone)]
pub struct Egress {
    inner: Arc<Inner>,
}

/// A step that runs until this is dropped.
#[derive(Debug)]
pub struct RunningStep {
    egress: Egress,
    id: StepId,
}

impl Drop for RunningStep {
    fn drop(&mut self) {
        self.egress.step_ends(self.id);
    }
}

struct Inner {
    policy: Policy,
    record: Record,
    steps: Steps,
    host_side: HostSide,
    bounds: Bounds,
    sockets: Semaphore,
    /// Numbers of questions for names, apart from those of flows.
    questions: AtomicU64,
    interceptor: OnceLock<Interceptor>,
    /// Secrets that were stopped, until their step asks.
    stopped: Mutex<Vec<Stopped>>,
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress")
            .field("record", &self.inner.record)
            .finish_non_exhaustive()
    }
}

impl Egress {
    /// The network of a sandbox under `policy`.
    #[must_use]
    pub fn new(policy: Policy, record: Record, host_side: HostSide, bounds: Bounds) -> Self {
        Self {
            inner: Arc::new(Inner {
                policy,
                record,
                steps: Steps::default(),
                host_side,
                sockets: Semaphore::new(bounds.sockets),
                bounds,
                questions: AtomicU64::new(0),
                interceptor: OnceLock::new(),
                stopped: Mutex::default(),
            }),
        }
    }

    /// A step begins, known by `words`: its id and its name. New connections are judged by what holds
    /// for all steps that run.
    pub fn step_begins(&self, words: Vec<String>) -> StepId {
        self.inner.steps.begin(words)
    }

    /// A step ended. In `enforce`, connections of which every step ended are closed.
    pub fn step_ends(&self, step: StepId) {
        let running = self.inner.steps.words();
        let enforced = self.inner.policy.mode(&running) == Mode::Enforce;
        self.inner.steps.end(step, enforced);
    }

    /// As [`Self::step_begins`]; the step ends when what is given back is dropped.
    #[must_use]
    pub fn step(&self, words: Vec<String>) -> RunningStep {
        RunningStep {
            id: self.step_begins(words),
            egress: self.clone(),
        }
    }

    /// What was reached.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.inner.record
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.inner.policy
    }

    /// Whether the gateway's DNS may answer for `name`; a refusal is written down.
    ///
    /// # Errors
    /// The reason in words.
    pub fn may_resolve(&self, name: &str) -> Result<(), String> {
        let steps = self.inner.steps.words();
        let Some(name) = policy::normalise(name) else {
            return Err("it is no name of a host".into());
        };
        let decision = policy::may_resolve(&self.inner.policy, &name, &steps);
        if decision.verdict == Verdict::Allow {
            return Ok(());
        }
        let number = self.inner.questions.fetch_add(1, Ordering::Relaxed);
        let passes = decision.verdict.passes();
        // What audit lets pass is written down when it is connected to.
        if !passes {
            self.inner.record.add(Line {
                time: now(),
                connection: number,
                within: None,
                steps: shown(&steps),
                command: None,
                transport: Transport::Udp,
                name: Some(name),
                address: None,
                port: 53,
                protocol: "dns".into(),
                method: None,
                path: None,
                sent: 0,
                received: 0,
                seconds: 0.0,
                verdict: decision.verdict,
                rule: decision.rule.clone(),
                why: decision.why.clone(),
                answer: None,
            });
        }
        if passes { Ok(()) } else { Err(decision.why) }
    }
}

/// The time, for the record.
fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// Steps by name: the last of the words of each.
fn shown(steps: &[Vec<String>]) -> Vec<String> {
    steps
        .iter()
        .filter_map(|words| words.last().cloned())
        .collect()
}
