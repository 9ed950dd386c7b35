//! Ready-made sets of hosts. Each holds what the one before holds; docs/egress.md lists them.

use serde::{Deserialize, Serialize};

use super::rule::Rule;

/// A ready-made set of hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// None.
    Locked,
    /// What GitHub says that runners need, and GitHub's own packages.
    Github,
    /// Those, and public registries of packages and images.
    Registries,
    /// Those, and where toolchains and distributions are downloaded.
    Balanced,
}

/// Essential operations, actions, results, releases, packages and LFS, as "Communicating with self-hosted
/// runners" of GitHub's documentation has them; storage accounts as `GET /meta` names them (a wildcard over
/// `blob.core.windows.net` would mean every customer there).
const GITHUB: [&str; 17] = [
    "api.github.com",
    "codeload.github.com",
    "dependabot-actions.githubapp.com",
    "ghcr.io",
    "github-cloud.githubusercontent.com",
    "github-cloud.s3.amazonaws.com",
    "github-registry-files.githubusercontent.com",
    "github-releases.githubusercontent.com",
    "github.com",
    "*.actions.githubusercontent.com",
    "*.pkg.github.com",
    "objects-origin.githubusercontent.com",
    "objects.githubusercontent.com",
    "pkg-containers.githubusercontent.com",
    "raw.githubusercontent.com",
    "release-assets.githubusercontent.com",
    "uploads.github.com",
];

/// `productionresultssa0` and so on.
const RESULT_ACCOUNTS: u8 = 20;

const REGISTRIES: [&str; 29] = [
    // Node.js
    "registry.npmjs.org",
    "registry.yarnpkg.com",
    // Python
    "pypi.org",
    "files.pythonhosted.org",
    // Rust
    "index.crates.io",
    "static.crates.io",
    "crates.io",
    // Go
    "proxy.golang.org",
    "sum.golang.org",
    // Java
    "repo.maven.apache.org",
    "repo1.maven.org",
    "plugins.gradle.org",
    "plugins-artifacts.gradle.org",
    // .NET
    "api.nuget.org",
    "www.nuget.org",
    // Ruby
    "rubygems.org",
    "index.rubygems.org",
    // PHP
    "packagist.org",
    "repo.packagist.org",
    // Elixir, Dart
    "hex.pm",
    "repo.hex.pm",
    "pub.dev",
    // images
    "auth.docker.io",
    "registry-1.docker.io",
    "production.cloudflare.docker.com",
    "quay.io",
    "cdn01.quay.io",
    "cdn02.quay.io",
    "mcr.microsoft.com",
];

const BALANCED: [&str; 20] = [
    // distributions
    "deb.debian.org",
    "security.debian.org",
    "archive.ubuntu.com",
    "security.ubuntu.com",
    "azure.archive.ubuntu.com",
    "ports.ubuntu.com",
    "dl-cdn.alpinelinux.org",
    "download.docker.com",
    "packages.microsoft.com",
    // toolchains
    "nodejs.org",
    "static.rust-lang.org",
    "sh.rustup.rs",
    "go.dev",
    "dl.google.com",
    "www.python.org",
    "cache.ruby-lang.org",
    "services.gradle.org",
    "downloads.gradle.org",
    "get.helm.sh",
    "dl.k8s.io",
];

impl Preset {
    /// The word in files.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Locked => "locked",
            Self::Github => "github",
            Self::Registries => "registries",
            Self::Balanced => "balanced",
        }
    }

    /// What it adds to the preset before it.
    #[must_use]
    pub fn own_hosts(self) -> Vec<String> {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        match self {
            Self::Locked => Vec::new(),
            Self::Github => {
                let account = |number| format!("productionresultssa{number}.blob.core.windows.net");
                let mut hosts: Vec<String> = texts(&GITHUB);
                hosts.extend((0..RESULT_ACCOUNTS).map(account));
                hosts
            }
            Self::Registries => texts(&REGISTRIES),
            Self::Balanced => texts(&BALANCED),
        }
    }

    /// The rules that it stands for.
    pub(super) fn rules(self) -> Vec<Rule> {
        let all = [Self::Locked, Self::Github, Self::Registries, Self::Balanced];
        let held = all.into_iter().filter(|preset| *preset <= self);
        let rules = held.flat_map(|preset| {
            let hosts = preset.own_hosts().into_iter();
            let rule = move |host: String| Some(Rule::preset(preset.word(), host.parse().ok()?));
            hosts.filter_map(rule)
        });
        rules.collect()
    }
}
