//! Names of hosts, normalised, and globs over their labels.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use url::Host;

/// Longest name in DNS, without the dot at its end.
const LONGEST: usize = 253;

/// A host's name as it is compared: lower case ASCII (IDNA), without a dot at its end; `None` if it is
/// no name (an address is none).
///
/// What only looks like a name is another name afterwards: a Cyrillic `і` in `gіthub.com` becomes `xn--…`.
#[must_use]
pub fn normalise(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    // The URL parser would decode them; a name on the wire has none.
    if name.is_empty() || name.len() > 4 * LONGEST || name.contains(['%', '*', '[']) {
        return None;
    }
    let Ok(Host::Domain(name)) = Host::parse(name) else {
        return None;
    };
    is_name(&name).then_some(name)
}

/// Whether all labels have a length that DNS allows.
fn is_name(name: &str) -> bool {
    name.len() <= LONGEST && name.split('.').all(|label| matches!(label.len(), 1..=63))
}

/// Names that a rule means: `registry.example.com`, `*.example.com` (one label in place of the star),
/// `**.example.com` (one or more), `eu-*.example.com`, or `*` for every name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    /// Lower case ASCII.
    text: String,
}

/// Why a text is no pattern of hosts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// A URL, a port, a path, an empty label, ….
    #[error(
        "`{0}` is no host: write a name as registry.example.com, *.example.com or **.example.com, without scheme, port and path"
    )]
    NoName(String),
    /// An address.
    #[error("`{0}` is an address: write `cidr = \"{0}\"`")]
    Address(String),
    /// Stars in a place where they say nothing clear.
    #[error("`**` stands for whole labels and only at the beginning: `{0}` has it elsewhere")]
    Stars(String),
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || HostPatternError::NoName(text.to_owned());
        if text == "*" || text == "**" {
            return Ok(Self { text: "*".into() });
        }
        let address = text.trim_matches(['[', ']']);
        if address.parse::<std::net::IpAddr>().is_ok() {
            return Err(HostPatternError::Address(address.to_owned()));
        }
        let rest = text.strip_prefix("**.").unwrap_or(text);
        if rest.contains("**") {
            return Err(HostPatternError::Stars(text.to_owned()));
        }
        let bare = rest.strip_suffix('.').unwrap_or(rest);
        if bare.is_empty() || bare.contains('%') || bare.len() > 4 * LONGEST {
            return Err(wrong());
        }
        let labels = bare.split('.').map(label).collect::<Option<Vec<_>>>();
        let bare = labels.ok_or_else(wrong)?.join(".");
        if !is_name(&bare) {
            return Err(wrong());
        }
        let prefix = if rest.len() == text.len() { "" } else { "**." };
        Ok(Self {
            text: format!("{prefix}{bare}"),
        })
    }
}

/// One label of a pattern, normalised. One with a star is ASCII.
fn label(label: &str) -> Option<String> {
    if !label.contains('*') {
        return match Host::parse(&format!("{label}.a")) {
            Ok(Host::Domain(name)) => name.strip_suffix(".a").map(str::to_owned),
            _ => None,
        };
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_*".contains(&byte);
    label.bytes().all(fits).then(|| label.to_ascii_lowercase())
}

impl HostPattern {
    /// Whether `name`, which is normalised, is one of those meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        if self.text == "*" {
            return true;
        }
        let Some(rest) = self.text.strip_prefix("**.") else {
            return same_labels(&self.text, name);
        };
        // At least one label before what is said.
        let count = rest.split('.').count();
        let labels = name.split('.').count();
        if labels <= count {
            return false;
        }
        let tail = name.splitn(labels - count + 1, '.').last();
        tail.is_some_and(|tail| same_labels(rest, tail))
    }

    /// The one name that it means, if there is no star.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        (!self.text.contains('*')).then_some(self.text.as_str())
    }

    /// The domain that all its names are of or below: what follows the last label with a star. `None` if
    /// there is none.
    #[must_use]
    pub fn domain(&self) -> Option<&str> {
        match self.text.rsplit_once('*') {
            None => Some(&self.text),
            Some((_, rest)) => rest.split_once('.').map(|(_, domain)| domain),
        }
    }

    /// Whether it means every name.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.text == "*"
    }

    /// The pattern as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn same_labels(pattern: &str, name: &str) -> bool {
    let mut labels = name.split('.');
    let same = pattern
        .split('.')
        .all(|pattern| labels.next().is_some_and(|label| fits(pattern, label)));
    same && labels.next().is_none()
}

/// Whether a label is one that a pattern's label means.
fn fits(pattern: &str, label: &str) -> bool {
    if pattern == "*" {
        return !label.is_empty();
    }
    if !pattern.contains('*') {
        return pattern == label;
    }
    // An encoded label reads as something else than its letters.
    if label.starts_with("xn--") {
        return false;
    }
    glob(pattern.as_bytes(), label.as_bytes())
}

/// Stars stand for any bytes. Linear in memory, at most the product of both lengths in time.
pub(super) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                back = Some((at, seen));
                at += 1;
            }
            Some(byte) if *byte == text[seen] => {
                at += 1;
                seen += 1;
            }
            _ => match back {
                Some((star, from)) => {
                    back = Some((star, from + 1));
                    at = star + 1;
                    seen = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

impl TryFrom<String> for HostPattern {
    type Error = HostPatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.text
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
