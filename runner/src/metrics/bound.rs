//! Bounds of what strangers can put into label values: their length, and how many series they can make.
//!
//! Names of jobs, workflows and repositories are written by whoever can push to a repository. A series that
//! was made stays until the process ends, here and in Prometheus, so there is a most of them.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use crate::printable;

/// What stands for all values beyond the bound.
pub const OTHER: &str = "other";
/// Longest label value, in bytes.
const MAX_VALUE: usize = 160;

/// Lets a bounded number of different sets of label values through.
#[derive(Debug)]
pub(super) struct SeriesBound {
    most: usize,
    seen: Mutex<HashSet<Vec<String>>>,
}

impl SeriesBound {
    /// Lets `most` sets through.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            seen: Mutex::default(),
        }
    }

    /// These values, cleaned; or, when there are too many sets already, [`OTHER`] in place of each.
    pub(super) fn admit<const N: usize>(&self, values: [&str; N]) -> [String; N] {
        let values = values.map(value);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(values.as_slice()) {
            return values;
        }
        if seen.len() >= self.most {
            return values.map(|_| OTHER.to_owned());
        }
        seen.insert(values.to_vec());
        values
    }
}

/// A value without control characters, and not a book.
pub(super) fn value(text: &str) -> String {
    let mut clean = printable::line(text);
    if clean.len() > MAX_VALUE {
        clean.truncate(clean.floor_char_boundary(MAX_VALUE));
    }
    clean
}

/// `word` if it is one of `words`, else [`OTHER`].
pub(super) fn one_of<'a>(word: &'a str, words: &[&str]) -> &'a str {
    if words.contains(&word) { word } else { OTHER }
}

#[cfg(test)]
mod tests {
    use super::{MAX_VALUE, OTHER, SeriesBound, one_of, value};

    #[test]
    fn beyond_the_bound_all_is_other_and_what_was_there_stays() {
        let bound = SeriesBound::new(2);
        assert_eq!(bound.admit(["a", "1"]), ["a", "1"]);
        assert_eq!(bound.admit(["b", "1"]), ["b", "1"]);
        assert_eq!(bound.admit(["c", "1"]), [OTHER, OTHER]);
        assert_eq!(bound.admit(["a", "1"]), ["a", "1"]);
    }

    #[test]
    fn values_are_short_and_have_no_control_characters() {
        assert_eq!(value("a\nb\x1b[2J"), "a b [2J");
        let long = value(&"é".repeat(1000));
        assert!(long.len() <= MAX_VALUE && long.chars().all(|c| c == 'é'));
        assert_eq!(one_of("moved", &["moved"]), "moved");
        assert_eq!(one_of("hm", &["moved"]), OTHER);
    }
}
