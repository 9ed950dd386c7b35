//! The verdict on a request.
//!
//! Every section that holds is asked by itself, and the strictest word counts: so a narrower section can
//! only narrow. One of a level that may widen speaks for those above it, their deny rules excepted.

use super::{
    job::Policy,
    level::{Level, Mode},
    request::{Decision, Needs, Request, Seen, Verdict},
    resolvers,
    rule::Rule,
    section::{Section, Word},
};

/// Ports on which DNS is spoken, with and without TLS.
const DNS_PORTS: [u16; 2] = [53, 853];

/// Names of one address that are looked at, the latest.
const MOST_NAMES: usize = 32;

/// The verdict on a request, as far as it is known.
#[must_use]
pub fn decide(policy: &Policy, request: &Request<'_>) -> Decision {
    let subject = Subject::of(request);
    if subject.names.len() < 2 {
        return judge(policy, request, &subject);
    }
    // The address is that of several names, and nothing says which is meant. All sections must mean the
    // same one; and that a rule denies one of them is enough once nothing more will be known.
    let judged = subject.names.iter().map(|name| {
        let one = Subject {
            names: vec![*name],
            objection: subject.objection.clone(),
        };
        judge(policy, request, &one)
    });
    let best = judged.min_by_key(|decision| decision.verdict);
    let all = judge(policy, request, &subject);
    let denied = all.rule.is_some() && all.verdict != Verdict::Allow;
    match best {
        Some(best) if request.seen != Seen::Other || !denied || best.verdict >= all.verdict => best,
        _ => all,
    }
}

/// The verdict for these names.
fn judge(policy: &Policy, request: &Request<'_>, subject: &Subject<'_>) -> Decision {
    let holding = policy.holding(request.steps);
    let asked: Vec<Asked<'_>> = holding
        .into_iter()
        .map(|(section, mode)| Asked {
            word: section.word(request, &subject.names, policy.repository.as_deref()),
            section,
            mode,
        })
        .collect();
    if let Some(decision) = host_side(policy, request, subject) {
        return decision;
    }
    let strictest = asked.iter().map(|asked| asked.mode).max();
    let strictest = strictest.unwrap_or(Mode::Audit);
    let own = built_in(policy, request, subject);
    let mut decision = combined(policy, &asked);
    if let Some(objection) = own {
        decision = with_objection(decision, objection, strictest);
    }
    if decision.verdict.passes() && wants_requests(policy, request) {
        decision.needs = decision.needs.max(Needs::Requests);
    }
    decision
}

/// Whether the gateway's DNS may answer for `name`, which is normalised.
#[must_use]
pub fn may_resolve(policy: &Policy, name: &str, steps: &[Vec<String>]) -> Decision {
    let names = [name.to_owned()];
    let request = Request {
        transport: None,
        address: None,
        port: None,
        host_side: false,
        names: &names,
        seen: Seen::Nothing,
        steps,
    };
    decide(policy, &request)
}

/// Which names a request is for, and what is wrong with what it says of itself.
struct Subject<'a> {
    names: Vec<&'a str>,
    objection: Option<String>,
}

impl<'a> Subject<'a> {
    fn of(request: &Request<'a>) -> Self {
        let known = || {
            let names = request.names.iter().map(String::as_str);
            names.take(MOST_NAMES).collect::<Vec<_>>()
        };
        match request.seen {
            Seen::Nothing | Seen::Other => Self {
                names: known(),
                objection: None,
            },
            Seen::Tls {
                encrypted: true, ..
            } => Self {
                names: known(),
                objection: Some("the name in its TLS hello is encrypted (ECH)".into()),
            },
            Seen::Tls { name: None, .. } => Self {
                names: known(),
                objection: Some("its TLS hello names no host (SNI)".into()),
            },
            Seen::Tls {
                name: Some(name), ..
            } => Self::said(request, name),
            Seen::Http {
                tls: Some(tls),
                host: Some(host),
                ..
            } if tls != host => Self {
                names: vec![host],
                objection: Some(format!(
                    "its TLS hello names {tls}, its request {host}: domain fronting"
                )),
            },
            Seen::Http {
                host: Some(host), ..
            } => Self::said(request, host),
            Seen::Http { host: None, .. } => Self {
                names: known(),
                objection: Some("its request names no host".into()),
            },
        }
    }

