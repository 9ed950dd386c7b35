//! Policies asked for verdicts.

mod document;
mod hosts;
mod narrowing;
mod paths;
mod presets;
mod verdicts;

use std::net::IpAddr;

use crate::egress::Transport;

use super::{Decision, Document, JobPlace, Policy, Request, Seen, Verdict, decide};

/// A question with the answers that most tests want.
#[derive(Clone)]
struct Ask {
    transport: Transport,
    address: IpAddr,
    port: u16,
    host_side: bool,
    names: Vec<String>,
    steps: Vec<Vec<String>>,
}

impl Ask {
    fn tcp(name: &str) -> Self {
        Self {
            transport: Transport::Tcp,
            address: [203, 0, 113, 7].into(),
            port: 443,
            host_side: false,
            names: name.split_whitespace().map(str::to_owned).collect(),
            steps: Vec::new(),
        }
    }

    fn udp(name: &str, port: u16) -> Self {
        Self {
            transport: Transport::Udp,
            ..Self::tcp(name).port(port)
        }
    }

    fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    fn at(mut self, address: &str, host_side: bool) -> Self {
        self.address = address.parse().unwrap();
        self.host_side = host_side;
        self
    }

    fn during(mut self, step: &str) -> Self {
        self.steps.push(vec![step.to_owned()]);
        self
    }

    fn of(&self, policy: &Policy, seen: Seen<'_>) -> Decision {
        let request = Request {
            transport: Some(self.transport),
            address: Some(self.address),
            port: Some(self.port),
            host_side: self.host_side,
            names: &self.names,
            seen,
            steps: &self.steps,
        };
        decide(policy, &request)
    }

    /// With a TLS hello for its own name.
    fn tls(&self, policy: &Policy) -> Verdict {
        let name = self.names.first().map(String::as_str);
        self.of(policy, hello(name)).verdict
    }
}

fn hello(name: Option<&str>) -> Seen<'_> {
    Seen::Tls {
        name,
        encrypted: false,
    }
}

fn within<'a>(host: &'a str, method: &'a str, target: &'a str) -> Seen<'a> {
    Seen::Http {
        tls: Some(host),
        host: Some(host),
        method,
        target,
    }
}

fn plain<'a>(host: &'a str, method: &'a str, target: &'a str) -> Seen<'a> {
    Seen::Http {
        tls: None,
        host: Some(host),
        method,
        target,
    }
}

fn document(text: &str) -> Document {
    Document::parse(text, "policy.toml").unwrap_or_else(|error| panic!("{error}"))
}

/// The policy for the job `build` of `ci.yml` in `octo/app`.
fn policy(text: &str) -> Policy {
    document(text).policy(&JobPlace {
        workflow: ".github/workflows/ci.yml".into(),
        job: "build".into(),
        repository: Some("octo/app".into()),
    })
}
