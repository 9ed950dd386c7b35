//! Text with `${{ }}` in it, as one expression.
//!
//! `a ${{ b }} c` becomes `format('a {0} c', b)`, as GitHub's service sends it to runners.

use crate::expression::{Expression, ExpressionError, Names};

/// What a text with expressions is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Template {
    /// It holds none; or only a constant string.
    Literal(String),
    /// One expression, without `${{ }}`.
    Expression(String),
    /// `${{ insert }}`.
    Insert,
}

/// What is wrong with an expression in a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TemplateError {
    pub fault: Fault,
    /// Which `${{` of the text, counted from 0.
    pub opening: usize,
    /// Characters between that `${{` and the expression at fault.
    pub leading: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fault {
    NotClosed,
    Empty,
    /// `insert` beside other text.
    InsertInText,
    Expression(ExpressionError),
}

const OPEN: &str = "${{";
const CLOSE: &str = "}}";

/// Whether a text holds expressions.
pub(super) fn has_expression(text: &str) -> bool {
    text.contains(OPEN)
}

enum Segment {
    Text(String),
    Expression(String),
    Insert,
}

/// Reads a text whose expressions may use the given names; all errors at once.
pub(super) fn read(text: &str, names: &Names) -> Result<Template, Vec<TemplateError>> {
    if !has_expression(text) {
        return Ok(Template::Literal(text.to_owned()));
    }
    let mut segments = Vec::new();
    let mut errors = Vec::new();
    let mut rest = text;
    let mut opening = 0;
    while let Some(at) = rest.find(OPEN) {
        push_text(&mut segments, &rest[..at]);
        let inside = &rest[at + OPEN.len()..];
        let Some(end) = closing(inside) else {
            errors.push(TemplateError {
                fault: Fault::NotClosed,
                opening,
                leading: 0,
            });
            return Err(errors);
        };
        match expression(&inside[..end], names) {
            Ok(segment) => segments.push(segment),
            Err(fault) => {
                let body = &inside[..end];
                let leading = body.chars().take_while(|c| c.is_whitespace()).count();
                errors.push(TemplateError {
                    fault,
                    opening,
                    leading,
                });
            }
        }
        rest = &inside[end + CLOSE.len()..];
        opening += 1 + inside[..end].matches(OPEN).count();
    }
    push_text(&mut segments, rest);
    let lone_insert = |s: &Segment| matches!(s, Segment::Insert) && segments.len() > 1;
    if segments.iter().any(lone_insert) {
        errors.push(TemplateError {
            fault: Fault::InsertInText,
            opening: 0,
            leading: 0,
        });
    }
    if errors.is_empty() {
        Ok(join(segments))
    } else {
        Err(errors)
    }
}

fn push_text(segments: &mut Vec<Segment>, text: &str) {
    if !text.is_empty() {
        segments.push(Segment::Text(text.to_owned()));
    }
}

/// Where the `}}` is that no string of the expression holds.
fn closing(inside: &str) -> Option<usize> {
    let mut in_string = false;
    let bytes = inside.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\'' => in_string = !in_string,
            b'}' if !in_string && bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
    }
    None
}

fn expression(body: &str, names: &Names) -> Result<Segment, Fault> {
    let body = body.trim();
    if body.is_empty() {
        return Err(Fault::Empty);
    }
    if body == "insert" {
        return Ok(Segment::Insert);
    }
    Expression::parse(body, names).map_err(Fault::Expression)?;
    Ok(Segment::Expression(body.to_owned()))
}

fn join(mut segments: Vec<Segment>) -> Template {
    if segments.len() == 1 {
        return match segments.remove(0) {
            Segment::Text(text) => Template::Literal(text),
            Segment::Insert => Template::Insert,
            Segment::Expression(body) => match constant(&body) {
                Some(text) => Template::Literal(text),
                None => Template::Expression(body),
            },
        };
    }
    let (mut format, mut arguments) = (String::new(), String::new());
    let mut count = 0;
    for segment in segments {
        match segment {
            Segment::Text(text) => {
                let quoted = text
                    .replace('\'', "''")
                    .replace('{', "{{")
                    .replace('}', "}}");
                format.push_str(&quoted);
            }
            Segment::Expression(body) => {
                format.push_str(&format!("{{{count}}}"));
                arguments.push_str(", ");
                arguments.push_str(&body);
                count += 1;
            }
            Segment::Insert => {}
        }
    }
    Template::Expression(format!("format('{format}'{arguments})"))
}

/// The text of an expression that is one string.
fn constant(body: &str) -> Option<String> {
    let inner = body.strip_prefix('\'')?.strip_suffix('\'')?;
    let text = inner.replace("''", "\0");
    (!text.contains('\'')).then(|| text.replace('\0', "'"))
}

/// An expression as it stood in the file: `format('a {0}', b)` is `a ${{ b }}` again.
pub(crate) fn written(expression: &str) -> String {
    unjoin(expression).unwrap_or_else(|| format!("${{{{ {expression} }}}}"))
}

