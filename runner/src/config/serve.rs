//! What `mayfly serve` is told by the configuration file: `[github]`, `[serve]`, `[metrics]`, `[[pools]]`.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use toml::de::DeTable;

use super::{
    reader::{Problem, Reader, Section},
    size::parse_mib,
};
use crate::{
    action::policy::PinPolicy,
    github::rest::{Place, Scope},
};

/// How long running jobs may go on after the supervisor was told to end.
const DRAIN: Duration = Duration::from_secs(30 * 60);
/// How long a worker may take to open its session.
const CONNECT: Duration = Duration::from_secs(180);
/// Where metrics are served: on this machine only.
const METRICS: &str = "127.0.0.1:9625";
/// The runner group that every scope has.
pub const DEFAULT_GROUP: &str = "Default";

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeConfig {
    /// The file it was read from.
    pub file: PathBuf,
    /// Which GitHub, and who we are there.
    pub github: GitHubConfig,
    /// Waits.
    pub limits: Limits,
    /// Where metrics are served, if they are.
    pub metrics: Option<SocketAddr>,
    /// The pools.
    pub pools: Vec<Pool>,
}

/// `[github]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitHubConfig {
    /// Which GitHub.
    pub place: Place,
    /// Which part of it.
    pub scope: Scope,
    /// Who we are.
    pub credentials: CredentialFiles,
    /// The version of actions/runner whose protocol level is reported; the newest one without it.
    pub runner_version: Option<String>,
}

/// Where credentials lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialFiles {
    /// A GitHub App.
    App {
        /// Its id, or its client id.
        id: String,
        /// Its installation; looked up without it.
        installation: Option<u64>,
        /// The file with its private key.
        key: PathBuf,
    },
    /// The file with a personal access token.
    Token(PathBuf),
}

/// `[serve]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long running jobs may go on after the supervisor was told to end; then they are cancelled.
    pub drain: Duration,
    /// How long a worker may take to open its session.
    pub connect: Duration,
}

/// One of `[[pools]]`: workers that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name; that of the scale set where it is one.
    pub name: String,
    /// How it gets its jobs.
    pub mode: Mode,
    /// What `runs-on` names.
    pub labels: Vec<String>,
    /// Image of its sandboxes.
    pub image: String,
    /// vCPUs of a sandbox.
    pub cpus: u8,
    /// Memory of a sandbox in MiB.
    pub memory_mib: u64,
    /// Most workers at a time.
    pub capacity: u32,
    /// Workers that are kept ready.
    pub min_idle: u32,
    /// The runner group.
    pub runner_group: String,
    /// What must be known of actions before they run; what `[actions]` says without it.
    pub pins: Option<PinPolicy>,
}

/// How a pool gets its jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Just-in-time runners, some of them always ready.
    Jit,
    /// A runner scale set, which says how many runners it wants.
    ScaleSet,
}

impl ServeConfig {
    /// Reads the configuration file.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn read(file: &Path) -> Result<Self, Vec<Problem>> {
        match fs::read_to_string(file) {
            Ok(text) => Self::parse(file, &text),
            Err(cause) => Err(vec![Problem {
                file: file.to_owned(),
                line: None,
                key: String::new(),
                what: format!(
                    "cannot be read: {cause}; name another with --config, or begin with the example that deploy/config.toml is"
                ),
            }]),
        }
    }

    /// Reads its text.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Vec<Problem>> {
        let reader = Reader::new(file, text);
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                let at = error.span().map(|span| span.start);
                reader.problem(at, "", format!("is no TOML: {}", error.message()));
                return Err(reader.into_problems());
            }
        };
        let read = whole(file, &reader.root(table.get_ref()));
        let problems = reader.into_problems();
        match read {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(problems),
        }
    }
}

/// Reads all sections, so that all that is wrong is found.
fn whole(file: &Path, root: &Section<'_, '_>) -> Option<ServeConfig> {
    // Those of other commands, which read them by themselves.
    for other in super::settings::SECTIONS {
        root.has(other);
    }
    let github = github(root);
    let limits = limits(&root.table("serve"));
    let metrics = metrics(&root.table("metrics"));
    let pools = pools(root, github.as_ref().map(|github| &github.scope));
    root.finish();
    Some(ServeConfig {
        file: file.to_owned(),
        github: github?,
        limits,
        metrics: metrics?,
        pools: pools?,
    })
}

fn github(root: &Section<'_, '_>) -> Option<GitHubConfig> {
    let section = root.table("github");
    let place = if section.has("url") {
        section.parsed("url", Place::parse)
    } else {
        Place::parse("https://github.com").ok()
    };
    let scope = scope(&section);
    let credentials = credentials(&section);
    let runner_version = section.parsed("runner_version", version);
    let missing_version = section.has("runner_version") && runner_version.is_none();
    section.finish();
    Some(GitHubConfig {
        place: place?,
        scope: scope?,
        credentials: credentials?,
        runner_version: (!missing_version).then_some(runner_version)?,
    })
}

