//! From lines of records to rules: each host by its whole name, no wildcard.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use crate::{
    egress::{
        Transport,
        policy::{Document, Effect, HostPattern, PathPattern, Preset, Rule, Verdict, normalise},
        record::Line,
    },
    printable,
};

/// Paths of one host that are written out; with more, the paths are left open.
const MOST_PATHS: usize = 12;

/// What jobs reached, as rules.
#[derive(Debug, Default)]
pub struct Suggestion {
    rules: BTreeMap<Reached, Seen>,
    /// Hosts of GitHub's whose names differ from run to run.
    varying: BTreeSet<String>,
    by_step: bool,
    left_out: BTreeSet<String>,
}

/// One host as it was reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Reached {
    name: String,
    /// `None`: TLS and HTTP on their usual ports.
    other: Option<(String, u16)>,
}

#[derive(Debug, Default)]
struct Seen {
    connections: u64,
    steps: BTreeSet<String>,
    /// Whether a connection was outside of all steps.
    outside_steps: bool,
    methods: BTreeSet<String>,
    paths: BTreeSet<String>,
}

impl Suggestion {
    /// What lines say.
    pub fn of(lines: &[Line], by_step: bool) -> Self {
        let mut suggestion = Self {
            by_step,
            ..Self::default()
        };
        for line in lines {
            suggestion.add(line);
        }
        suggestion
    }

    fn add(&mut self, line: &Line) {
        let host = printable::line(&line.host());
        if line.verdict == Verdict::Deny {
            let why = printable::line(&line.why);
            self.left_out
                .insert(format!("{host}:{} was denied ({why})", line.port));
            return;
        }
        let name = line.name.as_deref().and_then(normalise);
        let Some(name) = name else {
            self.left_out.insert(format!(
                "{host}:{} was reached by its address; if that is meant, write a rule with `cidr`",
                line.port
            ));
            return;
        };
        if varies(&name) {
            self.varying.insert(name);
            return;
        }
        let usual = matches!(
            (line.protocol.as_str(), line.port),
            ("tls", 443) | ("http", 80)
        );
        let other = (!usual).then(|| (protocol(line).to_owned(), line.port));
        let seen = self.rules.entry(Reached { name, other }).or_default();
        if line.within.is_none() {
            seen.connections += 1;
        } else if let (Some(method), Some(path)) = (&line.method, &line.path) {
            seen.methods.insert(method.clone());
            seen.paths.insert(path.clone());
        }
        seen.outside_steps |= line.steps.is_empty();
        seen.steps.extend(line.steps.iter().cloned());
    }

