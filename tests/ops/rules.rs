//! The alert rules: promtool accepts them, each fires when it should, and each names what is served.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use libtest_mimic::{Failed, Trial};
use mayfly_tests::repository;

use crate::{expression, needs, succeeds};

pub fn trials() -> Vec<Trial> {
    vec![
        needs(
            "promtool",
            "prometheus",
            "alert_rules_fire_when_they_should",
            fire,
        ),
        Trial::test("alert_rules_name_what_is_served_and_each_is_tested", named),
    ]
}

/// The file with the rules.
pub fn file() -> PathBuf {
    repository().join("deploy/prometheus/alerts.yml")
}

fn fire() -> Result<(), Failed> {
    succeeds(
        Command::new("promtool")
            .args(["check", "rules"])
            .arg(file()),
    )?;
    let tests = file().with_file_name("alerts.test.yml");
    succeeds(Command::new("promtool").args(["test", "rules"]).arg(tests))?;
    Ok(())
}

/// Values of a key, one a line, or over the indented lines that follow `|`.
fn values(text: &str, key: &str) -> Vec<String> {
    let mut values: Vec<String> = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(value) = line.trim_start_matches([' ', '-']).strip_prefix(key) else {
            continue;
        };
        let mut value = value.trim().to_owned();
        if value == "|" {
            let depth = |line: &str| line.len() - line.trim_start().len();
            let outer = depth(line);
            while let Some(inner) = lines.next_if(|inner| depth(inner) > outer) {
                value.push_str(inner);
                value.push('\n');
            }
        }
        values.push(value);
    }
    values
}

fn named() -> Result<(), Failed> {
    let text = fs::read_to_string(file())?;
    let served = expression::served();
    let expressions = values(&text, "expr:");
    for expression in &expressions {
        let (wrong, metrics) = expression::unknown(expression, &served);
        assert!(wrong.is_empty() && metrics > 0, "{wrong:?} in {expression}");
    }
    let names: BTreeSet<String> = values(&text, "alert:").into_iter().collect();
    assert_eq!(names.len(), expressions.len());
    assert!(names.len() > 10, "{names:?}");

    // A test that expects nothing says nothing of when it fires.
    let tests = fs::read_to_string(file().with_file_name("alerts.test.yml"))?;
    let fires = tests.split("alertname:").skip(1).filter_map(|test| {
        let name = test.lines().next()?.trim().to_owned();
        test.contains("exp_labels").then_some(name)
    });
    assert_eq!(fires.collect::<BTreeSet<_>>(), names);
    Ok(())
}