fn scope(section: &Section<'_, '_>) -> Option<Scope> {
    let repository = section.parsed("repository", Scope::repository);
    let organization = section.parsed("organization", Scope::organization);
    let enterprise = section.parsed("enterprise", Scope::enterprise);
    let keys = ["repository", "organization", "enterprise"];
    match keys.iter().filter(|key| section.has(key)).count() {
        0 => section.wrong(
            "repository",
            "is missing; write repository = \"OWNER/NAME\", organization = \"NAME\" or enterprise = \"NAME\"",
        ),
        1 => {}
        _ => section.wrong(
            "repository",
            "is not the only scope; keep one of repository, organization and enterprise",
        ),
    }
    repository.or(organization).or(enterprise)
}

fn credentials(section: &Section<'_, '_>) -> Option<CredentialFiles> {
    let id = app_id(section);
    let installation = section.number("installation_id", 1..=u64::MAX >> 1);
    let key = section.parsed("private_key_file", absolute);
    let token = section.parsed("token_file", absolute);
    let app = section.has("app_id") || section.has("private_key_file");
    match (app, section.has("token_file")) {
        (false, false) => {
            section.wrong(
                "app_id",
                "is missing; write app_id and private_key_file of a GitHub App, or token_file",
            );
            None
        }
        (true, true) => {
            section.wrong(
                "token_file",
                "is beside a GitHub App's keys; keep one of the two",
            );
            None
        }
        (false, true) => token.map(CredentialFiles::Token),
        (true, false) => {
            if !section.has("app_id") {
                section.wrong(
                    "app_id",
                    "is missing; write the App ID that the App's page shows",
                );
            }
            if !section.has("private_key_file") {
                section.wrong(
                    "private_key_file",
                    "is missing; write the path of the .pem that the App's page gave you",
                );
            }
            Some(CredentialFiles::App {
                id: id?,
                installation,
                key: key?,
            })
        }
    }
}

/// The App's id, a number, or its client id, a text.
fn app_id(section: &Section<'_, '_>) -> Option<String> {
    if !section.is_text("app_id") {
        return section
            .number("app_id", 1..=u64::MAX >> 1)
            .map(|id| id.to_string());
    }
    section.parsed("app_id", |text| {
        let good = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
        let good = good.then(|| text.to_owned());
        good.ok_or_else(|| format!("`{text}` is neither an App ID nor a client id"))
    })
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let good = path.is_absolute().then_some(path);
    good.ok_or_else(|| format!("`{text}` is no path from the root; write it as /etc/mayfly/NAME"))
}

fn version(text: &str) -> Result<String, String> {
    let numbers: Vec<&str> = text.split('.').collect();
    let number = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
    let good = (numbers.len() == 3 && numbers.iter().all(number)).then(|| text.to_owned());
    good.ok_or_else(|| {
        format!("`{text}` is no version of actions/runner; write it as 2.336.0, or leave it out")
    })
}

fn limits(section: &Section<'_, '_>) -> Limits {
    let drain = section.parsed("drain_timeout", duration);
    let connect = section.parsed("connect_timeout", duration);
    section.finish();
    Limits {
        drain: drain.unwrap_or(DRAIN),
        connect: connect.unwrap_or(CONNECT),
    }
}

/// A time as people write it: `90s`, `30m`, `1h 30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: Option<jiff::SignedDuration> = text.parse().ok();
    let time = parsed.and_then(|time| Duration::try_from(time).ok());
    let good = time.filter(|time| (1..=7 * 24 * 3600).contains(&time.as_secs()));
    good.ok_or_else(|| format!("`{text}` is no time from 1s to 168h; write it as 90s, 30m or 2h"))
}

/// `Some(None)` where metrics are off, `None` where the key is wrong.
fn metrics(section: &Section<'_, '_>) -> Option<Option<SocketAddr>> {
    let parse = |text: &str| match text {
        "off" => Ok(None),
        address => address.parse().map(Some).map_err(|_| {
            format!("`{address}` is no address with a port; write it as {METRICS}, or \"off\"")
        }),
    };
    let listen = if section.has("listen") {
        section.parsed("listen", parse)
    } else {
        METRICS.parse().ok().map(Some)
    };
    section.finish();
    listen
}

fn pools(root: &Section<'_, '_>, scope: Option<&Scope>) -> Option<Vec<Pool>> {
    let sections = root.tables("pools");
    if sections.is_empty() {
        root.wrong(
            "pools",
            "is missing; write at least one [[pools]] with name, image and capacity",
        );
        return None;
    }
    let mut names = BTreeSet::new();
    let read = |section: Section<'_, '_>| {
        let name = section
            .text("name")
            .unwrap_or_default()
            .to_ascii_lowercase();
        if !name.is_empty() && !names.insert(name) {
            section.wrong("name", "is that of another pool too; each has its own");
        }
        pool(&section, scope)
    };
    let pools: Vec<Option<Pool>> = sections.into_iter().map(read).collect();
    pools.into_iter().collect()
}