    /// A name counts only if the gateway's DNS gave the address for it.
    fn said(request: &Request<'a>, name: &'a str) -> Self {
        let proven = request.names.iter().any(|known| known == name);
        let objection = (!proven).then(|| {
            format!("it says {name}, but the gateway's DNS did not give this address for that name")
        });
        Self {
            names: vec![name],
            objection,
        }
    }
}

/// A section with its mode and its word.
struct Asked<'a> {
    section: &'a Section,
    mode: Mode,
    word: Word<'a>,
}

impl<'a> Asked<'a> {
    fn passing(&self) -> Option<&'a Rule> {
        match self.word {
            Word::Passes { rule, .. } => rule,
            _ => None,
        }
    }
}

/// Whether the operator, or a level that may widen, has a rule that fits the request and `test`.
fn operator_says(
    policy: &Policy,
    request: &Request<'_>,
    names: &[&str],
    test: impl Fn(&Rule) -> bool,
) -> bool {
    let own = policy.repository.as_deref();
    let holding = policy.holding(request.steps).into_iter();
    let mut operators = holding.map(|(section, _)| section).filter(|section| {
        section.level == Level::Pool || policy.may_widen.contains(&section.level)
    });
    operators.any(|section| section.lets_pass(request, names, own, &test))
}

/// Addresses of the host's side pass only where the operator names them, in every mode.
fn host_side(policy: &Policy, request: &Request<'_>, subject: &Subject<'_>) -> Option<Decision> {
    let address = request.address.filter(|_| request.host_side)?;
    if operator_says(policy, request, &subject.names, |rule| {
        rule.names_address(address)
    }) {
        return None;
    }
    let why = format!(
        "{address} is on the host's side (loopback, private, link-local, metadata, or its own), and no rule with `cidr` names it"
    );
    Some(Decision::deny(None, why))
}

/// What no mode but `open` lets pass unnamed; what only `enforce` does not.
enum Objection {
    Audit(String),
    Enforce(String),
}

/// What is objected to without any rule, unless the operator names it.
fn built_in(policy: &Policy, request: &Request<'_>, subject: &Subject<'_>) -> Option<Objection> {
    let address = |rule: &Rule| {
        let address = request.address;
        address.is_some_and(|address| rule.names_address(address))
    };
    let says = |test: &dyn Fn(&Rule) -> bool| operator_says(policy, request, &subject.names, test);
    if let Some(why) = dns_elsewhere(request, subject) {
        // `*` names nobody.
        let named = |rule: &Rule| {
            let mut exact = rule.hosts.iter().filter_map(|host| host.exact());
            exact.any(|name| subject.names.contains(&name)) || address(rule)
        };
        if !says(&named) {
            return Some(Objection::Audit(why));
        }
    }
    let why = subject.objection.clone()?;
    // Who names the address does not depend on what the stream says of itself.
    let says_nothing = matches!(
        request.seen,
        Seen::Tls {
            name: None,
            encrypted: false
        } | Seen::Http {
            host: None,
            tls: None,
            ..
        }
    );
    if says_nothing && says(&|rule| address(rule) && rule.hosts.is_empty()) {
        return None;
    }
    Some(Objection::Enforce(why))
}

