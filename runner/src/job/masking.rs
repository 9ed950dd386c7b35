//! Masking of secrets in everything that leaves a job: values, their encodings and patterns.
//!
//! Literal values are searched with one pass of an Aho-Corasick automaton, however many there are;
//! overlapping and touching matches become a single `***`. The encodings are in `mask_encodings`.

use std::{
    borrow::Cow,
    collections::HashSet,
    fmt,
    ops::Range,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::mask_encodings::{Literal, variants};
use aho_corasick::{
    Anchored,
    automaton::Automaton,
    nfa::{contiguous, noncontiguous},
};

/// What stands in the place of a secret.
pub const MASK: &str = "***";

/// Sum of the lengths of all searched values, in bytes, above which no more are taken: a step
/// could otherwise fill the worker's memory with `::add-mask::`.
const MAX_LITERAL_BYTES: usize = 8 << 20;

/// An automaton of at most this many values is built anew for each new one. Larger ones are joined
/// only with those of about their size, so that no value takes part in more than a few builds,
/// however many a step adds one by one.
const RECENT: usize = 256;

/// Compiled size, in bytes, that one pattern of the job message may have.
const MAX_PATTERN_SIZE: usize = 1 << 20;

/// Why a mask could not be added. The value itself is never part of the message.
#[derive(Debug, thiserror::Error)]
pub enum MaskError {
    /// Too many values.
    #[error(
        "the masks of this job exceed {} MiB; mask fewer or shorter values",
        MAX_LITERAL_BYTES >> 20
    )]
    TooMany,
    /// The automaton refused the values.
    #[error("the masks of this job cannot be searched for: {0}")]
    Automaton(#[from] aho_corasick::BuildError),
    /// A regular expression of the job message is not valid or too large.
    #[error("mask pattern number {index} of the job message cannot be used: {cause}")]
    Pattern {
        /// Its place in the message's list, from 1.
        index: usize,
        /// The parser's words.
        cause: regex::Error,
    },
}

/// The secrets of one job. Clones share them, so a mask added anywhere is effective everywhere.
#[derive(Clone, Default)]
pub struct Masker {
    state: Arc<RwLock<State>>,
}

#[derive(Default)]
struct State {
    literals: HashSet<Literal>,
    bytes: usize,
    longest: usize,
    /// The literals again, in automata of falling size.
    levels: Vec<Level>,
    patterns: Vec<regex::Regex>,
}

struct Level {
    literals: Vec<Literal>,
    automaton: contiguous::NFA,
}

impl fmt::Debug for Masker {
    /// Says how many values there are, never which.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.read();
        f.debug_struct("Masker")
            .field("literals", &state.literals.len())
            .field("patterns", &state.patterns.len())
            .finish()
    }
}

impl Masker {
    /// A masker without secrets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value, each of its lines and all their encodings. Empty values are ignored.
    ///
    /// # Errors
    /// [`MaskError::TooMany`] when the job's masks take too much memory; nothing is added then.
    pub fn add(&self, value: &str) -> Result<(), MaskError> {
        let mut fresh: Vec<Literal> = Vec::new();
        let lines = value.split(['\r', '\n']).map(|line| line.trim_matches(' '));
        for part in std::iter::once(value).chain(lines) {
            if !part.is_empty() {
                fresh.extend(variants(part));
            }
        }
        self.write().insert(fresh)
    }

    /// Adds a regular expression (number `index` of the message's list, from 1).
    ///
    /// # Errors
    /// [`MaskError::Pattern`] when it is not valid in a linear-time engine.
    pub fn add_pattern(&self, index: usize, pattern: &str) -> Result<(), MaskError> {
        let compiled = regex::RegexBuilder::new(pattern)
            .size_limit(MAX_PATTERN_SIZE)
            .build()
            .map_err(|cause| MaskError::Pattern { index, cause })?;
        self.write().patterns.push(compiled);
        Ok(())
    }

