//! Regular expressions of problem matchers, put into the words of the `regex` crate.
//!
//! The official runner gives them to .NET with its ECMAScript option: ASCII classes, and groups
//! with a name numbered after those without. Nothing here matches; the result is compiled by
//! [`super::pattern`], in linear time unless it looks around or back.

use std::{iter::Peekable, str::Chars};

/// Deepest nesting of groups.
const MAX_DEPTH: usize = 100;

/// Stands for the border of a word until the engine is known; no character of a pattern is
/// written as this one.
const BORDER: &str = "\0";

/// The border of a word for the engine that cannot be told to use ASCII there.
const BORDER_BY_LOOKING: &str =
    "(?:(?<=[0-9A-Za-z_])(?![0-9A-Za-z_])|(?<![0-9A-Za-z_])(?=[0-9A-Za-z_]))";

/// A pattern in the syntax of `regex` and `fancy-regex`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Translated {
    /// The pattern.
    pub(super) text: String,
    /// For each group number of the author, group 0 included, that in `text`.
    pub(super) groups: Vec<usize>,
    /// Whether it looks around or back, which takes an engine that backtracks.
    pub(super) hard: bool,
}

/// Why a pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::job) enum SyntaxError {
    #[error("illegal \\ at end of pattern")]
    EndsInBackslash,
    #[error("unterminated [] set")]
    OpenSet,
    #[error("not enough )'s")]
    OpenGroup,
    #[error("too many )'s")]
    ExtraParenthesis,
    #[error("quantifier {0} following nothing")]
    NothingToRepeat(char),
    #[error("nested quantifier {0}")]
    NestedQuantifier(char),
    #[error("[x-y] range in reverse order")]
    ReverseRange,
    #[error("the escape \\{0} is not complete")]
    BadEscape(char),
    #[error("reference to undefined group name {0}")]
    UndefinedName(String),
    #[error("groups are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("{0} is not supported by this version of Mayfly")]
    Unsupported(String),
}

/// What a quantifier would repeat.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    Atom,
    Quantifier,
}

/// Puts `pattern` into the other syntax.
pub(super) fn translate(pattern: &str) -> Result<Translated, SyntaxError> {
    let names = capture_names(pattern);
    let mut translator = Translator {
        rest: pattern.chars().peekable(),
        out: String::with_capacity(pattern.len() * 2),
        groups: numbers(&names),
        names,
        hard: false,
        depth: 0,
        last: Last::Nothing,
    };
    translator.pattern()?;
    let border = if translator.hard {
        BORDER_BY_LOOKING
    } else {
        r"(?-u:\b)"
    };
    Ok(Translated {
        text: translator.out.replace(BORDER, border),
        groups: translator.groups,
        hard: translator.hard,
    })
}

/// The groups that capture, in order: the name of each that has one.
fn capture_names(pattern: &str) -> Vec<Option<String>> {
    let mut names = Vec::new();
    let mut rest = pattern;
    let mut in_set = false;
    while let Some(c) = rest.chars().next() {
        let mut length = c.len_utf8();
        match c {
            '\\' => length += rest[1..].chars().next().map_or(0, char::len_utf8),
            '[' if !in_set => {
                in_set = true;
                // A bracket that comes first is a member.
                let inside = rest[1..].strip_prefix('^').unwrap_or(&rest[1..]);
                length = rest.len() - inside.strip_prefix(']').unwrap_or(inside).len();
            }
            ']' => in_set = false,
            '(' if !in_set => match rest[1..].strip_prefix('?') {
                None => names.push(None),
                Some(kind) => names.extend(name_of(kind).map(|name| Some(name.to_owned()))),
            },
            _ => {}
        }
        rest = &rest[length..];
    }
    names
}

/// The name in `<name>…` or `'name'…`.
fn name_of(kind: &str) -> Option<&str> {
    let (inside, close) = match kind.strip_prefix('<') {
        Some(inside) if !inside.starts_with(['=', '!']) => (inside, '>'),
        Some(_) => return None,
        None => (kind.strip_prefix('\'')?, '\''),
    };
    inside.split_once(close).map(|(name, _)| name)
}

