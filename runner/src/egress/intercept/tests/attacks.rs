//! Requests that are made to be read differently behind the interceptor.

use hyper::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::lab::{Lab, full};

const HOST: &str = "api.example.com";
const INNER: &str = "GET /smuggled HTTP/1.1\r\nHost: api.example.com\r\n\r\n";

#[tokio::test]
async fn smuggled_requests_reach_nobody() {
    let lab = Lab::plain();
    let server = lab.server(HOST, &["http/1.1"]);
    let post = format!("POST /outer HTTP/1.1\r\nHost: {HOST}\r\n");
    for shape in [
        format!("{post}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{INNER}"),
        format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n{INNER}"),
        format!(
            "{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{INNER}"
        ),
        format!("{post}Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n{INNER}"),
        format!(
            "{post}Content-Length: 0\r\nContent-Length: {}\r\n\r\n{INNER}",
            INNER.len()
        ),
        format!("{post}X: a\r\n Content-Length: 0\r\n\r\n{INNER}"),
        format!("{post}Host: evil.example\r\n\r\n{INNER}"),
        format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{INNER}"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\n5\n\r\nhello\r\n0\r\n\r\n{INNER}"),
        format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}\r\n\r\n{INNER}"),
        format!(
            "GET / HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n{INNER}"
        ),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let before = lab.judge.notes().len();
        let answer = lab.raw(HOST, &server, shape.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{shape}\n{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
        assert_eq!(lab.judge.notes().len(), before + 1, "{shape}");
    }
    let lines: Vec<_> = server.seen().into_iter().map(|seen| seen.line).collect();
    assert!(lines.iter().all(|line| line == "POST /outer"), "{lines:?}");
    // The control: the same inner request, sent openly.
    let answer = lab
        .raw(
            HOST,
            &server,
            INNER
                .replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn another_host_behind_the_same_connection_is_misdirected() {
    let lab = Lab::plain();
    let one = lab.server(HOST, &["http/1.1"]);
    for request in [
        "GET / HTTP/1.1\r\nHost: hidden.example.net\r\n\r\n",
        "GET https://hidden.example.net/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: api.example.com:8443\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: api.example.com@hidden.example.net\r\n\r\n",
    ] {
        let request = request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        let answer = lab.raw(HOST, &one, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 421"), "{request}\n{answer}");
    }
    assert!(one.seen().is_empty());
    let server = lab.server(HOST, &["h2", "http/1.1"]);
    let two = lab.two(HOST, &server).await;
    let fronted = Request::get("https://hidden.example.net/")
        .body(full(""))
        .unwrap();
    assert_eq!(two.send(fronted).await.unwrap().0, 421);
    let both = Request::get("https://api.example.com/").header("host", "hidden.example.net");
    assert_eq!(two.send(both.body(full("")).unwrap()).await.unwrap().0, 421);
    assert!(server.seen().is_empty());
    let control = Request::get("https://api.example.com/")
        .body(full(""))
        .unwrap();
    assert_eq!(two.send(control).await.unwrap().0, 200);
}

#[tokio::test]
async fn a_flood_of_header_frames_ends_the_connection() {
    let lab = Lab::plain();
    let server = lab.server(HOST, &["h2"]);
    let mut stream = lab.tls(HOST, &server, &["h2"]).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    stream
        .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    // HEADERS of stream 1 without END_HEADERS, then CONTINUATION for ever.
    stream
        .write_all(&[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82])
        .await
        .unwrap();
    let mut sent = 0_u64;
    let (mut reading, mut writing) = tokio::io::split(stream);
    let reader = tokio::spawn(async move {
        let mut answer = Vec::new();
        let _ = reading.read_to_end(&mut answer).await;
    });
    // A literal header that is not indexed: name "a", value of 16,000 bytes.
    let mut frame = vec![
        0, 0x3e, 0x8b, 9, 0, 0, 0, 0, 1, 0, 1, b'a', 0x7f, 0x81, 0x7c,
    ];
    frame.resize(9 + 0x3e8b, b'x');
    while sent < 64 << 20 {
        let written =
            tokio::time::timeout(std::time::Duration::from_secs(5), writing.write_all(&frame));
        if !matches!(written.await, Ok(Ok(()))) {
            break;
        }
        sent += frame.len() as u64;
    }
    assert!(sent < 4 << 20, "{sent} bytes of headers were taken");
    reader.abort();
    assert!(server.seen().is_empty());
}
