//! One flow before the policy, and what becomes of it in the record.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use crate::egress::{
    Flow, Transport,
    policy::{self, Decision, Needs, Request, Seen, Verdict},
    record::{Answer, Line},
    sniff::Beginning,
};

use super::{Egress, now, shown, steps::Entered};

/// Bytes that went through so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

/// A flow that is being judged.
pub(super) struct Asked<'a> {
    egress: &'a Egress,
    pub(super) flow: Flow,
    /// The flow's names, normalised.
    names: Vec<String>,
    host_side: bool,
    pub(super) entered: Entered<'a>,
    began: Instant,
    time: String,
    pub(super) counts: Counts,
    /// What the stream said.
    name: Option<String>,
    protocol: &'static str,
    method: Option<String>,
    path: Option<String>,
}

impl Egress {
    pub(super) fn ask(&self, flow: Flow) -> Asked<'_> {
        let mut names: Vec<String> = Vec::new();
        for name in flow.names.iter().filter_map(|name| policy::normalise(name)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Asked {
            host_side: (self.inner.host_side)(flow.address),
            entered: self.inner.steps.enter(),
            began: Instant::now(),
            time: now(),
            counts: Counts::default(),
            name: None,
            protocol: match (flow.transport, flow.port) {
                (Transport::Tcp, _) => "tcp",
                (Transport::Udp, 443) => "quic",
                (Transport::Udp, 123) => "ntp",
                (Transport::Udp, 53) => "dns",
                (Transport::Udp, _) => "udp",
            },
            method: None,
            path: None,
            egress: self,
            names,
            flow,
        }
    }
}

impl Asked<'_> {
    /// The verdict by what was seen of the stream.
    pub(super) fn decide(&self, seen: Seen<'_>) -> Decision {
        let request = Request {
            transport: Some(self.flow.transport),
            address: Some(self.flow.address),
            port: Some(self.flow.port),
            host_side: self.host_side,
            names: &self.names,
            seen,
            steps: &self.entered.words,
        };
        policy::decide(&self.egress.inner.policy, &request)
    }

    /// Takes over what a stream said of itself, and judges it.
    pub(super) fn hear(&mut self, beginning: &Beginning) -> Decision {
        match beginning {
            Beginning::Tls(hello) => {
                self.protocol = "tls";
                self.name.clone_from(&hello.name);
                self.decide(Seen::Tls {
                    name: hello.name.as_deref(),
                    encrypted: hello.encrypted,
                })
            }
            Beginning::Http(head) => {
                self.protocol = "http";
                self.name.clone_from(&head.host);
                self.method = Some(head.method.clone());
                self.path = Some(without_query(&head.target).to_owned());
                self.decide(Seen::Http {
                    tls: None,
                    host: head.host.as_deref(),
                    method: &head.method,
                    target: &head.target,
                })
            }
            Beginning::Other => self.decide(Seen::Other),
            Beginning::Silent => {
                let mut decision = self.decide(Seen::Other);
                if decision.verdict == Verdict::Deny && decision.rule.is_none() {
                    decision.why = "it did not say what it is (TLS, HTTP), and no rule with `protocol = \"tcp\"` allows it".into();
                }
                decision
            }
        }
    }

    /// Whether it would pass whatever its stream is.
    pub(super) fn passes_anyhow(&self) -> bool {
        self.decide(Seen::Other).verdict.passes()
    }

    /// The name that the stream said, or one of those that DNS gave.
    pub(super) fn name(&self) -> Option<&str> {
        self.name
            .as_deref()
            .or(self.names.first().map(String::as_str))
    }

    /// Writes down what became of it.
    pub(super) fn end(self, decision: &Decision, answer: Option<Answer>) {
        let line = self.line(decision, answer);
        self.egress.inner.record.add(line);
    }

    fn line(&self, decision: &Decision, answer: Option<Answer>) -> Line {
        Line {
            time: self.time.clone(),
            connection: self.flow.id,
            within: None,
            steps: shown(&self.entered.words),
            command: None,
            transport: self.flow.transport,
            name: self.name().map(str::to_owned),
            address: Some(self.flow.address),
            port: self.flow.port,
            protocol: self.protocol.to_owned(),
            method: self.method.clone(),
            path: self.path.clone(),
            sent: self.counts.sent.load(Ordering::Relaxed),
            received: self.counts.received.load(Ordering::Relaxed),
            seconds: self.began.elapsed().as_millis() as f64 / 1000.0,
            verdict: decision.verdict,
            rule: decision.rule.clone(),
            why: decision.why.clone(),
            answer,
        }
    }
}

/// Whether more must be known than address and names.
pub(super) fn wants_beginning(decision: &Decision, port: u16) -> bool {
    decision.needs != Needs::Nothing || policy::is_web_port(port)
}

/// Queries hold tokens more often than paths do; they belong into no record.
fn without_query(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or_default()
}
