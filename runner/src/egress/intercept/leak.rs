//! Secrets and placeholders on their way to where they must not go, found in a stream whatever its
//! chunks are: plain, base64 at every alignment (also twice), hexadecimal, percent-encoded, escaped as
//! in JSON, and broken into lines.
//!
//! It is a trip-wire for what encodes a secret with the usual tools. Who encrypts it passes.

mod patterns;
mod squeeze;

use std::{fmt, sync::Arc};

use aho_corasick::{
    Anchored,
    automaton::{Automaton, StateID},
    nfa::{contiguous, noncontiguous},
};

pub(super) use patterns::encodings;
pub use patterns::{MIN_LENGTH, Watched};
use patterns::{Pattern, of};
use squeeze::Squeeze;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The value of a secret.
    Value,
    /// The placeholder that stands for it.
    Placeholder,
}

/// A secret that was stopped on its way out. The bytes that were held back are the end of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Leak {
    /// The secret's name.
    pub secret: String,
    /// What was on its way.
    pub what: What,
    /// Its form: `plain`, `base64`, `hex`, ….
    pub form: &'static str,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            What::Value => "the value",
            What::Placeholder => "the placeholder",
        };
        write!(
            f,
            "{what} of secret {} ({}) was on its way to a host that it is not bound to; the connection \
             was stopped",
            self.secret, self.form
        )
    }
}

/// All that is searched for. One serves all connections of a sandbox.
pub struct Watch {
    automaton: contiguous::NFA,
    patterns: Vec<Pattern>,
    names: Vec<String>,
    start: StateID,
}

impl fmt::Debug for Watch {
    /// Says whose secrets, never which.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Watch {
    /// A search for the values and placeholders of `secrets`. Values shorter than [`MIN_LENGTH`] are
    /// left out: they are found in innocent text too often.
    ///
    /// # Errors
    /// The library's, when they are too many or too long.
    pub fn new(secrets: &[Watched<'_>]) -> Result<Self, aho_corasick::BuildError> {
        let mut patterns = Vec::new();
        let mut literals = Vec::new();
        for (index, secret) in secrets.iter().enumerate() {
            for (literal, pattern) in of(index, secret) {
                literals.push(literal);
                patterns.push(pattern);
            }
        }
        let nfa = noncontiguous::NFA::new(literals.iter().map(|l| l.as_slice()))?;
        let automaton = contiguous::Builder::new().build_from_noncontiguous(&nfa)?;
        let start = automaton.start_state(Anchored::No).unwrap_or_default();
        Ok(Self {
            automaton,
            patterns,
            names: secrets
                .iter()
                .map(|secret| secret.name.to_owned())
                .collect(),
            start,
        })
    }

    /// Whether there is nothing to search for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// A search in one stream in which the secrets that `allowed` names (by their number) may be.
    #[must_use]
    pub fn scanner(self: &Arc<Self>, allowed: &Arc<[usize]>) -> Scanner {
        Scanner {
            watch: Arc::clone(self),
            allowed: Arc::clone(allowed),
            raw: self.start,
            squeezed: self.start,
            squeeze: Squeeze::default(),
        }
    }

    fn step(&self, state: &mut StateID, byte: u8, allowed: &[usize]) -> Result<(), Leak> {
        *state = self.automaton.next_state(Anchored::No, *state, byte);
        if !self.automaton.is_special(*state) || !self.automaton.is_match(*state) {
            return Ok(());
        }
        let found = (0..self.automaton.match_len(*state))
            .filter_map(|index| {
                let id = self.automaton.match_pattern(*state, index);
                self.patterns.get(id.as_usize())
            })
            .find(|pattern| !allowed.contains(&pattern.secret));
        match found {
            Some(pattern) => Err(self.leak(pattern)),
            None => Ok(()),
        }
    }

    fn leak(&self, pattern: &Pattern) -> Leak {
        Leak {
            secret: self.names.get(pattern.secret).cloned().unwrap_or_default(),
            what: pattern.what,
            form: pattern.form,
        }
    }
}

/// The search in one stream: a few words of memory.
pub struct Scanner {
    watch: Arc<Watch>,
    allowed: Arc<[usize]>,
    raw: StateID,
    squeezed: StateID,
    squeeze: Squeeze,
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner").finish_non_exhaustive()
    }
}

impl Scanner {
    /// Looks at the next bytes of the stream. They may be sent on only if all is well.
    ///
    /// # Errors
    /// The [`Leak`] that these bytes complete.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<(), Leak> {
        if self.watch.is_empty() {
            return Ok(());
        }
        for byte in bytes {
            self.watch.step(&mut self.raw, *byte, &self.allowed)?;
            for byte in self.squeeze.next(*byte) {
                self.watch.step(&mut self.squeezed, byte, &self.allowed)?;
            }
        }
        Ok(())
    }

    /// Forgets what came before: what follows is a stream of its own.
    pub fn restart(&mut self) {
        self.raw = self.watch.start;
        self.squeezed = self.watch.start;
        self.squeeze = Squeeze::default();
    }
}

#[cfg(test)]
mod tests;
