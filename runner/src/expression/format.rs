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

/// The string is no format string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidFormat;

/// Splits a format string.
pub(super) fn pieces(format: &str) -> Result<Vec<Piece>, InvalidFormat> {
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
            return Err(InvalidFormat);
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        let (piece, after) = argument(rest)?;
        pieces.push(piece);
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

/// An argument after its `{`, and what follows its `}`.
fn argument(rest: &str) -> Result<(Piece, &str), InvalidFormat> {
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .ok_or(InvalidFormat)?;
    // GitHub reads the index into a byte.
    let index = usize::from(rest[..digits].parse::<u8>().map_err(|_| InvalidFormat)?);
    let rest = &rest[digits..];
    if let Some(after) = rest.strip_prefix('}') {
        return Ok((
            Piece::Argument {
                index,
                specifiers: String::new(),
            },
            after,
        ));
    }
    let mut rest = rest.strip_prefix(':').ok_or(InvalidFormat)?;
    let mut specifiers = String::new();
    loop {
        let at = rest.find('}').ok_or(InvalidFormat)?;
        specifiers.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(after) = rest.strip_prefix('}') else {
            return Ok((Piece::Argument { index, specifiers }, rest));
        };
        specifiers.push('}');
        rest = after;
    }
}
