//! Bound secrets: where they arrive, where they do not, and what comes back.

use std::io::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::{Request, header::HeaderMap};
use tokio_tungstenite::tungstenite::Message;

use super::lab::{Lab, Server, TestJudge, chunks, full};
use crate::egress::{intercept::secrets::Bindings, policy::SecretBinding};

const VALUE: &str = "ghs_R3alR3alR3alR3alR3alR3alR3alR3alR3al";
const WATCHED: &str = "watched-W4tchedW4tchedW4tched";
const BOUND: &str = "api.example.com";
const OTHER: &str = "paste.example.org";

struct Setting {
    lab: Lab,
    placeholder: String,
    bound: Server,
    other: Server,
}

fn setting(alpn: &[&str]) -> Setting {
    let rule = |text: &str| toml::from_str::<SecretBinding>(text).unwrap();
    let inject =
        "hosts = ['api.example.com']\ninject = ['header:Authorization: Bearer {}', 'basic:*:{}']";
    let bindings = Bindings::new([
        ("TOKEN".to_owned(), VALUE.into(), rule(inject)),
        (
            "WATCHED".to_owned(),
            WATCHED.into(),
            rule("hosts = 'api.example.com'\ninject = 'nowhere'"),
        ),
    ]);
    let bindings = bindings.unwrap();
    let placeholder = bindings.placeholders().apply(VALUE).into_owned();
    assert_eq!(bindings.placeholders().apply(WATCHED), WATCHED);
    let lab = Lab::new(bindings, TestJudge::default());
    Setting {
        bound: lab.server(BOUND, alpn),
        other: lab.server(OTHER, alpn),
        lab,
        placeholder,
    }
}

fn get(host: &str, path: &str, authorization: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {authorization}\r\nConnection: close\r\n\r\n"
    )
}

#[tokio::test]
async fn the_value_arrives_at_its_host_and_the_guest_never_sees_it() {
    for alpn in [&["http/1.1"][..], &["h2", "http/1.1"]] {
        let Setting {
            lab,
            placeholder,
            bound,
            ..
        } = setting(alpn);
        let basic = format!(
            "Basic {}",
            STANDARD.encode(format!("x-access-token:{placeholder}"))
        );
        for sent in [format!("Bearer {placeholder}"), basic] {
            let answer = if alpn.len() == 1 {
                lab.raw(BOUND, &bound, get(BOUND, "/", &sent).as_bytes())
                    .await
            } else {
                let two = lab.two(BOUND, &bound).await;
                let request =
                    Request::get("https://api.example.com/").header("authorization", &sent);
                let (_, headers, text, _) =
                    two.send(request.body(full("")).unwrap()).await.unwrap();
                format!("{headers:?}{text}")
            };
            assert!(answer.contains("back-authorization"), "{answer}");
            for form in [
                VALUE.to_owned(),
                STANDARD.encode(format!("x-access-token:{VALUE}")),
            ] {
                assert!(!answer.contains(&form), "{answer}");
            }
        }
        let seen = bound.seen();
        assert_eq!(seen[0].headers["authorization"], format!("Bearer {VALUE}"));
        let basic = format!(
            "Basic {}",
            STANDARD.encode(format!("x-access-token:{VALUE}"))
        );
        assert_eq!(seen[1].headers["authorization"], basic);
        let notes = lab.judge.notes();
        assert!(
            notes.contains(&"secret TOKEN put into a request".to_owned()),
            "{notes:?}"
        );
        let replaced = notes
            .iter()
            .filter(|note| note.contains("replaced"))
            .count();
        assert!(replaced >= 2, "{notes:?}");
    }
}

#[tokio::test]
async fn a_placeholder_sent_elsewhere_is_stopped_and_means_nothing_there() {
    let Setting {
        lab,
        placeholder,
        bound,
        other,
    } = setting(&["http/1.1"]);
    // The control: without a placeholder the host is reached.
    let answer = lab
        .raw(OTHER, &other, get(OTHER, "/control", "Bearer x").as_bytes())
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let basic = STANDARD.encode(format!("u:{placeholder}"));
    for (number, request) in [
        get(OTHER, "/", &format!("Bearer {placeholder}")),
        get(OTHER, "/", &format!("Basic {basic}")),
        get(OTHER, &format!("/?q={placeholder}"), "x"),
        get(OTHER, &format!("/{placeholder}/x"), "x"),
        format!("GET / HTTP/1.1\r\nHost: {OTHER}\r\nCookie: a={placeholder}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {OTHER}\r\n{placeholder}: x\r\n\r\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = lab.raw(OTHER, &other, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{number}: {answer}");
    }
    assert_eq!(other.seen().len(), 1, "only the control");
    assert!(bound.seen().is_empty());
    let notes = lab.judge.notes();
    assert!(
        notes
            .iter()
            .all(|note| note.contains("the placeholder of secret TOKEN")),
        "{notes:?}"
    );
    assert_eq!(notes.len(), 6);
}

/// A body that holds `text` in the midst, in chunks of seven bytes.
fn torn(text: &str) -> Vec<Bytes> {
    let body = format!(
        "{}{text}{}",
        "some text before. ".repeat(50),
        "and behind it. ".repeat(50)
    );
    body.as_bytes()
        .chunks(7)
        .map(Bytes::copy_from_slice)
        .collect()
}