fn pool(section: &Section<'_, '_>, scope: Option<&Scope>) -> Option<Pool> {
    section.required("name", "a pool is known by it: name = \"sandbox\"");
    let name = section.parsed("name", pool_name);
    let mode = if section.has("mode") {
        section.parsed("mode", |text| match text {
            "jit" => Ok(Mode::Jit),
            "scale-set" => Ok(Mode::ScaleSet),
            other => Err(format!(
                "`{other}` is no mode; write \"jit\" or \"scale-set\""
            )),
        })
    } else {
        Some(Mode::Jit)
    };
    let labels = labels(section, mode, name.as_deref());
    let image = section.required(
        "image",
        "write image = \"standard\", or another of `mayfly image ls`",
    );
    let cpus = section.number("cpus", 1..=32);
    let memory = section.parsed("memory", parse_mib);
    if section.has("disk") {
        section.wrong("disk", "cannot be set for a pool: a sandbox's disk is as large as its image says; take the key out, and set it in the recipe");
    }
    let (capacity, min_idle) = sizes(section, mode);
    let runner_group = group(section, scope);
    let pins = section.parsed("pins", pins);
    section.finish();
    Some(Pool {
        name: name?,
        mode: mode?,
        labels: labels?,
        image: image?.to_owned(),
        cpus: cpus.and_then(|cpus| u8::try_from(cpus).ok()).unwrap_or(2),
        memory_mib: memory.unwrap_or(4096),
        capacity: capacity?,
        min_idle: min_idle?,
        runner_group,
        pins,
    })
}

/// Names of runners begin with it, and GitHub takes at most 64 characters of those.
fn pool_name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = (1..=40).contains(&text.len()) && text.chars().all(good);
    let fits = fits.then(|| text.to_owned());
    fits.ok_or_else(|| format!("`{text}` is no name; it has 1 to 40 of a-z A-Z 0-9 - _ ."))
}

fn labels(
    section: &Section<'_, '_>,
    mode: Option<Mode>,
    name: Option<&str>,
) -> Option<Vec<String>> {
    if mode == Some(Mode::ScaleSet) {
        if section.has("labels") {
            section.wrong(
                "labels",
                "is not for a scale set: its name is its one label; take the key out",
            );
        }
        return name.map(|name| vec![name.to_owned()]);
    }
    if !section.has("labels") {
        return name.map(|name| vec![name.to_owned()]);
    }
    let labels = section.texts("labels")?;
    let good = |label: &String| {
        let shown = label.chars().all(|c| !c.is_control() && c != ',');
        !label.is_empty() && label.trim() == label && label.len() <= 256 && shown
    };
    if labels.is_empty() || labels.len() > 100 {
        section.wrong(
            "labels",
            "has no label, or more than 100; `runs-on` names one or more of them",
        );
    } else if let Some(wrong) = labels.iter().find(|label| !good(label)) {
        section.wrong(
            "labels",
            format!("has `{wrong}`, which is no label; it has 1 to 256 characters and no comma"),
        );
    }
    Some(labels)
}

fn sizes(section: &Section<'_, '_>, mode: Option<Mode>) -> (Option<u32>, Option<u32>) {
    let number = |key, range| {
        section
            .number(key, range)
            .and_then(|n| u32::try_from(n).ok())
    };
    if !section.has("capacity") {
        section.wrong(
            "capacity",
            "is missing; write how many jobs may run at a time",
        );
    }
    let capacity = number("capacity", 1..=1000);
    let least = u32::from(mode != Some(Mode::ScaleSet));
    let min_idle = if section.has("min_idle") {
        number("min_idle", 0..=1000)
    } else {
        Some(least)
    };
    if min_idle.zip(capacity).is_some_and(|(idle, all)| idle > all) {
        section.wrong("min_idle", "is more than the capacity; lower it");
    }
    if min_idle.is_some_and(|idle| idle < least) {
        section.wrong("min_idle", "is 0, and just-in-time runners get jobs only while they wait; write at least 1, or mode = \"scale-set\"");
    }
    (capacity, min_idle)
}

fn group(section: &Section<'_, '_>, scope: Option<&Scope>) -> String {
    let group = section.text("runner_group").unwrap_or(DEFAULT_GROUP);
    let repository = matches!(scope, Some(Scope::Repository { .. }));
    if repository && !group.eq_ignore_ascii_case(DEFAULT_GROUP) {
        section.wrong(
            "runner_group",
            "is not for a repository's runners, which are in no group; take the key out",
        );
    }
    if group.is_empty() {
        section.wrong(
            "runner_group",
            "is empty; take the key out, or write the group's name",
        );
    }
    group.to_owned()
}

fn pins(text: &str) -> Result<PinPolicy, String> {
    use clap::ValueEnum;
    PinPolicy::from_str(text, false)
        .map_err(|_| format!("`{text}` is no policy; write require, lock-on-first-use or audit"))
}
