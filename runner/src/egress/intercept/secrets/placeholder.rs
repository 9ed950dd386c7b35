//! Placeholders: nobody can guess them, and tools that look at a secret's form take them for one.

use std::{borrow::Cow, sync::Arc};

use secrecy::{ExposeSecret, SecretString};

/// Fewest characters that are drawn; of 62 letters and digits these are 142 bits.
const MIN_DRAWN: usize = 24;
/// Longest beginning that is kept, and the longest word in it.
const MAX_PREFIX: usize = 16;
const MAX_WORD: usize = 6;

const ALPHANUMERIC: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const LOWER_HEX: &[u8] = b"0123456789abcdef";

/// The system gave no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no placeholder can be drawn: the system gave no randomness")]
pub struct PlaceholderError;

/// What stands for values in a sandbox. Clones share it; it is never shown.
#[derive(Clone, Default)]
pub struct Placeholders {
    pairs: Arc<[(SecretString, String)]>,
}

impl std::fmt::Debug for Placeholders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Placeholders")
            .field("count", &self.pairs.len())
            .finish()
    }
}

impl Placeholders {
    /// Pairs of a value and what stands for it.
    #[must_use]
    pub fn new(mut pairs: Vec<(SecretString, String)>) -> Self {
        // A value that is part of another must not tear it apart.
        pairs.sort_by_key(|(value, _)| std::cmp::Reverse(value.expose_secret().len()));
        Self {
            pairs: pairs.into(),
        }
    }

    /// `text` with placeholders in place of the bound values.
    #[must_use]
    pub fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for (value, placeholder) in self.pairs.iter() {
            if text.contains(value.expose_secret()) {
                text = Cow::Owned(text.replace(value.expose_secret(), placeholder));
            }
        }
        text
    }

    /// The placeholders.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.pairs
            .iter()
            .map(|(_, placeholder)| placeholder.as_str())
    }

    /// Whether nothing is bound.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

/// A placeholder of the form of `value`: the same beginning (`ghs_`, `npm_`), alphabet and, if that is
/// long enough, length.
pub(super) fn draw(value: &str) -> Result<String, PlaceholderError> {
    let prefix = prefix(value);
    let rest = &value[prefix.len()..];
    let is_hex = !rest.is_empty() && rest.bytes().all(|byte| LOWER_HEX.contains(&byte));
    // Hexadecimal digits say less each.
    let (alphabet, least) = if is_hex {
        (LOWER_HEX, MIN_DRAWN + MIN_DRAWN / 3)
    } else {
        (ALPHANUMERIC, MIN_DRAWN)
    };
    let mut placeholder = prefix.to_owned();
    let length = rest.len().max(least);
    while placeholder.len() < prefix.len() + length {
        let mut bytes = [0; 64];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| PlaceholderError)?;
        // Only bytes below a multiple of the alphabet's size, so that no letter is likelier.
        let limit = 256 / alphabet.len() * alphabet.len();
        let drawn = bytes.iter().map(|byte| usize::from(*byte));
        let drawn = drawn
            .filter(|byte| *byte < limit)
            .map(|byte| alphabet[byte % alphabet.len()]);
        let missing = prefix.len() + length - placeholder.len();
        placeholder.extend(drawn.take(missing).map(char::from));
    }
    Ok(placeholder)
}

/// The well-known beginning of a token, as in `ghs_`, `github_pat_` or `xoxb-`, if there is one and enough
/// of a secret behind it.
fn prefix(value: &str) -> &str {
    let mut end = 0;
    for part in value.split_inclusive(['_', '-']) {
        let word = &part[..part.len() - 1];
        let is_word = (2..=MAX_WORD).contains(&word.len())
            && word.bytes().all(|byte| byte.is_ascii_lowercase())
            && part.ends_with(['_', '-']);
        if !is_word || end + part.len() > MAX_PREFIX {
            break;
        }
        end += part.len();
    }
    let (prefix, rest) = value.split_at(end);
    // A passphrase with dashes has no beginning that all know.
    let is_drawn = rest.len() >= MIN_DRAWN - 4 && rest.bytes().any(|byte| byte.is_ascii_digit());
    if is_drawn { prefix } else { "" }
}
