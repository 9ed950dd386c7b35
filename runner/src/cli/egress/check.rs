//! `mayfly egress check`: what the policy says to one connection or request.

use std::net::IpAddr;

use clap::Args;
use serde::Serialize;

use super::args::{EgressArgs, named};
use crate::{
    cli::{CommandResult, Exit, Failure},
    egress::{
        guard,
        policy::{
            self, Decision, JobPlace, Needs, Policy, Protocol, Request, Seen, Verdict, decide,
            may_resolve,
        },
    },
};

/// Says whether a host may be reached, and by which rule.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mayfly egress check registry.npmjs.org\n  \
                        mayfly egress check api.github.com --method POST --path /user/repos --policy policy.toml\n  \
                        mayfly egress check db.example.com --port 5432 --step scan --job build\n\n\
                        Exit codes: 0 it passes (in audit perhaps only because nothing is denied), 1 it is denied,\n\
                        2 the policy or the command line is wrong.")]
pub struct CheckArgs {
    /// A name or an address.
    host: String,
    /// The port; without it that of the protocol.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// What is spoken; without it TLS, or HTTP on port 80.
    #[arg(long, value_name = "NAME", value_parser = protocol)]
    protocol: Option<Protocol>,
    /// The method of a request.
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// The path of a request.
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// An address that the name has, for rules with `cidr`.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// The step that runs, by id or name.
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// The job, by its key.
    #[arg(long, value_name = "ID", default_value = "")]
    job: String,
    /// The workflow, by its file.
    #[arg(long, value_name = "FILE", default_value = "")]
    workflow: String,
    /// The job's own repository.
    #[arg(long, value_name = "OWNER/NAME")]
    repository: Option<String>,
    /// The policy; without it the one that `mayfly run` would use.
    #[arg(long, value_name = "MODE|FILE")]
    policy: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn protocol(text: &str) -> Result<Protocol, String> {
    let known = [
        Protocol::Tls,
        Protocol::Http,
        Protocol::Tcp,
        Protocol::Udp,
        Protocol::Quic,
        Protocol::Ntp,
    ];
    let found = known.into_iter().find(|known| known.word() == text);
    found.ok_or_else(|| "write tls, http, tcp, udp, quic or ntp".into())
}

/// The answer, for programs.
#[derive(Debug, Serialize)]
struct Answered {
    verdict: Verdict,
    rule: Option<String>,
    why: String,
    /// Whether the requests within TLS are judged one by one.
    looks_within: bool,
}

pub fn check(args: &CheckArgs) -> CommandResult {
    let document = match &args.policy {
        Some(said) => named(said)?,
        None => EgressArgs::default().document()?,
    };
    let policy = document.policy(&JobPlace {
        workflow: args.workflow.clone(),
        job: args.job.clone(),
        repository: args.repository.clone(),
    });
    let (decision, looks_within) = answer(args, &policy)?;
    let answered = Answered {
        verdict: decision.verdict,
        rule: decision.rule,
        why: decision.why,
        looks_within,
    };
    if args.json {
        println!("{}", serde_json::to_string(&answered)?);
    } else {
        println!("{}", text(&answered, args));
    }
    Ok(if answered.verdict.passes() {
        Exit::Success
    } else {
        Exit::Failed
    })
}

/// The verdict, and whether requests are looked at.
fn answer(args: &CheckArgs, policy: &Policy) -> Result<(Decision, bool), Failure> {
    let literal: Option<IpAddr> = args.host.trim_matches(['[', ']']).parse().ok();
    let names = match literal {
        Some(_) => Vec::new(),
        None => vec![policy::normalise(&args.host).ok_or_else(|| {
            let host = &args.host;
            Failure::usage(anyhow::anyhow!(
                "`{host}` is no host: write a name or an address, without scheme and path"
            ))
        })?],
    };
    let name = names.first().map(String::as_str);
    let steps: Vec<Vec<String>> = args.step.iter().map(|step| vec![step.clone()]).collect();
    if let Some(name) = name {
        let decision = may_resolve(policy, name, &steps);
        if !decision.verdict.passes() {
            return Ok((decision, false));
        }
    }
    let protocol = args.protocol.unwrap_or(match args.port {
        Some(80) => Protocol::Http,
        _ => Protocol::Tls,
    });
    let port = args.port.or(usual_port(protocol)).ok_or_else(|| {
        Failure::usage(anyhow::anyhow!(
            "--protocol {} needs --port",
            protocol.word()
        ))
    })?;
    let address = literal.or(args.address);
    let mut request = Request {
        transport: Some(protocol.transport()),
        address,
        port: Some(port),
        host_side: address.is_some_and(guard::is_host_side),
        names: &names,
        seen: Seen::Nothing,
        steps: &steps,
    };
    let method = args.method.as_deref().unwrap_or("GET");
    let target = args.path.as_deref().unwrap_or("/");
    let http = |tls| Seen::Http {
        tls,
        host: name,
        method,
        target,
    };
    request.seen = match protocol {
        Protocol::Tls => Seen::Tls {
            name,
            encrypted: false,
        },
        Protocol::Http => http(None),
        Protocol::Tcp | Protocol::Udp | Protocol::Quic | Protocol::Ntp => Seen::Other,
    };
    let decision = decide(policy, &request);
    let within = decision.needs == Needs::Requests;
    if within && (args.method.is_some() || args.path.is_some()) {
        request.seen = http(name);
        return Ok((decide(policy, &request), true));
    }
    Ok((decision, within))
}

fn usual_port(protocol: Protocol) -> Option<u16> {
    match protocol {
        Protocol::Tls | Protocol::Quic => Some(443),
        Protocol::Http => Some(80),
        Protocol::Ntp => Some(123),
        Protocol::Tcp | Protocol::Udp => None,
    }
}

fn text(answered: &Answered, args: &CheckArgs) -> String {
    let mut said = match answered.verdict {
        Verdict::Allow => "allow".to_owned(),
        Verdict::Audit => "allow, because the policy only audits; enforce would deny it".into(),
        Verdict::Deny => "deny".into(),
    };
    said = format!("{said}: {}", answered.why);
    if let Some(rule) = &answered.rule {
        said = format!("{said}\n  {rule}");
    }
    let asked = args.method.is_some() || args.path.is_some();
    if answered.verdict.passes() && asked != answered.looks_within {
        said += match asked {
            true => "\n  method and path are not looked at: no rule for this host asks for them",
            false => "\n  its requests are judged one by one: say --method and --path",
        };
    }
    said
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CheckArgs,
    }

