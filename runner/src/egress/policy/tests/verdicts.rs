//! Verdicts, one by one.

use crate::egress::Transport;

use super::{
    super::{Mode, Needs, Request, Seen, Verdict, decide, may_resolve},
    Ask, hello, plain, policy, within,
};
use Verdict::{Allow, Audit, Deny};

const ONE: &str = "mode = \"enforce\"\n[[allow]]\nhost = \"a.example.com\"\n";

#[test]
fn only_what_is_named_passes_in_enforce_and_the_rest_is_written_down_in_audit() {
    let enforce = policy(ONE);
    let audit = policy(&ONE.replace("enforce", "audit"));
    let open = policy(&ONE.replace("enforce", "open"));
    assert_eq!(Ask::tcp("a.example.com").tls(&enforce), Allow);
    assert_eq!(Ask::tcp("b.example.com").tls(&enforce), Deny);
    assert_eq!(Ask::tcp("b.example.com").tls(&audit), Audit);
    assert_eq!(Ask::tcp("b.example.com").tls(&open), Allow);
    assert_eq!(Ask::tcp("a.example.com").port(8443).tls(&enforce), Deny);
    let denied = Ask::tcp("b.example.com").of(&enforce, Seen::Nothing);
    assert_eq!(
        (denied.verdict, denied.why.as_str()),
        (Deny, "no rule of pool allows it")
    );
    let allowed = Ask::tcp("a.example.com").of(&enforce, hello(Some("a.example.com")));
    let rule = "policy.toml:2: allow a.example.com port 80,443";
    assert_eq!(allowed.rule.as_deref(), Some(rule));
}

#[test]
fn a_name_counts_only_if_dns_gave_the_address_for_it() {
    let enforce = policy(ONE);
    // An address literal with an allowed name in its hello.
    assert_eq!(
        Ask::tcp("")
            .of(&enforce, hello(Some("a.example.com")))
            .verdict,
        Deny
    );
    // An address of another name.
    let other = Ask::tcp("b.example.com").of(&enforce, hello(Some("a.example.com")));
    assert_eq!(other.verdict, Deny);
    assert!(
        other.why.contains("did not give this address"),
        "{}",
        other.why
    );
    // One address of several names: the hello says which is meant.
    let shared = Ask::tcp("b.example.com a.example.com");
    assert_eq!(
        shared.of(&enforce, Seen::Nothing).verdict,
        Allow,
        "not known yet"
    );
    assert_eq!(
        shared.of(&enforce, hello(Some("a.example.com"))).verdict,
        Allow
    );
    assert_eq!(
        shared.of(&enforce, hello(Some("b.example.com"))).verdict,
        Deny
    );
    let audit = policy(&ONE.replace("enforce", "audit"));
    assert_eq!(
        Ask::tcp("")
            .of(&audit, hello(Some("a.example.com")))
            .verdict,
        Audit
    );
}

#[test]
fn hellos_without_a_readable_name_are_refused_in_enforce() {
    let enforce = policy(ONE);
    let audit = policy(&ONE.replace("enforce", "audit"));
    let open = policy(&ONE.replace("enforce", "open"));
    let ask = Ask::tcp("a.example.com");
    let encrypted = Seen::Tls {
        name: Some("a.example.com"),
        encrypted: true,
    };
    for (seen, part) in [(hello(None), "SNI"), (encrypted, "ECH")] {
        let denied = ask.of(&enforce, seen);
        assert_eq!(denied.verdict, Deny);
        assert!(denied.why.contains(part), "{}", denied.why);
        assert_eq!(ask.of(&audit, seen).verdict, Audit);
        assert_eq!(ask.of(&open, seen).verdict, Allow);
    }
    // Who allows an address allows what has no name there; an encrypted name is refused nevertheless.
    let by_address = policy("mode = \"enforce\"\n[[allow]]\ncidr = \"203.0.113.7\"");
    assert_eq!(Ask::tcp("").of(&by_address, hello(None)).verdict, Allow);
    assert_eq!(Ask::tcp("").of(&by_address, encrypted).verdict, Deny);
}

