//! Patterns of `hashFiles()`, as `@actions/glob` reads them with the options of the official runner.
//!
//! Relative to the workspace; `*`, `?` and `[…]` stay within a name, `**` is any number of folders;
//! dot files match, braces mean nothing. `!` takes away what earlier patterns gave. A folder that
//! matches stands for all that is in it.

/// Longest pattern, in bytes.
const LENGTH: usize = 4096;

/// A pattern.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pattern {
    /// Whether it takes away.
    pub negate: bool,
    /// Only folders match it (`name/`); what is in them does then.
    folders_only: bool,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq)]
enum Segment {
    /// `**`
    Deep,
    /// A name.
    Name(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Literal(char),
    Any,
    Star,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Reads patterns, one a line; blank lines and comments (`#`) are none.
///
/// # Errors
/// What is wrong with one.
pub(super) fn patterns(texts: &[String], workspace: &str) -> Result<Vec<Pattern>, String> {
    let lines = texts.iter().flat_map(|text| text.split('\n'));
    lines
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| Pattern::new(line, workspace).transpose())
        .collect()
}

impl Pattern {
    /// A pattern, or none if it can match nothing in the workspace.
    fn new(text: &str, workspace: &str) -> Result<Option<Self>, String> {
        if text.len() > LENGTH {
            return Err(format!("a pattern is longer than {LENGTH} bytes"));
        }
        let body = text.trim_start_matches('!');
        let negate = (text.len() - body.len()) % 2 == 1;
        let body = body.trim();
        if body.is_empty() {
            return Err(format!("the pattern '{text}' names nothing"));
        }
        let inside = if body.starts_with('/') {
            match body.strip_prefix(workspace) {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
                _ => return Ok(None),
            }
        } else {
            body.strip_prefix("./")
                .unwrap_or(if body == "." { "" } else { body })
        };
        let names: Vec<&str> = inside.split('/').filter(|name| !name.is_empty()).collect();
        if names.iter().any(|name| matches!(*name, "." | "..")) {
            return Err(format!(
                "Invalid pattern '{body}'. Relative pathing '.' and '..' is not allowed."
            ));
        }
        Ok(Some(Self {
            negate,
            folders_only: body.ends_with('/') && !names.is_empty(),
            segments: names.into_iter().map(segment).collect(),
        }))
    }

    /// Whether it matches a file, by the path's names from the workspace down.
    pub(super) fn matches(&self, names: &[&str]) -> bool {
        let mut open = vec![false; self.segments.len() + 1];
        open[0] = true;
        self.pass_deep(&mut open);
        let all = self.segments.len();
        for name in names {
            // What is in a folder that matches, matches.
            if open[all] {
                return true;
            }
            open = self.step(&open, name);
        }
        open[all] && !self.folders_only
    }

    /// The segments that may come next after `name`.
    fn step(&self, open: &[bool], name: &str) -> Vec<bool> {
        let mut next = vec![false; open.len()];
        for (at, segment) in self.segments.iter().enumerate().filter(|(at, _)| open[*at]) {
            match segment {
                Segment::Deep => next[at] = true,
                Segment::Name(tokens) => next[at + 1] |= name_matches(tokens, name),
            }
        }
        self.pass_deep(&mut next);
        next
    }

    /// `**` may be no folder at all.
    fn pass_deep(&self, open: &mut [bool]) {
        for (at, segment) in self.segments.iter().enumerate() {
            if open[at] && *segment == Segment::Deep {
                open[at + 1] = true;
            }
        }
    }

