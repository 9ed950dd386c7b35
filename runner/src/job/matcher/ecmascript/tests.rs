//! Tests of the syntax of problem matchers' regular expressions.

use super::*;

/// What the groups, by the author's numbers, find in `line`; nothing if it does not match.
fn groups(pattern: &str, line: &str) -> Option<Vec<String>> {
    let translated = translate(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
    if translated.hard {
        let engine = fancy_regex::Regex::new(&translated.text).unwrap();
        let found = engine.captures(line).unwrap()?;
        let text = |group: &usize| found.get(*group).map_or("", |m| m.as_str()).to_owned();
        return Some(translated.groups.iter().map(text).collect());
    }
    let engine = regex::Regex::new(&translated.text);
    let engine = engine.unwrap_or_else(|e| panic!("{pattern}: {}: {e}", translated.text));
    let found = engine.captures(line)?;
    let text = |group: &usize| found.get(*group).map_or("", |m| m.as_str()).to_owned();
    Some(translated.groups.iter().map(text).collect())
}

#[test]
fn patterns_of_known_matchers_find_what_they_do_at_github() {
    let cases: [(&str, &str, &[&str]); 7] = [
        // tsc
        (
            r"^(?:\s+\d+\>)?([^\s].*)\((\d+),(\d+)\)\s*:\s+(error|warning|info)\s+(\w{1,2}\d+)\s*:\s*(.*)$",
            "src/a.ts(3,14): error TS2322: Type 'x' is {bad}.",
            &[
                "src/a.ts",
                "3",
                "14",
                "error",
                "TS2322",
                "Type 'x' is {bad}.",
            ],
        ),
        // eslint-stylish
        (r"^([^\s].*)$", "/w/test.js", &["/w/test.js"]),
        (
            r"^\s+(\d+):(\d+)\s+(error|warning|info)\s+(.*)\s\s+(.*)$",
            "  1:0   error  Missing \"use strict\" statement                 strict",
            &[
                "1",
                "0",
                "error",
                "Missing \"use strict\" statement               ",
                "strict",
            ],
        ),
        // python
        (
            r#"^\s*File\s\"(.*)\",\sline\s(\d+),\sin\s(.*)$"#,
            "  File \"a.py\", line 7, in f",
            &["a.py", "7", "f"],
        ),
        (
            r"^\s*raise\s(.*)\(\'(.*)\'\)$",
            "    raise E('boom')",
            &["E", "boom"],
        ),
        // gcc
        (
            r"^(.*?):(\d+):(\d*):?\s+(?:fatal\s+)?(warning|error):\s+(.*)$",
            "a.c:1:2: fatal error: b.h",
            &["a.c", "1", "2", "error", "b.h"],
        ),
        // msbuild
        (
            r"^(?:\s*\d+>)*([^:\s].*)\((\d+),?(\d*),?(\d*),?(\d*)\):\s+(?:error|warning)\s+(\w+):\s*([^\[]*)\s*\[?",
            "C.cs(1,2): error CS1002: ; expected [/w/p.csproj]",
            &["C.cs", "1", "2", "", "", "CS1002", "; expected "],
        ),
    ];
    for (pattern, line, expected) in cases {
        assert_eq!(groups(pattern, line).unwrap()[1..], *expected, "{pattern}");
    }
}

#[test]
fn the_syntax_is_dotnets_with_the_ecmascript_option() {
    let cases: [(&str, &str, Option<&str>); 40] = [
        (r"\d+", "٣3", Some("3")),
        (r"\w+", "éa_1", Some("a_1")),
        (r"\S+", "\u{a0}x", Some("\u{a0}x")),
        (r"[\S]+[^\s]", "ab c", Some("ab")),
        (r"[\d-x]+", "3-x", Some("3-x")),
        (r"[]x]+", "]x", Some("]x")),
        (r"[^]x]+", "]ab", Some("ab")),
        (r"[[a]+", "[a]", Some("[a")),
        (r"[a&&b]+", "&&a", Some("&&a")),
        (r"[a~~b-]+", "~-b", Some("~-b")),
        (r"[a-z-[aeiou]]+", "abce", Some("bc")),
        (r"[.-]+", "a.-", Some(".-")),
        (r"[\]\\^-]+", r"a\]^-", Some(r"\]^-")),
        (r"a{2}b{,3}", "aab{,3}", Some("aab{,3}")),
        (r"{a}", "{a}", Some("{a}")),
        (r"a{1,2}?", "aa", Some("a")),
        (r"x{2,}", "xxx", Some("xxx")),
        (r"\bfoo\b", "éfoo", Some("foo")),
        (r"o\B.", "foo", Some("oo")),
        (r"(a)(b)?\2c", "ac", Some("ac")),
        (r"(['x]).*\1", "a 'b' c", Some("'b'")),
        (r"(?<q>a)\k<q>", "aa", Some("aa")),
        (r"(a)\12", "aa2", Some("aa2")),
        (r"\101\0", "A\u{0}", Some("A\u{0}")),
        (r"\x41\u0042\cI\t", "AB\t\t", Some("AB\t\t")),
        (r"\e\[31m", "\x1b[31m", Some("\x1b[31m")),
        (r"\/\-\:\q", "/-:q", Some("/-:q")),
        (r"(?i)ERROR", "error", Some("error")),
        (r"(?i:E)r", "er", Some("er")),
        (r"(?#note)a", "a", Some("a")),
        (r"foo(?!bar)", "foobar foobaz", Some("foo")),
        (r"(?<=x)y", "ay xy", Some("y")),
        (r"^(?:(?!error).)*$", "an error", None),
        (r"(?>a+)b", "aab", Some("aab")),
        (r"\p{Lu}+", "éÉA", Some("ÉA")),
        (r"a|", "b", Some("")),
        (r"^$", "", Some("")),
        (r"]}", "]}", Some("]}")),
        (r"é+", "éé", Some("éé")),
        ("", "x", Some("")),
    ];
    for (pattern, line, expected) in cases {
        let found = groups(pattern, line).map(|groups| groups[0].clone());
        assert_eq!(found.as_deref(), expected, "{pattern}");
    }
}

#[test]
fn groups_with_a_name_are_counted_after_those_without() {
    let found = groups(r"(?<file>\w+):(\d+):(?'text'.*)[(](x)?", "a:1:m(x").unwrap();
    assert_eq!(found[1..], ["1", "x", "a", "m"]);
    assert_eq!(translate(r"\((a)[(](b)").unwrap().groups, [0, 1, 2]);
}

#[test]
fn what_is_not_a_pattern_is_refused() {
    for (pattern, message) in [
        ("a\\", "illegal \\ at end of pattern"),
        ("[a", "unterminated [] set"),
        ("(a", "not enough )'s"),
        ("a)", "too many )'s"),
        ("*a", "quantifier * following nothing"),
        ("(+)", "quantifier + following nothing"),
        ("a**", "nested quantifier *"),
        ("a+{2}", "nested quantifier {"),
        ("[b-a]", "[x-y] range in reverse order"),
        ("\\x4", "the escape \\x is not complete"),
        ("\\uD800", "the escape \\u is not complete"),
        ("\\k<no>", "reference to undefined group name no"),
        (
            "(?x) a",
            "the group (?x) a… is not supported by this version of Mayfly",
        ),
        (
            "(?<a-b>x)",
            "the group name 'a-b' is not supported by this version of Mayfly",
        ),
        (
            "\\G",
            "the escape \\G is not supported by this version of Mayfly",
        ),
        (&"(".repeat(200), "groups are nested deeper than 100"),
    ] {
        assert_eq!(
            translate(pattern).unwrap_err().to_string(),
            message,
            "{pattern}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(pattern in "[\\\\\\[\\](){}?*+^$|.<>:=!'a-cdwskpux0-9,é-]{0,40}") {
        if let Ok(translated) = translate(&pattern) {
            let captures = capture_names(&pattern).len();
            proptest::prop_assert_eq!(translated.groups.len(), captures + 1);
        }
    }
}