#[test]
fn fronting_is_refused() {
    let both = "mode = \"enforce\"\n[[allow]]\nhost = [\"a.example.com\", \"b.example.com\"]\nintercept = true\n";
    let seen = Seen::Http {
        tls: Some("a.example.com"),
        host: Some("b.example.com"),
        method: "GET",
        target: "/",
    };
    let decision = Ask::tcp("a.example.com b.example.com").of(&policy(both), seen);
    assert_eq!(decision.verdict, Deny);
    assert!(decision.why.contains("fronting"), "{}", decision.why);
    // Without TLS, by Host.
    let ask = Ask::tcp("a.example.com").port(80);
    assert_eq!(
        ask.of(&policy(ONE), plain("a.example.com", "GET", "/"))
            .verdict,
        Allow
    );
    assert_eq!(
        ask.of(&policy(ONE), plain("c.example.com", "GET", "/"))
            .verdict,
        Deny
    );
    let nameless = Seen::Http {
        tls: None,
        host: None,
        method: "GET",
        target: "/",
    };
    assert_eq!(ask.of(&policy(ONE), nameless).verdict, Deny);
}

#[test]
fn the_hosts_side_passes_only_where_the_operator_names_its_address() {
    let metadata = Ask::tcp("").port(80).at("169.254.169.254", true);
    let loopback = Ask::tcp("a.example.com").port(8080).at("127.0.0.1", true);
    for mode in ["open", "audit", "enforce"] {
        let wide = format!(
            "mode = \"{mode}\"\n[[allow]]\nhost = \"*\"\nprotocol = \"tcp\"\n[[allow]]\ncidr = [\"0.0.0.0/0\", \"::/0\"]\nprotocol = \"tcp\""
        );
        for ask in [&metadata, &loopback] {
            let decision = ask.of(&policy(&wide), Seen::Nothing);
            assert_eq!(decision.verdict, Deny, "{mode}");
            assert!(decision.why.contains("host's side"), "{}", decision.why);
        }
        let named = format!("mode = \"{mode}\"\n[[allow]]\ncidr = \"127.0.0.1\"\nport = 8080");
        assert_eq!(
            loopback.of(&policy(&named), Seen::Other).verdict,
            Allow,
            "{mode}"
        );
        let other = loopback.clone().port(8081).of(&policy(&named), Seen::Other);
        assert_eq!(other.verdict, Deny, "{mode}: another port of it");
        // Only the operator: a job's section may not, unless it may widen.
        let job =
            format!("mode = \"{mode}\"\n[[jobs.build.allow]]\ncidr = \"127.0.0.1\"\nport = 8080");
        assert_eq!(
            loopback.of(&policy(&job), Seen::Other).verdict,
            Deny,
            "{mode}"
        );
        let widening = format!("may_widen = \"job\"\n{job}");
        assert_eq!(
            loopback.of(&policy(&widening), Seen::Other).verdict,
            Allow,
            "{mode}"
        );
    }
    // Host and address: rebinding to another address is refused.
    let both = "mode = \"enforce\"\n[[allow]]\nhost = \"db.example.com\"\ncidr = \"10.0.0.0/8\"\nport = 5432\n";
    let db = Ask::tcp("db.example.com").port(5432);
    assert_eq!(
        db.clone()
            .at("10.0.0.9", true)
            .of(&policy(both), Seen::Other)
            .verdict,
        Allow
    );
    assert_eq!(
        db.clone()
            .at("192.168.0.9", true)
            .of(&policy(both), Seen::Other)
            .verdict,
        Deny
    );
    assert_eq!(
        db.at("203.0.113.1", false)
            .of(&policy(both), Seen::Other)
            .verdict,
        Deny
    );
}