    /// Names before the first that is not literal: where a search begins.
    pub(super) fn literal(&self) -> Vec<String> {
        let literal = |segment: &Segment| match segment {
            Segment::Deep => None,
            Segment::Name(tokens) => tokens
                .iter()
                .map(|token| match token {
                    Token::Literal(c) => Some(*c),
                    _ => None,
                })
                .collect::<Option<String>>(),
        };
        self.segments.iter().map_while(literal).collect()
    }
}

fn segment(text: &str) -> Segment {
    if text == "**" {
        return Segment::Deep;
    }
    let mut tokens = Vec::new();
    let mut chars: Vec<char> = text.chars().collect();
    chars.reverse();
    while let Some(c) = chars.pop() {
        tokens.push(match c {
            '*' if tokens.last() == Some(&Token::Star) => continue,
            '*' => Token::Star,
            '?' => Token::Any,
            '\\' => Token::Literal(chars.pop().unwrap_or('\\')),
            '[' => class(&mut chars).unwrap_or(Token::Literal('[')),
            c => Token::Literal(c),
        });
    }
    Segment::Name(tokens)
}

/// The class after `[`, its characters in reverse; `None`, and nothing taken, if it is not closed.
fn class(chars: &mut Vec<char>) -> Option<Token> {
    let mut rest = chars.clone();
    let negated = matches!(rest.last(), Some('!' | '^'));
    if negated {
        rest.pop();
    }
    let mut members = Vec::new();
    loop {
        match rest.pop()? {
            ']' if !members.is_empty() => break,
            '\\' => members.push((rest.pop()?, true)),
            c => members.push((c, false)),
        }
    }
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < members.len() {
        let first = members[at].0;
        let range = members.get(at + 1) == Some(&('-', false));
        match members.get(at + 2).filter(|_| range) {
            Some(&(last, _)) => {
                ranges.push((first, last));
                at += 3;
            }
            None => {
                ranges.push((first, first));
                at += 1;
            }
        }
    }
    *chars = rest;
    Some(Token::Class { negated, ranges })
}

/// Whether a name matches; each star is tried from its left, never all of them at once.
fn name_matches(tokens: &[Token], name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    let (mut token, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < name.len() {
        match tokens.get(token) {
            Some(Token::Star) => {
                star = Some((token, at));
                token += 1;
            }
            Some(one) if one_matches(one, name[at]) => {
                token += 1;
                at += 1;
            }
            _ => {
                let Some((after, tried)) = star else {
                    return false;
                };
                star = Some((after, tried + 1));
                (token, at) = (after + 1, tried + 1);
            }
        }
    }
    tokens[token..].iter().all(|token| *token == Token::Star)
}

fn one_matches(token: &Token, c: char) -> bool {
    match token {
        Token::Any => true,
        Token::Literal(literal) => *literal == c,
        Token::Class { negated, ranges } => {
            ranges
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&c))
                != *negated
        }
        Token::Star => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        let read = patterns(&[pattern.to_owned()], "/w").unwrap();
        let names: Vec<&str> = path.split('/').collect();
        read.iter().any(|pattern| pattern.matches(&names))
    }

    #[test]
    fn patterns_match_as_in_actions_glob() {
        for (pattern, path) in [
            ("a.txt", "a.txt"),
            ("./a.txt", "a.txt"),
            ("*.txt", "a.txt"),
            ("*", ".hidden"),
            ("**", "a/b/c"),
            ("**/a.txt", "a.txt"),
            ("**/a.txt", "x/y/a.txt"),
            ("x/**/a", "x/a"),
            ("x/**/a", "x/y/z/a"),
            ("x/**", "x/y"),
            ("src", "src/deep/file"),
            ("src/", "src/file"),
            ("s?c/*", "src/a"),
            ("[a-c].t", "b.t"),
            ("[!a-c].t", "d.t"),
            ("[^a].t", "b.t"),
            ("[]a].t", "].t"),
            ("[a-].t", "-.t"),
            ("/w/a", "a"),
            ("/w", "any/thing"),
            ("a\\*", "a*"),
            ("{a,b}", "{a,b}"),
            ("a**b", "axxb"),
            ("[x", "[x"),
            ("é?", "é😀"),
            (".", "a"),
            ("***", "a"),
            ("*a*a*", "bababa"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("a.txt", "x/a.txt"),
            ("*.txt", "x/a.txt"),
            ("src/", "src"),
            ("s?c", "soup"),
            ("[a-c].t", "d.t"),
            ("/other/a", "a"),
            ("/wa", "a"),
            ("A.txt", "a.txt"),
            ("{a,b}", "a"),
            ("x/**/a", "x/y/b"),
            ("a\\*", "ab"),
            ("# a", "a"),
            ("", "a"),
            ("a**b", "a/b"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn signs_comments_and_bad_patterns_are_known() {
        let read = patterns(&["!a\n# b\n\n!!c".to_owned(), "!  d".to_owned()], "/w").unwrap();
        assert_eq!(
            read.iter().map(|p| p.negate).collect::<Vec<_>>(),
            [true, false, true]
        );
        assert_eq!(read[2].literal(), ["d"]);
        for bad in ["../a", "a/./b", "!", &"x".repeat(LENGTH + 1)] {
            assert!(patterns(&[bad.to_owned()], "/w").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hostile_pattern_costs_little() {
        let pattern = "*a".repeat(1000) + "b";
        assert!(!matches(&pattern, &"a".repeat(4000)));
        assert!(!matches(
            &("**/".repeat(1000) + "b"),
            &vec!["a"; 1000].join("/")
        ));
    }
}
