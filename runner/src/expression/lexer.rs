//! Splits an expression into symbols.
//!
//! Boundaries and the two readings of `.` are those of GitHub's runner: what starts like a number
//! runs to the next boundary and must then be a number as a whole.

use super::coerce::parse_number;
use super::error::{ErrorKind, ExpressionError};

/// Longest expression, in UTF-16 units.
pub const MAX_LENGTH: usize = 21_000;

/// What a symbol is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Symbol {
    LeftParen,
    RightParen,
    LeftBracket,
    RightBracket,
    Comma,
    Dot,
    Star,
    Not,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    And,
    Or,
    Null,
    Bool(bool),
    Number(f64),
    String(String),
    Name,
}

/// A symbol and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Lexeme<'a> {
    pub symbol: Symbol,
    /// The symbol as written.
    pub text: &'a str,
    /// Byte offset in the source.
    pub start: usize,
}

/// Reads all symbols.
pub(super) fn lex(source: &str) -> Result<Vec<Lexeme<'_>>, ExpressionError> {
    if source.len() > MAX_LENGTH && source.encode_utf16().count() > MAX_LENGTH {
        return Err(ExpressionError::whole(
            ErrorKind::Lexing,
            format!("Exceeded max expression length {MAX_LENGTH}"),
        ));
    }
    let mut lexer = Lexer {
        source,
        at: 0,
        lexemes: Vec::new(),
    };
    while lexer.next()? {}
    Ok(lexer.lexemes)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    lexemes: Vec<Lexeme<'a>>,
}

impl Lexer<'_> {
    /// Reads one symbol; false at the end.
    fn next(&mut self) -> Result<bool, ExpressionError> {
        let rest = self.source[self.at..].trim_start();
        self.at = self.source.len() - rest.len();
        let Some(first) = rest.chars().next() else {
            return Ok(false);
        };
        if let Some((symbol, length)) = operator(rest) {
            self.push(symbol, length);
            return Ok(true);
        }
        match first {
            '.' if self.dot_dereferences() => self.push(Symbol::Dot, 1),
            '.' | '-' | '+' | '0'..='9' => self.number(rest)?,
            '\'' => self.string(rest)?,
            _ => self.name(rest, first)?,
        }
        Ok(true)
    }

    fn push(&mut self, symbol: Symbol, length: usize) {
        let start = self.at;
        self.at += length;
        self.lexemes.push(Lexeme {
            symbol,
            text: &self.source[start..self.at],
            start,
        });
    }

    fn unexpected(&self, length: usize) -> ExpressionError {
        let text = &self.source[self.at..self.at + length];
        ExpressionError::at(
            ErrorKind::Lexing,
            "Unexpected symbol",
            text,
            self.at,
            self.source,
        )
    }

    fn dot_dereferences(&self) -> bool {
        use Symbol::{Name, RightBracket, RightParen, Star};
        let last = self.lexemes.last().map(|lexeme| &lexeme.symbol);
        matches!(last, Some(Name | RightBracket | RightParen | Star))
    }

    fn number(&mut self, rest: &str) -> Result<(), ExpressionError> {
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let boundary = |c: char| is_boundary(c) && c != '.';
        let length = rest[first..]
            .find(boundary)
            .map_or(rest.len(), |at| at + first);
        let value = parse_number(&rest[..length]);
        if value.is_nan() {
            return Err(self.unexpected(length));
        }
        self.push(Symbol::Number(value), length);
        Ok(())
    }

    fn string(&mut self, rest: &str) -> Result<(), ExpressionError> {
        let mut text = String::new();
        let mut at = 1;
        loop {
            let Some(quote) = rest[at..].find('\'') else {
                return Err(self.unexpected(rest.len()));
            };
            text.push_str(&rest[at..at + quote]);
            at += quote + 1;
            if !rest[at..].starts_with('\'') {
                break;
            }
            text.push('\'');
            at += 1;
        }
        self.push(Symbol::String(text), at);
        Ok(())
    }

    fn name(&mut self, rest: &str, first: char) -> Result<(), ExpressionError> {
        let skip = first.len_utf8();
        let length = rest[skip..]
            .find(is_boundary)
            .map_or(rest.len(), |at| at + skip);
        let text = &rest[..length];
        if !is_name(text) {
            return Err(self.unexpected(length));
        }
        let property = self
            .lexemes
            .last()
            .is_some_and(|lexeme| lexeme.symbol == Symbol::Dot);
        let symbol = match text {
            _ if property => Symbol::Name,
            "null" => Symbol::Null,
            "true" => Symbol::Bool(true),
            "false" => Symbol::Bool(false),
            "NaN" => Symbol::Number(f64::NAN),
            "Infinity" => Symbol::Number(f64::INFINITY),
            _ => Symbol::Name,
        };
        self.push(symbol, length);
        Ok(())
    }
}

fn operator(rest: &str) -> Option<(Symbol, usize)> {
    let bytes = rest.as_bytes();
    let pair = match bytes.get(..2) {
        Some(b"==") => Some(Symbol::Equal),
        Some(b"!=") => Some(Symbol::NotEqual),
        Some(b"<=") => Some(Symbol::LessEqual),
        Some(b">=") => Some(Symbol::GreaterEqual),
        Some(b"&&") => Some(Symbol::And),
        Some(b"||") => Some(Symbol::Or),
        _ => None,
    };
    if let Some(symbol) = pair {
        return Some((symbol, 2));
    }
    let symbol = match bytes.first()? {
        b'(' => Symbol::LeftParen,
        b')' => Symbol::RightParen,
        b'[' => Symbol::LeftBracket,
        b']' => Symbol::RightBracket,
        b',' => Symbol::Comma,
        b'*' => Symbol::Star,
        b'!' => Symbol::Not,
        b'<' => Symbol::Less,
        b'>' => Symbol::Greater,
        _ => return None,
    };
    Some((symbol, 1))
}

fn is_boundary(c: char) -> bool {
    matches!(
        c,
        '(' | '[' | ')' | ']' | ',' | '.' | '!' | '>' | '<' | '=' | '&' | '|'
    ) || c.is_whitespace()
}

/// Whether a text is an identifier: a letter or `_`, then letters, digits, `_` and `-`.
pub fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}
