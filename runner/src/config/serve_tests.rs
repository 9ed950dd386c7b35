//! What is read from a configuration of `mayfly serve`, and how wrong ones are told of.

use std::{path::Path, time::Duration};

use super::{CredentialFiles, Mode, ServeConfig, Settings};
use crate::{action::policy::PinPolicy, github::rest::Scope};

fn parse(text: &str) -> Result<ServeConfig, Vec<String>> {
    let parsed = ServeConfig::parse(Path::new("/etc/mayfly/config.toml"), text);
    parsed.map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

const GOOD: &str = r#"
[github]
url = "https://octo.ghe.com"
organization = "octo"
app_id = 12345
private_key_file = "/etc/mayfly/app.pem"

[serve]
drain_timeout = "1h 30m"

[metrics]
listen = "off"

[actions]
mirror = "/srv/git"

[[pools]]
name = "sandbox"
labels = ["sandbox", "linux"]
image = "standard"
cpus = 4
memory = "8G"
capacity = 8
min_idle = 2
runner_group = "builders"
pins = "lock-on-first-use"

[[pools]]
name = "set"
mode = "scale-set"
image = "minimal"
capacity = 3
"#;

#[test]
fn a_whole_configuration_is_read() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.github.place.api, "https://api.octo.ghe.com");
    assert_eq!(config.github.scope, Scope::Organization("octo".into()));
    let CredentialFiles::App {
        id, installation, ..
    } = &config.github.credentials
    else {
        panic!("{:?}", config.github.credentials);
    };
    assert_eq!((id.as_str(), *installation), ("12345", None));
    assert_eq!(config.limits.drain, Duration::from_secs(5400));
    assert_eq!(config.metrics, None);
    let [first, second] = config.pools.as_slice() else {
        panic!("{:?}", config.pools);
    };
    assert_eq!((first.cpus, first.memory_mib), (4, 8192));
    assert_eq!((first.capacity, first.min_idle), (8, 2));
    assert_eq!(first.pins, Some(PinPolicy::LockOnFirstUse));
    assert_eq!((second.mode, second.min_idle), (Mode::ScaleSet, 0));
    assert_eq!(second.labels, ["set"]);
}

#[test]
fn the_example_is_right_and_is_read_by_the_other_commands_too() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config.toml");
    let config = ServeConfig::read(Path::new(path)).unwrap();
    assert_eq!(config.pools.len(), 1);
    Settings::read(Path::new(path)).unwrap();
    // What the example offers in comments must be right as well.
    let text = std::fs::read_to_string(path).unwrap();
    for line in text.lines().filter_map(|line| line.strip_prefix("#: ")) {
        toml::from_str::<toml::Table>(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once_with_line_and_key() {
    let said = parse(
        r#"
[github]
url = "http://github.com"
repository = "octo"
app_id = 12345
colour = "red"

[serve]
drain_timeout = "soon"

[metrics]
listen = "localhost"

[[pools]]
name = "sand box"
labels = ["a,b"]
cpus = 64
memory = "12T"
disk = "1G"
capacity = 2
min_idle = 3
runner_group = "x"
pins = "off"

[[pools]]
image = "minimal"
mode = "scale-set"
labels = ["x"]

[polls]
"#,
    )
    .unwrap_err();
    let parts = [
        "config.toml:3: github.url: `http://github.com` is not https",
        "config.toml:4: github.repository: `octo` is no repository; write OWNER/NAME",
        "github.private_key_file: is missing",
        "config.toml:6: github.colour: is unknown; known here: app_id",
        "config.toml:9: serve.drain_timeout: `soon` is no time",
        "config.toml:12: metrics.listen: `localhost` is no address with a port",
        "config.toml:15: pools[0].name: `sand box` is no name",
        "config.toml:16: pools[0].labels: has `a,b`",
        "config.toml:17: pools[0].cpus: is no whole number from 1 to 32",
        "config.toml:18: pools[0].memory: `t` is not a unit",
        "config.toml:19: pools[0].disk: cannot be set for a pool",
        "config.toml:21: pools[0].min_idle: is more than the capacity",
        "config.toml:23: pools[0].pins: `off` is no policy",
        "pools[0].image: is missing",
        "pools[1].name: is missing",
        "pools[1].capacity: is missing",
        "config.toml:28: pools[1].labels: is not for a scale set",
        "config.toml:30: polls: is unknown; known here: actions",
    ];
    for part in parts {
        assert!(
            said.iter().any(|said| said.contains(part)),
            "{part}\n{said:#?}"
        );
    }
    assert_eq!(said.len(), parts.len(), "{said:#?}");
}

#[test]
fn what_excludes_each_other_is_refused() {
    let two = GOOD.replace("organization =", "repository = \"o/r\"\norganization =");
    assert!(parse(&two).unwrap_err()[0].contains("keep one of repository"));
    let two = GOOD.replace("app_id =", "token_file = \"/t\"\napp_id =");
    assert!(parse(&two).unwrap_err()[0].contains("keep one of the two"));
    let none = GOOD.replace("min_idle = 2", "min_idle = 0");
    assert!(parse(&none).unwrap_err()[0].contains("at least 1"));
    let twice = GOOD.replace("name = \"set\"", "name = \"Sandbox\"");
    assert!(parse(&twice).unwrap_err()[0].contains("each has its own"));
    let grouped = GOOD.replace("organization = \"octo\"", "repository = \"o/r\"");
    assert!(parse(&grouped).unwrap_err()[0].contains("take the key out"));
    assert!(parse("[github").unwrap_err()[0].contains("config.toml:1: is no TOML"));
    assert!(parse("").unwrap_err().len() >= 3);
}
