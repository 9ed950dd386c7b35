//! The format strings of `format()`: `{N}`, `{{` and `}}`.

/// A piece of a format string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Text as it is.
    Text(String),
    /// `{index}` or `{index:specifiers}`.
    Argument {
        index: usize,
        /// What stands after the colon; no value of the language takes any.
        specifiers: String,
    },
}

/// What is wrong with a format string, the first fault from the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FormatFault {
    /// It is none.
    Invalid,
    /// It names an argument that is not given.
    Missing(usize),
}

/// Splits a format string that comes with `given` arguments.
pub(super) fn pieces(format: &str, given: usize) -> Result<Vec<Piece>, FormatFault> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            text.push_str(brace);
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err(FormatFault::Invalid);
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        let (index, specifiers, after) = argument(rest).ok_or(FormatFault::Invalid)?;
        if index >= given {
            return Err(FormatFault::Missing(index));
        }
        pieces.push(Piece::Argument { index, specifiers });
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

/// Index and specifiers of an argument after its `{`, and what follows its `}`.
fn argument(rest: &str) -> Option<(usize, String, &str)> {
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    // GitHub reads the index into a byte.
    let index = usize::from(rest[..digits].parse::<u8>().ok()?);
    let rest = &rest[digits..];
    if let Some(after) = rest.strip_prefix('}') {
        return Some((index, String::new(), after));
    }
    let mut rest = rest.strip_prefix(':')?;
    let mut specifiers = String::new();
    loop {
        let at = rest.find('}')?;
        specifiers.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(after) = rest.strip_prefix('}') else {
            return Some((index, specifiers, rest));
        };
        specifiers.push('}');
        rest = after;
    }
}
