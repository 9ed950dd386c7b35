//! A stream of bytes as lines: whatever a step writes, in bounded memory.
//!
//! A line ends with a line feed, a carriage return or both. Bytes that are no UTF-8 become U+FFFD.
//! A line that is longer than the limit comes in pieces, masked here because a secret may lie
//! across two of them.

use super::masking::Masker;

/// Longest line, in bytes, that is handled as a whole.
pub const MAX_LINE: usize = 1 << 20;

/// A part of a stream.
#[derive(Clone, PartialEq, Eq)]
pub enum Piece {
    /// A whole line, not masked yet.
    Line(String),
    /// A part of a line that is longer than the limit.
    Part {
        /// The text, already masked.
        masked: String,
        /// The text as it came, of the first part only: it may begin a command.
        first: Option<String>,
    },
}

impl std::fmt::Debug for Piece {
    /// Names the kind only: the text may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Line(_) => "Line",
            Self::Part { .. } => "Part",
        })
    }
}

/// Cuts one stream into lines.
pub struct LineSplitter {
    masker: Masker,
    limit: usize,
    pending: String,
    /// The bytes of a character that is not complete yet, at most three.
    partial: Vec<u8>,
    after_return: bool,
    /// Whether parts of the line in `pending` are out already.
    in_line: bool,
    /// How many bytes at the beginning of `pending` belong to a secret.
    masked: usize,
}

impl std::fmt::Debug for LineSplitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineSplitter").finish_non_exhaustive()
    }
}

impl LineSplitter {
    /// A splitter for one stream whose lines are whole up to `limit` bytes.
    #[must_use]
    pub fn new(masker: Masker, limit: usize) -> Self {
        Self {
            masker,
            limit,
            pending: String::new(),
            partial: Vec::new(),
            after_return: false,
            in_line: false,
            masked: 0,
        }
    }

    /// Takes bytes and calls `sink` for each piece they complete.
    pub fn feed(&mut self, bytes: &[u8], sink: &mut impl FnMut(Piece)) {
        let joined;
        let mut bytes = bytes;
        if !self.partial.is_empty() {
            joined = [std::mem::take(&mut self.partial).as_slice(), bytes].concat();
            bytes = &joined;
        }
        while !bytes.is_empty() {
            match std::str::from_utf8(bytes) {
                Ok(text) => return self.feed_text(text, sink),
                Err(error) => {
                    let (valid, rest) = bytes.split_at(error.valid_up_to());
                    self.feed_text(&String::from_utf8_lossy(valid), sink);
                    let Some(length) = error.error_len() else {
                        self.partial = rest.to_vec();
                        return;
                    };
                    self.feed_text("\u{fffd}", sink);
                    bytes = &rest[length..];
                }
            }
        }
    }

    /// The stream ended: what is left is a line.
    pub fn finish(&mut self, sink: &mut impl FnMut(Piece)) {
        if !std::mem::take(&mut self.partial).is_empty() {
            self.feed_text("\u{fffd}", sink);
        }
        if !self.pending.is_empty() || self.in_line {
            self.end_line(sink);
        }
    }

    fn feed_text(&mut self, text: &str, sink: &mut impl FnMut(Piece)) {
        let mut rest = text;
        if self.after_return && !rest.is_empty() {
            self.after_return = false;
            rest = rest.strip_prefix('\n').unwrap_or(rest);
        }
        while let Some(at) = rest.find(['\n', '\r']) {
            self.push(&rest[..at], sink);
            self.end_line(sink);
            let returned = rest.as_bytes()[at] == b'\r';
            rest = &rest[at + 1..];
            if returned {
                self.after_return = rest.is_empty();
                rest = rest.strip_prefix('\n').unwrap_or(rest);
            }
        }
        self.push(rest, sink);
    }

    /// Adds text without line ends, a bounded piece at a time.
    fn push(&mut self, text: &str, sink: &mut impl FnMut(Piece)) {
        let mut rest = text;
        while !rest.is_empty() {
            let border = (1..=rest.len().min(self.limit))
                .rev()
                .find(|at| rest.is_char_boundary(*at));
            let (now, later) = rest.split_at(border.unwrap_or(rest.len()));
            self.pending.push_str(now);
            rest = later;
            while self.pending.len() > self.limit + self.masker.longest() {
                self.cut(sink);
            }
        }
    }

