//! The file: what it may say, and how it is told what is wrong.

use super::{
    super::{Document, Inject, Level, Mode},
    document, policy,
};

#[test]
fn a_file_of_every_key_is_read() {
    let read = document(
        r#"
mode = "enforce"
preset = ["github", "registries"]
may_widen = "step"

[[allow]]
host = ["a.example.com", "*.b.example.com"]
cidr = "10.1.0.0/16"
port = [443, "8000-8010"]
protocol = "https"
method = "GET"
path = "/v1/**"
step = "scan"
intercept = true
reason = "the scanner's data"

[[deny]]
host = "c.example.com"

[secrets.NPM_TOKEN]
hosts = "registry.example.com"
inject = "header:Authorization: Bearer {}"

[secrets.GITHUB_TOKEN]
hosts = ["github.com", "api.github.com"]

[workflows."ci.yml"]
mode = "enforce"
[workflows."ci.yml".jobs.build]
allow = []
[[workflows."ci.yml".steps.test.deny]]
host = "*"

[jobs.deploy]
preset = "locked"

[[steps.scan.allow]]
host = "db.example.com"
"#,
    );
    assert_eq!(read.pool.mode, Some(Mode::Enforce));
    assert_eq!(read.may_widen, [Level::Step]);
    assert_eq!(
        read.secrets["NPM_TOKEN"].inject,
        [Inject::Header {
            name: "authorization".into(),
            template: "Bearer {}".into()
        }]
    );
    assert!(read.secrets["GITHUB_TOKEN"].is_bound_to("api.github.com"));
    assert!(!read.secrets["GITHUB_TOKEN"].is_bound_to("gist.github.com"));
    let rule = &read.pool.allow[0];
    let shown = "policy.toml:6: allow a.example.com,*.b.example.com 10.1.0.0/16 tls port 443,8000-8010 GET /v1/** in step scan";
    assert_eq!(rule.shown(), shown);
    // Sections for other jobs do not concern this one.
    assert_eq!(
        policy("[jobs.deploy]\npreset = \"locked\"").mode(&[]),
        Mode::Audit
    );
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (text, parts) in [
        ("mode = \"off\"", ["line 1", "`open`"]),
        (
            "\n[[allow]]\nhost = \"https://x\"",
            ["line 3", "without scheme"],
        ),
        (
            "[[allow]]\nhosts = \"x\"",
            ["line 2", "unknown field `hosts`"],
        ),
        (
            "[[allow]]\nhost = \"x\"\nport = 0",
            ["line 3", "`0` is no port"],
        ),
        (
            "[[allow]]\nhost = [\"x\", \"10.0.0.1\"]",
            ["line 2", "cidr = \"10.0.0.1\""],
        ),
        (
            "[[allow]]\nhost = \"x\"\nmethod = \"get\"",
            ["line 3", "upper case"],
        ),
        (
            "[[allow]]\nhost = \"x\"\npath = \"v1\"",
            ["line 3", "slash"],
        ),
        ("\n\n[[allow]]\nport = 1", ["line 3", "names hosts"]),
        (
            "[[allow]]\nhost = \"x\"\npath = \"/\"\nintercept = false",
            ["line 1", "cannot be seen"],
        ),
        (
            "[[allow]]\nhost = \"x\"\npath = \"/\"\nprotocol = \"udp\"",
            ["line 1", "of HTTP"],
        ),
        (
            "[[deny]]\nhost = \"x\"\nintercept = true",
            ["line 1", "leave `intercept` out"],
        ),
        (
            "[[allow]]\nhost = \"x\"\nrepository = \"own\"",
            ["line 1", "api.github.com"],
        ),
        (
            "[[allow]]\nhost = \"github.com\"\nrepository = \"app\"",
            ["line 3", "owner/name"],
        ),
        (
            "[jobs.x]\nsecrets = {}",
            ["line 2", "unknown field `secrets`"],
        ),
        ("preset = \"all\"", ["line 1", "`registries`"]),
        (
            "[secrets.X]\ninject = \"header:Host: {}\"\nhosts = \"a.b\"",
            ["line 2", "no secret goes there"],
        ),
        (
            "[secrets.X]\ninject = \"query:{}\"\nhosts = \"a.b\"",
            ["line 2", "does not say where"],
        ),
        ("[secrets.X]\n", ["line 1", "hosts"]),
    ] {
        let said = Document::parse(text, "policy.toml").unwrap_err();
        let said = format!("{said}");
        assert!(said.contains("policy.toml"), "{said}");
        for part in parts {
            assert!(said.contains(part), "{text}: {said}");
        }
    }
}

#[test]
fn a_file_that_is_not_there_or_too_large_is_refused() {
    let said = Document::read("/nowhere/p.toml".as_ref())
        .unwrap_err()
        .to_string();
    assert!(said.contains("/nowhere/p.toml"), "{said}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "#".repeat((1 << 20) + 1)).unwrap();
    let said = Document::read(file.path()).unwrap_err().to_string();
    assert!(said.contains("larger than 1024 KiB"), "{said}");
}
