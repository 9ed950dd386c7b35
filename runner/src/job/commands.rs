//! Workflow commands: lines of a step's output that tell the runner something (`::error::…`).
//!
//! [`parse`] reads the two forms, [`CommandReader`] knows which commands hold at the moment
//! (`stop-commands`, `echo`) and says what each line means.

mod effect;

pub use effect::{Annotation, CommandReader, Effect, Level, MatcherTarget, Policy};

/// Commands that the runner knows.
const KNOWN: [&str; 15] = [
    "add-mask",
    "add-matcher",
    "add-path",
    "debug",
    "echo",
    "endgroup",
    "error",
    "group",
    "notice",
    "remove-matcher",
    "save-state",
    "set-env",
    "set-output",
    "stop-commands",
    "warning",
];

/// A command as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Its name, in lower case unless it is a token of `stop-commands`.
    pub name: String,
    /// Its properties in order, unescaped.
    pub properties: Vec<(String, String)>,
    /// Its text, unescaped.
    pub data: String,
}

impl Command {
    /// A property that is not empty, by name without regard to case.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        let mut properties = self.properties.iter().rev();
        let found = properties.find(|(n, _)| n.eq_ignore_ascii_case(name));
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }
}

/// Whether `name` is a command of the runner.
#[must_use]
pub fn is_known(name: &str) -> bool {
    KNOWN.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Reads a line as a command: one the runner knows, or the `token` that ends `stop-commands`.
#[must_use]
pub fn parse(line: &str, token: Option<&str>) -> Option<Command> {
    let canonical = |name: &str| {
        if token.is_some_and(|token| token.eq_ignore_ascii_case(name)) {
            return Some(name.to_owned());
        }
        is_known(name).then(|| name.to_ascii_lowercase())
    };
    parse_colons(line, canonical).or_else(|| parse_brackets(line, canonical))
}

/// `::name key=value,key=value::data`, at the beginning of the line.
fn parse_colons(line: &str, known: impl Fn(&str) -> Option<String>) -> Option<Command> {
    let rest = line.trim_start().strip_prefix("::")?;
    let (info, data) = rest.split_once("::")?;
    let (name, properties) = info.split_once(' ').unwrap_or((info, ""));
    Some(Command {
        name: known(name)?,
        properties: pairs(properties.trim(), ',', |value| {
            unescape(
                value,
                &[("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ",")],
            )
        }),
        data: unescape(data, &[("%0D", "\r"), ("%0A", "\n")]),
    })
}

/// `##[name key=value;key=value]data`, anywhere in the line.
fn parse_brackets(line: &str, known: impl Fn(&str) -> Option<String>) -> Option<Command> {
    const ESCAPES: [(&str, &str); 4] = [("%3B", ";"), ("%0D", "\r"), ("%0A", "\n"), ("%5D", "]")];
    let (_, rest) = line.split_once("##[")?;
    let (info, data) = rest.split_once(']')?;
    let (name, properties) = info.split_once(' ').unwrap_or((info, ""));
    Some(Command {
        name: known(name)?,
        properties: pairs(properties, ';', |value| unescape(value, &ESCAPES)),
        data: unescape(data, &ESCAPES),
    })
}

/// `key=value` pairs; parts without a key or a value are left out.
fn pairs(text: &str, separator: char, value: impl Fn(&str) -> String) -> Vec<(String, String)> {
    let pair = |part: &str| {
        let (key, text) = part.trim_start_matches('=').split_once('=')?;
        let text = text.trim_start_matches('=');
        (!text.is_empty()).then(|| (key.to_owned(), value(text)))
    };
    text.split(separator).filter_map(pair).collect()
}

/// Undoes escapes in the given order, `%25` last.
fn unescape(text: &str, escapes: &[(&str, &str)]) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let mut out = text.to_owned();
    for (escaped, plain) in escapes.iter().chain(&[("%25", "%")]) {
        out = out.replace(escaped, plain);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(name: &str, properties: &[(&str, &str)], data: &str) -> Option<Command> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Some(Command {
            name: name.to_owned(),
            properties: properties.iter().map(own).collect(),
            data: data.to_owned(),
        })
    }

    #[test]
    fn both_forms_are_read_with_their_escapes() {
        for (line, expected) in [
            ("::error::boom", command("error", &[], "boom")),
            ("  \t::Error ::boom", command("error", &[], "boom")),
            (
                "::error file=a%3Ab%2Cc,line=3, col=%250A::x%0Ay%25%3A",
                command(
                    "error",
                    &[("file", "a:b,c"), ("line", "3"), (" col", "%0A")],
                    "x\ny%%3A",
                ),
            ),
            (
                "::set-output name=a::b::c",
                command("set-output", &[("name", "a")], "b::c"),
            ),
            (
                "::notice a=,=b,c,d==e::",
                command("notice", &[("d", "e")], ""),
            ),
            (
                "text ##[warning file=a%3Bb;line=2]d%5D%0Ae",
                command("warning", &[("file", "a;b"), ("line", "2")], "d]\ne"),
            ),
            ("##[group]x", command("group", &[], "x")),
            ("::unknown::x", None),
            ("x ::error::y", None),
            ("::error:y", None),
            ("##[error y", None),
            ("", None),
        ] {
            assert_eq!(parse(line, None), expected, "{line}");
        }
    }

    #[test]
    fn a_stop_token_is_a_command_while_it_is_waited_for() {
        assert_eq!(parse("::tOken::", Some("token")), command("tOken", &[], ""));
        assert_eq!(parse("::token::", None), None);
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_a_panic(line in "(::|##\\[)?[:\\[\\]#%=;, a-z0-9é\u{0}]{0,60}") {
            let _ = parse(&line, Some("a"));
        }

        #[test]
        fn data_survives_the_escapes_of_the_toolkit(data in "[%:,\r\n0-9AD a-z]{0,30}") {
            let escaped = data.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
            let parsed = parse(&format!("::debug::{escaped}"), None).unwrap();
            prop_assert_eq!(parsed.data, data);
        }
    }
}
