//! Heads of requests: how long a body follows, whether all readers agree on it, and whether the host
//! that it names is the one that the connection goes to.

use hyper::{
    Method, Uri, Version,
    header::{self, HeaderMap},
    http::request::Parts,
};

use super::super::Target;

/// Most bytes of a head.
pub(super) const MAX_HEAD: usize = 64 << 10;
/// Most headers of one.
pub(super) const MAX_HEADERS: usize = 128;

/// What follows a head.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// A body of this many bytes, then the next head.
    Length(u64),
    /// A body in chunks.
    Chunked,
    /// Another protocol, if the server agrees.
    Upgrade,
}

/// How the message of a whole head goes on. An error says why it is refused.
pub(super) fn framing(head: &[u8]) -> Result<Framing, String> {
    check_lines(head)?;
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err("the head of the request has no clear end".to_owned()),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(format!("the request has more than {MAX_HEADERS} headers"));
        }
        Err(cause) => return Err(format!("the head of the request is not HTTP/1: {cause}")),
    }
    if request.method == Some("CONNECT") {
        return Err("CONNECT is no request to a server".to_owned());
    }
    let is_11 = request.version == Some(1);
    let all = |name: &str| -> Vec<&[u8]> {
        let named = request.headers.iter();
        let named = named.filter(|header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value).collect()
    };
    let hosts = all("host").len();
    if hosts > 1 || (is_11 && hosts == 0) {
        return Err(format!("the request has {hosts} Host headers"));
    }
    let length = length(&all("content-length"), &all("transfer-encoding"), is_11)?;
    let wanted = all("upgrade");
    if wanted
        .iter()
        .any(|protocol| protocol.to_ascii_lowercase().starts_with(b"h2c"))
    {
        return Err("a change to HTTP/2 without TLS is not possible here".to_owned());
    }
    match length {
        // As with every other message: hyper changes protocols after HTTP/1.1 only.
        Framing::Length(0) if !wanted.is_empty() && is_11 => Ok(Framing::Upgrade),
        other => Ok(other),
    }
}

/// Lines end with CR LF, and none goes on in the next.
fn check_lines(head: &[u8]) -> Result<(), String> {
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let Some(text) = line.strip_suffix(b"\r\n") else {
            return Err("a line of the head does not end with CR LF".to_owned());
        };
        if text.contains(&b'\r') || text.contains(&0) {
            return Err("a line of the head has a CR or NUL in it".to_owned());
        }
        if text.starts_with(b" ") || text.starts_with(b"\t") {
            return Err("a header goes on in a second line".to_owned());
        }
    }
    Ok(())
}

fn length(lengths: &[&[u8]], encodings: &[&[u8]], is_11: bool) -> Result<Framing, String> {
    match (lengths, encodings) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) => {
            let digits =
                !length.is_empty() && length.len() <= 18 && length.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(length).ok().filter(|_| digits);
            let number = number.and_then(|number| number.parse().ok());
            number
                .map(Framing::Length)
                .ok_or_else(|| "Content-Length is no number".to_owned())
        }
        ([], [encoding]) if is_11 && encoding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Framing::Chunked)
        }
        ([], [_]) => Err("Transfer-Encoding is not just chunked".to_owned()),
        ([], _) => Err("the request has more than one Transfer-Encoding".to_owned()),
        (_, []) => Err("the request has more than one Content-Length".to_owned()),
        _ => Err("the request has both Content-Length and Transfer-Encoding".to_owned()),
    }
}

/// Why a head is not passed on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeadError {
    /// It is for another host than the connection.
    OtherHost(String),
    /// Its form.
    Form(String),
}