    const POLICY: &str = "mode = \"enforce\"\n[[allow]]\nhost = \"a.example.com\"\n[[allow]]\nhost = \"api.github.com\"\nrepository = \"own\"\n[[allow]]\nhost = \"s.example.com\"\nstep = \"scan\"\n[[allow]]\ncidr = \"10.0.0.1\"\nport = 5432\n";

    fn ask(line: &str) -> (Verdict, String) {
        let args = Line::parse_from(["check"].into_iter().chain(line.split_whitespace())).args;
        let document = policy::Document::parse(POLICY, "p.toml").unwrap();
        let policy = document.policy(&JobPlace {
            repository: args.repository.clone(),
            ..JobPlace::default()
        });
        let (decision, looks_within) = answer(&args, &policy)
            .map_err(|failure| failure.cause)
            .unwrap();
        let answered = Answered {
            verdict: decision.verdict,
            rule: decision.rule,
            why: decision.why,
            looks_within,
        };
        (answered.verdict, text(&answered, &args))
    }

    #[test]
    fn the_answer_has_the_rule_and_says_what_it_does_not_look_at() {
        let (verdict, said) = ask("a.example.com");
        assert_eq!(verdict, Verdict::Allow);
        assert_eq!(
            said,
            "allow: a rule of pool allows it\n  p.toml:2: allow a.example.com port 80,443"
        );
        let (_, said) = ask("a.example.com --method GET");
        assert!(
            said.ends_with("no rule for this host asks for them"),
            "{said}"
        );
        assert_eq!(
            ask("b.example.com"),
            (Verdict::Deny, "deny: no rule of pool allows it".into())
        );
        let (verdict, said) = ask("api.github.com --repository octo/app");
        assert_eq!(verdict, Verdict::Allow);
        assert!(said.ends_with("say --method and --path"), "{said}");
    }

    #[test]
    fn requests_steps_ports_and_addresses_are_looked_at() {
        for (line, verdict) in [
            (
                "api.github.com --repository octo/app --path /repos/octo/app/pulls",
                Verdict::Allow,
            ),
            (
                "api.github.com --repository octo/app --method POST --path /user/repos",
                Verdict::Deny,
            ),
            ("s.example.com", Verdict::Deny),
            ("s.example.com --step scan", Verdict::Allow),
            ("a.example.com --port 80", Verdict::Allow),
            ("a.example.com --port 8443", Verdict::Deny),
            ("a.example.com --protocol quic", Verdict::Deny),
            ("10.0.0.1 --port 5432 --protocol tcp", Verdict::Allow),
            ("10.0.0.2 --port 5432 --protocol tcp", Verdict::Deny),
            ("127.0.0.1", Verdict::Deny),
        ] {
            assert_eq!(ask(line).0, verdict, "{line}");
        }
    }
}
