//! `on`: the events of a workflow with their filters, and the inputs that a person or a caller gives.

use regex::Regex;

use super::diagnostic::Diagnostic;
use super::model::place_of;
use super::token::{TemplateToken, TokenKind};

/// An event that starts a workflow.
#[derive(Clone, Debug, Default)]
pub struct Trigger {
    /// Its name.
    pub event: String,
    /// Filters by key: `branches`, `paths-ignore`, `types` and their like.
    pub filters: Vec<(String, Vec<String>)>,
}

impl Trigger {
    /// The patterns of a filter, if it is there.
    pub fn filter(&self, key: &str) -> Option<&[String]> {
        let found = self.filters.iter().find(|(name, _)| name == key);
        found.map(|(_, patterns)| patterns.as_slice())
    }
}

/// The type of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputType {
    /// Text.
    String,
    /// `true` or `false`.
    Boolean,
    /// A number.
    Number,
    /// One of some words.
    Choice,
    /// The name of an environment.
    Environment,
}

impl InputType {
    fn named(name: &str) -> Self {
        match name {
            "boolean" => Self::Boolean,
            "number" => Self::Number,
            "choice" => Self::Choice,
            "environment" => Self::Environment,
            _ => Self::String,
        }
    }
}

/// An input of `workflow_dispatch` or `workflow_call`.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: InputType,
    /// Whether it must be given.
    pub required: bool,
    /// What it is if it is not given.
    pub default: Option<TemplateToken>,
    /// The words of a choice.
    pub options: Vec<String>,
}

/// The events of a workflow.
pub(super) fn triggers(root: &TemplateToken) -> Vec<Trigger> {
    let named = |token: &TemplateToken| {
        let event = token.as_str()?.to_owned();
        Some(Trigger {
            event,
            ..Trigger::default()
        })
    };
    match root.get("on").map(|on| &on.kind) {
        Some(TokenKind::Sequence(items)) => items.iter().filter_map(named).collect(),
        Some(TokenKind::Mapping(entries)) => entries
            .iter()
            .filter_map(|(key, value)| {
                let filters = value.as_mapping().unwrap_or_default().iter();
                let filters = filters
                    .filter_map(|(key, value)| Some((key.as_str()?.to_owned(), texts(value))));
                Some(Trigger {
                    filters: filters.collect(),
                    ..named(key)?
                })
            })
            .collect(),
        _ => root.get("on").and_then(named).into_iter().collect(),
    }
}

/// One text, or those of a list.
fn texts(token: &TemplateToken) -> Vec<String> {
    let items = token.as_sequence().unwrap_or(std::slice::from_ref(token));
    let text = |item: &TemplateToken| item.as_str().map(str::to_owned);
    items.iter().filter_map(text).collect()
}

/// The inputs of `workflow_dispatch` or `workflow_call`.
pub(super) fn inputs(root: &TemplateToken, event: &str) -> Vec<Input> {
    let inputs = root
        .get("on")
        .and_then(|on| on.get(event))
        .and_then(|event| event.get("inputs"))
        .and_then(TemplateToken::as_mapping);
    let entries = inputs.unwrap_or_default().iter();
    let input = |(name, input): &(TemplateToken, TemplateToken)| {
        let kind = input.get("type").and_then(TemplateToken::as_str);
        Some(Input {
            name: name.as_str()?.to_owned(),
            kind: InputType::named(kind.unwrap_or_default()),
            required: input.get("required").map(|token| &token.kind)
                == Some(&TokenKind::Bool(true)),
            default: input
                .get("default")
                .filter(|token| !token.is_null())
                .cloned(),
            options: input.get("options").map(texts).unwrap_or_default(),
        })
    };
    entries.filter_map(input).collect()
}

/// A secret of `workflow_call`.
#[derive(Clone, Debug)]
pub struct CallSecret {
    /// Its name.
    pub name: String,
    /// Whether a caller must name it.
    pub required: bool,
}

/// An output of `workflow_call`.
#[derive(Clone, Debug)]
pub struct CallOutput {
    /// Its name.
    pub name: String,
    /// What it is, made of the outputs of jobs.
    pub value: TemplateToken,
}