    /// `text` with every secret replaced.
    #[must_use]
    pub fn mask<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let spans = self.spans(text, 0);
        if spans.is_empty() {
            return Cow::Borrowed(text);
        }
        Cow::Owned(replace(text, &spans))
    }

    /// Whether `text` holds a secret.
    #[must_use]
    pub fn contains_secret(&self, text: &str) -> bool {
        !self.spans(text, 0).is_empty()
    }

    /// Length in bytes of the longest value searched for.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.read().longest
    }

    /// Masks the beginning of `text`, about `limit` bytes, so that no value is cut in two.
    ///
    /// The first `masked` bytes of `text` are taken for part of a secret. `text` must be longer
    /// than `limit` by [`Self::longest`] for the promise to hold.
    #[must_use]
    pub fn mask_prefix(&self, text: &str, limit: usize, masked: usize) -> Prefix {
        let spans = self.spans(text, masked);
        let border = |at: &usize| text.is_char_boundary(*at);
        let before = (1..=limit.min(text.len())).rev().find(border);
        let cut = before
            .or_else(|| (1..text.len()).find(border))
            .unwrap_or(text.len());
        let mut rest_masked = 0;
        let mut inside = Vec::with_capacity(spans.len());
        for span in spans {
            if span.start >= cut {
                break;
            }
            rest_masked = span.end.saturating_sub(cut);
            inside.push(span.start..span.end.min(cut));
        }
        Prefix {
            text: replace(&text[..cut], &inside),
            consumed: cut,
            rest_masked,
        }
    }

    /// `text` masked, its first `masked` bytes being part of a secret that began before it.
    #[must_use]
    pub fn mask_rest(&self, text: &str, masked: usize) -> String {
        replace(text, &self.spans(text, masked.min(text.len())))
    }

    /// The parts of `text` to hide: sorted, apart from each other, on character borders.
    fn spans(&self, text: &str, masked: usize) -> Vec<Range<usize>> {
        let state = self.read();
        let mut spans = Vec::new();
        if masked > 0 {
            spans.push(0..masked.min(text.len()));
        }
        for level in &state.levels {
            search(&level.automaton, text.as_bytes(), &mut spans);
        }
        for pattern in &state.patterns {
            let found = pattern.find_iter(text).map(|found| found.range());
            spans.extend(found.filter(|range| !range.is_empty()));
        }
        merge(spans)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // A panic elsewhere must not turn masking off: the values are whole at any time.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`Masker::mask_prefix`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The masked beginning.
    pub text: String,
    /// How many bytes of the input it stands for.
    pub consumed: usize,
    /// How many bytes at the beginning of the rest belong to a secret that began before the cut.
    pub rest_masked: usize,
}

impl State {
    fn insert(&mut self, mut fresh: Vec<Literal>) -> Result<(), MaskError> {
        let mut seen = HashSet::new();
        fresh.retain(|value| !self.literals.contains(value) && seen.insert(value.clone()));
        if fresh.is_empty() {
            return Ok(());
        }
        let added: usize = fresh.iter().map(|value| value.text().len()).sum();
        if self.bytes + added > MAX_LITERAL_BYTES {
            return Err(MaskError::TooMany);
        }
        let (mut from, mut count) = (self.levels.len(), fresh.len());
        while let Some(level) = from.checked_sub(1).and_then(|last| self.levels.get(last))
            && level.literals.len() <= RECENT.max(2 * count)
        {
            count += level.literals.len();
            from -= 1;
        }
        let joined = self.levels[from..].iter().flat_map(|level| &level.literals);
        let literals: Vec<Literal> = joined.chain(&fresh).cloned().collect();
        let automaton = automaton(literals.iter())?;
        self.levels.truncate(from);
        self.levels.push(Level {
            literals,
            automaton,
        });
        self.bytes += added;
        let lengths = fresh.iter().map(|value| value.text().len());
        self.longest = lengths.fold(self.longest, usize::max);
        self.literals.extend(fresh);
        Ok(())
    }
}

fn automaton<'a>(
    values: impl Iterator<Item = &'a Literal>,
) -> Result<contiguous::NFA, aho_corasick::BuildError> {
    let nfa = noncontiguous::NFA::new(values.map(|value| value.text().as_bytes()))?;
    contiguous::Builder::new().build_from_noncontiguous(&nfa)
}

