//! Answers that hold the value of a bound secret: it is replaced before the guest sees it, or, where it
//! began in bytes that are gone already, the answer is cut off.

use std::sync::Arc;

use aho_corasick::{
    Anchored,
    automaton::{Automaton, StateID},
    nfa::{contiguous, noncontiguous},
};
use bytes::Bytes;
use zeroize::Zeroizing;

use super::leak::Watched;

/// Fewest bytes of a value at the end of a chunk for which its rest is waited for. Fewer are found at the
/// end of innocent chunks, and waiting there would make a stream of events stop.
const MIN_HELD: usize = 8;

/// The answer was cut off: a value began in bytes that the guest has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the answer held the value of secret {secret} and was cut off")]
pub struct EchoError {
    /// The secret's name.
    pub secret: String,
}

struct Form {
    literal: Zeroizing<Vec<u8>>,
    /// What the guest sees, of the same length.
    shown: Vec<u8>,
    secret: usize,
}

/// The values that a host may send back.
pub(super) struct Values {
    automaton: contiguous::NFA,
    forms: Vec<Form>,
    names: Vec<String>,
    start: StateID,
}

impl Values {
    pub(super) fn new(secrets: &[Watched<'_>]) -> Result<Self, aho_corasick::BuildError> {
        let mut forms = Vec::new();
        for (index, secret) in secrets.iter().enumerate() {
            // Who has no placeholder has the value.
            let Some(placeholder) = secret.placeholder else {
                continue;
            };
            for literal in super::leak::encodings(secret.value.as_bytes()) {
                let plain = literal.as_slice() == secret.value.as_bytes();
                let shown = if plain && placeholder.len() == literal.len() {
                    placeholder.as_bytes().to_vec()
                } else {
                    vec![b'*'; literal.len()]
                };
                forms.push(Form {
                    literal,
                    shown,
                    secret: index,
                });
            }
        }
        let nfa = noncontiguous::NFA::new(forms.iter().map(|form| form.literal.as_slice()))?;
        let automaton = contiguous::Builder::new().build_from_noncontiguous(&nfa)?;
        let start = automaton.start_state(Anchored::No).unwrap_or_default();
        Ok(Self {
            automaton,
            forms,
            names: secrets.iter().map(|s| s.name.to_owned()).collect(),
            start,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    pub(super) fn guard(self: &Arc<Self>) -> Guard {
        Guard {
            state: self.start,
            values: Arc::clone(self),
            held: Vec::new(),
            replaced: Vec::new(),
        }
    }

    /// `text` with values replaced, if there are any, and whose they are.
    pub(super) fn clean(self: &Arc<Self>, text: &[u8]) -> Option<(Vec<u8>, Vec<String>)> {
        let mut guard = self.guard();
        // Nothing is gone yet, so nothing can be cut off.
        let mut shown = guard.push(text).ok()?.to_vec();
        shown.extend_from_slice(&guard.finish());
        let replaced = guard.take_replaced();
        (!replaced.is_empty()).then_some((shown, replaced))
    }

    /// How many bytes at the end of `bytes` may be the beginning of a value.
    fn begun(&self, bytes: &[u8]) -> usize {
        let longest = |form: &Form| {
            let most = bytes.len().min(form.literal.len() - 1);
            let lengths = (MIN_HELD..=most).rev();
            lengths
                .into_iter()
                .find(|length| bytes.ends_with(&form.literal[..*length]))
        };
        self.forms.iter().filter_map(longest).max().unwrap_or(0)
    }
}

/// The search in one answer.
pub(super) struct Guard {
    values: Arc<Values>,
    state: StateID,
    /// Bytes that may be the beginning of a value.
    held: Vec<u8>,
    replaced: Vec<String>,
}

impl Guard {
    /// Takes the next bytes of the answer and gives those that may be shown.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<Bytes, EchoError> {
        let mut bytes = std::mem::take(&mut self.held);
        let known = bytes.len();
        bytes.extend_from_slice(chunk);
        for at in known..bytes.len() {
            let values = &self.values;
            // What was replaced is searched no more: a state has seen the bytes as they came.
            let byte = chunk[at - known];
            self.state = values.automaton.next_state(Anchored::No, self.state, byte);
            if !values.automaton.is_special(self.state) || !values.automaton.is_match(self.state) {
                continue;
            }
            for index in 0..values.automaton.match_len(self.state) {
                let id = values.automaton.match_pattern(self.state, index);
                let Some(form) = values.forms.get(id.as_usize()) else {
                    continue;
                };
                let secret = values.names.get(form.secret).cloned().unwrap_or_default();
                let Some(start) = (at + 1).checked_sub(form.literal.len()) else {
                    return Err(EchoError { secret });
                };
                bytes[start..=at].copy_from_slice(&form.shown);
                if !self.replaced.contains(&secret) {
                    self.replaced.push(secret);
                }
            }
        }
        let open = bytes.len() - self.values.begun(&bytes);
        self.held = bytes.split_off(open);
        Ok(bytes.into())
    }

    /// Whether bytes wait for what follows them.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// The answer is over: gives what was held.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Names of the secrets that were replaced since the last call.
    pub(super) fn take_replaced(&mut self) -> Vec<String> {
        std::mem::take(&mut self.replaced)
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use proptest::prelude::*;

    use super::*;

    const VALUE: &str = "ghs_realrealrealrealrealrealreal";
    const SHOWN: &str = "ghs_standstandstandstandstandsta";

    fn values() -> Arc<Values> {
        let secret = Watched {
            name: "T",
            value: VALUE,
            placeholder: Some(SHOWN),
        };
        Arc::new(Values::new(&[secret]).unwrap())
    }

    fn through(text: &[u8], chunk: usize) -> Result<Vec<u8>, EchoError> {
        let mut guard = values().guard();
        let mut out = Vec::new();
        for part in text.chunks(chunk) {
            out.extend_from_slice(&guard.push(part)?);
        }
        out.extend_from_slice(&guard.finish());
        Ok(out)
    }

    #[test]
    fn a_value_that_comes_back_is_replaced_and_lengths_stay() {
        let text = format!("{{\"Authorization\": \"Bearer {VALUE}\"}}");
        let seen = through(text.as_bytes(), 4096).unwrap();
        assert_eq!(String::from_utf8(seen).unwrap(), text.replace(VALUE, SHOWN));
        let basic = STANDARD.encode(format!("x-access-token:{VALUE}"));
        let seen = through(basic.as_bytes(), 4096).unwrap();
        assert_eq!(seen.len(), basic.len());
        let left = String::from_utf8(seen).unwrap();
        assert!(left.contains("********************************"), "{left}");
    }

    #[test]
    fn what_looks_like_the_beginning_of_a_value_is_not_held_for_ever() {
        let mut guard = values().guard();
        assert_eq!(guard.push(b"data: ghs").unwrap(), "data: ghs");
        assert_eq!(guard.push(b" x ghs_realrea").unwrap(), " x ");
        assert_eq!(guard.push(b"!").unwrap(), "ghs_realrea!");
    }

    proptest! {
        #[test]
        fn the_whole_value_never_passes(
            before in "[a-z]{0,40}",
            chunk in 1usize..80,
        ) {
            let text = format!("{before}{VALUE} tail");
            match through(text.as_bytes(), chunk) {
                Ok(seen) => {
                    let seen = String::from_utf8(seen).unwrap();
                    prop_assert_eq!(seen, text.replace(VALUE, SHOWN));
                }
                // Its first bytes were gone when the rest came.
                Err(error) => prop_assert_eq!(error.secret, "T"),
            }
        }

        #[test]
        fn other_bytes_pass_as_they_are(
            text in proptest::collection::vec(any::<u8>(), 0..300),
            chunk in 1usize..80,
        ) {
            prop_assert_eq!(through(&text, chunk).unwrap(), text);
        }
    }
}
