//! The images that a Dockerfile builds on: `FROM`, `COPY --from`, `RUN --mount=from=`, also behind `ONBUILD`,
//! and its syntax; and the file with other names for them.
//!
//! Builders do not read all files alike: older ones know no here-documents, newer ones other comments. A
//! line that one of them could take for an image and another not is refused.

mod lines;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::image::ImageReference;
use lines::{Instruction, Word};

/// Longest Dockerfile that is looked at, in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;

/// An image that a Dockerfile names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// 1-based line.
    pub line: usize,
    /// The image, defaults of `ARG` put in.
    pub image: String,
    /// The bytes that name it.
    pub span: Range<usize>,
}

/// Why a Dockerfile's images are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DockerfileError {
    /// A name with a variable that has no default.
    #[error(
        "line {line}: `{text}` holds a variable without a default; write the image out, or give `ARG` a default"
    )]
    Variable {
        /// 1-based line.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// What builders do not read alike.
    #[error(
        "line {line}: {why}, so builders may differ in which images they use; write it plainly"
    )]
    Ambiguous {
        /// 1-based line.
        line: usize,
        /// What stands there.
        why: &'static str,
    },
    /// It is too long.
    #[error("the Dockerfile has more than {MAX_BYTES} bytes; name its image in a shorter one")]
    TooLong,
}

/// The images of a Dockerfile, in order, its own stages left out.
///
/// # Errors
/// [`DockerfileError`] where an image is not known before the build.
pub fn bases(text: &str) -> Result<Vec<Base>, DockerfileError> {
    if text.len() > MAX_BYTES {
        return Err(DockerfileError::TooLong);
    }
    let read = lines::read(text)?;
    let mut reader = Reader {
        found: read.syntax.into_iter().collect(),
        ..Reader::default()
    };
    for instruction in &read.instructions {
        reader.instruction(instruction)?;
    }
    let started: HashSet<usize> = read.instructions.iter().map(|found| found.line).collect();
    for (at, line) in text.lines().enumerate() {
        if !started.contains(&(at + 1)) && could_name_an_image(line) {
            let why =
                "what looks like an instruction stands inside of another one or of a here-document";
            return Err(DockerfileError::Ambiguous { line: at + 1, why });
        }
    }
    Ok(reader.found)
}

/// A Dockerfile with other names for its images: what `name` gives for each.
///
/// # Errors
/// [`DockerfileError`] where an image is not known; inside, what `name` fails with.
pub fn renamed<E>(
    text: &str,
    mut name: impl FnMut(&Base) -> Result<String, E>,
) -> Result<Result<String, E>, DockerfileError> {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for base in bases(text)? {
        let name = match name(&base) {
            Ok(name) => name,
            Err(error) => return Ok(Err(error)),
        };
        out.push_str(&text[done..base.span.start]);
        out.push_str(&name);
        done = base.span.end;
    }
    out.push_str(&text[done..]);
    Ok(Ok(out))
}

/// Whether a line that begins no instruction here could begin one elsewhere that names an image.
fn could_name_an_image(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let mut word = words.next().unwrap_or_default();
    if word.eq_ignore_ascii_case("onbuild") {
        word = words.next().unwrap_or_default();
    }
    let rest: Vec<&str> = words.collect();
    match word.to_ascii_uppercase().as_str() {
        "FROM" => {
            let named = rest.iter().filter(|word| !word.starts_with("--"));
            let named: Vec<&str> = named.copied().collect();
            let image = |text: &str| text.contains('$') || ImageReference::parse(text).is_ok();
            match named.as_slice() {
                [one] => image(one),
                [one, word, _] => word.eq_ignore_ascii_case("as") && image(one),
                _ => false,
            }
        }
        "COPY" | "ADD" | "RUN" => {
            let mut flags = rest.iter().take_while(|word| word.starts_with("--"));
            flags.any(|flag| flag.to_ascii_lowercase().contains("from"))
        }
        _ => false,
    }
}

#[derive(Default)]
struct Reader {
    found: Vec<Base>,
    /// `ARG`s before the first `FROM`: the only ones that `FROM` sees.
    defaults: HashMap<String, String>,
    stages: HashSet<String>,
    /// How many stages there are: `COPY` knows them by number, too.
    count: usize,
}

