//! One rule: what it means, and whether a request is meant.

use serde::Deserialize;

use crate::egress::Transport;

use super::{
    cidr::Cidr,
    condition::{Method, Ports, Protocol, Repository, hosts_with_repositories, repository_of},
    document::several,
    host::HostPattern,
    path::{Path, PathPattern},
    request::{Request, Seen},
};

/// Whether a rule lets pass or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It lets pass.
    Allow,
    /// It does not.
    Deny,
}

impl Effect {
    fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// A rule as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WrittenRule {
    #[serde(deserialize_with = "several")]
    host: Vec<HostPattern>,
    #[serde(deserialize_with = "several")]
    cidr: Vec<Cidr>,
    #[serde(deserialize_with = "several")]
    port: Vec<Ports>,
    protocol: Option<Protocol>,
    #[serde(deserialize_with = "several")]
    method: Vec<Method>,
    #[serde(deserialize_with = "several")]
    path: Vec<PathPattern>,
    repository: Option<Repository>,
    #[serde(deserialize_with = "several")]
    step: Vec<String>,
    intercept: Option<bool>,
    reason: Option<String>,
}

/// One rule. Every condition that it has must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Lets pass, or not.
    pub effect: Effect,
    /// File and line, or the preset.
    pub origin: String,
    /// Whether it stands for a host of a preset.
    pub of_preset: bool,
    /// Names meant; all if empty.
    pub hosts: Vec<HostPattern>,
    /// Addresses meant; all if empty.
    pub cidrs: Vec<Cidr>,
    /// Ports meant; all if empty.
    pub ports: Vec<Ports>,
    /// The protocol meant; if an allow rule says none, TLS and HTTP, or any TCP where no web is.
    pub protocol: Option<Protocol>,
    /// Methods meant.
    pub methods: Vec<Method>,
    /// Paths meant.
    pub paths: Vec<PathPattern>,
    /// The repository meant.
    pub repository: Option<Repository>,
    /// Steps during which it holds, by id or name.
    pub steps: Vec<String>,
    /// Whether the worker shall end TLS, or must not.
    pub intercept: Option<bool>,
    /// Why it is there, in the operator's words.
    pub reason: Option<String>,
}

/// Whether a request is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Match {
    No,
    /// It depends on what is not known yet.
    Perhaps,
    Yes,
}

impl From<bool> for Match {
    fn from(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }
}

impl WrittenRule {
    /// The rule that is meant.
    ///
    /// # Errors
    /// What contradicts itself, and what to write instead.
    pub(super) fn rule(self, effect: Effect, origin: String) -> Result<Rule, String> {
        let mut rule = Rule {
            effect,
            origin,
            of_preset: false,
            hosts: self.host,
            cidrs: self.cidr,
            ports: self.port,
            protocol: self.protocol,
            methods: self.method,
            paths: self.path,
            repository: self.repository,
            steps: self.step,
            intercept: self.intercept,
            reason: self.reason,
        };
        rule.check()?;
        if effect == Effect::Allow && rule.ports.is_empty() {
            rule.ports = usual_ports(&rule);
        }
        Ok(rule)
    }
}

/// Whether TLS or HTTP is expected at a port.
#[must_use]
pub fn is_web_port(port: u16) -> bool {
    WEB_PORTS.contains(&port)
}

/// Ports on which TLS and HTTP are expected.
const WEB_PORTS: [u16; 4] = [80, 443, 8080, 8443];

/// Ports of an allow rule that names none.
fn usual_ports(rule: &Rule) -> Vec<Ports> {
    match rule.protocol {
        None | Some(Protocol::Tls | Protocol::Http) => vec![Ports::one(80), Ports::one(443)],
        Some(Protocol::Quic) => vec![Ports::one(443)],
        Some(Protocol::Ntp) => vec![Ports::one(123)],
        Some(Protocol::Tcp | Protocol::Udp) => Vec::new(),
    }
}