/// The secrets of `workflow_call`.
pub(super) fn call_secrets(root: &TemplateToken) -> Vec<CallSecret> {
    let secret = |(name, secret): &(TemplateToken, TemplateToken)| {
        let required = secret.get("required").map(|token| &token.kind);
        Some(CallSecret {
            name: name.as_str()?.to_owned(),
            required: required == Some(&TokenKind::Bool(true)),
        })
    };
    call_entries(root, "secrets")
        .iter()
        .filter_map(secret)
        .collect()
}

/// The outputs of `workflow_call`.
pub(super) fn call_outputs(root: &TemplateToken) -> Vec<CallOutput> {
    let output = |(name, output): &(TemplateToken, TemplateToken)| {
        Some(CallOutput {
            name: name.as_str()?.to_owned(),
            value: output.get("value")?.clone(),
        })
    };
    call_entries(root, "outputs")
        .iter()
        .filter_map(output)
        .collect()
}

fn call_entries<'a>(root: &'a TemplateToken, key: &str) -> &'a [(TemplateToken, TemplateToken)] {
    root.get("on")
        .and_then(|on| on.get("workflow_call"))
        .and_then(|call| call.get(key))
        .and_then(TemplateToken::as_mapping)
        .unwrap_or_default()
}

/// What the schema cannot say about `on`: schedules, and inputs whose parts do not fit.
pub(super) fn check(root: &TemplateToken, findings: &mut Vec<Diagnostic>) {
    let Some(on) = root.get("on") else { return };
    for entry in on
        .get("schedule")
        .and_then(TemplateToken::as_sequence)
        .unwrap_or_default()
    {
        let Some(cron) = entry.get("cron") else {
            continue;
        };
        if cron.as_str().is_some_and(|text| !is_cron(text)) {
            let help = "write five fields: minute, hour, day of month, month, day of week; like '30 4 * * 1-5'";
            let message = format!("`{}` is no schedule", cron.as_str().unwrap_or_default());
            findings.push(Diagnostic::error(place_of(cron), message, help));
        }
    }
    for event in ["workflow_dispatch", "workflow_call"] {
        let inputs = on.get(event).and_then(|event| event.get("inputs"));
        for (name, input) in inputs
            .and_then(TemplateToken::as_mapping)
            .unwrap_or_default()
        {
            check_input(name, input, findings);
        }
    }
}

fn check_input(name: &TemplateToken, input: &TemplateToken, findings: &mut Vec<Diagnostic>) {
    if input.as_mapping().is_none() {
        return;
    }
    let kind = input.get("type").and_then(TemplateToken::as_str);
    let kind = InputType::named(kind.unwrap_or_default());
    let name = name.as_str().unwrap_or_default();
    let options = input.get("options").and_then(TemplateToken::as_sequence);
    let place = place_of(input);
    if kind == InputType::Choice && options.is_none_or(<[_]>::is_empty) {
        let message = format!("the choice `{name}` has no options");
        findings.push(Diagnostic::error(
            place,
            message,
            "add `options:` and a list of words",
        ));
    }
    if kind != InputType::Choice && input.get("options").is_some() {
        let message = format!("the input `{name}` has `options` and is no choice");
        findings.push(Diagnostic::error(
            place,
            message,
            "add `type: choice`, or remove `options`",
        ));
    }
    let Some(default) = input.get("default") else {
        return;
    };
    let wrong = match (kind, &default.kind) {
        (_, TokenKind::Expression(_) | TokenKind::Null) => false,
        (InputType::Boolean, kind) => !matches!(kind, TokenKind::Bool(_)),
        (InputType::Number, _) => false,
        (_, kind) => !matches!(kind, TokenKind::String(_)),
    };
    if wrong {
        let message = format!("the default of `{name}` does not fit its type");
        let help = match kind {
            InputType::Boolean => "write `true` or `false` without quotes",
            _ => "put the text into quotes",
        };
        findings.push(Diagnostic::error(place_of(default), message, help));
    }
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Whether a text is a schedule as GitHub takes it.
fn is_cron(text: &str) -> bool {
    let fields: Vec<&str> = text.split(' ').filter(|field| !field.is_empty()).collect();
    let [minute, hour, day, month, weekday] = fields.as_slice() else {
        return false;
    };
    cron_field(minute, 0, 59, &[])
        && cron_field(hour, 0, 23, &[])
        && cron_field(day, 1, 31, &[])
        && cron_field(month, 1, 12, &MONTHS)
        && cron_field(weekday, 0, 6, &DAYS)
}

fn cron_field(text: &str, least: u32, most: u32, names: &[&str]) -> bool {
    let number = |text: &str| {
        let named = names
            .iter()
            .position(|name| text.eq_ignore_ascii_case(name));
        let first = if most == 12 { 1 } else { 0 };
        let named = named.and_then(|at| u32::try_from(at + first).ok());
        let number = named.or_else(|| text.parse().ok())?;
        (least..=most).contains(&number).then_some(number)
    };
    text.split(',').all(|part| {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (part, None),
        };
        let step_fits = step.is_none_or(|step| number(step).is_some_and(|step| step > 0));
        let range_fits = match range.split_once('-') {
            _ if range == "*" => true,
            Some((from, to)) => matches!((number(from), number(to)), (Some(a), Some(b)) if a <= b),
            None => number(range).is_some(),
        };
        step_fits && range_fits
    })
}

