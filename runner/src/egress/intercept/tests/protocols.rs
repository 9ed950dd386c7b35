//! What passes unchanged.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::{Request, header::HeaderMap};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio_tungstenite::tungstenite::Message;

use super::lab::{Lab, chunks, full};

const HOST: &str = "api.example.com";

fn sum(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

fn noise(length: usize) -> Vec<u8> {
    (0..length as u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(length)
        .collect()
}

#[tokio::test]
async fn one_connection_carries_requests_of_all_shapes() {
    let lab = Lab::plain();
    let server = lab.server(HOST, &["http/1.1"]);
    let body = noise(100_000);
    let mut sent =
        b"GET /one?a=b HTTP/1.1\r\nHost: api.example.com\r\nX-Case: Kept\r\n\r\n".to_vec();
    sent.extend(
        format!(
            "PUT /two HTTP/1.1\r\nhost: API.example.com:443\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes(),
    );
    sent.extend(&body);
    sent.extend(
        b"POST /three HTTP/1.1\r\nHost: api.example.com\r\nTE: trailers\r\nTrailer: x-sum\r\n",
    );
    sent.extend(b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n");
    sent.extend(b"HEAD /four HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
    sent.extend(b"GET https://api.example.com/five HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n");
    let answer = lab.raw(HOST, &server, &sent).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 5, "{answer}");
    let lines: Vec<_> = server.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(
        lines,
        [
            "GET /one?a=b",
            "PUT /two",
            "POST /three",
            "HEAD /four",
            "GET /five"
        ]
    );
    assert!(
        answer.contains(&sum(&body)) && answer.contains(&sum(b"hello")),
        "{answer}"
    );
    // Trailers both ways.
    assert!(
        answer.contains("\"x-sum\": \"1\"") && answer.contains("x-status: 0"),
        "{answer}"
    );
    let asked = lab.judge.asked.lock().unwrap().clone();
    assert_eq!(asked[1], "HTTP/1.1 PUT api.example.com/two");
    assert_eq!(asked.len(), 5);
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_is_told_to_go_on() {
    let lab = Lab::plain();
    let server = lab.server(HOST, &[]);
    let mut stream = BufReader::new(lab.tls(HOST, &server, &[]).await.unwrap());
    let head = b"POST / HTTP/1.1\r\nHost: api.example.com\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    stream.write_all(head).await.unwrap();
    stream.flush().await.unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    assert_eq!(line, "HTTP/1.1 100 Continue\r\n");
    stream.read_line(&mut line).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.flush().await.unwrap();
    line.clear();
    stream.read_line(&mut line).await.unwrap();
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    assert_eq!(server.seen()[0].body, b"hello");
}

#[tokio::test]
async fn http_2_streams_side_by_side_with_trailers() {
    let lab = Lab::plain();
    let server = lab.server(HOST, &["h2", "http/1.1"]);
    let two = lab.two(HOST, &server).await;
    let requests = (0..50).map(|number| {
        let two = &two;
        async move {
            let body = noise(20_000 + number);
            let expected = sum(&body);
            let parts = body.chunks(3000).map(Bytes::copy_from_slice).collect();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-like", "0".parse().unwrap());
            let uri = format!("https://api.example.com/{number}");
            let request = Request::post(uri)
                .header("te", "trailers")
                .body(chunks(parts, trailers));
            let (status, _, text, trailers) = two.send(request.unwrap()).await.unwrap();
            assert_eq!(status, 200);
            assert!(
                text.contains(&expected) && text.contains("grpc-like"),
                "{text}"
            );
            assert_eq!(trailers.unwrap()["x-status"], "0");
        }
    });
    futures_util::future::join_all(requests).await;
    assert_eq!(lab.judge.asked.lock().unwrap().len(), 50);
    assert!(lab.judge.asked.lock().unwrap()[0].starts_with("HTTP/2.0 POST api.example.com/"));
}

#[tokio::test]
async fn a_websocket_echoes_and_ends() {
    let lab = Lab::plain();
    let server = lab.server(HOST, &["http/1.1"]);
    let stream = lab.tls(HOST, &server, &["http/1.1"]).await.unwrap();
    let connected = tokio_tungstenite::client_async("wss://api.example.com/ws", stream).await;
    let (mut socket, _) = connected.unwrap();
    for text in ["hello", &"x".repeat(100_000), "bye"] {
        socket.send(Message::text(text)).await.unwrap();
        let back = socket.next().await.unwrap().unwrap();
        assert_eq!(back.into_text().unwrap().as_str(), text);
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
}

#[tokio::test]
async fn a_large_body_is_not_collected() {
    let lab = Lab::plain();
    let server = lab.server(HOST, &["h2", "http/1.1"]);
    let two = lab.two(HOST, &server).await;
    let piece = Bytes::from(noise(64 << 10));
    let parts: Vec<_> = std::iter::repeat_n(piece, 128).collect();
    let expected = sum(&parts.concat());
    let request =
        Request::put("https://api.example.com/large").body(chunks(parts, HeaderMap::new()));
    let (_, _, text, _) = two.send(request.unwrap()).await.unwrap();
    assert!(text.contains(&expected));
}

#[tokio::test]
async fn a_server_that_goes_ends_the_guests_connection() {
    let lab = Lab::plain();
    let server = lab.server(HOST, &[]);
    let mut stream = lab.tls(HOST, &server, &[]).await.unwrap();
    // The test's server closes on request, as one does after its idle time.
    stream
        .write_all(b"GET / HTTP/1.0\r\nHost: api.example.com\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.0 200 OK") || answer.starts_with(b"HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn a_request_that_the_policy_denies_never_reaches_the_server() {
    let judge = super::lab::TestJudge {
        denied: vec![("POST", "/user/repos"), ("POST", "/orgs/octo/repos")],
        ..Default::default()
    };
    let lab = Lab::new(
        crate::egress::intercept::secrets::Bindings::none().unwrap(),
        judge,
    );
    let server = lab.server(HOST, &["h2", "http/1.1"]);
    let two = lab.two(HOST, &server).await;
    for (method, path, status) in [
        ("GET", "/user/repos", 200),
        ("POST", "/user/repos", 403),
        ("POST", "/orgs/octo/repos", 403),
        ("POST", "/repos/octo/hello/issues", 200),
    ] {
        let uri = format!("https://api.example.com{path}");
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .body(full("{}"))
            .unwrap();
        let (seen, headers, text, _) = two.send(request).await.unwrap();
        assert_eq!(seen, status, "{method} {path}: {text}");
        assert_eq!(headers.contains_key("x-mayfly-egress"), status == 403);
    }
    let lines: Vec<_> = server.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(lines, ["GET /user/repos", "POST /repos/octo/hello/issues"]);
}
