//! Workflow files as GitHub's own parser judges them and as Mayfly does: verdict, and lines of errors.
//!
//! The files are `corpus.txt` beside this one, the broken files of Mayfly's own tests, and the
//! scenarios. Every file must be judged alike, or be listed in [`DIFFERENCES`] with the rule that decides.

mod limits;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use mayfly::workflow::{LoadError, diagnostic::Severity, parse, source::Source};
use mayfly_tests::{npm, repository};
use serde_json::{Value, json};

/// Files that Mayfly judges otherwise, and why.
const DIFFERENCES: &[(&str, &str)] = &[
    (
        "on 23",
        "the parser's schema compares `repository_dispatch` with another event's name; GitHub documents the form",
    ),
    ("step ids that differ in case", CASE),
    ("step id used twice", CASE),
    ("a shell of its own", SHELL),
    ("unknown shell", SHELL),
    (
        "needs of a job behind a circle",
        "Mayfly tells each circle once, the parser every job in or behind it",
    ),
    (
        "unclosed quote",
        "Mayfly points at the quote, the parser at where the text became impossible",
    ),
    (
        "unknown alias",
        "the parser has no error of its own for it and trips over what follows",
    ),
    (
        "an alias inside its own value",
        "the parser adds an error without a place",
    ),
    ("merge key", MERGE),
    ("merge-key.yml", MERGE),
    (
        "unknown tag",
        "the official runner's reader refuses tags that are not of the core schema",
    ),
    (
        "timeouts that are none",
        "Mayfly refuses a timeout of 0 minutes, with which nothing can run",
    ),
    ("context that is not available", ALL_AT_ONCE),
    ("unknown function", ALL_AT_ONCE),
    ("several errors at once", ALL_AT_ONCE),
    ("invalid-all-at-once.yml", ALL_AT_ONCE),
    ("matrix without values", MATRIX),
    ("matrix excludes an unknown vector", MATRIX),
    ("matrix-too-large.yml", MATRIX),
    (
        "constant format string that is none",
        "Mayfly checks constant format strings, which fail when they are evaluated",
    ),
    ("an action without a version", USES),
    ("an action that is one word", USES),
    ("an image without a name", USES),
    (
        "parallel in parallel",
        "Mayfly points at the step inside the group, the parser at the group",
    ),
];

const CASE: &str =
    "step ids are names without regard to case: the context `steps` could not tell these apart";
const SHELL: &str =
    "the runner fails such a step when it runs it (`Invalid shell option`); Mayfly says so before";
const MERGE: &str =
    "both refuse it; Mayfly points at the `<<` too, the parser at what it makes of it";
const ALL_AT_ONCE: &str = "the parser looks at conditions, ids and needs only in files without other errors, Mayfly at once";
const MATRIX: &str = "GitHub refuses it when it makes the jobs, which the parser does not do";
const USES: &str =
    "GitHub refuses it when it makes the steps (`Expected format {org}/{repo}[/path]@ref`)";

/// What is said of a file: lines with errors; none is valid.
type Lines = BTreeSet<u64>;

#[test]
fn workflow_files_are_judged_as_by_githubs_own_parser() {
    let files = files();
    assert!(files.len() >= 150, "{} files", files.len());
    let Some(theirs) = github(&files) else { return };
    let (mut verdicts, mut lines, mut unlisted) = (0, 0, Vec::new());
    let mut differing: Vec<&str> = Vec::new();
    for (name, text) in &files {
        let (own, theirs) = (mayfly(text), &theirs[name]);
        if own == theirs.0 {
            continue;
        }
        differing.push(name);
        let same_verdict = own.is_empty() == theirs.0.is_empty();
        lines += usize::from(same_verdict);
        verdicts += usize::from(!same_verdict);
        let rule = DIFFERENCES.iter().find(|(listed, _)| listed == name);
        let what = if same_verdict { "lines" } else { "verdict" };
        println!(
            "{what} differ: {name}: GitHub {:?}, Mayfly {own:?}",
            theirs.0
        );
        match rule {
            Some((_, rule)) => println!("    {rule}"),
            None => unlisted.push(format!("{name}: {what}: GitHub {theirs:?}, Mayfly {own:?}")),
        }
    }
    println!(
        "{} files compared, {verdicts} differ in verdict, {lines} in lines only",
        files.len()
    );
    let alike = |name: &str| !differing.contains(&name);
    let stale: Vec<_> = DIFFERENCES.iter().filter(|(name, _)| alike(name)).collect();
    assert!(
        stale.is_empty(),
        "listed, and judged alike or not there: {stale:?}"
    );
    assert!(unlisted.is_empty(), "not listed:\n{}", unlisted.join("\n"));
}

/// All files by name.
fn files() -> Vec<(String, String)> {
    let root = repository();
    let mut files = Vec::new();
    for list in [
        "tests/language/corpus.txt",
        "runner/src/workflow/fixtures/broken.txt",
    ] {
        let text = fs::read_to_string(root.join(list)).expect("the corpus");
        let cases = text
            .split("=== ")
            .skip(1)
            .filter_map(|case| case.split_once('\n'));
        files.extend(cases.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }
    let mut scenarios: Vec<_> = fs::read_dir(root.join("tests/workflows"))
        .expect("the scenarios")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "yml"))
        .collect();
    scenarios.sort();
    for path in scenarios {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        files.push((name, fs::read_to_string(&path).expect("a scenario")));
    }
    files
}

/// The lines that Mayfly has errors for; what it cannot run yet is none.
fn mayfly(text: &str) -> Lines {
    match parse(Source::new("ci.yml", text)) {
        Ok(_) => Lines::new(),
        Err(LoadError::Rejected { findings }) => {
            let errors = findings.diagnostics.iter();
            let errors = errors.filter(|finding| finding.severity == Severity::Error);
            errors
                .map(|finding| finding.place.map_or(0, |place| u64::from(place.line)))
                .collect()
        }
        Err(error) => panic!("{error}"),
    }
}

/// What GitHub's parser says of all files: lines and messages.
fn github(files: &[(String, String)]) -> Option<BTreeMap<String, (Lines, Vec<String>)>> {
    let questions = files
        .iter()
        .map(|(name, text)| json!({"name": name, "text": text}));
    let answers = npm::ask("workflows.mjs", questions)?;
    Some(answers.iter().map(answer).collect())
}

fn answer(answer: &Value) -> (String, (Lines, Vec<String>)) {
    let errors = answer["errors"].as_array().cloned().unwrap_or_default();
    let lines = errors
        .iter()
        .filter_map(|error| error["line"].as_u64())
        .collect();
    let messages = errors
        .iter()
        .map(|error| error["message"].to_string())
        .collect();
    (
        answer["name"].as_str().unwrap_or_default().to_owned(),
        (lines, messages),
    )
}