#[test]
fn methods_paths_and_repositories_are_seen_within_tls() {
    let text = "mode = \"enforce\"\npreset = \"github\"\n[[allow]]\nhost = \"api.github.com\"\nrepository = \"own\"\nmethod = [\"GET\", \"POST\"]\n[[deny]]\nhost = \"github.com\"\npath = \"/evil/**\"\n";
    let policy = policy(text);
    let api = Ask::tcp("api.github.com");
    let hidden = api.of(&policy, hello(Some("api.github.com")));
    assert_eq!((hidden.verdict, hidden.needs), (Allow, Needs::Requests));
    let ask = |method, target| {
        api.of(&policy, within("api.github.com", method, target))
            .verdict
    };
    assert_eq!(ask("GET", "/repos/octo/app/contents"), Allow);
    assert_eq!(ask("POST", "/repos/Octo/App/issues"), Allow);
    for (method, target) in [
        ("POST", "/user/repos"),
        ("POST", "/orgs/octo/repos"),
        ("GET", "/repos/octo/other/contents"),
        ("GET", "/repos/octo/app/../other/contents"),
        ("GET", "/repos/octo/app%2f..%2fother"),
        ("DELETE", "/repos/octo/app"),
        ("POST", "/graphql"),
        ("GET", "/repositories/1"),
    ] {
        assert_eq!(ask(method, target), Deny, "{method} {target}");
    }
    // A host of the same preset that no rule speaks of; a deny rule on paths looks within, too.
    let other = Ask::tcp("codeload.github.com");
    assert_eq!(
        other.of(&policy, hello(Some("codeload.github.com"))).needs,
        Needs::Nothing
    );
    let git = Ask::tcp("github.com");
    assert_eq!(
        git.of(&policy, hello(Some("github.com"))).needs,
        Needs::Requests
    );
    assert_eq!(
        git.of(&policy, within("github.com", "GET", "/Evil/x"))
            .verdict,
        Deny
    );
    assert_eq!(
        git.of(&policy, within("github.com", "GET", "/octo/x"))
            .verdict,
        Allow
    );
}

#[test]
fn secrets_and_intercept_ask_for_the_requests_within_tls() {
    let bound = "mode = \"enforce\"\npreset = \"registries\"\n[secrets.T]\nhosts = \"registry.npmjs.org\"\n";
    let needs = |text: &str, name: &str| Ask::tcp(name).of(&policy(text), hello(Some(name))).needs;
    assert_eq!(needs(bound, "registry.npmjs.org"), Needs::Requests);
    assert_eq!(needs(bound, "pypi.org"), Needs::Nothing);
    let marked = format!("{ONE}intercept = true");
    assert_eq!(needs(&marked, "a.example.com"), Needs::Requests);
    assert_eq!(
        needs(&format!("{ONE}intercept = false"), "a.example.com"),
        Needs::Nothing
    );
}

#[test]
fn udp_passes_only_where_it_is_named() {
    let enforce = policy(ONE);
    assert_eq!(
        Ask::udp("a.example.com", 443)
            .of(&enforce, Seen::Other)
            .verdict,
        Deny
    );
    for (protocol, port, other) in [("quic", 443, 444), ("ntp", 123, 124), ("udp", 9, 53)] {
        let text = format!("{ONE}protocol = \"{protocol}\"");
        let verdict = |port| {
            Ask::udp("a.example.com", port)
                .of(&policy(&text), Seen::Other)
                .verdict
        };
        assert_eq!(verdict(port), Allow, "{protocol}");
        if other != 53 {
            assert_eq!(verdict(other), Deny, "{protocol}");
        }
        assert_eq!(
            Ask::tcp("a.example.com").tls(&policy(&text)),
            Deny,
            "{protocol}: no TCP"
        );
    }
    let denied = policy("mode = \"open\"\n[[deny]]\nhost = \"a.example.com\"");
    assert_eq!(
        Ask::udp("a.example.com", 443)
            .of(&denied, Seen::Other)
            .verdict,
        Deny
    );
}

