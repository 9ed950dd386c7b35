//! Requests within TLS that the worker ends, and secrets on their way out: the policy's word for each,
//! and a line in the record.

use std::{net::IpAddr, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::egress::{
    Transport,
    intercept::{
        Interceptor, Judge, Note, Replay, RequestHead, Target, Verdict as Word, leak::Scanner,
    },
    policy::{self, Request, Seen, Verdict},
    record::{Answer, Line},
};

use super::{Egress, ask::Asked, counted::Counted, dial, now, shown};

/// Secrets that were stopped are remembered for the step's end, so many at most.
const MOST_LEAKS: usize = 256;

/// A secret that was stopped on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The steps that ran when the connection was opened; each by its id and its name.
    pub steps: Vec<Vec<String>>,
    /// What was stopped, in words.
    pub words: String,
}

impl Egress {
    /// From now on TLS is ended by the worker where a rule asks for it, and secrets are searched for.
    /// The first interceptor stays.
    pub fn intercept_with(&self, interceptor: Interceptor) {
        let _ = self.inner.interceptor.set(interceptor);
    }

    /// The interceptor.
    #[must_use]
    pub fn interceptor(&self) -> Option<&Interceptor> {
        self.inner.interceptor.get()
    }

    /// Secrets that were stopped in connections of a step known by `words`; each is given once.
    #[must_use]
    pub fn take_stopped(&self, words: &[String]) -> Vec<Stopped> {
        let mut stopped = self.stopped();
        let (taken, left) = std::mem::take(&mut *stopped)
            .into_iter()
            .partition(|stopped| stopped.steps.iter().any(|step| step == words));
        *stopped = left;
        taken
    }

    /// As if a secret was stopped in a connection of the steps that run.
    #[cfg(test)]
    pub(crate) fn stop_in_running_steps(&self, words: &str) {
        self.remember(&self.inner.steps.words(), words);
    }

    fn stopped(&self) -> std::sync::MutexGuard<'_, Vec<Stopped>> {
        let stopped = &self.inner.stopped;
        stopped
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn remember(&self, steps: &[Vec<String>], words: &str) {
        let mut stopped = self.stopped();
        if stopped.len() < MOST_LEAKS {
            stopped.push(Stopped {
                steps: steps.to_vec(),
                words: words.to_owned(),
            });
        }
    }

    /// Carries a stream whose TLS the worker ends.
    pub(super) async fn within<G>(
        &self,
        asked: &mut Asked<'_>,
        guest: G,
        host: TcpStream,
        first: Vec<u8>,
    ) -> Option<Answer>
    where
        G: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let interceptor = self.interceptor()?;
        // Without it it still works.
        let _ = host.set_nodelay(true);
        let address = asked.flow.address;
        let name = asked
            .name()
            .map_or_else(|| address.to_string(), str::to_owned);
        let within = Within {
            egress: self.clone(),
            connection: asked.flow.id,
            address,
            port: asked.flow.port,
            host_side: asked.host_side,
            names: asked.names.clone(),
            name: name.clone(),
            steps: asked.entered.words.clone(),
        };
        let host = Counted {
            inner: host,
            counts: Arc::clone(&asked.counts),
        };
        let target = Target::new(&name, asked.flow.port);
        let guest = Replay::new(first, guest);
        let carried = interceptor
            .carry(guest, host, target, Arc::new(within))
            .await;
        let words = carried.err()?.to_string();
        Some(Answer::Broken(words))
    }

    /// A search in what goes out as it is, if there is anything to search for.
    pub(super) fn scanner(&self, asked: &Asked<'_>) -> Option<Scanner> {
        let bindings = self.interceptor()?.bindings();
        if bindings.watch().is_empty() {
            return None;
        }
        let name = asked.name().unwrap_or_default();
        let target = Target::new(name, asked.flow.port);
        Some(bindings.watch().scanner(&bindings.allowed(&target)))
    }

    /// A secret was found in what goes out as it is.
    pub(super) fn leaked(&self, asked: &mut Asked<'_>, words: &str) -> Answer {
        asked.decision.verdict = Verdict::Deny;
        asked.decision.why = words.to_owned();
        self.remember(&asked.entered.words, words);
        Answer::Note(words.to_owned())
    }
}

/// One connection that the worker looks into.
struct Within {
    egress: Egress,
    connection: u64,
    address: IpAddr,
    port: u16,
    host_side: bool,
    names: Vec<String>,
    name: String,
    steps: Vec<Vec<String>>,
}

impl Within {
    fn line(&self) -> Line {
        Line {
            time: now(),
            connection: self.connection,
            within: Some(self.connection),
            steps: shown(&self.steps),
            command: None,
            transport: Transport::Tcp,
            name: Some(self.name.clone()),
            address: Some(self.address),
            port: self.port,
            protocol: "tls".to_owned(),
            method: None,
            path: None,
            // Bytes are those of the connection.
            sent: 0,
            received: 0,
            seconds: 0.0,
            verdict: Verdict::Allow,
            rule: None,
            why: String::new(),
            answer: None,
        }
    }
}

impl Judge for Within {
    fn request(&self, head: &RequestHead<'_>) -> Word {
        let decision = policy::decide(
            self.egress.policy(),
            &Request {
                transport: Some(Transport::Tcp),
                address: Some(self.address),
                port: Some(self.port),
                host_side: self.host_side,
                names: &self.names,
                seen: Seen::Http {
                    tls: Some(&self.name),
                    // The head names the connection's host, or it is not asked for.
                    host: Some(&self.name),
                    method: head.method,
                    target: head.path,
                },
                steps: &self.steps,
            },
        );
        let why = decision.why.clone();
        let passes = decision.verdict.passes();
        self.egress.record().add(Line {
            method: Some(head.method.to_owned()),
            path: Some(head.path.to_owned()),
            verdict: decision.verdict,
            rule: decision.rule,
            why: decision.why,
            ..self.line()
        });
        if passes {
            Word::Allow
        } else {
            Word::Deny(format!("the egress policy: {why}"))
        }
    }

    fn note(&self, note: Note) {
        let words = note.to_string();
        if let Note::Leak(_) = note {
            self.egress.remember(&self.steps, &words);
        }
        let verdict = match note {
            Note::Injected { .. } | Note::Echo { .. } => Verdict::Allow,
            _ => Verdict::Deny,
        };
        self.egress.record().add(Line {
            verdict,
            why: words.clone(),
            answer: Some(Answer::Note(words)),
            ..self.line()
        });
    }
}

/// The words of an error that [`Egress::scanner`] found.
pub(super) fn leak_in(error: &std::io::Error) -> Option<String> {
    let leak = error
        .get_ref()?
        .downcast_ref::<crate::egress::intercept::leak::Leak>()?;
    Some(leak.to_string())
}

/// What the record says of a copy that ended.
pub(super) fn broken(
    egress: &Egress,
    asked: &mut Asked<'_>,
    result: std::io::Result<()>,
) -> Option<Answer> {
    let error = result.err()?;
    Some(match leak_in(&error) {
        Some(words) => egress.leaked(asked, &words),
        None => Answer::Broken(dial::words(&error)),
    })
}
