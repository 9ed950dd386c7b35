//! One level's section of a policy, and what it says to a request by itself.

use super::{
    level::{Level, Mode},
    preset::Preset,
    request::{Needs, Request, Seen},
    rule::{Match, Rule},
};

/// What one level says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Where it stands.
    pub level: Level,
    /// The word for people: `pool`, `job build`, ….
    pub name: String,
    /// Its mode, if it says one.
    pub mode: Option<Mode>,
    /// Whether it says what may pass: it has presets or allow rules.
    pub says_what_passes: bool,
    /// The presets, for those who read.
    pub presets: Vec<Preset>,
    /// Rules that let pass, those of presets at the end.
    pub allow: Vec<Rule>,
    /// Rules that do not.
    pub deny: Vec<Rule>,
}

/// What a section says to a request, whatever its mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word<'a> {
    /// It passes by this rule, or because the section says nothing on what passes.
    Passes {
        rule: Option<&'a Rule>,
        needs: Needs,
    },
    /// A rule denies it.
    Denied(&'a Rule),
    /// No rule lets it pass.
    NotNamed,
}

impl Section {
    /// The mode that holds, `inherited` being that of the wider level. A narrower level that says what
    /// may pass means it, though all levels above are open.
    pub(super) fn mode(&self, inherited: Option<Mode>) -> Mode {
        let rather = match inherited {
            None => Mode::Audit,
            Some(Mode::Open) if self.says_what_passes => Mode::Enforce,
            Some(mode) => mode,
        };
        self.mode.unwrap_or(rather)
    }

    /// What the section says.
    pub(super) fn word(
        &self,
        request: &Request<'_>,
        names: &[&str],
        own: Option<&str>,
    ) -> Word<'_> {
        let mut needs = Needs::Nothing;
        for rule in &self.deny {
            match rule.matches(request, names, own) {
                Match::Yes => return Word::Denied(rule),
                Match::Perhaps => needs = needs.max(asks(rule, request)),
                Match::No => {}
            }
        }
        if !self.says_what_passes && self.level != Level::Pool {
            return Word::Passes { rule: None, needs };
        }
        match self.allowing(request, names, own) {
            Some((rule, asks)) => Word::Passes {
                rule: Some(rule),
                needs: needs.max(asks),
            },
            None => Word::NotNamed,
        }
    }

    /// The first rule that lets the request pass, or perhaps does.
    fn allowing(
        &self,
        request: &Request<'_>,
        names: &[&str],
        own: Option<&str>,
    ) -> Option<(&Rule, Needs)> {
        let mut perhaps = None;
        let particular = self.is_particular(request, names);
        for rule in &self.allow {
            if particular && rule.of_preset || !names_host_side(rule, request) {
                continue;
            }
            match rule.matches(request, names, own) {
                Match::Yes if rule.intercept == Some(true) => {
                    return Some((rule, looks_within(request)));
                }
                Match::Yes => return Some((rule, Needs::Nothing)),
                Match::Perhaps if perhaps.is_none() => perhaps = Some((rule, asks(rule, request))),
                Match::Perhaps | Match::No => {}
            }
        }
        perhaps
    }
}

impl Section {
    /// Whether a rule that fits the request, and `test`, lets it pass, or perhaps does.
    pub(super) fn lets_pass(
        &self,
        request: &Request<'_>,
        names: &[&str],
        own: Option<&str>,
        test: impl Fn(&Rule) -> bool,
    ) -> bool {
        let fits = |rule: &&Rule| test(rule) && rule.matches(request, names, own) != Match::No;
        self.allow.iter().any(|rule| fits(&rule))
    }

    /// Whether a rule of the file says of this host what requests it may get: presets, which know no
    /// requests, are silent on it then.
    fn is_particular(&self, request: &Request<'_>, names: &[&str]) -> bool {
        let says = |rule: &&Rule| !rule.of_preset && rule.asks_of_requests();
        let mut rules = self.allow.iter().filter(says);
        rules.any(|rule| rule.is_about(request, names))
    }
}

/// An address of the host's side is let pass only by rules that name it.
fn names_host_side(rule: &Rule, request: &Request<'_>) -> bool {
    let address = request.address.filter(|_| request.host_side);
    address.is_none_or(|address| rule.names_address(address))
}

/// What must be known before `rule` can say yes or no.
fn asks(rule: &Rule, request: &Request<'_>) -> Needs {
    match request.seen {
        Seen::Tls { .. } if rule.asks_of_requests() => Needs::Requests,
        _ => Needs::Beginning,
    }
}

/// A rule that wants TLS ended wants it when TLS is there.
fn looks_within(request: &Request<'_>) -> Needs {
    match request.seen {
        Seen::Tls { .. } => Needs::Requests,
        Seen::Nothing => Needs::Beginning,
        Seen::Http { .. } | Seen::Other => Needs::Nothing,
    }
}