#[test]
fn dns_goes_by_the_gateway_only() {
    for (ask, name) in [
        (Ask::tcp("dns.google"), "DoH"),
        (Ask::tcp("").at("1.1.1.1", false), "DoH by address"),
        (Ask::tcp("ns.example.com").port(853), "DoT"),
        (Ask::udp("", 53).at("9.9.9.9", false), "DNS"),
        (Ask::tcp("ns.example.com").port(53), "DNS over TCP"),
    ] {
        let wide = "[[allow]]\nhost = \"*\"\nprotocol = \"tcp\"\n[[allow]]\ncidr = \"0.0.0.0/0\"\n";
        let verdict = |mode: &str| {
            let policy = policy(&format!("mode = \"{mode}\"\n{wide}"));
            ask.of(&policy, Seen::Nothing).verdict
        };
        assert_eq!(verdict("enforce"), Deny, "{name}");
        assert_eq!(verdict("audit"), Deny, "{name}");
        assert_eq!(verdict("open"), Allow, "{name}");
    }
    let named = policy("mode = \"enforce\"\n[[allow]]\nhost = \"dns.google\"");
    assert_eq!(Ask::tcp("dns.google").tls(&named), Allow);
    let named = policy("mode = \"enforce\"\n[[allow]]\ncidr = \"9.9.9.9\"\nprotocol = \"udp\"");
    assert_eq!(
        Ask::udp("", 53)
            .at("9.9.9.9", false)
            .of(&named, Seen::Other)
            .verdict,
        Allow
    );
}

#[test]
fn names_outside_the_policy_are_not_resolved() {
    let text = format!(
        "{ONE}[[allow]]\ncidr = \"10.0.0.0/8\"\n[[allow]]\nhost = \"scan.example.com\"\nstep = \"scan\"\n[[allow]]\nhost = \"t.example.com\"\nprotocol = \"ntp\""
    );
    let enforce = policy(&text);
    let ask = |name: &str, steps: &[Vec<String>]| may_resolve(&enforce, name, steps).verdict;
    assert_eq!(ask("a.example.com", &[]), Allow);
    assert_eq!(ask("t.example.com", &[]), Allow, "for UDP");
    assert_eq!(ask("c2VjcmV0.evil.example", &[]), Deny);
    assert_eq!(ask("scan.example.com", &[]), Deny);
    assert_eq!(ask("scan.example.com", &[vec!["scan".into()]]), Allow);
    let audit = policy(&text.replace("enforce", "audit"));
    assert_eq!(may_resolve(&audit, "evil.example", &[]).verdict, Audit);
    assert_eq!(may_resolve(&audit, "dns.google", &[]).verdict, Deny);
}

#[test]
fn rules_of_a_step_hold_during_that_step_alone() {
    let text = format!(
        "{ONE}step = \"scan\"\n[[deny]]\nhost = \"b.example.com\"\nstep = \"scan\"\n[[allow]]\nhost = \"b.example.com\""
    );
    let policy = policy(&text);
    let a = Ask::tcp("a.example.com");
    assert_eq!(a.tls(&policy), Deny);
    assert_eq!(a.clone().during("scan").tls(&policy), Allow);
    assert_eq!(a.clone().during("build").tls(&policy), Deny);
    assert_eq!(
        a.during("scan").during("background").tls(&policy),
        Deny,
        "beside another"
    );
    let b = Ask::tcp("b.example.com");
    assert_eq!(b.tls(&policy), Allow);
    assert_eq!(b.clone().during("scan").tls(&policy), Deny);
    assert_eq!(b.during("build").during("scan").tls(&policy), Deny);
}

