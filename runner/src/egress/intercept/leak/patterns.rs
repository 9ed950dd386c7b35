//! The byte strings that give a secret away.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use zeroize::Zeroizing;

use super::What;

/// Shortest value, in bytes, that is searched for; that of base64 in the midst of other text when masking.
pub const MIN_LENGTH: usize = 8;
/// Shortest line of a value that is searched for on its own.
const MIN_LINE: usize = 20;
/// Shortest value that is given away by two thirds of it.
const MIN_PARTIAL: usize = 24;

/// All that `encodeURIComponent` and its like encode.
const UNRESERVED: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// One secret to search for.
#[derive(Clone, Copy)]
pub struct Watched<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: &'a str,
    /// What stands for it in the guest, if it is bound.
    pub placeholder: Option<&'a str>,
}

impl std::fmt::Debug for Watched<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a found byte string means.
pub(super) struct Pattern {
    pub(super) secret: usize,
    pub(super) what: What,
    pub(super) form: &'static str,
}

pub(in super::super) type Literal = Zeroizing<Vec<u8>>;

/// All byte strings that give `secret`, number `index`, away.
pub(super) fn of(index: usize, secret: &Watched<'_>) -> Vec<(Literal, Pattern)> {
    let mut found: Vec<(Literal, Pattern)> = Vec::new();
    let placeholder = secret.placeholder.map(|text| (What::Placeholder, text));
    for (what, text) in [(What::Value, secret.value)].into_iter().chain(placeholder) {
        for part in parts(text) {
            for (form, literal) in forms(part.as_bytes()) {
                if found.iter().all(|(known, _)| *known != literal) {
                    let pattern = Pattern {
                        secret: index,
                        what,
                        form,
                    };
                    found.push((literal, pattern));
                }
            }
        }
    }
    found
}

/// What of a value gives it away. Of a long word two thirds are enough, so that the last third has not
/// left when it is found.
fn parts(value: &str) -> Vec<&str> {
    if value.len() < MIN_LENGTH {
        return Vec::new();
    }
    let is_word = value.bytes().all(|byte| byte.is_ascii_graphic());
    if is_word && value.len() >= MIN_PARTIAL {
        let third = value.len() / 3;
        return vec![&value[..value.len() - third], &value[third..]];
    }
    let lines = value.lines().map(str::trim);
    let lines = lines.filter(|line| line.len() >= MIN_LINE && !line.starts_with("-----"));
    std::iter::once(value).chain(lines).collect()
}

fn forms(bytes: &[u8]) -> Vec<(&'static str, Literal)> {
    let mut found = vec![("plain", bytes.to_vec().into())];
    let squeezed: Vec<u8> = bytes
        .iter()
        .filter(|b| !b.is_ascii_whitespace())
        .copied()
        .collect();
    if squeezed.len() >= MIN_LENGTH {
        found.push(("plain", squeezed.into()));
    }
    // Names of headers lose their case.
    for changed in [bytes.to_ascii_lowercase(), bytes.to_ascii_uppercase()] {
        if changed != bytes {
            found.push(("in another case", changed.into()));
        }
    }
    // A form's encoding of blanks; the other characters are decoded before the search.
    if bytes.contains(&b' ') {
        let plus = bytes.iter().map(|b| if *b == b' ' { b'+' } else { *b });
        found.push(("percent-encoded", plus.collect::<Vec<u8>>().into()));
    }
    for encoded in base64(bytes) {
        for twice in base64(&encoded) {
            found.push(("base64 twice", twice));
        }
        found.push(("base64", encoded));
    }
    found.push(("hex", hex::encode(bytes).into_bytes().into()));
    found.push(("hex", hex::encode_upper(bytes).into_bytes().into()));
    found
}

/// A value as it is and as a server may send it back.
pub(in super::super) fn encodings(bytes: &[u8]) -> Vec<Literal> {
    let mut found: Vec<Literal> = Vec::new();
    let percent = percent_encoding::percent_encode(bytes, UNRESERVED).to_string();
    let percent = ("percent-encoded", Literal::new(percent.into_bytes()));
    for (_, literal) in forms(bytes).into_iter().chain([percent]) {
        if !found.contains(&literal) {
            found.push(literal);
        }
    }
    found
}

/// The characters of base64 that depend on `bytes` alone, wherever they stand in what was encoded.
fn base64(bytes: &[u8]) -> Vec<Literal> {
    let mut found: Vec<Literal> = Vec::new();
    for shift in 0..bytes.len().min(3) {
        let rest = &bytes[shift..];
        let whole = rest.len() * 8 / 6;
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let mut encoded = engine.encode(rest).into_bytes();
            encoded.truncate(whole);
            if encoded.len() >= MIN_LENGTH && found.iter().all(|known| **known != encoded) {
                found.push(encoded.into());
            }
        }
    }
    found
}
