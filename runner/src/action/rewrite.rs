//! Rewrites `uses:` in a workflow file to commit ids, everything else byte for byte.
//!
//! The text is cut at the reference and nowhere else; a version comment is put behind the code of the
//! line. What comes out is read again, and is taken only if nothing but the references differs.

use std::ops::Range;

use super::reference::is_commit_id;
use crate::workflow::references::same_but;
use crate::workflow::source::Source;

/// One reference to be rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The bytes of the whole reference in the text (as [`Source::text`] has it).
    pub span: Range<usize>,
    /// The commit id to put behind `@`.
    pub commit: String,
    /// The version to put into the comment: `v4.3.1`.
    pub version: String,
}

/// Why a file was not rewritten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{path}: the references of this file cannot be rewritten without changing something else; \
     write `owner/repository@<commit>` for each by hand"
)]
pub struct RewriteError {
    path: String,
}

/// A replacement of bytes.
type Edit = (Range<usize>, String);

/// The text with its references rewritten; a byte order mark at its beginning stays.
///
/// # Errors
/// [`RewriteError`] if anything but the references would change.
pub fn rewrite(path: &str, text: &str, rewrites: &[Rewrite]) -> Result<String, RewriteError> {
    let source = Source::new(path, text);
    let mark = &text[..text.len() - source.text().len()];
    let failed = || RewriteError {
        path: path.to_owned(),
    };
    let code: Vec<Edit> = rewrites
        .iter()
        .map(|rewrite| reference(&source, rewrite))
        .collect::<Option<_>>()
        .ok_or_else(failed)?;
    let wanted: Vec<(&str, &str)> = rewrites
        .iter()
        .zip(&code)
        .map(|(rewrite, (_, new))| (&source.text()[rewrite.span.clone()], new.as_str()))
        .collect();
    let changed = |old: &str, new: &str| wanted.contains(&(old.trim_end(), new.trim_end()));
    let good = |new: &str| same_but(&source, &Source::new(path, new), &changed);

    // A comment that would end up inside a text is left out; the file as a whole decides at the end.
    let mut edits: Vec<Edit> = Vec::new();
    for (rewrite, code) in rewrites.iter().zip(&code) {
        let mut with: Vec<Edit> = edits.clone();
        with.push(code.clone());
        let comment = comment(&source, rewrite).filter(|comment| {
            let mut with = with.clone();
            with.push(comment.clone());
            apply(source.text(), &with)
                .is_some_and(|new| good_so_far(&source, path, &new, &changed))
        });
        with.extend(comment);
        edits = with;
    }
    let new = apply(source.text(), &edits)
        .filter(|new| good(new))
        .ok_or_else(failed)?;
    Ok(format!("{mark}{new}"))
}

/// As the final check; the references still to come are as they were, which is a change of none.
fn good_so_far(
    source: &Source,
    path: &str,
    new: &str,
    changed: &dyn Fn(&str, &str) -> bool,
) -> bool {
    same_but(source, &Source::new(path, new), changed)
}

/// Puts edits into a text; nothing if two of them overlap.
fn apply(text: &str, edits: &[Edit]) -> Option<String> {
    let mut edits = edits.to_vec();
    edits.sort_by_key(|(range, _)| (range.start, range.end));
    edits.dedup();
    let mut out = String::with_capacity(text.len() + edits.len() * 60);
    let mut at = 0;
    for (range, new) in &edits {
        out.push_str(text.get(at..range.start)?);
        out.push_str(new);
        at = range.end;
    }
    out.push_str(text.get(at..)?);
    Some(out)
}

/// The edit of what stands behind `@`.
fn reference(source: &Source, rewrite: &Rewrite) -> Option<Edit> {
    let old = source.text().get(rewrite.span.clone())?;
    let (name, _) = old.split_once('@')?;
    Some((rewrite.span.clone(), format!("{name}@{}", rewrite.commit)))
}

/// The edit that says the version in a comment: in the one that says a version now, else in one of its
/// own behind the code of the line. Nothing where the version stands there already.
fn comment(source: &Source, rewrite: &Rewrite) -> Option<Edit> {
    let text = source.text();
    let end = rewrite.span.end;
    let line_end = text[end..]
        .find(['\n', '\r'])
        .map_or(text.len(), |at| end + at);
    let line_start = text[..rewrite.span.start]
        .rfind(['\n', '\r'])
        .map_or(0, |at| at + 1);
    let code_end = code_end(text, end, line_end);
    let old = &text[code_end..line_end];
    let Some(said) = said_version(old) else {
        // Two references of one line cannot both have the line's comment.
        let line = &text[line_start..line_end];
        let alone = line.matches("uses").count() <= 1;
        let at = text[..code_end]
            .trim_end_matches([' ', '\t'])
            .len()
            .max(end);
        return alone.then(|| (at..at, format!(" # {}", rewrite.version)));
    };
    let said = code_end + said.start..code_end + said.end;
    (text[said.clone()] != rewrite.version).then(|| (said, rewrite.version.clone()))
}

/// Where the code of a line ends: at its comment, or at its end.
fn code_end(text: &str, from: usize, line_end: usize) -> usize {
    let bytes = text.as_bytes();
    // A quote that the reference itself stands in is closed at once.
    let mut at = from + usize::from(matches!(bytes.get(from), Some(b'\'' | b'"')));
    let mut quote = None;
    let mut begins = false;
    while at < line_end {
        let byte = bytes[at];
        match quote {
            Some(open) if byte == open => quote = None,
            Some(b'"') if byte == b'\\' => at += 1,
            Some(_) => {}
            None if byte == b'#' && at > from && matches!(bytes[at - 1], b' ' | b'\t') => {
                return at;
            }
            None if matches!(byte, b'\'' | b'"') && begins => quote = Some(byte),
            None => {}
        }
        begins = matches!(byte, b' ' | b'\t' | b',' | b'[' | b'{' | b':');
        at += 1;
    }
    line_end
}

/// Where the first word of a comment says a version: `# v4`, `# tag=v4.1`, `# pin@v4`,
/// `# ratchet:actions/checkout@v4`.
fn said_version(comment: &str) -> Option<Range<usize>> {
    let start = comment.find(|c: char| !matches!(c, '#' | ' ' | '\t'))?;
    let word = comment[start..].split([' ', '\t']).next()?;
    let skip = ["tag=", "pin@", "version="]
        .iter()
        .find_map(|prefix| word.strip_prefix(prefix).map(|_| prefix.len()))
        .or_else(|| {
            word.strip_prefix("ratchet:")
                .and_then(|rest| rest.find('@'))
                .map(|at| "ratchet:".len() + at + 1)
        })
        .unwrap_or(0);
    let version = &word[skip..];
    let digits = version.strip_prefix('v').unwrap_or(version);
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_');
    let is_version = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(legal)
        && (version.starts_with('v') || digits.contains('.'))
        && !is_commit_id(version);
    is_version.then(|| start + skip..start + word.len())
}

/// The version that a comment behind a reference says: what `@<commit> # v4.3.1` was made from.
#[must_use]
pub fn commented_version(source: &Source, span: &Range<usize>) -> Option<String> {
    let text = source.text();
    let line_end = text[span.end..]
        .find(['\n', '\r'])
        .map_or(text.len(), |at| span.end + at);
    let code_end = code_end(text, span.end, line_end);
    let comment = &text[code_end..line_end];
    said_version(comment).map(|said| comment[said].to_owned())
}

#[cfg(test)]
mod tests;
