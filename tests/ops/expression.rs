//! Names of metrics and labels in an expression of Prometheus' language, compared with what is served.

use std::collections::{BTreeMap, BTreeSet};

use mayfly::{
    github::rest::Scope,
    metrics::{Kind, Metrics},
};

/// Labels that Prometheus adds to every series that it scrapes.
const SCRAPED: [&str; 2] = ["instance", "job"];
/// A metric that Prometheus itself makes.
const UP: &str = "up";

/// Labels by the names under which series are served.
pub fn served() -> BTreeMap<String, BTreeSet<String>> {
    let metrics = Metrics::new(&Scope::Organization("acme".into()));
    let mut served = BTreeMap::from([(UP.to_owned(), BTreeSet::new())]);
    for family in metrics.families() {
        let labels: BTreeSet<String> = family.labels.iter().map(|l| (*l).to_owned()).collect();
        if family.kind == Kind::Histogram {
            let mut bucket = labels.clone();
            bucket.insert("le".to_owned());
            served.insert(format!("{}_bucket", family.name), bucket);
            served.insert(format!("{}_sum", family.name), labels.clone());
            served.insert(format!("{}_count", family.name), labels);
        } else {
            served.insert(family.name.to_owned(), labels);
        }
    }
    served
}

/// What of `expression` names no metric or label that is served; and how many metrics it names.
pub fn unknown(
    expression: &str,
    served: &BTreeMap<String, BTreeSet<String>>,
) -> (Vec<String>, usize) {
    let mut wrong = Vec::new();
    let mut known: BTreeSet<&str> = SCRAPED.into();
    let mut metrics = 0;
    let words = words(expression);
    for (at, word) in words.iter().enumerate() {
        if !word.starts_with("mayfly_") && !word.starts_with("process_") && word != UP {
            continue;
        }
        metrics += 1;
        let Some(labels) = served.get(word) else {
            wrong.push(format!("no metric {word}"));
            continue;
        };
        known.extend(labels.iter().map(String::as_str));
        for label in selected(&words[at + 1..]) {
            if !labels.contains(label) && !SCRAPED.contains(&label) {
                wrong.push(format!("{word} has no label {label}"));
            }
        }
    }
    for label in grouped(&words) {
        if !known.contains(label) {
            wrong.push(format!("nothing in it has the label {label}"));
        }
    }
    (wrong, metrics)
}

/// Identifiers, strings and signs, each for itself.
fn words(expression: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
            c if is_name(c) => rest.find(|c| !is_name(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        if !first.is_whitespace() {
            words.push(rest[..end].to_owned());
        }
        rest = &rest[end..];
    }
    words
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Labels in the braces that `words` begin with.
fn selected(words: &[String]) -> Vec<&str> {
    if words.first().is_none_or(|word| word != "{") {
        return Vec::new();
    }
    let inner = words.iter().skip(1).take_while(|word| *word != "}");
    let names = inner.filter(|word| word.chars().all(is_name));
    names.map(String::as_str).collect()
}

/// Labels in brackets behind `by`, `on` and the like.
fn grouped(words: &[String]) -> Vec<&str> {
    const GROUPING: [&str; 6] = [
        "by",
        "without",
        "on",
        "ignoring",
        "group_left",
        "group_right",
    ];
    let mut labels = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let opens = words.get(at + 1).is_some_and(|next| next == "(");
        if GROUPING.contains(&word.as_str()) && opens {
            let inner = words[at + 2..].iter().take_while(|word| *word != ")");
            labels.extend(inner.filter(|word| *word != ",").map(String::as_str));
        }
    }
    labels
}
