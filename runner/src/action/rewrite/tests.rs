//! Workflow files in the styles found in the wild, rewritten: only the references change.
//!
//! `fixtures.txt` holds the files. Each is rewritten and compared with the same file in which only the
//! bytes of the reference and of its version comment were replaced, line by line.

use super::*;
use crate::action::reference::Reference;
use crate::workflow::references::{self, Role};

const FIXTURES: &str = include_str!("fixtures.txt");
const COMMIT: &str = "8e8c483db84b4bee98b60c0593521ed34d9990e8";

/// The files: their names and texts. `\r`, `\t` and a byte order mark are written as `<CR>`, `<TAB>`
/// and `<BOM>`.
fn files() -> Vec<(String, String)> {
    let parts = FIXTURES.split("=== ").skip(1);
    let file = |part: &str| {
        let (name, text) = part.split_once('\n').unwrap();
        let text = text
            .replace("<CR>", "\r")
            .replace("<TAB>", "\t")
            .replace("<BOM>", "\u{feff}");
        let text = text.strip_suffix("<END>\n").unwrap_or(&text).to_owned();
        (name.to_owned(), text)
    };
    parts.map(file).collect()
}

fn all(path: &str, text: &str) -> Vec<Rewrite> {
    let source = Source::new(path, text);
    let mentions = references::in_workflow(&source).unwrap_or_else(|error| panic!("{error}"));
    let rewrite = |mention: references::Mention| {
        let remote = matches!(mention.role, Role::Step | Role::Call)
            && matches!(
                Reference::parse(mention.text.trim()),
                Ok(Reference::Repository(_))
            );
        let span = mention.span.filter(|_| remote)?;
        Some(Rewrite {
            span,
            commit: COMMIT.to_owned(),
            version: "v9.8.7".to_owned(),
        })
    };
    mentions.into_iter().filter_map(rewrite).collect()
}

/// A line without the references and version comments of the rewrite.
fn without(line: &str) -> String {
    let reference =
        regex::Regex::new(r"([A-Za-z0-9_.-]+/[A-Za-z0-9_./-]+)@[A-Za-z0-9_.@/-]+").unwrap();
    let line = reference.replace_all(line, "$1@");
    line.replace(" # v9.8.7", "").replace("v9.8.7", "<version>")
}

#[test]
fn only_the_references_change() {
    let files = files();
    assert!(files.len() >= 20, "{}", files.len());
    let mut shown = String::new();
    let old_shown = regex::Regex::new(r"# (tag=|pin@|ratchet:\S+@)?v?\d[\w.]*").unwrap();
    for (name, text) in files {
        let rewrites = all(&name, &text);
        assert!(!rewrites.is_empty(), "{name}");
        let new = rewrite(&name, &text, &rewrites).unwrap_or_else(|error| panic!("{error}"));
        let (old, new_lines): (Vec<_>, Vec<_>) =
            (text.split('\n').collect(), new.split('\n').collect());
        assert_eq!(old.len(), new_lines.len(), "{name}");
        let mut changed = 0;
        for (old, new) in old.iter().zip(&new_lines) {
            if old == new {
                continue;
            }
            changed += 1;
            // What the old comment said as version is the one thing that is replaced in a comment.
            let old_without = old_shown.replace(old, "# $1<version>");
            let fits = without(new) == without(old)
                || without(new).replace(" # <version>", "")
                    == without(&old_without).replace(" # <version>", "");
            assert!(fits, "{name}:\n{old:?}\n{new:?}");
            shown.push_str(&format!("{name}\n  - {old:?}\n  + {new:?}\n"));
        }
        assert!(changed > 0, "{name}");
        // Again, nothing changes.
        assert_eq!(
            rewrite(&name, &new, &all(&name, &new)).unwrap(),
            new,
            "{name}"
        );
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn a_text_that_only_looks_like_a_comment_is_not_touched() {
    let text =
        "jobs:\n  a:\n    steps:\n      - {uses: a/b@v1, with: {x: \"y # v1\n        z\"}}\n";
    let new = rewrite("t.yml", text, &all("t.yml", text)).unwrap();
    assert_eq!(new, text.replace("@v1", &format!("@{COMMIT}")));
}

#[test]
fn a_span_that_is_no_reference_is_refused() {
    let text = "jobs:\n  a:\n    steps:\n      - uses: a/b@v1\n";
    let at = text.find("uses").unwrap();
    let wrong = Rewrite {
        span: at..text.len() - 1,
        commit: COMMIT.to_owned(),
        version: "v1".to_owned(),
    };
    assert!(rewrite("t.yml", text, &[wrong]).is_err());
}

#[test]
fn the_version_of_a_comment_is_read() {
    for (comment, version) in [
        (" # v4.1.0", Some("v4.1.0")),
        (" # tag=v4", Some("v4")),
        (" #ratchet:actions/checkout@v4", Some("v4")),
        (" # ratchet:actions/checkout@v4", Some("v4")),
        (" # 3.2.1 is good", Some("3.2.1")),
        (" # pin me", None),
        (" # 3 times", None),
        ("", None),
    ] {
        let text = format!("- uses: a/b@{COMMIT}{comment}\n");
        let source = Source::new("t.yml", text.as_str());
        let span = 8..12 + COMMIT.len();
        assert_eq!(
            commented_version(&source, &span).as_deref(),
            version,
            "{comment}"
        );
    }
}