/// Where the groups of .NET's numbers are: without a name first, then those with one.
fn numbers(names: &[Option<String>]) -> Vec<usize> {
    let which = |named: bool| {
        let all = names.iter().enumerate();
        all.filter(move |(_, name)| name.is_some() == named)
            .map(|(index, _)| index + 1)
    };
    std::iter::once(0)
        .chain(which(false))
        .chain(which(true))
        .collect()
}

struct Translator<'a> {
    rest: Peekable<Chars<'a>>,
    out: String,
    groups: Vec<usize>,
    names: Vec<Option<String>>,
    hard: bool,
    depth: usize,
    last: Last,
}

impl Translator<'_> {
    fn pattern(&mut self) -> Result<(), SyntaxError> {
        while let Some(c) = self.rest.next() {
            match c {
                '\\' => self.escape()?,
                '[' => {
                    let set = self.set()?;
                    self.atom(&set);
                }
                '(' => self.open()?,
                ')' => self.close()?,
                '|' => self.begin("|"),
                '*' | '+' | '?' => self.quantifier(c, "")?,
                '{' => match self.counts() {
                    Some(counts) => self.quantifier(c, &counts)?,
                    None => self.literal(c),
                },
                '.' | '^' | '$' => self.atom(c.encode_utf8(&mut [0; 4])),
                c => self.literal(c),
            }
        }
        if self.depth > 0 {
            return Err(SyntaxError::OpenGroup);
        }
        Ok(())
    }

    fn atom(&mut self, text: &str) {
        self.out.push_str(text);
        self.last = Last::Atom;
    }

    fn begin(&mut self, text: &str) {
        self.out.push_str(text);
        self.last = Last::Nothing;
    }

    fn literal(&mut self, c: char) {
        let text = plain(c);
        self.atom(&text);
    }

    fn quantifier(&mut self, first: char, counts: &str) -> Result<(), SyntaxError> {
        match self.last {
            Last::Nothing => return Err(SyntaxError::NothingToRepeat(first)),
            Last::Quantifier => return Err(SyntaxError::NestedQuantifier(first)),
            Last::Atom => self.last = Last::Quantifier,
        }
        self.out.push(first);
        self.out.push_str(counts);
        if self.rest.next_if_eq(&'?').is_some() {
            self.out.push('?');
        }
        Ok(())
    }

    /// What follows `{` if it is a quantifier: `n}`, `n,}` or `n,m}`.
    fn counts(&mut self) -> Option<String> {
        let rest: String = self.rest.clone().take_while(|c| *c != '}').collect();
        let closed = self.rest.clone().nth(rest.chars().count()) == Some('}');
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let (least, most) = rest.split_once(',').unwrap_or((&rest, ""));
        if !closed || !digits(least) || !(most.is_empty() || digits(most)) {
            return None;
        }
        self.rest.nth(rest.len());
        Some(format!("{rest}}}"))
    }

    fn open(&mut self) -> Result<(), SyntaxError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(SyntaxError::TooDeep);
        }
        if self.rest.next_if_eq(&'?').is_none() {
            self.begin("(");
            return Ok(());
        }
        let text: String = self.rest.clone().collect();
        for (kind, hard) in [
            (":", false),
            ("=", true),
            ("!", true),
            ("<=", true),
            ("<!", true),
            (">", true),
        ] {
            if text.starts_with(kind) {
                self.rest.nth(kind.len() - 1);
                self.hard |= hard;
                self.begin(&format!("(?{kind}"));
                return Ok(());
            }
        }
        match name_of(&text) {
            Some(name) => self.named(name),
            None => self.flags(&text),
        }
    }

    /// A group with a name: the name is not needed on the other side.
    fn named(&mut self, name: &str) -> Result<(), SyntaxError> {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(word) || name.starts_with(|c: char| c.is_numeric())
        {
            return Err(SyntaxError::Unsupported(format!("the group name '{name}'")));
        }
        self.rest.nth(name.chars().count() + 1);
        self.begin("(");
        Ok(())
    }

    /// `(?i)`, `(?i:…` and `(?#…)`.
    fn flags(&mut self, text: &str) -> Result<(), SyntaxError> {
        if text.starts_with('#') {
            self.depth -= 1;
            return match self.rest.by_ref().find(|c| *c == ')') {
                Some(_) => Ok(()),
                None => Err(SyntaxError::OpenGroup),
            };
        }
        let length = text.find([':', ')']).unwrap_or(text.len());
        let flags = &text[..length];
        let known = |c: char| "ims-".contains(c);
        if flags.is_empty() || length == text.len() || !flags.chars().all(known) {
            let group: String = text.chars().take(8).collect();
            return Err(SyntaxError::Unsupported(format!("the group (?{group}…")));
        }
        self.rest.nth(length);
        let alone = text[length..].starts_with(')');
        self.depth -= usize::from(alone);
        self.begin(&format!("(?{flags}{}", &text[length..=length]));
        Ok(())
    }

    fn close(&mut self) -> Result<(), SyntaxError> {
        self.depth = self
            .depth
            .checked_sub(1)
            .ok_or(SyntaxError::ExtraParenthesis)?;
        self.atom(")");
        Ok(())
    }

    fn escape(&mut self) -> Result<(), SyntaxError> {
        let c = self.rest.next().ok_or(SyntaxError::EndsInBackslash)?;
        match c {
            'b' => self.atom(BORDER),
            'B' => {
                self.hard = true;
                self.atom(&format!("(?!{BORDER})"));
            }
            'A' => self.atom(r"\A"),
            // Lines have no line feed at their end.
            'z' | 'Z' => self.atom(r"\z"),
            'G' => return Err(SyntaxError::Unsupported("the escape \\G".to_owned())),
            'k' => self.name_reference()?,
            '1'..='9' => self.reference(c),
            c => match class(c) {
                Some(class) => self.atom(&format!("[{class}]")),
                None if matches!(c, 'p' | 'P') => {
                    let category = self.category(c)?;
                    self.atom(&category);
                }
                None => {
                    let c = self.character(c)?;
                    self.literal(c);
                }
            },
        }
        Ok(())
    }

    /// `\1`: a group if there are so many, else a character by its octal number.
    fn reference(&mut self, first: char) {
        let mut number = first.to_digit(10).unwrap_or_default() as usize;
        if number >= self.groups.len() {
            let c = if number < 8 { self.octal(first) } else { first };
            return self.literal(c);
        }
        while let Some(digit) = self.rest.peek().and_then(|c| c.to_digit(10)) {
            let longer = number * 10 + digit as usize;
            if longer >= self.groups.len() {
                break;
            }
            number = longer;
            self.rest.next();
        }
        self.refer(self.groups[number]);
    }

    /// `\k<name>`.
    fn name_reference(&mut self) -> Result<(), SyntaxError> {
        let text: String = self.rest.clone().collect();
        let name = name_of(&text).ok_or(SyntaxError::BadEscape('k'))?;
        let known = self.names.iter().position(|n| n.as_deref() == Some(name));
        let group = known.ok_or_else(|| SyntaxError::UndefinedName(name.to_owned()))? + 1;
        self.rest.nth(name.chars().count() + 1);
        self.refer(group);
        Ok(())
    }

    /// What a group found; one that found nothing yet is empty.
    fn refer(&mut self, group: usize) {
        self.hard = true;
        self.atom(&format!("(?({group})(?:\\{group})|)"));
    }

    /// The character that `\c` stands for.
    fn character(&mut self, c: char) -> Result<char, SyntaxError> {
        Ok(match c {
            't' => '\t',
            'n' => '\n',
            'r' => '\r',
            'f' => '\x0c',
            'v' => '\x0b',
            'a' => '\x07',
            'e' => '\x1b',
            '0'..='7' => self.octal(c),
            'x' => self.hex(c, 2)?,
            'u' => self.hex(c, 4)?,
            'c' => {
                let letter = self.rest.next().filter(char::is_ascii);
                let letter = letter.ok_or(SyntaxError::BadEscape('c'))?;
                char::from(letter.to_ascii_uppercase() as u8 & 0x1f)
            }
            c => c,
        })
    }

    fn octal(&mut self, first: char) -> char {
        let mut number = first.to_digit(8).unwrap_or_default();
        for _ in 0..2 {
            let Some(digit) = self.rest.peek().and_then(|c| c.to_digit(8)) else {
                break;
            };
            number = number * 8 + digit;
            self.rest.next();
        }
        char::from((number & 0xff) as u8)
    }

    fn hex(&mut self, letter: char, digits: usize) -> Result<char, SyntaxError> {
        let mut number = 0;
        for _ in 0..digits {
            let digit = self.rest.next().and_then(|c| c.to_digit(16));
            number = number * 16 + digit.ok_or(SyntaxError::BadEscape(letter))?;
        }
        char::from_u32(number).ok_or(SyntaxError::BadEscape(letter))
    }

    /// `\p{Lu}`.
    fn category(&mut self, letter: char) -> Result<String, SyntaxError> {
        let mut name = String::new();
        let bad = SyntaxError::BadEscape(letter);
        self.rest.next_if_eq(&'{').ok_or(bad.clone())?;
        loop {
            match self.rest.next().ok_or(bad.clone())? {
                '}' => return Ok(format!("\\{letter}{{{name}}}")),
                c if c.is_ascii_alphanumeric() && name.len() < 40 => name.push(c),
                _ => return Err(bad),
            }
        }
    }

    /// A set after its `[`, and all of it again.
    fn set(&mut self) -> Result<String, SyntaxError> {
        let mut out = String::from("[");
        if self.rest.next_if_eq(&'^').is_some() {
            out.push('^');
        }
        let mut first = true;
        loop {
            let c = self.rest.next().ok_or(SyntaxError::OpenSet)?;
            match c {
                ']' if !first => break,
                // Subtraction ends the set.
                '-' if !first && self.rest.next_if_eq(&'[').is_some() => {
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err(SyntaxError::TooDeep);
                    }
                    let inner = self.set()?;
                    self.depth -= 1;
                    out.push_str(&format!("--{inner}"));
                    self.rest.next_if_eq(&']').ok_or(SyntaxError::OpenSet)?;
                    break;
                }
                c => self.member(c, &mut out)?,
            }
            first = false;
        }
        out.push(']');
        Ok(out)
    }

    /// One member of a set, or a range.
    fn member(&mut self, c: char, out: &mut String) -> Result<(), SyntaxError> {
        let Some(low) = self.single(c, out)? else {
            return Ok(());
        };
        let mut ahead = self.rest.clone();
        let range = ahead.next() == Some('-') && !matches!(ahead.next(), Some(']' | '[') | None);
        out.push_str(&plain(low));
        if !range {
            return Ok(());
        }
        self.rest.next();
        let c = self.rest.next().ok_or(SyntaxError::OpenSet)?;
        let mut class = String::new();
        match self.single(c, &mut class)? {
            Some(high) if high < low => return Err(SyntaxError::ReverseRange),
            Some(high) => out.push_str(&format!("-{}", plain(high))),
            // Before a class the hyphen is itself.
            None => out.push_str(&format!("{}{class}", plain('-'))),
        }
        Ok(())
    }

    /// A single character of a set; a class goes to `out` instead.
    fn single(&mut self, c: char, out: &mut String) -> Result<Option<char>, SyntaxError> {
        if c != '\\' {
            return Ok(Some(c));
        }
        let c = self.rest.next().ok_or(SyntaxError::EndsInBackslash)?;
        match c {
            'b' => return Ok(Some('\x08')),
            'p' | 'P' => out.push_str(&self.category(c)?),
            c => match class(c) {
                Some(class) => out.push_str(&format!("[{class}]")),
                None => return self.character(c).map(Some),
            },
        }
        Ok(None)
    }
}

/// What is in the brackets of a set that stands for `\d`, `\w` and the like.
fn class(letter: char) -> Option<&'static str> {
    Some(match letter {
        'd' => "0-9",
        'D' => "^0-9",
        'w' => "0-9A-Za-z_",
        'W' => "^0-9A-Za-z_",
        's' => r" \t\n\x0b\x0c\r",
        'S' => r"^ \t\n\x0b\x0c\r",
        _ => return None,
    })
}

/// A character that stands for itself, inside and outside sets.
fn plain(c: char) -> String {
    if c.is_ascii_alphanumeric() || !c.is_ascii() {
        c.to_string()
    } else {
        format!("\\x{:02X}", c as u32)
    }
}

#[cfg(test)]
mod tests;
