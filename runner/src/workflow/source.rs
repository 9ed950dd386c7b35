//! A workflow file's text, and places in it.

use std::path::{Path, PathBuf};

/// Longest workflow file, in bytes.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;

/// A place in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// 1-based line.
    pub line: u32,
    /// 1-based column, in characters.
    pub column: u32,
    /// How many characters from there are meant; at least one is shown.
    pub length: u32,
}

/// The text of a workflow file.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    text: String,
    /// Byte offset of each line.
    lines: Vec<usize>,
}

impl Source {
    /// A text with the path it is shown under.
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        let text = text.into();
        let text = match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        };
        let mut lines = vec![0];
        let bytes = text.as_bytes();
        for (at, byte) in bytes.iter().enumerate() {
            let lone_return = *byte == b'\r' && bytes.get(at + 1) != Some(&b'\n');
            if *byte == b'\n' || lone_return {
                lines.push(at + 1);
            }
        }
        Self {
            path: path.into(),
            text,
            lines,
        }
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A line without its end; empty if there is none.
    pub fn line(&self, line: u32) -> &str {
        self.tail(line).split(['\n', '\r']).next().unwrap_or("")
    }

    /// The text from a place on, past the end of the line.
    pub fn from(&self, line: u32, column: u32) -> &str {
        let rest = self.tail(line);
        let skip = (column as usize).saturating_sub(1);
        rest.char_indices()
            .nth(skip)
            .map_or("", |(at, _)| &rest[at..])
    }

    /// The byte at which a place begins.
    pub fn offset(&self, place: Place) -> usize {
        self.text.len() - self.from(place.line, place.column).len()
    }

    fn tail(&self, line: u32) -> &str {
        let at = (line as usize)
            .checked_sub(1)
            .and_then(|line| self.lines.get(line));
        at.map_or("", |at| &self.text[*at..])
    }
}