impl Rule {
    /// A rule of a preset: this host, web ports.
    pub(super) fn preset(name: &str, host: HostPattern) -> Self {
        Self {
            effect: Effect::Allow,
            origin: format!("preset {name}"),
            of_preset: true,
            hosts: vec![host],
            cidrs: Vec::new(),
            ports: vec![Ports::one(80), Ports::one(443)],
            protocol: None,
            methods: Vec::new(),
            paths: Vec::new(),
            repository: None,
            steps: Vec::new(),
            intercept: None,
            reason: None,
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.hosts.is_empty() && self.cidrs.is_empty() {
            return Err(
                "a rule names hosts (`host = …`) or addresses (`cidr = …`); \"*\" is every host"
                    .into(),
            );
        }
        let carries_requests = matches!(self.protocol, None | Some(Protocol::Tls | Protocol::Http));
        if self.asks_of_requests() && !carries_requests {
            return Err("`method`, `path` and `repository` are of HTTP: leave `protocol` out, or say tls or http".into());
        }
        if self.asks_of_requests() && self.intercept == Some(false) {
            return Err("`method`, `path` and `repository` cannot be seen with `intercept = false`: leave out the one or the other".into());
        }
        if self.intercept == Some(true) && !matches!(self.protocol, None | Some(Protocol::Tls)) {
            return Err("`intercept` is of TLS: leave `protocol` out, or say tls".into());
        }
        if self.intercept.is_some() && self.effect == Effect::Deny {
            return Err("a deny rule ends no TLS: leave `intercept` out".into());
        }
        if self.repository.is_some() {
            let known: Vec<&str> = hosts_with_repositories().collect();
            let has = |host: &HostPattern| host.exact().is_some_and(|host| known.contains(&host));
            if self.hosts.is_empty() || !self.hosts.iter().all(has) {
                let known = known.join(", ");
                return Err(format!(
                    "`repository` can be seen at these hosts only: {known}"
                ));
            }
        }
        if self.steps.iter().any(|step| step.trim().is_empty()) {
            return Err("`step` is the id or the name of a step".into());
        }
        Ok(())
    }

    /// Whether it asks something that only requests of HTTP tell.
    #[must_use]
    pub fn asks_of_requests(&self) -> bool {
        !self.methods.is_empty() || !self.paths.is_empty() || self.repository.is_some()
    }

    /// The rule in one line, with its place.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut said = vec![format!("{}: {}", self.origin, self.effect.word())];
        let list = |items: Vec<String>| items.join(",");
        said.extend(
            (!self.hosts.is_empty())
                .then(|| list(self.hosts.iter().map(ToString::to_string).collect())),
        );
        said.extend(
            (!self.cidrs.is_empty())
                .then(|| list(self.cidrs.iter().map(ToString::to_string).collect())),
        );
        said.extend(self.protocol.map(|protocol| protocol.word().to_owned()));
        if !self.ports.is_empty() {
            said.push(format!(
                "port {}",
                list(self.ports.iter().map(ToString::to_string).collect())
            ));
        }
        said.extend((!self.methods.is_empty()).then(|| {
            list(
                self.methods
                    .iter()
                    .map(|method| method.as_str().to_owned())
                    .collect(),
            )
        }));
        said.extend(
            (!self.paths.is_empty())
                .then(|| list(self.paths.iter().map(ToString::to_string).collect())),
        );
        said.extend(
            self.repository
                .clone()
                .map(|repository| format!("repository {}", String::from(repository))),
        );
        if !self.steps.is_empty() {
            said.push(format!("in step {}", self.steps.join(",")));
        }
        said.join(" ")
    }

    /// Whether the request is meant. `names` are those that it may be for; `own` is the job's repository.
    pub(super) fn matches(
        &self,
        request: &Request<'_>,
        names: &[&str],
        own: Option<&str>,
    ) -> Match {
        let all = [
            self.in_step(request.steps),
            self.fits_address(request),
            self.fits_names(names),
            self.fits_port(request.port),
            self.fits_protocol(request),
            self.fits_http(request, names, own),
        ];
        all.into_iter().min().unwrap_or(Match::Yes)
    }

    /// Whether it speaks of this host now, whatever the request.
    pub(super) fn is_about(&self, request: &Request<'_>, names: &[&str]) -> bool {
        let named = !self.hosts.is_empty() && self.fits_names(names) == Match::Yes;
        named && self.in_step(request.steps) == Match::Yes
    }

    /// What holds during one step holds only while no other runs; what is denied during one is denied.
    fn in_step(&self, running: &[Vec<String>]) -> Match {
        if self.steps.is_empty() {
            return Match::Yes;
        }
        let named = |step: &Vec<String>| step.iter().any(|word| self.steps.contains(word));
        Match::from(match self.effect {
            Effect::Allow => !running.is_empty() && running.iter().all(named),
            Effect::Deny => running.iter().any(named),
        })
    }

