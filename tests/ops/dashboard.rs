//! The Grafana dashboard: each query of each panel is one that Prometheus understands, about metrics and
//! labels that are served.

use std::{fmt::Write, fs, process::Command};

use libtest_mimic::{Failed, Trial};
use mayfly_tests::repository;
use serde_json::Value as Json;

use crate::{expression, needs, succeeds};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("dashboard_panels_ask_for_what_is_served", named),
        needs(
            "promtool",
            "prometheus",
            "dashboard_queries_are_understood",
            understood,
        ),
    ]
}

/// All queries with the titles of their panels, as Grafana sends them.
pub fn queries() -> Result<Vec<(String, String)>, Failed> {
    let path = repository().join("deploy/grafana/mayfly.json");
    let dashboard: Json = serde_json::from_str(&fs::read_to_string(path)?)?;
    let panels = dashboard["panels"].as_array().ok_or("no panels")?;
    let mut queries = Vec::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().unwrap_or_default();
        let targets = panel["targets"]
            .as_array()
            .ok_or("a panel without targets")?;
        assert!(!targets.is_empty(), "{title} asks for nothing");
        for target in targets {
            let query = target["expr"].as_str().ok_or("a target without a query")?;
            queries.push((title.to_owned(), expanded(query)));
        }
    }
    Ok(queries)
}

/// A query with Grafana's variables in their widest meaning.
fn expanded(query: &str) -> String {
    let mut query = query.to_owned();
    for (variable, value) in [
        ("$__rate_interval", "1m"),
        ("$__range", "6h"),
        ("$instance", ".*"),
        ("$name", ".*"),
        ("$job", "mayfly"),
    ] {
        query = query.replace(variable, value);
    }
    assert!(
        !query.contains('$'),
        "a variable that nobody knows in {query}"
    );
    query
}

fn named() -> Result<(), Failed> {
    let served = expression::served();
    let queries = queries()?;
    assert!(queries.len() > 20);
    for (title, query) in &queries {
        let (wrong, metrics) = expression::unknown(query, &served);
        assert!(
            wrong.is_empty() && metrics > 0,
            "{title}: {wrong:?} in {query}"
        );
    }
    // What is served is shown somewhere, or said here why it is not.
    let unshown = [
        "_info",
        "_sum",
        "process_",
        "mayfly_sandboxes_restored",
        "mayfly_config_reloads",
        "mayfly_draining",
        "mayfly_pool_idle_wanted",
        "mayfly_pool_ready",
        "mayfly_orphaned_runners",
        "mayfly_github_contact",
        "mayfly_github_rate_limit_reset",
        "phase_duration_seconds_count",
    ];
    let all: String = queries.iter().map(|(_, query)| query.as_str()).collect();
    for name in served.keys().filter(|name| *name != "up") {
        let excused = unshown.iter().any(|part| name.contains(part));
        assert!(
            excused || all.contains(name.as_str()),
            "no panel shows {name}"
        );
    }
    Ok(())
}

fn understood() -> Result<(), Failed> {
    let mut rules = "groups:\n- name: panels\n  rules:\n".to_owned();
    for (number, (_, query)) in queries()?.iter().enumerate() {
        let query = Json::from(query.as_str());
        writeln!(rules, "  - record: panel:number{number}\n    expr: {query}")?;
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("panels.yml");
    fs::write(&file, rules)?;
    succeeds(Command::new("promtool").args(["check", "rules"]).arg(&file))?;
    Ok(())
}
