//! Tests of problem matchers over the lines of a step.

use super::*;

fn matcher(json: &str) -> Matcher {
    let mut read = config::read("m.json", json.as_bytes()).unwrap();
    Matcher::new(Arc::new(read.remove(0)))
}

/// What each line completes: file, line, severity and message.
async fn read(matcher: &mut Matcher, lines: &[&str]) -> Vec<Option<String>> {
    let mut found = Vec::new();
    for line in lines {
        let problem = matcher.read(&Line::new(line)).await.unwrap();
        found.push(problem.map(|p| {
            let parts = [p.file, p.line, p.severity, p.message];
            parts.map(Option::unwrap_or_default).join("|")
        }));
    }
    found
}

const ESLINT: &str = r#"{"problemMatcher":[{"owner":"eslint","severity":"warning","pattern":[
    {"regexp":"^([^\\s].*)$","file":1},
    {"regexp":"^\\s+(\\d+):(\\d+)\\s+(error|warning)?\\s*(.*)$","line":1,"column":2,"severity":3,
     "message":4,"loop":true}]}]}"#;

#[tokio::test]
async fn a_loop_goes_on_until_its_pattern_does_not_match() {
    let mut matcher = matcher(ESLINT);
    let lines = [
        "a.js",
        "  1:2 error one",
        "  3:4 two",
        "",
        "  5:6 error lost",
        "b.js",
        "  7:8 warning three",
    ];
    let found = read(&mut matcher, &lines).await;
    let expected = [
        None,
        Some("a.js|1|error|one"),
        Some("a.js|3|warning|two"),
        None,
        None,
        None,
        Some("b.js|7|warning|three"),
    ];
    let found: Vec<_> = found.iter().map(Option::as_deref).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn patterns_of_several_lines_match_on_lines_that_follow_each_other() {
    let json = r#"{"problemMatcher":[{"owner":"o","pattern":[
        {"regexp":"^file (.*)$","file":1},
        {"regexp":"^line (.*)$","line":1},
        {"regexp":"^(?:(error|warning) )?text (.*)$","severity":1,"message":2}]}]}"#;
    let mut matcher = matcher(json);
    let lines = [
        "file a", "line 1", "text x", "text y", "file b", "no", "line 2", "text z",
    ];
    let found = read(&mut matcher, &lines).await;
    assert_eq!(found[2].as_deref(), Some("a|1||x"));
    assert_eq!(found.iter().flatten().count(), 1);
    // A run may begin on the line that another one goes on with.
    let found = read(
        &mut matcher,
        &["file a", "file b", "line 2", "warning text w"],
    )
    .await;
    assert_eq!(found[3].as_deref(), Some("b|2|warning|w"));
}
