//! Presets.

use super::{
    super::{Document, JobPlace, Mode, Preset, Verdict},
    Ask,
};

#[test]
fn presets_hold_each_other_and_nothing_that_anybody_can_rent() {
    let ladder = [
        Preset::Locked,
        Preset::Github,
        Preset::Registries,
        Preset::Balanced,
    ];
    let passes = |preset: Preset, name: &str| {
        let policy = Document::of(Mode::Enforce, &[preset]).policy(&JobPlace::default());
        Ask::tcp(name).tls(&policy) == Verdict::Allow
    };
    for (name, from) in [
        ("github.com", 1),
        ("pipelines.actions.githubusercontent.com", 1),
        ("productionresultssa19.blob.core.windows.net", 1),
        ("registry.npmjs.org", 2),
        ("index.crates.io", 2),
        ("deb.debian.org", 3),
        ("static.rust-lang.org", 3),
        ("mine.blob.core.windows.net", 4),
        ("productionresultssa20.blob.core.windows.net", 4),
        ("evil.s3.amazonaws.com", 4),
        ("gist.github.com", 4),
        ("github.io", 4),
    ] {
        for (at, preset) in ladder.into_iter().enumerate() {
            assert_eq!(passes(preset, name), at >= from, "{name} {}", preset.word());
        }
    }
    let mut all = std::collections::BTreeSet::new();
    for host in ladder.iter().flat_map(|preset| preset.own_hosts()) {
        host.parse::<super::super::HostPattern>().unwrap();
        assert!(all.insert(host.clone()), "{host} twice");
    }
}

#[test]
fn the_documentation_lists_every_host_of_a_preset() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/egress.md");
    let Ok(page) = std::fs::read_to_string(page) else {
        panic!("{page} is not there");
    };
    for preset in [Preset::Github, Preset::Registries, Preset::Balanced] {
        let hosts = preset.own_hosts().into_iter();
        for host in hosts.filter(|host| !host.starts_with("productionresultssa")) {
            assert!(
                page.contains(&format!("`{host}`")),
                "{host} is not in docs/egress.md"
            );
        }
    }
    assert!(page.contains("`productionresultssa0` to `productionresultssa19`"));
}