#[tokio::test]
async fn a_secret_in_a_body_is_stopped_before_its_last_byte_leaves() {
    for alpn in [&["http/1.1"][..], &["h2", "http/1.1"]] {
        let Setting {
            lab,
            placeholder,
            other,
            ..
        } = setting(alpn);
        let encoded = STANDARD.encode(format!("ab{WATCHED}cd"));
        for text in [
            &placeholder,
            WATCHED,
            VALUE,
            &encoded,
            &hex::encode(WATCHED),
        ] {
            if alpn.len() == 1 {
                let mut request = format!(
                    "POST / HTTP/1.1\r\nHost: {OTHER}\r\nTransfer-Encoding: chunked\r\n\r\n"
                );
                for part in torn(text) {
                    request +=
                        &format!("{:x}\r\n{}\r\n", part.len(), String::from_utf8_lossy(&part));
                }
                request += "0\r\n\r\n";
                let answer = lab.raw(OTHER, &other, request.as_bytes()).await;
                assert!(answer.starts_with("HTTP/1.1 403"), "{text}: {answer}");
            } else {
                let two = lab.two(OTHER, &other).await;
                let body = chunks(torn(text), HeaderMap::new());
                let request = Request::post("https://paste.example.org/")
                    .body(body)
                    .unwrap();
                if let Ok((status, _, said, _)) = two.send(request).await {
                    assert_eq!(status, 403, "{said}");
                }
            }
        }
        for seen in other.seen() {
            let body = String::from_utf8(seen.body).unwrap();
            assert!(!body.contains("and behind it"), "{body}");
            for text in [
                &placeholder,
                WATCHED,
                VALUE,
                &encoded,
                &hex::encode(WATCHED),
            ] {
                assert!(!body.contains::<&str>(text), "{body}");
            }
        }
        assert_eq!(lab.judge.notes().len(), 5, "{:?}", lab.judge.notes());
    }
}

#[tokio::test]
async fn a_watched_secret_may_go_to_its_host_in_any_place() {
    let Setting { lab, bound, .. } = setting(&["http/1.1"]);
    let request = get(BOUND, "/", &format!("token {WATCHED}"));
    let answer = lab.raw(BOUND, &bound, request.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(WATCHED),
        "{answer}"
    );
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn compressed_bodies_are_looked_into() {
    let Setting { lab, other, .. } = setting(&["http/1.1"]);
    for (encoding, text, status) in [
        ("gzip", "harmless", 200),
        ("gzip", WATCHED, 403),
        ("zstd", "whatever", 415),
        ("gzip, gzip", "whatever", 415),
    ] {
        let body = gzip(text);
        let mut request = format!(
            "POST / HTTP/1.1\r\nHost: {OTHER}\r\nContent-Encoding: {encoding}\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend(body);
        let answer = lab.raw(OTHER, &other, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{encoding} {text}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_compressed_answer_with_the_value_is_cut_off() {
    let Setting {
        lab,
        placeholder,
        bound,
        ..
    } = setting(&["http/1.1"]);
    let request = get(BOUND, "/gzip", &format!("Bearer {placeholder}"));
    let answer = lab.raw(BOUND, &bound, request.as_bytes()).await;
    assert!(
        lab.judge.notes().concat().contains("cut off"),
        "{:?} {answer}",
        lab.judge.notes()
    );
    // Without the value it passes.
    let answer = lab
        .raw(BOUND, &bound, get(BOUND, "/gzip", "Bearer x").as_bytes())
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_server_is_asked_for_an_answer_that_can_be_read() {
    let Setting {
        lab,
        placeholder,
        bound,
        other,
    } = setting(&["http/1.1"]);
    let ask = |host: &str, token: &str| {
        get(host, "/", token).replace(
            "Connection",
            "Accept-Encoding: br, gzip, zstd\r\nConnection",
        )
    };
    lab.raw(
        BOUND,
        &bound,
        ask(BOUND, &format!("Bearer {placeholder}")).as_bytes(),
    )
    .await;
    lab.raw(BOUND, &bound, ask(BOUND, "x").as_bytes()).await;
    lab.raw(OTHER, &other, ask(OTHER, "x").as_bytes()).await;
    let asked =
        |server: &Server, index: usize| server.seen()[index].headers["accept-encoding"].clone();
    assert_eq!(asked(&bound, 0), "identity");
    assert_eq!(asked(&bound, 1), "gzip");
    assert_eq!(asked(&other, 0), "br, gzip, zstd");
}

#[tokio::test]
async fn messages_of_websockets_are_looked_into() {
    let Setting { lab, other, .. } = setting(&["http/1.1"]);
    let stream = lab.tls(OTHER, &other, &["http/1.1"]).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("wss://paste.example.org/ws", stream)
        .await
        .unwrap();
    socket.send(Message::text("harmless")).await.unwrap();
    assert_eq!(
        socket
            .next()
            .await
            .unwrap()
            .unwrap()
            .into_text()
            .unwrap()
            .as_str(),
        "harmless"
    );
    let _ = socket.send(Message::text(format!("a {WATCHED} b"))).await;
    let back = socket.next().await;
    assert!(!matches!(back, Some(Ok(Message::Text(_)))), "{back:?}");
    assert!(
        lab.judge
            .notes()
            .concat()
            .contains("the value of secret WATCHED")
    );
}

#[tokio::test]
async fn trailers_are_looked_into() {
    let Setting { lab, other, .. } = setting(&["h2", "http/1.1"]);
    let two = lab.two(OTHER, &other).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", WATCHED.parse().unwrap());
    let body = chunks(vec![Bytes::from_static(b"hello")], trailers);
    let request = Request::post("https://paste.example.org/")
        .body(body)
        .unwrap();
    if let Ok((status, _, said, _)) = two.send(request).await {
        assert_eq!(status, 403, "{said}");
    }
    assert!(
        lab.judge
            .notes()
            .concat()
            .contains("the value of secret WATCHED")
    );
}