    /// The policy.
    pub fn toml(&self, records: usize) -> String {
        let mut out = format!(
            "# Suggested by `mayfly egress suggest` from {records} record(s): what the jobs reached, and nothing else.\n\
             # Review each host before you enforce it: a job that was attacked reached what the attacker wanted.\n\
             mode = \"enforce\"\n"
        );
        if !self.varying.is_empty() {
            let names: Vec<&str> = self.varying.iter().map(String::as_str).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "# These of GitHub's hosts have other names in the next run: {}.\npreset = \"github\"",
                names.join(", ")
            );
        }
        for (reached, seen) in &self.rules {
            out.push_str(&self.rule(reached, seen));
        }
        out
    }

    fn rule(&self, reached: &Reached, seen: &Seen) -> String {
        let steps: Vec<&str> = seen.steps.iter().map(String::as_str).collect();
        let during = match (steps.as_slice(), seen.outside_steps) {
            ([], _) => String::new(),
            (steps, _) => format!(", in {}", steps.join(", ")),
        };
        let comment = printable::line(&format!("{} connection(s){during}", seen.connections));
        let mut out = format!(
            "\n# {comment}\n[[allow]]\nhost = {}\n",
            quoted(&reached.name)
        );
        if let Some((protocol, port)) = &reached.other {
            let _ = write!(out, "port = {port}\nprotocol = \"{protocol}\"\n");
        }
        if !seen.methods.is_empty() {
            let _ = writeln!(out, "method = {}", list(&seen.methods));
            let fits = |path: &&String| path.parse::<PathPattern>().is_ok() && !path.contains('*');
            if seen.paths.len() <= MOST_PATHS && seen.paths.iter().all(|path| fits(&path)) {
                let _ = writeln!(out, "path = {}", list(&seen.paths));
            } else {
                let count = seen.paths.len();
                let _ = writeln!(
                    out,
                    "# {count} paths: too many or too odd to be written out; add `path` by hand"
                );
            }
        }
        if self.by_step && !seen.outside_steps && !seen.steps.is_empty() {
            let _ = writeln!(out, "step = {}", list(&seen.steps));
        }
        out
    }

    /// What the policy changes against the present one, and what it leaves out.
    pub fn diff(&self, present: &Document) -> Vec<String> {
        let suggested =
            Document::parse(&self.toml(1), "suggested").map(|document| document.pool.allow);
        let suggested = suggested.unwrap_or_default();
        let own = |rules: &[Rule]| -> Vec<String> {
            let own = rules.iter().filter(|rule| !rule.of_preset);
            own.map(bare).collect()
        };
        let (before, after) = (own(&present.pool.allow), own(&suggested));
        let mut lines = vec![format!("against the present policy ({}):", present.origin)];
        let presets = |document: &[Preset]| {
            document
                .iter()
                .map(|preset| preset.word())
                .collect::<Vec<_>>()
        };
        let new_presets: &[Preset] = if self.varying.is_empty() {
            &[]
        } else {
            &[Preset::Github]
        };
        for preset in present
            .pool
            .presets
            .iter()
            .filter(|preset| !new_presets.contains(preset))
        {
            lines.push(format!("- preset {}", preset.word()));
        }
        for word in presets(new_presets) {
            if !presets(&present.pool.presets).contains(&word) {
                lines.push(format!("+ preset {word}"));
            }
        }
        lines.extend(
            before
                .iter()
                .filter(|rule| !after.contains(rule))
                .map(|rule| format!("- {rule}")),
        );
        lines.extend(
            after
                .iter()
                .filter(|rule| !before.contains(rule))
                .map(|rule| format!("+ {rule}")),
        );
        if lines.len() == 1 {
            lines.push("  nothing changes".into());
        }
        if !self.left_out.is_empty() {
            lines.push("left out:".into());
            lines.extend(self.left_out.iter().map(|said| format!("  {said}")));
        }
        lines
    }
}

/// A rule without its place in a file.
fn bare(rule: &Rule) -> String {
    debug_assert_eq!(rule.effect, Effect::Allow);
    let shown = rule.shown();
    shown
        .strip_prefix(&format!("{}: ", rule.origin))
        .unwrap_or(&shown)
        .to_owned()
}

/// Whether a name is one of GitHub's that differ from run to run.
fn varies(name: &str) -> bool {
    let actions = "*.actions.githubusercontent.com".parse::<HostPattern>();
    let account = name.strip_suffix(".blob.core.windows.net");
    let account = account.is_some_and(|account| {
        let own = Preset::Github.own_hosts();
        account.starts_with("productionresultssa") && own.iter().any(|host| host == name)
    });
    account || actions.is_ok_and(|actions| actions.matches(name))
}

/// The protocol of a rule.
fn protocol(line: &Line) -> &str {
    match (line.protocol.as_str(), line.transport) {
        (known @ ("tls" | "http" | "tcp" | "quic" | "ntp" | "udp"), _) => known,
        (_, Transport::Tcp) => "tcp",
        (_, Transport::Udp) => "udp",
    }
}

/// A text as TOML has it.
fn quoted(text: &str) -> String {
    toml::Value::String(printable::line(text)).to_string()
}