/// Adds, for each place where a value ends, the longest value that ends there. Unlike a plain
/// search for overlapping matches this stays linear when values are prefixes of each other.
fn search(automaton: &contiguous::NFA, text: &[u8], spans: &mut Vec<Range<usize>>) {
    let Ok(mut state) = automaton.start_state(Anchored::No) else {
        return;
    };
    // Spans of other automata stand before these, and anywhere in the text.
    let first = spans.len();
    for (index, byte) in text.iter().enumerate() {
        state = automaton.next_state(Anchored::No, state, *byte);
        if automaton.is_special(state) && automaton.is_match(state) {
            // A state's own value comes first and its suffixes after it.
            let length = automaton.pattern_len(automaton.match_pattern(state, 0));
            let range = index + 1 - length..index + 1;
            match spans[first..].last_mut() {
                Some(last) if range.start <= last.end => {
                    last.start = last.start.min(range.start);
                    last.end = last.end.max(range.end);
                }
                _ => spans.push(range),
            }
        }
    }
}

/// Sorts and joins overlapping and touching ranges.
fn merge(mut spans: Vec<Range<usize>>) -> Vec<Range<usize>> {
    spans.sort_unstable_by_key(|span| span.start);
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(spans.len());
    for span in spans {
        match merged.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => merged.push(span),
        }
    }
    merged
}

