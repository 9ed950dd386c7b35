//! The forms in which a secret may appear in a log: as it is, and encoded.
//!
//! The list is that of the official runner (its `ValueEncoders`), and for base64 also what a
//! secret looks like in the midst of a longer encoded text, in both alphabets.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use zeroize::ZeroizeOnDrop;

/// Shortest piece of base64, in characters, that is searched for in the midst of other text;
/// shorter ones are found in innocent text too often.
const MIN_INNER_BASE64: usize = 8;

/// Shortest value of which parts are masked on their own (official runner).
const MIN_PARTIAL: usize = 8;

/// Shortest part before or after a PowerShell `&` that is masked on its own (official runner).
const MIN_POWERSHELL_SECTION: usize = 6;

/// A text to hide. It is wiped when dropped and has no `Debug`.
#[derive(Clone, PartialEq, Eq, Hash, ZeroizeOnDrop)]
pub(super) struct Literal(String);

impl Literal {
    /// The text.
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

/// `value` and its encodings; none is empty.
pub(super) fn variants(value: &str) -> Vec<Literal> {
    let mut found = vec![
        value.to_owned(),
        value.replace('"', "\\\""),
        value.replace('\'', "''"),
        json_escape(value),
        uri_escape(value),
        xml_escape(value),
        trim_double_quotes(value),
    ];
    found.extend(base64_variants(value.as_bytes()));
    found.extend(powershell_sections(value));
    found.retain(|text| !text.is_empty());
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(Literal).collect()
}

fn base64_variants(bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    // A text before the secret shifts it by 0, 1 or 2 bytes within the groups of three.
    for shift in 0..bytes.len().min(3) {
        let rest = &bytes[shift..];
        found.push(STANDARD.encode(rest));
        found.push(URL_SAFE.encode(rest));
        // A text after it changes the last character unless the groups come out even.
        let whole = rest.len() * 8 / 6;
        if whole >= MIN_INNER_BASE64 {
            for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                let mut inner = engine.encode(rest);
                inner.truncate(whole);
                found.push(inner);
            }
        }
    }
    found
}

fn json_escape(value: &str) -> String {
    let quoted = serde_json::Value::from(value).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

fn uri_escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn xml_escape(value: &str) -> String {
    value
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&apos;")
}

fn trim_double_quotes(value: &str) -> String {
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    match inner {
        Some(inner) if value.chars().count() > MIN_PARTIAL => inner.to_owned(),
        _ => String::new(),
    }
}

/// PowerShell prints an erroneous command line in two colours, split behind `&` (and, for `&+`,
/// one character further): each part of the secret stands alone then.
fn powershell_sections(value: &str) -> Vec<String> {
    let (before, after) = if let Some(at) = value.find("&+") {
        let behind = &value[at + 2..];
        let skip = behind.chars().next().map_or(0, char::len_utf8);
        (&value[..at + 2], &behind[skip..])
    } else if let Some(at) = value.rfind('&') {
        (&value[..=at], &value[at + 1..])
    } else {
        return Vec::new();
    };
    [before, after]
        .into_iter()
        .filter(|part| part.chars().count() >= MIN_POWERSHELL_SECTION)
        .map(str::to_owned)
        .collect()
}
