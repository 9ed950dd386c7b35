//! Whatever a narrower section says, it never lets pass what a wider one does not.

use proptest::prelude::*;

use crate::egress::Transport;

use super::{
    super::{Policy, Request, Seen, Verdict, decide},
    policy,
};

const NAMES: [&str; 5] = [
    "a.example.com",
    "b.example.com",
    "github.com",
    "dns.google",
    "x.test",
];
const ADDRESSES: [&str; 4] = ["203.0.113.7", "10.0.0.1", "127.0.0.1", "2001:db8::1"];

fn rule() -> impl Strategy<Value = String> {
    let host = prop::sample::select(vec![
        "host = \"a.example.com\"",
        "host = \"*.example.com\"",
        "host = \"*\"",
        "host = \"github.com\"",
        "cidr = \"10.0.0.0/8\"",
        "cidr = \"0.0.0.0/0\"",
        "cidr = \"127.0.0.1\"",
    ]);
    let more = prop::sample::select(vec![
        "",
        "port = 443",
        "port = \"1-9000\"",
        "protocol = \"tls\"",
        "protocol = \"udp\"",
        "step = \"scan\"",
        "path = \"/v1/**\"",
        "method = \"GET\"",
        "protocol = \"tcp\"",
    ]);
    (host, more).prop_map(|(host, more)| format!("{host}\n{more}\n"))
}

/// A section under `prefix`, such as `jobs.build.`.
fn section(prefix: &'static str) -> impl Strategy<Value = String> {
    let mode = prop::sample::select(vec![
        "",
        "mode = \"open\"",
        "mode = \"audit\"",
        "mode = \"enforce\"",
    ]);
    let preset = prop::sample::select(vec!["", "preset = \"locked\"", "preset = \"github\""]);
    let allow = prop::collection::vec(rule(), 0..3);
    let deny = prop::collection::vec(rule(), 0..2);
    (mode, preset, allow, deny).prop_map(move |(mode, preset, allow, deny)| {
        let header = if prefix.is_empty() {
            String::new()
        } else {
            format!("[{}]\n", prefix.trim_end_matches('.'))
        };
        let rules = |word: &str, rules: Vec<String>| {
            let rules = rules
                .iter()
                .map(|rule| format!("[[{prefix}{word}]]\n{rule}"));
            rules.collect::<String>()
        };
        format!(
            "{header}{mode}\n{preset}\n{}{}",
            rules("allow", allow),
            rules("deny", deny)
        )
    })
}

#[derive(Clone, Debug)]
struct Asked {
    udp: bool,
    address: &'static str,
    port: u16,
    names: Vec<String>,
    seen: usize,
    said: usize,
    steps: Vec<Vec<String>>,
}

fn asked() -> impl Strategy<Value = Asked> {
    (
        any::<bool>(),
        prop::sample::select(ADDRESSES.to_vec()),
        prop::sample::select(vec![22_u16, 53, 80, 443, 8080]),
        prop::collection::vec(prop::sample::select(NAMES.to_vec()), 0..3),
        0..6_usize,
        0..NAMES.len(),
        prop::sample::subsequence(vec!["scan", "build"], 0..=2),
    )
        .prop_map(|(udp, address, port, names, seen, said, steps)| Asked {
            udp,
            address,
            port,
            names: names.into_iter().map(str::to_owned).collect(),
            seen,
            said,
            steps: steps
                .into_iter()
                .map(|step| vec![step.to_owned()])
                .collect(),
        })
}

fn verdict(policy: &Policy, asked: &Asked) -> Verdict {
    let said = NAMES[asked.said];
    let tls = |name, encrypted| Seen::Tls { name, encrypted };
    let http = |tls| Seen::Http {
        tls,
        host: Some(said),
        method: "GET",
        target: "/v1/x",
    };
    let request = Request {
        transport: Some(if asked.udp {
            Transport::Udp
        } else {
            Transport::Tcp
        }),
        address: Some(asked.address.parse().unwrap()),
        port: Some(asked.port),
        host_side: matches!(asked.address, "10.0.0.1" | "127.0.0.1"),
        names: &asked.names,
        seen: match asked.seen {
            0 => Seen::Nothing,
            1 => Seen::Other,
            2 => tls(Some(said), false),
            3 => tls(None, true),
            4 => http(Some(said)),
            _ => http(None),
        },
        steps: &asked.steps,
    };
    decide(policy, &request).verdict
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_narrower_section_never_widens(pool in section(""), narrower in section("jobs.build."), asked in asked()) {
        let wide = policy(&pool);
        let narrow = policy(&format!("{pool}{narrower}"));
        prop_assert!(verdict(&narrow, &asked) >= verdict(&wide, &asked), "{pool}\n---\n{narrower}\n{asked:?}");
    }

    #[test]
    fn a_section_of_a_step_never_widens(pool in section(""), narrower in section("steps.scan."), asked in asked()) {
        let wide = policy(&pool);
        let narrow = policy(&format!("{pool}{narrower}"));
        prop_assert!(verdict(&narrow, &asked) >= verdict(&wide, &asked), "{pool}\n---\n{narrower}\n{asked:?}");
    }

    #[test]
    fn widening_lifts_no_deny_rule_and_no_guard(pool in section(""), narrower in section("jobs.build."), asked in asked()) {
        let text = format!("may_widen = \"job\"\n{pool}{narrower}");
        let widened = verdict(&policy(&text), &asked);
        let denies = pool.split("[[").filter(|part| part.starts_with("deny")).map(|part| format!("[[{part}"));
        let denies: String = denies.collect();
        let only = policy(&format!("mode = \"open\"\n{denies}"));
        let enforced = pool.contains("mode = \"enforce\"");
        let unguarded = !matches!(asked.address, "10.0.0.1" | "127.0.0.1");
        if enforced && unguarded && verdict(&only, &asked) == Verdict::Deny {
            prop_assert_eq!(widened, Verdict::Deny, "{}\n{:?}", text, asked);
        }
    }

    #[test]
    fn one_rule_more_that_denies_never_lets_more_pass(pool in section(""), more in rule(), asked in asked()) {
        let before = policy(&pool);
        let after = policy(&format!("{pool}[[deny]]\n{more}"));
        prop_assert!(verdict(&after, &asked) >= verdict(&before, &asked));
    }
}
