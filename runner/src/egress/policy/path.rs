//! Paths of requests as servers understand them, and globs over their segments.
//!
//! Servers differ in what they decode, so one path has several forms: an allow rule must mean all of
//! them, a deny rule only one.

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::host::glob;

/// Longest path that is looked at; a longer one matches no allow rule and every deny rule.
const LONGEST: usize = 8 << 10;
/// How often something may be encoded over again.
const ROUNDS: usize = 4;

/// The forms of a request's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Segments; empty if nothing certain can be said.
    forms: Vec<Vec<String>>,
}

impl Path {
    /// Reads the target of a request: a path, perhaps with a query.
    #[must_use]
    pub fn of(target: &str) -> Self {
        let path = target.split(['?', '#']).next().unwrap_or_default();
        if path.len() > LONGEST || !path.starts_with('/') {
            return Self { forms: Vec::new() };
        }
        let forms = [once(path), fully(path)].into_iter().flatten();
        let mut segments: Vec<Vec<String>> = Vec::new();
        for form in forms {
            if !segments.contains(&form) {
                segments.push(form);
            }
        }
        // A path of which one form is nonsense is not understood at all.
        let understood = once(path).is_some() && fully(path).is_some();
        Self {
            forms: if understood { segments } else { Vec::new() },
        }
    }

    /// Whether every form is meant by one of `patterns`, letter for letter.
    #[must_use]
    pub fn is_within(&self, patterns: &[PathPattern]) -> bool {
        let meant = |form: &Vec<String>| patterns.iter().any(|pattern| pattern.fits(form, false));
        !self.forms.is_empty() && self.forms.iter().all(meant)
    }

    /// Whether a form is meant by one of `patterns`, upper and lower case alike.
    #[must_use]
    pub fn touches(&self, patterns: &[PathPattern]) -> bool {
        let meant = |form: &Vec<String>| patterns.iter().any(|pattern| pattern.fits(form, true));
        self.forms.is_empty() || self.forms.iter().any(meant)
    }

    /// The segments at `places`, if all forms agree on them.
    pub(super) fn agreed<const N: usize>(&self, places: [usize; N]) -> Option<[&str; N]> {
        let of = |form: &'_ Vec<String>| places.map(|at| form.get(at).cloned());
        let first = self.forms.first()?;
        if self.forms.iter().any(|form| of(form) != of(first)) {
            return None;
        }
        let mut found = [""; N];
        for (slot, at) in found.iter_mut().zip(places) {
            *slot = first.get(at)?;
        }
        Some(found)
    }
}

/// As RFC 3986 has it: what needs no encoding is decoded, an encoded slash is none.
fn once(path: &str) -> Option<Vec<String>> {
    let segments = path.split('/').skip(1);
    let decoded = segments.map(decoded).collect::<Option<Vec<_>>>()?;
    Some(without_dots(decoded.iter().map(String::as_str)))
}

/// As the most eager servers have it: decoded until nothing is left to decode, every slash one.
fn fully(path: &str) -> Option<Vec<String>> {
    let mut text = decoded(path)?;
    let mut rounds = 1;
    // A percent sign that was encoded is one, unless digits follow it.
    while let Some(next) = decoded(&text).filter(|next| *next != text) {
        rounds += 1;
        if rounds > ROUNDS {
            return None;
        }
        text = next;
    }
    let text = text.replace('\\', "/");
    let segments = text.split('/').map(|segment| {
        let end = segment.find(';').unwrap_or(segment.len());
        &segment[..end]
    });
    Some(without_dots(segments))
}

/// Without percent-encoding; `None` if it is none, or hides what no path has.
fn decoded(text: &str) -> Option<String> {
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let digits = rest.as_bytes().get(at + 1..at + 3)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        rest = &rest[at + 3..];
    }
    let text = percent_decode_str(text).decode_utf8().ok()?;
    (!text.chars().any(char::is_control)).then(|| text.into_owned())
}

/// Without `.`, `..` and empty segments (duplicate slashes).
fn without_dots<'a>(segments: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut kept = Vec::new();
    for segment in segments {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other.to_owned()),
        }
    }
    kept
}

/// Paths that a rule means: `/v1/packages/*` (one segment in place of the star), `/simple/**` (anything
/// below, and `/simple` itself).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern {
    text: String,
}

/// Why a text is no pattern of paths.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathPatternError {
    /// No slash at its beginning.
    #[error("the path `{0}` does not begin with a slash")]
    NoSlash(String),
    /// Something that a path in its simplest form has not.
    #[error(
        "the path `{0}` is compared decoded and without its query: write no %, ?, #, `..` and no double slash"
    )]
    Encoded(String),
    /// `**` within a segment.
    #[error("`**` stands for whole segments: `{0}` has it within one")]
    Stars(String),
}

impl FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(PathPatternError::NoSlash(text.to_owned()));
        };
        let strange =
            rest.contains(['%', '?', '#', '\\', ';']) || rest.chars().any(char::is_control);
        let segments = || rest.split('/');
        let end = segments().count() - 1;
        let odd = |(at, segment): (usize, &str)| {
            matches!(segment, "." | "..") || segment.is_empty() && at != end
        };
        if strange || segments().enumerate().any(odd) {
            return Err(PathPatternError::Encoded(text.to_owned()));
        }
        if segments().any(|segment| segment != "**" && segment.contains("**")) {
            return Err(PathPatternError::Stars(text.to_owned()));
        }
        Ok(Self {
            text: text.to_owned(),
        })
    }
}

impl PathPattern {
    /// The pattern as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn fits(&self, segments: &[String], any_case: bool) -> bool {
        let pattern: Vec<&str> = self
            .text
            .split('/')
            .filter(|segment| !segment.is_empty())
            .collect();
        fits(&pattern, segments, any_case)
    }
}

/// Both walked at once; a `**` is gone back to as the star of a glob is.
fn fits(pattern: &[&str], segments: &[String], any_case: bool) -> bool {
    let same = |pattern: &str, segment: &str| {
        if any_case {
            let lower = |text: &str| text.to_lowercase();
            glob(lower(pattern).as_bytes(), lower(segment).as_bytes())
        } else {
            glob(pattern.as_bytes(), segment.as_bytes())
        }
    };
    let (mut at, mut seen) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while seen < segments.len() {
        match pattern.get(at) {
            Some(&"**") => {
                back = Some((at, seen));
                at += 1;
            }
            Some(wanted) if same(wanted, &segments[seen]) => {
                at += 1;
                seen += 1;
            }
            _ => match back {
                Some((stars, from)) => {
                    back = Some((stars, from + 1));
                    at = stars + 1;
                    seen = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|wanted| *wanted == "**")
}

impl TryFrom<String> for PathPattern {
    type Error = PathPatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> Self {
        pattern.text
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
