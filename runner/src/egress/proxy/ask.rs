//! One flow before the policy, and what becomes of it in the record.

use std::{sync::Arc, time::Instant};

use crate::egress::{
    Flow, Transport,
    policy::{self, Decision, Needs, Request, Seen, Verdict},
    record::{Answer, Line},
    sniff::Beginning,
    stack::Counts,
};

use super::{Egress, now, shown, steps::Entered};

/// Why what says nothing does not pass.
const SILENT: &str =
    "it did not say what it is (TLS, HTTP), and no rule with `protocol = \"tcp\"` allows it";

/// A flow that is being judged.
pub(super) struct Asked<'a> {
    egress: &'a Egress,
    pub(super) flow: Flow,
    /// The flow's names, normalised.
    pub(super) names: Vec<String>,
    pub(super) host_side: bool,
    pub(super) entered: Entered<'a>,
    began: Instant,
    time: String,
    pub(super) counts: Arc<Counts>,
    /// The latest verdict.
    pub(super) decision: Decision,
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
        let (protocol, seen) = match (flow.transport, flow.port) {
            (Transport::Tcp, _) => ("tcp", Seen::Nothing),
            (Transport::Udp, 443) => ("quic", Seen::Other),
            (Transport::Udp, 123) => ("ntp", Seen::Other),
            (Transport::Udp, 53) => ("dns", Seen::Other),
            (Transport::Udp, _) => ("udp", Seen::Other),
        };
        let mut asked = Asked {
            host_side: (self.inner.host_side)(flow.address),
            entered: self.inner.steps.enter(),
            began: Instant::now(),
            time: now(),
            counts: Arc::default(),
            decision: Decision {
                verdict: Verdict::Deny,
                rule: None,
                why: String::new(),
                needs: Needs::Nothing,
            },
            name: None,
            protocol,
            method: None,
            path: None,
            egress: self,
            names,
            flow,
        };
        asked.decision = asked.decide(seen);
        asked
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
    pub(super) fn hear(&mut self, beginning: &Beginning) {
        self.decision = match beginning {
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
            Beginning::Other | Beginning::Silent => self.decide(Seen::Other),
        };
        let silent = *beginning == Beginning::Silent && self.decision.rule.is_none();
        if silent && self.decision.verdict == Verdict::Deny {
            self.decision.why = SILENT.into();
        }
    }

    /// Whether more must be known of its stream than address and names.
    pub(super) fn wants_beginning(&self) -> bool {
        self.decision.needs != Needs::Nothing || policy::is_web_port(self.flow.port)
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
    pub(super) fn end(self, answer: Option<Answer>) {
        let line = self.line(answer);
        self.egress.inner.record.add(line);
    }

    fn line(&self, answer: Option<Answer>) -> Line {
        let relayed = self.counts.relayed();
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
            sent: relayed.sent,
            received: relayed.received,
            seconds: self.began.elapsed().as_millis() as f64 / 1000.0,
            verdict: self.decision.verdict,
            rule: self.decision.rule.clone(),
            why: self.decision.why.clone(),
            answer,
        }
    }
}

/// Queries hold tokens more often than paths do; they belong into no record.
fn without_query(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or_default()
}