/// Whether a name passes patterns in order: the last that matches decides, `!` takes out.
pub fn passes(patterns: &[String], name: &str) -> bool {
    let mut passes = false;
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(pattern) if matches(pattern, name) => passes = false,
            None if matches(pattern, name) => passes = true,
            _ => {}
        }
    }
    passes
}

/// Whether a name matches a filter pattern: `*` up to a slash, `**` anything, `?` and `+` after a sign,
/// `[]` a range. A pattern that is none matches nothing.
fn matches(pattern: &str, name: &str) -> bool {
    let mut regex = String::from("^");
    let mut signs = pattern.chars().peekable();
    while let Some(sign) = signs.next() {
        match sign {
            '*' if signs.peek() == Some(&'*') => {
                signs.next();
                // `**/` stands for no folder, too.
                if signs.peek() == Some(&'/') {
                    signs.next();
                    regex.push_str("(?:.*/)?");
                } else {
                    regex.push_str(".*");
                }
            }
            '*' => regex.push_str("[^/]*"),
            '?' | '+' | '[' | ']' => regex.push(sign),
            '\\' => regex.extend(signs.next().map(|sign| regex::escape(&sign.to_string()))),
            '-' => regex.push('-'),
            other => regex.push_str(&regex::escape(&other.to_string())),
        }
    }
    regex.push('$');
    Regex::new(&regex).is_ok_and(|regex| regex.is_match(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_githubs_examples_say() {
        for (pattern, name, expected) in [
            ("feature/*", "feature/my-branch", true),
            ("feature/*", "feature/beta/x", false),
            ("feature/**", "feature/beta/x", true),
            ("main", "main", true),
            ("main", "main2", false),
            ("*", "releases", true),
            ("*", "a/b", false),
            ("**", "all/the/branches", true),
            ("*feature", "ver-10-feature", true),
            ("v2*", "v2.9", true),
            ("v[12].[0-9]+.[0-9]+", "v1.10.1", true),
            ("v[12].[0-9]+.[0-9]+", "v3.1.1", false),
            ("*.jsx?", "page.js", true),
            ("*.jsx?", "page.jsx", true),
            ("**/README.md", "js/README.md", true),
            ("**/README.md", "README.md", true),
            ("docs/*", "docs/mona/octocat.txt", false),
            ("[", "[", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        let patterns = ["releases/**".to_owned(), "!releases/**-alpha".to_owned()];
        assert!(passes(&patterns, "releases/10"));
        assert!(!passes(&patterns, "releases/10-alpha"));
    }

    #[test]
    fn schedules_are_told_from_other_text() {
        for text in ["0 0 * * *", "*/15 2-4,9 1 JAN-mar mon-FRI", "30  5 * * 0"] {
            assert!(is_cron(text), "{text}");
        }
        for text in [
            "",
            "* * * *",
            "60 * * * *",
            "5-2 * * * *",
            "@daily",
            "* * 0 * *",
            "*/0 * * * *",
            "1,, * * * *",
        ] {
            assert!(!is_cron(text), "{text}");
        }
    }
}