    fn fits_address(&self, request: &Request<'_>) -> Match {
        match request.address {
            _ if self.cidrs.is_empty() => Match::Yes,
            // Whoever asks for a name only must not be let through by a rule that has none.
            None if self.hosts.is_empty() => Match::No,
            None => Match::Perhaps,
            Some(address) => Match::from(self.cidrs.iter().any(|range| range.contains(address))),
        }
    }

    fn fits_names(&self, names: &[&str]) -> Match {
        let meant = |name: &&str| self.hosts.iter().any(|host| host.matches(name));
        Match::from(self.hosts.is_empty() || names.iter().any(meant))
    }

    fn fits_port(&self, port: Option<u16>) -> Match {
        match port {
            _ if self.ports.is_empty() => Match::Yes,
            None => Match::Perhaps,
            Some(port) => Match::from(self.ports.iter().any(|ports| ports.contain(port))),
        }
    }

    fn fits_protocol(&self, request: &Request<'_>) -> Match {
        let Some(protocol) = self.protocol else {
            return match self.effect {
                Effect::Deny => Match::Yes,
                Effect::Allow => self.fits_usual_protocol(request),
            };
        };
        let Some(transport) = request.transport else {
            return Match::Perhaps;
        };
        if protocol.transport() != transport {
            return Match::No;
        }
        match protocol {
            Protocol::Tcp | Protocol::Udp => Match::Yes,
            Protocol::Quic => request
                .port
                .map_or(Match::Perhaps, |port| (port == 443).into()),
            Protocol::Ntp => request
                .port
                .map_or(Match::Perhaps, |port| (port == 123).into()),
            Protocol::Tls | Protocol::Http => request
                .seen
                .protocol()
                .map_or(Match::Perhaps, |seen| (seen == protocol).into()),
        }
    }

    /// Without `protocol`, an allow rule by name means TLS and HTTP on the ports of the web, any TCP on
    /// others. UDP passes only where it is named. What a stream of the web is, it must say: a hello that
    /// comes after the verdict would ask for any host of a shared address.
    fn fits_usual_protocol(&self, request: &Request<'_>) -> Match {
        match (request.transport, request.port, request.seen) {
            (Some(Transport::Udp), ..) => Match::No,
            (None, ..) | (_, None, _) => Match::Perhaps,
            (_, Some(port), _) if self.hosts.is_empty() || !WEB_PORTS.contains(&port) => Match::Yes,
            (_, _, Seen::Nothing) => Match::Perhaps,
            (_, _, Seen::Other) => Match::No,
            (_, _, Seen::Tls { .. } | Seen::Http { .. }) => Match::Yes,
        }
    }

    fn fits_http(&self, request: &Request<'_>, names: &[&str], own: Option<&str>) -> Match {
        if !self.asks_of_requests() {
            return Match::Yes;
        }
        match request.seen {
            _ if request.transport == Some(Transport::Udp) => Match::No,
            Seen::Nothing => Match::Perhaps,
            // What cannot be looked into must not pass by a rule on its content.
            Seen::Tls { .. } => Match::Perhaps,
            Seen::Other => Match::No,
            Seen::Http { method, target, .. } => {
                Match::from(self.fits_request(method, target, names, own))
            }
        }
    }

    fn fits_request(&self, method: &str, target: &str, names: &[&str], own: Option<&str>) -> bool {
        let path = Path::of(target);
        let denies = self.effect == Effect::Deny;
        let same = |known: &Method| {
            known.as_str() == method || denies && known.as_str().eq_ignore_ascii_case(method)
        };
        let method = self.methods.is_empty() || self.methods.iter().any(same);
        let path_fits = self.paths.is_empty()
            || match self.effect {
                Effect::Allow => path.is_within(&self.paths),
                Effect::Deny => path.touches(&self.paths),
            };
        method && path_fits && self.fits_repository(&path, names, own)
    }

    fn fits_repository(&self, path: &Path, names: &[&str], own: Option<&str>) -> bool {
        let Some(repository) = &self.repository else {
            return true;
        };
        let wanted = match repository {
            Repository::Own => own,
            Repository::Named(name) => Some(name.as_str()),
        };
        let asked = names.iter().find_map(|name| repository_of(name, path));
        match (wanted, asked) {
            (Some(wanted), Some(asked)) => asked.eq_ignore_ascii_case(wanted),
            _ => false,
        }
    }

    /// Whether it means `address` itself, not just everything.
    pub(super) fn names_address(&self, address: std::net::IpAddr) -> bool {
        let named = |range: &Cidr| range.names_its_addresses() && range.contains(address);
        self.cidrs.iter().any(named)
    }
}
