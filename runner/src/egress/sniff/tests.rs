//! Beginnings, whole, in pieces, broken and hostile.

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::{Beginning, Head, Hello, Look, MOST, look, sniff};

/// An extension.
fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend(short(content));
    bytes
}

/// With a length of two bytes before it.
fn short(content: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(content.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(content);
    bytes
}

fn server_names(names: &[&str]) -> Vec<u8> {
    let entry = |name: &&str| [&[0][..], &short(name.as_bytes())].concat();
    extension(0, &short(&names.iter().flat_map(entry).collect::<Vec<_>>()))
}

/// A handshake message: a ClientHello with these extensions.
fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(short(&extensions.concat()));
    let mut message = vec![1, 0];
    message.extend(short(&body));
    message
}

/// In records of at most `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1][..], &short(part)].concat();
    message.chunks(size).flat_map(record).collect()
}

fn hello(names: &[&str]) -> Vec<u8> {
    let alpn = extension(16, &short(b"\x02h2\x08http/1.1"));
    records(&message(&[server_names(names), alpn]), 1 << 14)
}

fn tls(bytes: &[u8]) -> Hello {
    match look(bytes) {
        Look::Is(Beginning::Tls(hello)) => hello,
        other => panic!("{other:?}"),
    }
}

fn http(text: &str) -> Head {
    match look(text.as_bytes()) {
        Look::Is(Beginning::Http(head)) => head,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn a_hello_says_its_name_and_protocols_however_it_is_cut() {
    let expected = Hello {
        name: Some("a.example.com".into()),
        encrypted: false,
        alpn: vec!["h2".into(), "http/1.1".into()],
    };
    let message = message(&[
        server_names(&["A.Example.com"]),
        extension(16, &short(b"\x02h2\x08http/1.1")),
    ]);
    for size in [1, 2, 3, 5, 17, 100, 1 << 14] {
        let bytes = records(&message, size);
        assert_eq!(tls(&bytes), expected, "records of {size}");
        for end in 0..bytes.len() {
            assert_eq!(look(&bytes[..end]), Look::More, "{size} {end}");
        }
    }
}

#[test]
fn a_hello_of_a_real_client_is_understood() {
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs};
    let config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = "registry.example.com".try_into().unwrap();
    let mut client = ClientConnection::new(config.into(), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    assert_eq!(tls(&bytes).name.as_deref(), Some("registry.example.com"));
    assert!(!tls(&bytes).encrypted);
}

#[test]
fn hellos_that_can_be_read_in_two_ways_say_no_name() {
    let nameless = |bytes: &[u8]| assert_eq!(tls(bytes).name, None, "{bytes:?}");
    nameless(&hello(&[]));
    nameless(&hello(&["a.example.com", "b.example.com"]));
    nameless(&hello(&["10.0.0.1"]));
    nameless(&hello(&["a.example.com\0.evil.test"]));
    nameless(&hello(&["b\u{fc}cher.example"]));
    nameless(&hello(&[""]));
    let one = || server_names(&["a.example.com"]);
    // Two extensions of one kind; bytes behind the extensions; a second message in the record.
    nameless(&records(&message(&[one(), one()]), 1 << 14));
    let mut longer = message(&[one()]);
    longer.push(0);
    nameless(&records(&longer, 1 << 14));
    // An empty record, another type between, a version that is none.
    let whole = records(&message(&[one()]), 20);
    nameless(&[&[22, 3, 1, 0, 0][..], &whole].concat());
    nameless(&[&whole[..25], &[23, 3, 1, 0, 1, 0][..], &whole[25..]].concat());
    nameless(&[22, 2, 1, 0, 5, 1, 0, 0, 1, 0]);
    // A length that nobody sends.
    nameless(&[22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff]);
    // A server's hello.
    nameless(&[22, 3, 1, 0, 4, 2, 0, 0, 0]);
}

#[test]
fn encrypted_names_are_seen() {
    for kind in [0xfe0d, 0xffce] {
        let message = message(&[server_names(&["front.example"]), extension(kind, b"xyz")]);
        assert!(tls(&records(&message, 1 << 14)).encrypted);
    }
}

#[test]
fn a_request_says_host_method_and_target() {
    let head = http("GET /v1?x=1 HTTP/1.1\r\nhost: A.Example.com:8080\r\nX: y\r\n\r\n");
    assert_eq!(head.host.as_deref(), Some("a.example.com"));
    assert_eq!(
        (head.method.as_str(), head.target.as_str()),
        ("GET", "/v1?x=1")
    );
    let head = http("GET HTTP://a.example.com/x HTTP/1.1\r\nHost: a.example.com\r\n\r\n");
    assert_eq!(
        (head.host.as_deref(), head.target.as_str()),
        (Some("a.example.com"), "/x")
    );
    let head = http("CONNECT b.example.com:443 HTTP/1.1\r\nHost: b.example.com:443\r\n\r\n");
    assert_eq!(
        (head.host.as_deref(), head.target.as_str()),
        (Some("b.example.com"), "")
    );
    let text = "GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n";
    for end in 0..text.len() {
        assert_eq!(look(&text.as_bytes()[..end]), Look::More, "{end}");
    }
}

#[test]
fn requests_that_can_be_read_in_two_ways_say_no_host() {
    for text in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example.com\r\nHost: b.example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example.com\r\nhost: a.example.com\r\n\r\n",
        "GET http://a.example.com/ HTTP/1.1\r\nHost: b.example.com\r\n\r\n",
        "GET http://u@a.example.com/ HTTP/1.1\r\nHost: a.example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example.com, b.example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example.com@b.example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a.example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nX: y\r\n Host: a.example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example.com\0\r\n\r\n",
        "GET /\x01 HTTP/1.1\r\nHost: a.example.com\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/3.0\r\nHost: a.example.com\r\n\r\n",
    ] {
        assert_eq!(http(text).host, None, "{text}");
    }
    let many = format!(
        "GET / HTTP/1.1\r\n{}Host: a.example.com\r\n\r\n",
        "X: y\r\n".repeat(200)
    );
    assert_eq!(http(&many).host, None);
    let long = format!(
        "GET /{} HTTP/1.1\r\nHost: a.example.com\r\n\r\n",
        "a".repeat(MOST)
    );
    assert_eq!(http(&long).host, None);
}

#[test]
fn other_protocols_are_others() {
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"EHLO example.com\r\n",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        b"hello",
        b"* OK",
        &[0x80, 0x2e, 1, 0, 2],
    ] {
        assert_eq!(look(bytes), Look::Is(Beginning::Other), "{bytes:?}");
    }
}

