//! The head of a request of HTTP/1, and the preface of HTTP/2 without TLS.

use crate::egress::policy::normalise;

use super::{Beginning, Look, MOST};

/// Most headers of a request.
const MOST_HEADERS: usize = 128;
/// Longest method.
const LONGEST_METHOD: usize = 32;
/// Longest target that is kept for the record.
const LONGEST_TARGET: usize = 16 << 10;

/// What the head of a request says. One that is not understood says nothing: no host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The host's name, normalised; `None` if there is none, or several, or none that is one.
    pub host: Option<String>,
    /// The method.
    pub method: String,
    /// A path, perhaps with a query.
    pub target: String,
}

/// Whether the bytes can be the begin of a request: a method and a space.
pub(super) fn is_request(bytes: &[u8]) -> bool {
    let method = bytes.iter().take_while(|byte| is_method(**byte)).count();
    let after = bytes.get(method);
    (1..=LONGEST_METHOD).contains(&method) && after.is_none_or(|byte| *byte == b' ')
}

fn is_method(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-' || byte == b'_'
}

/// Looks at the first bytes of a stream, the first of which is a capital letter.
pub(super) fn look(bytes: &[u8]) -> Look {
    if !is_request(bytes) {
        return Look::Is(Beginning::Other);
    }
    // `EHLO example.com` of mail and the like have a second word that is no target.
    if let Some(space) = bytes.iter().position(|byte| *byte == b' ') {
        let method = &bytes[..space];
        let target = bytes.get(space + 1);
        let fits =
            |byte: &u8| b"/*".contains(byte) || byte.is_ascii_alphanumeric() || *byte == b'[';
        if target.is_some_and(|byte| !fits(byte)) {
            return Look::Is(Beginning::Other);
        }
        let line = bytes.iter().position(|byte| *byte == b'\n');
        let version = |end: usize| {
            let line = bytes[..end].trim_ascii_end();
            line.windows(6).any(|part| part == b" HTTP/")
        };
        if line.is_some_and(|end| !version(end)) && method != b"PRI" {
            return Look::Is(Beginning::Other);
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) if bytes.len() < MOST => Look::More,
        Ok(httparse::Status::Complete(_)) => Look::Is(Beginning::Http(head(&request))),
        Ok(httparse::Status::Partial) | Err(_) => Look::Is(Beginning::Http(Head::default())),
    }
}

fn head(request: &httparse::Request<'_, '_>) -> Head {
    let method = request.method.unwrap_or_default().to_owned();
    let whole = request.path.unwrap_or_default();
    let mut hosts = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("host"))
        .map(|header| std::str::from_utf8(header.value).unwrap_or_default());
    let (said, second) = (hosts.next(), hosts.next());
    let (authority, target) = split(&method, whole);
    let host = match (authority, said) {
        _ if second.is_some() => None,
        // The target's host is the one that counts; one that says both must mean the same.
        (Some(authority), Some(said)) => {
            let host = host_of(authority);
            host.filter(|host| host_of(said).as_deref() == Some(host.as_str()))
        }
        (Some(only), None) | (None, Some(only)) => host_of(only),
        (None, None) => None,
    };
    let mut target = target.to_owned();
    if target.len() > LONGEST_TARGET {
        // Too long to be compared with a rule: no allow rule means it.
        target = String::new();
    }
    Head {
        host,
        method,
        target,
    }
}

/// The authority of a target that has one, and the path.
fn split<'a>(method: &str, target: &'a str) -> (Option<&'a str>, &'a str) {
    if method == "CONNECT" {
        return (Some(target), "");
    }
    let lower = target.get(..8).unwrap_or(target).to_ascii_lowercase();
    let scheme = ["http://", "https://"]
        .into_iter()
        .find(|scheme| lower.starts_with(scheme));
    let Some(rest) = scheme.and_then(|scheme| target.get(scheme.len()..)) else {
        return (None, target);
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let path = if end == rest.len() { "/" } else { &rest[end..] };
    (Some(&rest[..end]), path)
}

/// The host of an authority without user; the port is that of the connection.
fn host_of(authority: &str) -> Option<String> {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) => return None,
        None => authority,
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !name.bytes().all(plain) {
        return None;
    }
    normalise(name)
}
