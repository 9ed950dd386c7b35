//! The instructions of a Dockerfile, word by word with their bytes: comments and here-documents left out,
//! continued lines joined.

use std::ops::Range;

use super::{Base, DockerfileError};

/// What a file says.
pub(super) struct Lines {
    /// The image of its `# syntax=` directive.
    pub(super) syntax: Option<Base>,
    pub(super) instructions: Vec<Instruction>,
}

/// An instruction.
pub(super) struct Instruction {
    /// Its first line, 1-based.
    pub(super) line: usize,
    pub(super) words: Vec<Word>,
}

/// A word of an instruction.
pub(super) struct Word {
    pub(super) text: String,
    /// Where each of its bytes stands in the file.
    bytes: Vec<usize>,
    /// Whether around it is only what all builders take for a space.
    pub(super) separated: bool,
}

impl Word {
    /// Whether it is a word of the language.
    pub(super) fn is(&self, word: &str) -> bool {
        self.text.eq_ignore_ascii_case(word)
    }

    /// Some of its bytes.
    pub(super) fn part(&self, start: usize, length: usize) -> Self {
        Self {
            text: self.text[start..start + length].to_owned(),
            bytes: self.bytes[start..start + length].to_vec(),
            separated: self.separated,
        }
    }

    /// Where it stands in the file, in one piece.
    pub(super) fn span(&self, line: usize) -> Result<Range<usize>, DockerfileError> {
        let ends = self.bytes.first().zip(self.bytes.last());
        let ends = ends.filter(|(first, last)| *last - *first + 1 == self.bytes.len());
        let why = "an image's name goes over several lines";
        let ambiguous = DockerfileError::Ambiguous { line, why };
        ends.map(|(first, last)| *first..*last + 1).ok_or(ambiguous)
    }
}

/// Reads a file.
pub(super) fn read(text: &str) -> Result<Lines, DockerfileError> {
    let mut reader = Reader {
        escape: '\\',
        directives: true,
        ..Reader::default()
    };
    let mut at = text.len() - text.trim_start_matches('\u{feff}').len();
    for (number, line) in text[at..].split_inclusive('\n').enumerate() {
        let plain = line.strip_suffix('\n').unwrap_or(line);
        let plain = plain.strip_suffix('\r').unwrap_or(plain);
        reader.line(number + 1, at, plain)?;
        at += line.len();
    }
    reader.flush();
    Ok(Lines {
        syntax: reader.syntax,
        instructions: reader.done,
    })
}

#[derive(Default)]
struct Reader {
    escape: char,
    /// Whether directives may still come.
    directives: bool,
    /// Whether a comment came before that only some builders take for a directive.
    odd: bool,
    syntax: Option<Base>,
    done: Vec<Instruction>,
    /// The instruction that is being read.
    open: Option<Open>,
    /// Words that end here-documents.
    ends: Vec<String>,
}

/// An instruction's first line, its text, and where each byte of that stands.
struct Open {
    line: usize,
    text: String,
    bytes: Vec<usize>,
}

impl Reader {
    /// Takes a line that begins at a byte of the file.
    fn line(&mut self, number: usize, at: usize, line: &str) -> Result<(), DockerfileError> {
        if let Some(end) = self.ends.first() {
            if line.trim_start_matches('\t').trim_end() == end {
                self.ends.remove(0);
            }
            return Ok(());
        }
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if trimmed.starts_with('#') {
            return self.comment(number, at + indent, trimmed);
        }
        // Newer builders find the syntax there, too.
        if self.directives && trimmed.starts_with(['/', '{']) {
            let why = "the file begins with what some builders take for the name of its syntax";
            return Err(DockerfileError::Ambiguous { line: number, why });
        }
        self.directives = false;
        if trimmed.is_empty() {
            return Ok(());
        }
        // What comes first may be indented; of what follows, the spaces belong to it.
        let (start, code) = match self.open {
            None => (at + indent, trimmed),
            Some(_) => (at, line),
        };
        let end = code.trim_end_matches([' ', '\t']);
        let (code, continued) = match end.strip_suffix(self.escape) {
            Some(code) => (code, true),
            None => (code, false),
        };
        let open = self.open.get_or_insert_with(|| Open {
            line: number,
            text: String::new(),
            bytes: Vec::new(),
        });
        open.text.push_str(code);
        open.bytes.extend(start..start + code.len());
        if !continued {
            self.flush();
        }
        Ok(())
    }

    fn comment(&mut self, number: usize, at: usize, text: &str) -> Result<(), DockerfileError> {
        // A line that names an interpreter may be before directives.
        if !self.directives || (number == 1 && text.starts_with("#!")) {
            return Ok(());
        }
        let Some((name, value)) = text[1..].split_once('=') else {
            self.directives = false;
            return Ok(());
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "syntax" => {
                let start = at + text.len() - value.trim_start().len();
                let image = value.trim();
                self.syntax = (!image.is_empty()).then(|| Base {
                    line: number,
                    image: image.to_owned(),
                    span: start..start + image.len(),
                });
            }
            "escape" if self.odd => {
                let why = "the escape is set behind a comment that only some take for a setting";
                return Err(DockerfileError::Ambiguous { line: number, why });
            }
            "escape" => {
                if let Some(escape @ ('`' | '\\')) = value.trim().chars().next() {
                    self.escape = escape;
                }
            }
            "check" => {}
            _ => self.odd = true,
        }
        Ok(())
    }

    fn flush(&mut self) {
        let Some(Open { line, text, bytes }) = self.open.take() else {
            return;
        };
        self.ends = here_documents(&text);
        let words = words(&text, &bytes);
        self.done.push(Instruction { line, words });
    }
}

/// The words of a text, parted by all that any builder takes for a space.
fn words(text: &str, bytes: &[usize]) -> Vec<Word> {
    let usual = |text: &str| {
        let c = text.chars().next();
        c.is_none_or(|c| matches!(c, ' ' | '\t' | '\r' | '\x0b' | '\x0c'))
    };
    let start = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
    let words = text.split_whitespace().map(|word| {
        let (start, end) = (start(word), start(word) + word.len());
        let before = text[..start].chars().next_back();
        let before = before.map(String::from).unwrap_or_default();
        Word {
            text: word.to_owned(),
            bytes: bytes[start..end].to_vec(),
            separated: usual(&before) && usual(&text[end..]),
        }
    });
    words.collect()
}

/// The words that end the here-documents of an instruction.
fn here_documents(instruction: &str) -> Vec<String> {
    let word = instruction.split_whitespace().next().unwrap_or_default();
    if !["RUN", "COPY", "ADD"]
        .iter()
        .any(|known| word.eq_ignore_ascii_case(known))
    {
        return Vec::new();
    }
    let begins = instruction
        .split_whitespace()
        .filter_map(|word| word.split_once("<<"));
    let end = |(_, word): (&str, &str)| {
        let word = word
            .strip_prefix('-')
            .unwrap_or(word)
            .trim_matches(['"', '\'']);
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
        (!word.is_empty() && word.chars().all(legal)).then(|| word.to_owned())
    };
    begins.filter_map(end).collect()
}