async fn sniffed(pieces: Vec<Vec<u8>>, end: bool) -> super::Sniffed {
    let (mut guest, mut here) = tokio::io::duplex(1 << 20);
    let writer = tokio::spawn(async move {
        for piece in pieces {
            guest.write_all(&piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if end {
            guest.shutdown().await.unwrap();
        }
        guest
    });
    let sniffed = sniff(&mut here, Duration::from_secs(1)).await.unwrap();
    writer.abort();
    sniffed
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_read_until_it_says_what_it_is() {
    let bytes = hello(&["a.example.com"]);
    let pieces = bytes.chunks(7).map(<[u8]>::to_vec).collect();
    let read = sniffed(pieces, false).await;
    assert_eq!(read.bytes, bytes);
    assert!(matches!(
        read.beginning,
        Beginning::Tls(Hello { name: Some(_), .. })
    ));
    assert_eq!(sniffed(vec![], false).await.beginning, Beginning::Silent);
    let ended = sniffed(vec![], true).await;
    assert!(ended.ended && ended.beginning == Beginning::Silent);
    // What begins as something and stops is that, without a name.
    let half = sniffed(vec![bytes[..40].to_vec()], false).await;
    assert_eq!(half.beginning, Beginning::Tls(Hello::default()));
    let half = sniffed(vec![b"GET / HTTP/1.1\r\nHost: a".to_vec()], false).await;
    assert_eq!(half.beginning, Beginning::Http(Head::default()));
    // One that never says it is given up at the bound.
    let endless = [b"GET / HTTP/1.1\r\n".to_vec(), b"X: y\r\n".repeat(30_000)];
    let read = sniffed(endless.to_vec(), false).await;
    assert_eq!(read.beginning, Beginning::Http(Head::default()));
    assert!(read.bytes.len() <= MOST);
}

proptest! {
    #[test]
    fn any_bytes_are_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = look(&bytes);
        let _ = look(&[&[22, 3, 1][..], &bytes].concat());
        let _ = look(&[&b"GET / HTTP/1.1\r\n"[..], &bytes].concat());
    }

    #[test]
    fn a_mutated_hello_says_nothing_that_it_does_not_hold(
        at in 0..200_usize, byte in any::<u8>(), cut in 0..400_usize, size in 1..90_usize
    ) {
        let mut bytes = records(&message(&[server_names(&["a.example.com"])]), size);
        let place = at % bytes.len();
        bytes[place] = byte;
        bytes.truncate(bytes.len().saturating_sub(cut % 40));
        if let Look::Is(Beginning::Tls(Hello { name: Some(name), .. })) = look(&bytes) {
            // The name is spelled out in the records, one letter at most being the mutation's.
            prop_assert!(name.len() <= 13);
        }
    }

    #[test]
    fn a_mutated_request_is_read(at in 0..60_usize, byte in any::<u8>()) {
        let mut bytes = b"GET /v1?x=1 HTTP/1.1\r\nHost: a.example.com\r\nX: y\r\n\r\n".to_vec();
        let place = at % bytes.len();
        bytes[place] = byte;
        let _ = look(&bytes);
    }

    #[test]
    fn more_bytes_never_change_what_was_told(bytes in prop::collection::vec(any::<u8>(), 0..200), more in prop::collection::vec(any::<u8>(), 0..50)) {
        for start in [&[22_u8, 3, 1][..], b"GET ", b""] {
            let first = [start, &bytes].concat();
            let then = [&first[..], &more].concat();
            if let Look::Is(Beginning::Other) = look(&first) {
                prop_assert_eq!(look(&then), Look::Is(Beginning::Other));
            }
        }
    }
}
