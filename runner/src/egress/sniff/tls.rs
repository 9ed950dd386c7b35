//! The ClientHello of TLS, whatever its records and fragments.

use crate::egress::policy::normalise;

use super::{Beginning, Look, MOST};

/// The type of a record that carries a handshake.
pub(super) const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Longest payload of a record.
const LONGEST_RECORD: usize = 1 << 14;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const ENCRYPTED_HELLO: u16 = 0xfe0d;
/// Encrypted SNI, the draft before ECH.
const ENCRYPTED_NAME: u16 = 0xffce;
const HOST_NAME: u8 = 0;
/// Protocols of ALPN that are kept.
const MOST_PROTOCOLS: usize = 16;

/// What a hello says. One that is not understood says nothing: no name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The host's name, normalised; `None` if there is none, or none that is one.
    pub name: Option<String>,
    /// Whether it holds an encrypted name.
    pub encrypted: bool,
    /// Protocols offered within: `h2`, `http/1.1`, ….
    pub alpn: Vec<String>,
}

/// Looks at the first bytes of a stream, the first of which is [`HANDSHAKE`].
pub(super) fn look(bytes: &[u8]) -> Look {
    match handshake(bytes) {
        Ok(Some(hello)) => Look::Is(Beginning::Tls(read(&hello).unwrap_or_default())),
        Ok(None) if bytes.len() < MOST => Look::More,
        Ok(None) | Err(Broken) => Look::Is(Beginning::Tls(Hello::default())),
    }
}

/// It is no hello.
struct Broken;

/// The body of the ClientHello, put together from its records; `None` until it is whole.
fn handshake(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
    let mut message = Vec::new();
    loop {
        if let Some(header) = message.first_chunk::<4>() {
            let [kind, high, middle, low] = *header;
            if kind != CLIENT_HELLO {
                return Err(Broken);
            }
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if length > MOST {
                return Err(Broken);
            }
            if message.len() >= 4 + length {
                // What follows it in the same record would be a second message.
                let whole = message.len() == 4 + length;
                return if whole {
                    Ok(Some(message.split_off(4)))
                } else {
                    Err(Broken)
                };
            }
        }
        let Some((header, rest)) = bytes.split_first_chunk::<5>() else {
            let known = |at, wanted| bytes.get(at).is_none_or(|byte| *byte == wanted);
            return if known(0, HANDSHAKE) && known(1, 3) {
                Ok(None)
            } else {
                Err(Broken)
            };
        };
        let [kind, major, _, high, low] = *header;
        let length = usize::from(high) << 8 | usize::from(low);
        if kind != HANDSHAKE || major != 3 || length == 0 || length > LONGEST_RECORD {
            return Err(Broken);
        }
        message.extend_from_slice(&rest[..length.min(rest.len())]);
        match rest.get(length..) {
            Some(rest) => bytes = rest,
            // The rest of the record is still to come; what is there may already be too much.
            None => return Ok(None),
        }
    }
}

/// Bytes that are taken off from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken[0])
    }

    fn short(&mut self) -> Option<u16> {
        let taken = self.take(2)?;
        Some(u16::from(taken[0]) << 8 | u16::from(taken[1]))
    }

    /// A vector with a length of one byte before it.
    fn of_byte(&mut self) -> Option<&'a [u8]> {
        let count = self.byte()?;
        self.take(usize::from(count))
    }

    /// A vector with a length of two bytes before it.
    fn of_short(&mut self) -> Option<&'a [u8]> {
        let count = self.short()?;
        self.take(usize::from(count))
    }
}

/// Reads the body of a ClientHello; `None` if anything in it is not as it must be.
fn read(body: &[u8]) -> Option<Hello> {
    let mut body = Reader(body);
    body.take(2 + 32)?;
    let session = body.of_byte()?;
    let suites = body.of_short()?;
    let compressions = body.of_byte()?;
    if session.len() > 32 || suites.len() < 2 || suites.len() % 2 != 0 || compressions.is_empty() {
        return None;
    }
    let mut hello = Hello::default();
    if body.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(body.of_short()?);
    if !body.0.is_empty() {
        return None;
    }
    let mut seen = std::collections::HashSet::new();
    while !extensions.0.is_empty() {
        let kind = extensions.short()?;
        let content = extensions.of_short()?;
        if !seen.insert(kind) {
            return None;
        }
        match kind {
            SERVER_NAME => hello.name = server_name(content)?,
            ALPN => hello.alpn = protocols(content)?,
            ENCRYPTED_HELLO | ENCRYPTED_NAME => hello.encrypted = true,
            _ => {}
        }
    }
    Some(hello)
}

/// The one host name of the extension.
fn server_name(content: &[u8]) -> Option<Option<String>> {
    let mut content = Reader(content);
    let mut names = Reader(content.of_short()?);
    let mut found = None;
    while !names.0.is_empty() {
        let kind = names.byte()?;
        let name = names.of_short()?;
        if kind != HOST_NAME || found.is_some() {
            return None;
        }
        // On the wire a name is ASCII; anything else is read differently by different servers.
        let text = std::str::from_utf8(name)
            .ok()
            .filter(|text| text.is_ascii());
        found = Some(text.and_then(normalise));
    }
    (content.0.is_empty()).then(|| found.flatten())
}

fn protocols(content: &[u8]) -> Option<Vec<String>> {
    let mut content = Reader(content);
    let mut names = Reader(content.of_short()?);
    let mut found = Vec::new();
    while !names.0.is_empty() {
        let name = names.of_byte()?;
        let text = std::str::from_utf8(name).ok();
        if let Some(text) = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic())) {
            found.push(text.to_owned());
        }
    }
    found.truncate(MOST_PROTOCOLS);
    content.0.is_empty().then_some(found)
}