fn unjoin(expression: &str) -> Option<String> {
    let rest = expression.strip_prefix("format('")?.strip_suffix(')')?;
    let end = end_of_text(rest)?;
    let arguments = arguments(&rest[end + 1..])?;
    let format = rest[..end].replace("''", "'");
    let (mut text, mut rest) = (String::new(), format.as_str());
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            text.push_str(brace);
            rest = after;
        } else {
            let (number, after) = rest.split_once('}')?;
            let argument = arguments.get(number.parse::<usize>().ok()?)?;
            text.push_str(&format!("${{{{ {argument} }}}}"));
            rest = after;
        }
    }
    Some(text + rest)
}

/// Where the quoted text ends in which `rest` begins.
fn end_of_text(rest: &str) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + rest[from..].find('\'')?;
        if !rest[at + 1..].starts_with('\'') {
            return Some(at);
        }
        from = at + 2;
    }
}

/// What follows the format: each argument after a comma. None where that is not all.
fn arguments(text: &str) -> Option<Vec<&str>> {
    let (mut depth, mut quoted, mut starts) = (0_u32, false, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => starts.push(at),
            _ => {}
        }
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let arguments = starts.iter().zip(ends);
    let arguments = arguments.map(|(start, end)| text[start + 1..end].trim());
    (depth == 0 && !quoted && (text.is_empty() || text.starts_with(',')))
        .then(|| arguments.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_shown_as_it_was_written() {
        for text in [
            "${{ github.ref }}",
            "a ${{ github.ref }} b",
            "${{ github.a }}${{ env.b }}",
            "it's {x} }{ ${{ env.b }} {0} ''",
            "f ${{ join(fromJSON('[1, 2]'), ', ') }} ${{ env['a,)'] }}",
            "${{ format('{0}', github.a) == format('{0}', env.b) }}",
        ] {
            let Ok(Template::Expression(body)) = read_with(text) else {
                panic!("{text}");
            };
            assert_eq!(written(&body), text, "{body}");
        }
        for body in [
            "format('{1}', env.a)",
            "format('{x}', env.a)",
            "format('a') || format('b')",
        ] {
            assert_eq!(written(body), format!("${{{{ {body} }}}}"));
        }
    }

    fn read_with(text: &str) -> Result<Template, Vec<TemplateError>> {
        read(text, &Names::new(["github", "env"]))
    }

    fn expression(text: &str) -> Template {
        Template::Expression(text.to_owned())
    }

    #[test]
    fn text_and_expressions_become_one_expression() {
        let rows = [
            ("plain", Template::Literal("plain".into())),
            ("${{ github.ref }}", expression("github.ref")),
            ("${{github.ref}}", expression("github.ref")),
            (
                "a ${{ github.ref }}",
                expression("format('a {0}', github.ref)"),
            ),
            (
                "${{ github.a }}${{ env.b }}",
                expression("format('{0}{1}', github.a, env.b)"),
            ),
            (
                "it's {x} ${{ env.b }}",
                expression("format('it''s {{x}} {0}', env.b)"),
            ),
            (" ${{ env.b }}", expression("format(' {0}', env.b)")),
            ("${{ '}}' == env.b }}", expression("'}}' == env.b")),
            ("${{ 'it''s }} x' }}", Template::Literal("it's }} x".into())),
            ("${{ 'a' == 'b' }}", expression("'a' == 'b'")),
            ("${{ '${{ x }}' }}", Template::Literal("${{ x }}".into())),
            ("${{ insert }}", Template::Insert),
            (
                "$ {{ x }} ${ y }",
                Template::Literal("$ {{ x }} ${ y }".into()),
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(read_with(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn every_faulty_expression_is_told_with_its_number() {
        let errors =
            read_with("${{ nope }} ${{ github.ok }} ${{ }} ${{   no2 }} ${{ x").unwrap_err();
        let seen: Vec<_> = errors
            .iter()
            .map(|error| (error.opening, error.leading))
            .collect();
        assert_eq!(seen, [(0, 1), (2, 1), (3, 3), (4, 0)]);
        assert_eq!(errors[1].fault, Fault::Empty);
        assert_eq!(errors[3].fault, Fault::NotClosed);
        let errors = read_with("x ${{ insert }}").unwrap_err();
        assert_eq!(errors[0].fault, Fault::InsertInText);
    }

    #[test]
    fn what_is_joined_can_be_read_again() {
        for text in ["'", "{", "}", "''{{0}}", "é{0}''"] {
            let Ok(Template::Expression(body)) = read_with(&format!("{text}${{{{ env.b }}}}"))
            else {
                panic!("{text}");
            };
            let names = Names::new(["env"]);
            let contexts = Default::default();
            let scope = crate::expression::Scope::new(&contexts);
            let value = Expression::parse(&body, &names)
                .unwrap()
                .evaluate(&scope)
                .unwrap();
            assert_eq!(value.as_str(), Some(text));
        }
    }
}
