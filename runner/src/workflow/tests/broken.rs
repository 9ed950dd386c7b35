//! Broken files: each is told with place and mend. Any text is read or refused without panic.

use proptest::prelude::*;

use super::super::diagnostic::Severity;
use super::super::parse;
use super::super::source::Source;
use super::refuse;

#[test]
fn broken_files_are_told_with_place_and_mend() {
    let mut shown = String::new();
    let mut count = 0;
    for case in include_str!("../fixtures/broken.txt").split("=== ").skip(1) {
        let (name, text) = case.split_once('\n').unwrap();
        let findings = refuse(text);
        assert!(findings.errors() > 0, "{name}");
        for finding in &findings.diagnostics {
            let whole_file = matches!(name, "empty file" | "only a comment");
            assert!(finding.place.is_some() || whole_file, "{name}: {finding:?}");
            let notice = finding.severity == Severity::Notice;
            assert!(notice || !finding.help.is_empty(), "{name}: {finding:?}");
        }
        shown += &format!("=== {name}\n{findings}");
        count += 1;
    }
    assert!(count >= 100, "{count}");
    insta::assert_snapshot!("broken_files", shown);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_text_is_loaded_or_refused_without_panic(text in "\\PC{0,200}") {
        let _ = parse(Source::new("x.yml", text)).map_err(|error| error.to_string());
    }

    #[test]
    fn any_file_of_workflow_lines_is_loaded_or_refused_without_panic(
        lines in prop::collection::vec((0..5_usize, prop::sample::select(vec![
            "on: push", "jobs:", "a:", "b:", "runs-on: x", "steps:", "- run: |", "- uses: x", "echo ${{ github.ref }}",
            "if: ${{ success() }} x", "if: nope", "needs: [a, b]", "needs: a", "strategy:", "matrix:", "os: [1, 2]",
            "include:", "- os: 3", "env: {A: '${{ x'}", "- id: 1", "&x y: *x", "name: \"${{ é }}\"", "outputs: *x",
            "timeout-minutes: ${{ 1 }}", "permissions: {}", "- {run: >-", "}", "shell: \u{1b}",
        ])), 0..25)
    ) {
        let text: String = lines.iter().map(|(depth, line)| format!("{}{line}\n", "  ".repeat(*depth))).collect();
        let _ = parse(Source::new("x.yml", text)).map_err(|error| error.to_string());
    }
}