    fn cut(&mut self, sink: &mut impl FnMut(Piece)) {
        let prefix = self
            .masker
            .mask_prefix(&self.pending, self.limit, self.masked);
        let rest = self.pending.split_off(prefix.consumed);
        let start = std::mem::replace(&mut self.pending, rest);
        self.masked = prefix.rest_masked;
        let first = (!self.in_line).then_some(start);
        self.in_line = true;
        sink(Piece::Part {
            masked: prefix.text,
            first,
        });
    }

    fn end_line(&mut self, sink: &mut impl FnMut(Piece)) {
        let line = std::mem::take(&mut self.pending);
        if !std::mem::take(&mut self.in_line) {
            return sink(Piece::Line(line));
        }
        let masked = self
            .masker
            .mask_rest(&line, std::mem::take(&mut self.masked));
        if !masked.is_empty() {
            sink(Piece::Part {
                masked,
                first: None,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(masker: &Masker, limit: usize, chunks: &[&[u8]]) -> Vec<Piece> {
        let mut splitter = LineSplitter::new(masker.clone(), limit);
        let mut pieces = Vec::new();
        for chunk in chunks {
            splitter.feed(chunk, &mut |piece| pieces.push(piece));
            assert!(splitter.pending.len() <= limit + masker.longest());
        }
        splitter.finish(&mut |piece| pieces.push(piece));
        pieces
    }

    fn texts(pieces: Vec<Piece>) -> Vec<String> {
        let text = |piece| match piece {
            Piece::Line(line) => line,
            Piece::Part { masked, .. } => format!("part {masked}"),
        };
        pieces.into_iter().map(text).collect()
    }

    #[test]
    fn lines_end_with_any_line_end_wherever_chunks_are_cut() {
        let masker = Masker::new();
        let chunks: [&[u8]; 6] = [b"a\nb", b"c\r", b"\nd\re\r\n", b"\n", b"", b"end"];
        let found = texts(split(&masker, 100, &chunks));
        assert_eq!(found, ["a", "bc", "d", "e", "", "end"]);
    }

    #[test]
    fn characters_may_lie_across_chunks_and_bad_bytes_do_no_harm() {
        let masker = Masker::new();
        let chunks: [&[u8]; 4] = [b"\xe2\x82", b"\xac\n\xff", b"x\xe2", b"y\n\xc3"];
        let found = texts(split(&masker, 100, &chunks));
        assert_eq!(found, ["€", "\u{fffd}x\u{fffd}y", "\u{fffd}"]);
    }

    #[test]
    fn a_line_without_end_comes_in_parts_with_secrets_across_them_masked() {
        let masker = Masker::new();
        masker.add("SECRET").unwrap();
        let found = texts(split(
            &masker,
            8,
            &[b"123456SECRETabcdefghijklmnopqrstuvwxyz\nnext"],
        ));
        assert!(found[0].starts_with("part 123456***"), "{found:?}");
        let line = found[..found.len() - 1]
            .join("")
            .replace("part ", "")
            .replace('*', "");
        assert_eq!(line, "123456abcdefghijklmnopqrstuvwxyz");
        assert_eq!(found.last().unwrap(), "next");
    }

    #[test]
    fn the_first_part_of_a_long_line_is_given_as_it_came() {
        let masker = Masker::new();
        let pieces = split(&masker, 12, &[b"::add-mask::abcdefghijkl"]);
        let Piece::Part { first, .. } = &pieces[0] else {
            panic!("not cut")
        };
        assert_eq!(first.as_deref(), Some("::add-mask::"));
    }

    proptest! {
        #[test]
        fn no_secret_leaves_whatever_the_chunks(
            secret in "[a-cé]{1,5}",
            text in "[a-dé \\n\\r]{0,120}",
            cuts in proptest::collection::vec(1usize..9, 1..60),
            limit in 4usize..30,
        ) {
            let masker = Masker::new();
            masker.add(&secret).unwrap();
            let mut chunks = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                chunks.push(now);
                rest = later;
            }
            let mut lines = String::new();
            for piece in split(&masker, limit, &chunks) {
                match piece {
                    Piece::Line(line) => lines.push_str(&masker.mask(&line)),
                    Piece::Part { masked, .. } => lines.push_str(&masked),
                }
                lines.push('|');
            }
            prop_assert!(!lines.contains(&secret), "{lines}");
            // Nothing but secrets and line ends is lost.
            let kept = |text: &str| text.replace(['|', '*', '\n', '\r'], "");
            let whole: String = text.split(['\n', '\r']).map(|l| masker.mask(l).into_owned()).collect();
            prop_assert_eq!(kept(&lines), kept(&whole));
        }
    }
}