/// Checks what both versions of HTTP have in common, and brings the address into the form that the
/// server expects.
pub(super) fn check(parts: &mut Parts, target: &Target) -> Result<(), HeadError> {
    if parts.method == Method::CONNECT {
        return Err(HeadError::Form(
            "CONNECT is no request to a server".to_owned(),
        ));
    }
    let hosts: Vec<_> = parts.headers.get_all(header::HOST).iter().collect();
    if hosts.len() > 1 {
        return Err(HeadError::Form(format!(
            "the request has {} Host headers",
            hosts.len()
        )));
    }
    if let Some(scheme) = parts.uri.scheme_str()
        && scheme != "https"
        && scheme != "http"
    {
        return Err(HeadError::Form(format!(
            "the request is for an address of {scheme}:"
        )));
    }
    let host = hosts
        .first()
        .map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    let authority = parts.uri.authority().map(ToString::to_string);
    if host.is_none() && authority.is_none() && parts.version != Version::HTTP_10 {
        return Err(HeadError::Form("the request names no host".to_owned()));
    }
    for named in [host, authority].into_iter().flatten() {
        if !is_target(&named, target) {
            return Err(HeadError::OtherHost(named));
        }
    }
    no_second_length(&parts.headers, parts.version)?;
    if parts.version != Version::HTTP_2 {
        let origin = parts.uri.path_and_query().cloned();
        parts.uri = origin.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    Ok(())
}

/// Headers that HTTP/2 does not know would become framing behind a server that changes to HTTP/1.
fn no_second_length(headers: &HeaderMap, version: Version) -> Result<(), HeadError> {
    let framed = [
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::UPGRADE,
    ];
    let bad = framed.iter().find(|name| headers.contains_key(*name));
    match bad {
        Some(name) if version == Version::HTTP_2 => Err(HeadError::Form(format!(
            "a request of HTTP/2 has the header {name}"
        ))),
        _ => Ok(()),
    }
}

/// Whether `named` (as in `Host` or `:authority`) is where the connection goes.
fn is_target(named: &str, target: &Target) -> bool {
    let (name, port) = match named.rsplit_once(':') {
        // An IPv6 literal stands in brackets.
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (named, None),
    };
    // Clients leave the port out now and then, also where it is not the usual one.
    let same_port = port.is_none_or(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse() == Ok(target.port())
    });
    let is_bracketed = name.starts_with('[');
    let named = Target::new(name, target.port());
    same_port && named.name() == target.name() && is_bracketed == target.name().contains(':')
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Result<Framing, String> {
        framing(text.as_bytes())
    }

    #[test]
    fn heads_that_all_read_alike_pass() {
        assert_eq!(
            of("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            Ok(Framing::Length(0))
        );
        assert_eq!(of("GET / HTTP/1.0\r\n\r\n"), Ok(Framing::Length(0)));
        assert_eq!(
            of("POST / HTTP/1.1\r\nHOST: a\r\ncontent-length: 12\r\n\r\n"),
            Ok(Framing::Length(12))
        );
        assert_eq!(
            of("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"),
            Ok(Framing::Chunked)
        );
        assert_eq!(
            of("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
            Ok(Framing::Upgrade)
        );
    }

    #[test]
    fn heads_that_two_could_read_differently_are_refused_with_a_reason() {
        let post = "POST / HTTP/1.1\r\nHost: a\r\n";
        for (text, why) in [
            (
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                "both",
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                "both",
            ),
            (
                "Content-Length: 5\r\nContent-Length: 5\r\n",
                "more than one Content-Length",
            ),
            (
                "Content-Length: 5\r\ncontent-length: 6\r\n",
                "more than one Content-Length",
            ),
            ("Content-Length: 5, 5\r\n", "no number"),
            ("Content-Length: +5\r\n", "no number"),
            ("Content-Length: 0x5\r\n", "no number"),
            ("Content-Length:\r\n", "no number"),
            ("Content-Length: 99999999999999999999\r\n", "no number"),
            ("Transfer-Encoding: gzip, chunked\r\n", "not just chunked"),
            ("Transfer-Encoding: xchunked\r\n", "not just chunked"),
            ("Transfer-Encoding: \x0bchunked\r\n", "not HTTP/1"),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
                "more than one Transfer",
            ),
            ("Transfer-Encoding : chunked\r\n", "not HTTP/1"),
            ("X: a\r\n b\r\n", "second line"),
            ("X: a\r\n\tTransfer-Encoding: chunked\r\n", "second line"),
            ("X: a\nY: b\r\n", "CR LF"),
            ("X: a\rY: b\r\n", "CR or NUL"),
            ("X: a\0\r\n", "CR or NUL"),
            ("Host: b\r\n", "2 Host"),
            (
                "Upgrade: h2c\r\nHTTP2-Settings: x\r\n",
                "HTTP/2 without TLS",
            ),
        ] {
            let error = of(&format!("{post}{text}\r\n")).expect_err(text);
            assert!(error.contains(why), "{text:?}: {error}");
        }
        for (text, why) in [
            ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT"),
            ("GET / HTTP/1.1\r\n\r\n", "0 Host"),
            (
                "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
                "not just chunked",
            ),
            ("PRI * HTTP/2.0\r\n\r\n", "not HTTP/1"),
            ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "not HTTP/1"),
        ] {
            let error = of(text).expect_err(text);
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    fn checked(uri: &str, host: Option<&str>, target: &Target) -> Result<String, HeadError> {
        let mut request = Request::get(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        check(&mut parts, target).map(|()| parts.uri.to_string())
    }

    #[test]
    fn a_request_must_name_the_host_of_its_connection() {
        let target = Target::new("api.example.com", 443);
        for host in [
            "api.example.com",
            "API.Example.com",
            "api.example.com.",
            "api.example.com:443",
        ] {
            assert_eq!(
                checked("/x?y", Some(host), &target).unwrap(),
                "/x?y",
                "{host}"
            );
        }
        for host in [
            "evil.example.com",
            "api.example.com.evil.example",
            "api.example.com:80",
            "x@api.example.com",
            "api.example.com:443:443",
            "api.example.com:",
            "",
            " api.example.com",
            "[api.example.com]",
            "api.example.com,evil.example",
        ] {
            let error = checked("/", Some(host), &target);
            assert!(
                matches!(error, Err(HeadError::OtherHost(_))),
                "{host:?}: {error:?}"
            );
        }
        let absolute = "https://api.example.com/p?q";
        assert_eq!(
            checked(absolute, Some("api.example.com"), &target).unwrap(),
            "/p?q"
        );
        let other = checked("https://evil.example/p", Some("api.example.com"), &target);
        assert!(matches!(other, Err(HeadError::OtherHost(_))));
        assert!(matches!(
            checked("/", None, &target),
            Err(HeadError::Form(_))
        ));
    }

    #[test]
    fn address_literals_are_hosts_too() {
        let six = Target::new("[2001:db8::1]", 8443);
        assert!(checked("/", Some("[2001:db8::1]:8443"), &six).is_ok());
        assert!(checked("/", Some("[2001:db8::1]"), &six).is_ok());
        assert!(checked("/", Some("2001:db8::1"), &six).is_err());
        assert!(checked("/", Some("[2001:db8::2]:8443"), &six).is_err());
        assert!(checked("/", Some("192.0.2.1:8443"), &Target::new("192.0.2.1", 8443)).is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = framing(&bytes);
            let _ = is_target(&String::from_utf8_lossy(&bytes), &Target::new("a.example", 443));
        }
    }
}
