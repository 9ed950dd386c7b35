//! Problem matchers across the steps of a job.

use super::*;

const TSC: &str = r#"{"problemMatcher":[{"owner":"tsc","pattern":[{
    "regexp":"^([^(]+)\\((\\d+),(\\d+)\\): (\\w+) (\\w+): (.*)$",
    "file":1,"line":2,"column":3,"severity":4,"code":5,"message":6}]}]}"#;

/// A job of steps that print their scripts, in a workspace with two files.
fn job(scripts: &[&str]) -> Job {
    let steps = scripts.iter().map(|script| run_if("always()", script));
    Job::new(steps.collect(), |script, _, files| {
        let workspace = "/home/runner/work/hello/hello";
        let file = |content: &str| (0o644, content.as_bytes().to_vec());
        files.insert(format!("{workspace}/tsc.json"), file(TSC));
        files.insert(format!("{workspace}/src/a.ts"), file("x"));
        Reply::stdout(format!("{script}\n")).then_exit(0)
    })
}

#[tokio::test]
async fn a_matcher_holds_for_later_steps_until_it_is_removed() {
    let problem = "src/a.ts(3,14): warning TS1: hush is bad";
    let mut job = job(&[
        "::add-matcher::tsc.json",
        problem,
        "other(1,2): error TS2: boom",
        &format!("::stop-commands::x\n{problem}\n::x::\n::remove-matcher owner=TSC::\n{problem}"),
        problem,
    ]);
    job.secret("S", "hush");
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Success);
    let found = job.reporter.events("annotation");
    assert_eq!(found.len(), 3, "{found:?}");
    for (key, value) in [
        ("level", "warning".into()),
        ("message", "*** is bad".into()),
        ("file", "src/a.ts".into()),
        ("line", serde_json::json!(3)),
        ("column", serde_json::json!(14)),
        ("code", "TS1".into()),
    ] {
        assert_eq!(found[0][key], value, "{key}");
    }
    // A file that is not there is not named, the rest is.
    assert_eq!(
        (&found[1]["file"], &found[1]["code"]),
        (&serde_json::Value::Null, &"TS2".into())
    );
    let masked = "##[warning]src/a.ts(3,14): warning TS1: *** is bad";
    assert!(job.reporter.lines(3).contains(&masked.to_owned()));
    assert_eq!(
        job.reporter
            .lines(5)
            .iter()
            .filter(|l| *l == masked)
            .count(),
        1
    );
    assert!(!job.reporter.lines(6).contains(&masked.to_owned()));
}

#[tokio::test]
async fn a_matcher_that_cannot_be_read_fails_its_step() {
    let job = job(&["::add-matcher::no.json", "::remove-matcher::no.json"]);
    let outcome = job.execute().await;
    assert_eq!(results(&outcome), ["failure/failure", "failure/failure"]);
    let lines = job.reporter.lines(2);
    assert!(lines.contains(
        &"##[error]Unable to process command '::add-matcher::no.json' successfully.".to_owned()
    ));
    assert!(lines.contains(
        &"##[error]Could not find file '/home/runner/work/hello/hello/no.json'.".to_owned()
    ));
}