fn replace(text: &str, spans: &[Range<usize>]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut position = 0;
    for span in spans {
        out.push_str(&text[position..span.start]);
        out.push_str(MASK);
        position = span.end;
    }
    out.push_str(&text[position..]);
    out
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use proptest::prelude::*;

    #[test]
    fn values_of_different_automata_hide_nothing_between_them() {
        let masker = Masker::new();
        masker.add("first-secret").unwrap();
        for index in 0..100 {
            masker.add(&format!("filler-{index}-value")).unwrap();
        }
        masker.add("later-secret").unwrap();
        assert!(masker.read().levels.len() > 1);
        assert_eq!(
            masker.mask("later-secret is not first-secret"),
            "*** is not ***"
        );
        assert_eq!(
            masker.mask("first-secret is not later-secret"),
            "*** is not ***"
        );
    }

    #[test]
    fn a_value_takes_part_in_few_builds_however_many_come_one_by_one() {
        let masker = Masker::new();
        let (mut built, mut before) = (0, 0);
        for index in 0..2000 {
            masker.add(&format!("value-{index}-of-a-step")).unwrap();
            let state = masker.read();
            // What came and the levels it was joined with were built.
            let last = state.levels.last().unwrap().literals.len();
            built += if last > RECENT { last } else { 0 };
            before = state.literals.len();
        }
        assert!(before > 10_000, "{before}");
        assert!(built < before * 20, "{built} of {before}");
        assert_eq!(masker.mask("x value-1999-of-a-step y"), "x *** y");
        assert_eq!(masker.mask("x value-0-of-a-step y"), "x *** y");
    }

    use super::*;

    fn masker(values: &[&str]) -> Masker {
        let masker = Masker::new();
        for value in values {
            masker.add(value).unwrap();
        }
        masker
    }

    #[test]
    fn a_secret_is_hidden_in_every_encoding() {
        let secret = "p\"a's<s>&w\\o rd/ü";
        let masker = masker(&[secret]);
        for seen in [
            secret,
            "p\\\"a's<s>&w\\\\o rd/ü",
            "p\\\"a's<s>&w\\o rd/ü",
            "p\"a''s<s>&w\\o rd/ü",
            "p%22a%27s%3Cs%3E%26w%5Co%20rd%2F%C3%BC",
            "p&quot;a&apos;s&lt;s&gt;&amp;w\\o rd/ü",
            "p\"a's<s>&",
            "w\\o rd/ü",
        ] {
            assert_eq!(masker.mask(&format!("x {seen} y")), "x *** y", "{seen}");
        }
    }

    #[test]
    fn a_secret_is_hidden_in_the_midst_of_base64_at_every_offset() {
        let secret = "correct horse battery";
        let masker = masker(&[secret]);
        for before in ["", "u", "us", "user:"] {
            for after in ["", "\n", "!!", "tail"] {
                let encoded = STANDARD.encode(format!("{before}{secret}{after}"));
                let masked = masker.mask(&encoded);
                assert!(masked.contains(MASK), "{encoded}");
                // What is left tells at most the letters at the secret's ends.
                assert!(masked.len() <= encoded.len() - 20, "{encoded} -> {masked}");
            }
        }
    }

    #[test]
    fn quotes_around_a_secret_do_not_save_it() {
        assert_eq!(
            masker(&["\"quoted-secret\""]).mask("=quoted-secret="),
            "=***="
        );
    }

    #[test]
    fn each_line_of_a_secret_is_hidden_alone() {
        let masker = masker(&["first line\r\n  second line\n"]);
        assert_eq!(masker.mask("[first line]"), "[***]");
        assert_eq!(masker.mask("[second line]"), "[***]");
        assert_eq!(masker.mask("[third line]"), "[third line]");
    }

    #[test]
    fn overlapping_and_touching_secrets_become_one_mask() {
        let masker = masker(&["abcd", "cdef", "ghij", "bc"]);
        assert_eq!(masker.mask("-abcdef-"), "-***-");
        assert_eq!(masker.mask("-abcdghij-"), "-***-");
        assert_eq!(masker.mask("-xbcx-abcd"), "-x***x-***");
    }

    #[test]
    fn patterns_hide_what_they_match_and_a_bad_one_is_named_by_its_number() {
        let masker = Masker::new();
        masker.add_pattern(1, r"\bBearer\s+[^\s'\x22;]+").unwrap();
        assert_eq!(masker.mask("a: Bearer t0k3n; b"), "a: ***; b");
        let error = masker.add_pattern(2, "(").unwrap_err().to_string();
        assert!(error.contains("number 2"), "{error}");
    }

    #[test]
    fn hundreds_of_values_added_one_by_one_are_all_hidden() {
        let masker = Masker::new();
        let values: Vec<_> = (0..700).map(|i| format!("value-{i:04}-secret")).collect();
        for value in &values {
            masker.add(value).unwrap();
            assert_eq!(masker.mask(value), MASK);
        }
        for value in &values {
            assert_eq!(masker.mask(value), MASK);
        }
    }

    #[test]
    fn masks_are_bounded_in_memory() {
        let masker = Masker::new();
        let error = masker.add(&"x".repeat(2 << 20));
        assert!(matches!(error, Err(MaskError::TooMany)));
        assert_eq!(masker.longest(), 0);
    }

    #[test]
    fn a_thousand_prefixes_of_one_another_are_searched_in_linear_time() {
        let masker = Masker::new();
        for length in 1..1000 {
            masker.add(&"a".repeat(length)).unwrap();
        }
        assert_eq!(masker.mask(&"a".repeat(1 << 20)), MASK);
    }

    #[test]
    fn debug_shows_no_value() {
        let shown = format!("{:?}", masker(&["hunter2"]));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    /// Masks `text` piece by piece as a line too long for memory is.
    fn by_pieces(masker: &Masker, text: &str, limit: usize) -> String {
        let (mut rest, mut masked, mut out) = (text, 0, String::new());
        while rest.len() > limit + masker.longest() {
            let prefix = masker.mask_prefix(rest, limit, masked);
            assert!(prefix.consumed > 0);
            out.push_str(&prefix.text);
            rest = &rest[prefix.consumed..];
            masked = prefix.rest_masked;
        }
        out.push_str(&masker.mask_rest(rest, masked));
        out
    }

    proptest! {
        #[test]
        fn no_secret_survives_masking(
            secrets in proptest::collection::vec("[a-dé]{1,6}", 1..8),
            text in "[a-dé ]{0,200}",
            limit in 1usize..40,
        ) {
            let values: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let masker = masker(&values);
            let whole = masker.mask(&text);
            let pieces = by_pieces(&masker, &text, limit);
            for secret in &secrets {
                prop_assert!(!whole.contains(secret.as_str()), "{whole}");
                prop_assert!(!pieces.contains(secret.as_str()), "{pieces}");
            }
            // A cut adds masks, it never uncovers or covers other text.
            let bare = |text: &str| text.replace('*', "");
            prop_assert_eq!(bare(&whole), bare(&pieces));
        }

        #[test]
        fn exactly_the_letters_of_secrets_are_hidden(
            secrets in proptest::collection::vec("[a-c]{2,4}", 1..5),
            text in "[a-d]{0,60}",
        ) {
            let values: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let masker = masker(&values);
            let all = masker.read().literals.iter().map(|l| l.text().to_owned()).collect::<Vec<_>>();
            let mut hidden = vec![false; text.len()];
            for value in &all {
                for at in 0..text.len() {
                    if text[at..].starts_with(value.as_str()) {
                        hidden[at..at + value.len()].fill(true);
                    }
                }
            }
            let open: String = text.chars().zip(&hidden).filter(|(_, h)| !**h).map(|(c, _)| c).collect();
            prop_assert_eq!(masker.mask(&text).replace('*', ""), open);
        }
    }
}