fn list(texts: &BTreeSet<String>) -> String {
    match texts
        .iter()
        .map(|text| quoted(text))
        .collect::<Vec<_>>()
        .as_slice()
    {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use crate::egress::policy::Mode;

    use super::*;

    fn line(text: &str) -> Line {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [verdict, name, port, protocol, step] = words[..] else {
            panic!("{text}");
        };
        serde_json::from_value(serde_json::json!({
            "time": "t", "connection": 1, "steps": if step == "-" { vec![] } else { vec![step] },
            "transport": if protocol == "ntp" { "udp" } else { "tcp" },
            "name": if name == "-" { None } else { Some(name) }, "address": "203.0.113.7",
            "port": port.parse::<u16>().unwrap(), "protocol": protocol, "sent": 1, "received": 2,
            "seconds": 0.1, "verdict": verdict, "why": "no rule of pool allows it",
        }))
        .unwrap()
    }

    fn request(name: &str, method: &str, path: &str) -> Line {
        Line {
            within: Some(1),
            method: Some(method.into()),
            path: Some(path.into()),
            ..line(&format!("allow {name} 443 tls Deploy"))
        }
    }

    #[test]
    fn hosts_become_rules_by_their_whole_names_and_the_rest_is_said() {
        let lines = [
            line("audit a.example.com 443 tls Install"),
            line("audit a.example.com 443 tls Install"),
            line("audit a.example.com 80 http -"),
            line("audit git.example.com 22 tcp Clone"),
            line("allow time.example.com 123 ntp -"),
            line("allow productionresultssa3.blob.core.windows.net 443 tls Upload"),
            line("deny evil.example 443 tls Install"),
            line("audit - 443 tls Install"),
            line("allow api.example.com 443 tls Deploy"),
            request("api.example.com", "POST", "/v1/deploy"),
            request("api.example.com", "GET", "/v1/status"),
        ];
        let suggestion = Suggestion::of(&lines, true);
        let text = suggestion.toml(2);
        let read =
            Document::parse(&text, "s.toml").unwrap_or_else(|error| panic!("{error}\n{text}"));
        let own = read.pool.allow.iter().filter(|rule| !rule.of_preset);
        let own: Vec<String> = own.map(bare).collect();
        assert_eq!(
            own,
            [
                "allow a.example.com port 80,443",
                "allow api.example.com port 80,443 GET,POST /v1/deploy,/v1/status in step Deploy",
                "allow git.example.com tcp port 22 in step Clone",
                "allow time.example.com ntp port 123",
            ]
        );
        assert_eq!(read.pool.presets, [Preset::Github]);
        assert!(text.contains("# 3 connection(s), in Install\n"), "{text}");
        let diff = suggestion.diff(&Document::of(Mode::Audit, &[Preset::Registries]));
        assert_eq!(diff[0], "against the present policy (mode audit):");
        assert!(
            diff.contains(&"- preset registries".to_owned())
                && diff.contains(&"+ preset github".to_owned())
        );
        assert!(
            diff.contains(&"+ allow a.example.com port 80,443".to_owned()),
            "{diff:?}"
        );
        let left: Vec<&String> = diff
            .iter()
            .skip_while(|line| *line != "left out:")
            .skip(1)
            .collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left[0].contains("203.0.113.7:443 was reached by its address"));
        assert!(left[1].contains("evil.example:443 was denied"));
        assert_eq!(suggestion.diff(&read)[1], left_or_nothing());
    }

    fn left_or_nothing() -> &'static str {
        "  nothing changes"
    }

    #[test]
    fn hostile_words_stay_within_their_strings() {
        let mut evil = line("audit a.example.com 443 tls x");
        evil.steps = vec!["a\"\n[[allow]]\nhost = \"*".into()];
        let mut path = request("a.example.com", "GET", "/x\"\n[[allow]]");
        path.steps = evil.steps.clone();
        let suggestion = Suggestion::of(&[evil, path], true);
        let text = suggestion.toml(1);
        let read =
            Document::parse(&text, "s.toml").unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(read.pool.allow.len(), 1, "{text}");
        assert!(
            read.pool
                .allow
                .iter()
                .all(|rule| rule.hosts.iter().all(|host| !host.is_any()))
        );
    }
}