impl Reader {
    fn instruction(&mut self, instruction: &Instruction) -> Result<(), DockerfileError> {
        let line = instruction.line;
        let mut words = instruction.words.as_slice();
        // What it says is done when another stage, also of this file, builds on this one.
        if let [first, rest @ ..] = words
            && first.is("ONBUILD")
        {
            words = rest;
        }
        let Some((first, rest)) = words.split_first() else {
            return Ok(());
        };
        match first.text.to_ascii_uppercase().as_str() {
            "ARG" if self.count == 0 => self.set_defaults(line, rest),
            "FROM" => self.from(line, rest)?,
            "COPY" | "ADD" | "RUN" => self.flags(line, rest)?,
            _ => {}
        }
        Ok(())
    }

    fn set_defaults(&mut self, line: usize, words: &[Word]) {
        for (name, value) in words.iter().filter_map(|word| word.text.split_once('=')) {
            let value = self.expand(line, value.trim_matches(['"', '\'']));
            self.defaults
                .insert(name.to_owned(), value.unwrap_or_default());
        }
    }

    fn from(&mut self, line: usize, words: &[Word]) -> Result<(), DockerfileError> {
        plain(line, words)?;
        let at = words.iter().position(|word| !word.text.starts_with("--"));
        let named = &words[at.unwrap_or(words.len())..];
        if let Some(image) = named.first() {
            self.image(line, image, false)?;
        }
        if let [_, word, name, ..] = named
            && word.is("as")
        {
            self.stages.insert(name.text.to_ascii_lowercase());
        }
        self.count += 1;
        Ok(())
    }

    /// `--from=IMAGE`, and `--mount=…,from=IMAGE,…`.
    fn flags(&mut self, line: usize, words: &[Word]) -> Result<(), DockerfileError> {
        let end = words.iter().position(|word| !word.text.starts_with("--"));
        let flags = &words[..end.unwrap_or(words.len())];
        plain(line, flags)?;
        for flag in flags {
            if let Some(from) = flag.text.strip_prefix("--from=") {
                let named = flag.part("--from=".len(), from.len());
                self.image(line, &named, true)?;
            }
            let Some(mount) = flag.text.strip_prefix("--mount=") else {
                continue;
            };
            let mut at = "--mount=".len();
            for part in mount.split(',') {
                if let Some((key, from)) = part.split_once('=')
                    && key.eq_ignore_ascii_case("from")
                {
                    let named = flag.part(at + key.len() + 1, from.len());
                    self.image(line, &named, true)?;
                }
                at += part.len() + 1;
            }
        }
        Ok(())
    }

    /// Takes a word that names an image or a stage; some are known by their number, too.
    fn image(&mut self, line: usize, word: &Word, by_number: bool) -> Result<(), DockerfileError> {
        let image = self.expand(line, &word.text)?;
        let number = image.parse::<usize>();
        let own = self.stages.contains(&image.to_ascii_lowercase())
            || by_number && number.is_ok_and(|number| number < self.count);
        if !own && image != "scratch" && !image.is_empty() {
            let span = word.span(line)?;
            self.found.push(Base { line, image, span });
        }
        Ok(())
    }

    /// A text with `$NAME`, `${NAME}` and `${NAME:-default}` put in.
    fn expand(&self, line: usize, text: &str) -> Result<String, DockerfileError> {
        let unknown = || DockerfileError::Variable {
            line,
            text: text.to_owned(),
        };
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let (name, default) = if let Some(braced) = rest.strip_prefix('{') {
                let (inner, after) = braced.split_once('}').ok_or_else(unknown)?;
                rest = after;
                match inner.split_once(":-") {
                    Some((name, default)) => (name, Some(default)),
                    None => (inner, None),
                }
            } else {
                let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = rest.find(|c| !legal(c)).unwrap_or(rest.len());
                let name = &rest[..end];
                rest = &rest[end..];
                (name, None)
            };
            let known = self
                .defaults
                .get(name)
                .map(String::as_str)
                .filter(|value| !value.is_empty());
            out.push_str(known.or(default).ok_or_else(unknown)?);
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// Quotes and escapes in flags and names are read by some builders and kept by others.
fn plain(line: usize, words: &[Word]) -> Result<(), DockerfileError> {
    let odd = words.iter().any(|word| !word.separated);
    let quoted = |word: &Word| word.text.contains(['"', '\'', '\\', '`']);
    let why = match odd {
        true => "a space of another kind stands between words",
        false if words.iter().any(quoted) => "a flag or a name holds quotes or escapes",
        false => return Ok(()),
    };
    Err(DockerfileError::Ambiguous { line, why })
}