#[test]
fn narrower_sections_narrow() {
    let wide = "mode = \"enforce\"\n[[allow]]\nhost = \"*.example.com\"\n";
    let job = format!("{wide}[[jobs.build.allow]]\nhost = [\"a.example.com\", \"a.other.test\"]\n");
    assert_eq!(Ask::tcp("a.example.com").tls(&policy(&job)), Allow);
    assert_eq!(Ask::tcp("b.example.com").tls(&policy(&job)), Deny);
    assert_eq!(Ask::tcp("a.other.test").tls(&policy(&job)), Deny);
    // Unless the operator says so; what is denied by rule stays denied.
    let widening = format!("may_widen = [\"job\"]\n{job}[[deny]]\nhost = \"**.other.test\"\n");
    let free = widening.replace("**.other.test", "none.test");
    assert_eq!(Ask::tcp("a.other.test").tls(&policy(&free)), Allow);
    assert_eq!(Ask::tcp("a.other.test").tls(&policy(&widening)), Deny);
    // Each level holds by its own mode; a laxer one below changes nothing above.
    let lax = format!("{wide}[jobs.build]\nmode = \"open\"\n");
    assert_eq!(Ask::tcp("x.test").tls(&policy(&lax)), Deny);
    let strict = "mode = \"audit\"\n[[allow]]\nhost = \"*.example.com\"\n[steps.scan]\nmode = \"enforce\"\npreset = \"locked\"\n";
    assert_eq!(Ask::tcp("a.example.com").tls(&policy(strict)), Allow);
    assert_eq!(
        Ask::tcp("a.example.com")
            .during("scan")
            .tls(&policy(strict)),
        Deny
    );
    assert_eq!(policy(strict).mode(&[vec!["scan".into()]]), Mode::Enforce);
    // Under an open pool, who says what may pass means it.
    let open = "mode = \"open\"\n[[jobs.build.allow]]\nhost = \"a.example.com\"\n";
    assert_eq!(Ask::tcp("b.example.com").tls(&policy(open)), Deny);
    // Names of one address: all sections must mean the same one.
    let apart = "mode = \"enforce\"\n[[allow]]\nhost = \"a.example.com\"\n[[jobs.build.allow]]\nhost = \"b.example.com\"\n";
    assert_eq!(
        Ask::tcp("a.example.com b.example.com")
            .of(&policy(apart), Seen::Other)
            .verdict,
        Deny
    );
}

#[test]
fn what_is_opaque_passes_by_one_of_its_names_unless_another_is_denied() {
    let text = format!("{ONE}port = 22\n[[deny]]\nhost = \"bad.example.com\"");
    let ssh = |names: &str| {
        Ask::tcp(names)
            .port(22)
            .of(&policy(&text), Seen::Other)
            .verdict
    };
    assert_eq!(ssh("a.example.com"), Allow);
    assert_eq!(ssh("x.test a.example.com"), Allow);
    assert_eq!(ssh("bad.example.com a.example.com"), Deny);
    assert_eq!(ssh(""), Deny);
    // On ports of the web a stream must say what it is, or the rule that anything may pass.
    let web = Ask::tcp("a.example.com");
    assert_eq!(web.of(&policy(ONE), Seen::Nothing).needs, Needs::Beginning);
    assert_eq!(web.of(&policy(ONE), Seen::Other).verdict, Deny);
    let any = policy(&format!("{ONE}protocol = \"tcp\""));
    assert_eq!(web.of(&any, Seen::Other).verdict, Allow);
}

#[test]
fn workflows_are_meant_by_file_or_path() {
    for (name, is) in [
        ("ci.yml", true),
        (".github/workflows/ci.yml", true),
        ("x/ci.yml", false),
        ("release.yml", false),
    ] {
        let text = format!(
            "mode = \"enforce\"\n[[allow]]\nhost = \"*\"\n[workflows.\"{name}\"]\npreset = \"locked\""
        );
        let verdict = Ask::tcp("a.example.com").tls(&policy(&text));
        assert_eq!(verdict == Deny, is, "{name}");
    }
}

#[test]
fn nothing_known_is_no_reason_to_pass() {
    let request = Request {
        transport: Some(Transport::Tcp),
        address: None,
        port: None,
        host_side: false,
        names: &[],
        seen: Seen::Nothing,
        steps: &[],
    };
    assert_eq!(decide(&policy(ONE), &request).verdict, Deny);
}