/// DNS by another way than the gateway's.
fn dns_elsewhere(request: &Request<'_>, subject: &Subject<'_>) -> Option<String> {
    if let Some(port) = request.port.filter(|port| DNS_PORTS.contains(port)) {
        return Some(format!("port {port} is DNS, which the gateway answers"));
    }
    let web = request.port.is_none_or(|port| port != 80);
    let name = subject
        .names
        .iter()
        .find(|name| resolvers::is_resolver(name));
    if let Some(name) = name.filter(|_| web) {
        return Some(format!("{name} answers DNS over HTTPS, past the gateway"));
    }
    let address = request
        .address
        .filter(|_| web && subject.names.is_empty())?;
    resolvers::is_resolver_address(address)
        .then(|| format!("{address} answers DNS, past the gateway"))
}

/// The words of all sections as one.
fn combined(policy: &Policy, asked: &[Asked<'_>]) -> Decision {
    let widener = asked.iter().rposition(|asked| {
        let may = policy.may_widen.contains(&asked.section.level);
        may && asked.section.says_what_passes && asked.passing().is_some()
    });
    let mut passed: Option<Decision> = None;
    let mut needs = Needs::Nothing;
    let mut worst: Option<Decision> = None;
    for (at, asked) in asked.iter().enumerate() {
        let below_widener = widener.is_some_and(|widener| at < widener);
        match &asked.word {
            Word::Passes { rule, needs: asks } => {
                needs = needs.max(*asks);
                if let Some(rule) = rule {
                    passed = Some(allowed(asked.section, rule));
                }
            }
            Word::NotNamed if below_widener || asked.mode == Mode::Open => {}
            word => {
                let said = denied(asked.section, asked.mode, word);
                if worst
                    .as_ref()
                    .is_none_or(|worst| worst.verdict < said.verdict)
                {
                    worst = Some(said);
                }
            }
        }
    }
    let mut decision = worst.or(passed).unwrap_or_else(|| Decision {
        verdict: Verdict::Allow,
        rule: None,
        why: "nothing denies it".into(),
        needs: Needs::Nothing,
    });
    if decision.verdict.passes() {
        decision.needs = needs;
    }
    decision
}

fn allowed(section: &Section, rule: &Rule) -> Decision {
    Decision {
        verdict: Verdict::Allow,
        rule: Some(rule.shown()),
        why: reason(rule).unwrap_or_else(|| format!("a rule of {} allows it", section.name)),
        needs: Needs::Nothing,
    }
}

fn denied(section: &Section, mode: Mode, word: &Word<'_>) -> Decision {
    let rule = match word {
        Word::Denied(rule) => Some(*rule),
        _ => None,
    };
    let usual = || match rule {
        Some(_) => format!("a rule of {} denies it", section.name),
        None => format!("no rule of {} allows it", section.name),
    };
    Decision {
        verdict: match mode {
            Mode::Audit => Verdict::Audit,
            Mode::Open | Mode::Enforce => Verdict::Deny,
        },
        rule: rule.map(Rule::shown),
        why: rule.and_then(reason).unwrap_or_else(usual),
        needs: Needs::Nothing,
    }
}

fn reason(rule: &Rule) -> Option<String> {
    rule.reason.clone()
}

/// A decision after an objection of the worker's own.
fn with_objection(decision: Decision, objection: Objection, strictest: Mode) -> Decision {
    let (why, verdict) = match (objection, strictest) {
        (_, Mode::Open) => return decision,
        (Objection::Audit(why), _) | (Objection::Enforce(why), Mode::Enforce) => {
            (why, Verdict::Deny)
        }
        (Objection::Enforce(why), Mode::Audit) => (why, Verdict::Audit),
    };
    if decision.verdict >= verdict {
        return decision;
    }
    Decision {
        verdict,
        rule: None,
        why,
        needs: decision.needs,
    }
}

/// A host that gets a secret gets it only out of the worker's hands.
fn wants_requests(policy: &Policy, request: &Request<'_>) -> bool {
    match request.seen {
        Seen::Tls {
            name: Some(name), ..
        } => policy.binds_a_secret_to(name),
        _ => false,
    }
}
