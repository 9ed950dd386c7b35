//! The images that a Dockerfile builds on: `FROM`, `COPY --from`, `RUN --mount=from=` and its syntax.

use std::collections::{HashMap, HashSet};

/// Longest Dockerfile that is looked at, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// An image that a Dockerfile names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// 1-based line.
    pub line: usize,
    /// The image, defaults of `ARG` put in.
    pub image: String,
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
    let mut reader = Reader::default();
    for (line, instruction) in instructions(text, &mut reader.found) {
        reader.instruction(line, &instruction)?;
    }
    Ok(reader.found)
}

#[derive(Default)]
struct Reader {
    found: Vec<Base>,
    /// `ARG`s before the first `FROM`: the only ones that `FROM` sees.
    defaults: HashMap<String, String>,
    stages: HashSet<String>,
    /// How many stages there are: they are known by number, too.
    count: usize,
}

impl Reader {
    fn instruction(&mut self, line: usize, text: &str) -> Result<(), DockerfileError> {
        let mut words = text.split_whitespace();
        let word = words.next().unwrap_or_default().to_ascii_uppercase();
        match word.as_str() {
            "ARG" if self.count == 0 => {
                for (name, value) in words.filter_map(|word| word.split_once('=')) {
                    let value = self
                        .expand(line, value.trim_matches(['"', '\'']))
                        .unwrap_or_default();
                    self.defaults.insert(name.to_owned(), value);
                }
            }
            "FROM" => {
                let words: Vec<&str> = words.filter(|word| !word.starts_with("--")).collect();
                self.image(line, words.first().unwrap_or(&""))?;
                if let [_, word, name, ..] = words.as_slice()
                    && word.eq_ignore_ascii_case("as")
                {
                    self.stages.insert(name.to_ascii_lowercase());
                }
                self.count += 1;
            }
            "COPY" => {
                for from in words.filter_map(|word| word.strip_prefix("--from=")) {
                    self.image(line, from)?;
                }
            }
            "RUN" => {
                let mounts = words.take_while(|word| word.starts_with("--"));
                for mount in mounts.filter_map(|word| word.strip_prefix("--mount=")) {
                    for from in mount
                        .split(',')
                        .filter_map(|part| part.strip_prefix("from="))
                    {
                        self.image(line, from)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn image(&mut self, line: usize, text: &str) -> Result<(), DockerfileError> {
        let image = self.expand(line, text.trim_matches(['"', '\'']))?;
        let own = self.stages.contains(&image.to_ascii_lowercase())
            || image
                .parse::<usize>()
                .is_ok_and(|number| number < self.count);
        if !own && image != "scratch" && !image.is_empty() {
            self.found.push(Base { line, image });
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

/// The instructions of a Dockerfile with their first lines: comments and here-documents left out,
/// continued lines joined. The image of a `# syntax=` directive is found on the way.
fn instructions(text: &str, found: &mut Vec<Base>) -> Vec<(usize, String)> {
    let mut escape = '\\';
    let mut all: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    let mut ends: Vec<String> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if let Some(end) = ends.first() {
            if line.trim_start_matches('\t').trim_end() == end {
                ends.remove(0);
            }
            continue;
        }
        let trimmed = line.trim();
        if let Some(comment) = trimmed.strip_prefix('#') {
            match comment
                .split_once('=')
                .map(|(name, value)| (name.trim(), value.trim()))
            {
                Some((name, image)) if all.is_empty() && name.eq_ignore_ascii_case("syntax") => {
                    found.push(Base {
                        line: at + 1,
                        image: image.to_owned(),
                    });
                }
                Some((name, "`")) if all.is_empty() && name.eq_ignore_ascii_case("escape") => {
                    escape = '`';
                }
                _ => {}
            }
            continue;
        }
        if trimmed.is_empty() {
            continue;
        }
        let (code, continued) = match trimmed.strip_suffix(escape) {
            Some(code) => (code, true),
            None => (trimmed, false),
        };
        match all.last_mut() {
            Some((_, last)) if open => {
                last.push(' ');
                last.push_str(code);
            }
            _ => all.push((at + 1, code.to_owned())),
        }
        open = continued;
        if let (false, Some((_, whole))) = (open, all.last()) {
            ends = here_documents(whole);
        }
    }
    all
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

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let show = |base: Base| format!("{} {}", base.line, base.image);
        bases(text).unwrap().into_iter().map(show).collect()
    }

    #[test]
    fn all_images_are_found_and_stages_are_not() {
        let text = "# syntax=docker/dockerfile:1.7
# a comment: FROM no:1
ARG VERSION=20 OTHER=\"x\"
FROM --platform=$BUILDPLATFORM node:${VERSION} AS build
RUN --mount=type=bind,from=tools:1,target=/t \\
    # in between
    echo FROM no:2
RUN <<EOF
FROM no:3
FROM no:3
EOF
FROM build as second
COPY --from=build /a /b
COPY --from=0 /a /b
copy --from=ghcr.io/x/y:1 /a /b
from scratch
FROM alpine:${MISSING:-3.20}
";
        let expected = [
            "1 docker/dockerfile:1.7",
            "4 node:20",
            "5 tools:1",
            "15 ghcr.io/x/y:1",
            "17 alpine:3.20",
        ];
        assert_eq!(found(text), expected);
        assert_eq!(found("FROM \\\n  debian:12\n"), ["1 debian:12"]);
    }

    #[test]
    fn an_image_that_is_known_only_at_build_time_is_refused() {
        for text in [
            "ARG BASE\nFROM $BASE\n",
            "FROM x AS y\nARG V=1\nFROM a:$V\n",
            "FROM a:${V\n",
        ] {
            assert!(bases(text).is_err(), "{text}");
        }
    }
}
