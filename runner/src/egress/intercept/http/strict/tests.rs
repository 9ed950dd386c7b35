use std::io::Cursor;

use proptest::prelude::*;
use tokio::io::AsyncReadExt;

use super::*;

/// What of `input` passes, and why the rest was refused.
fn through(input: &[u8], chunk: usize) -> (Vec<u8>, Option<String>) {
    let gate = Arc::new(Gate::default());
    let mut reader: Box<dyn AsyncRead + Unpin> = Box::new(tokio::io::empty());
    for part in input.chunks(chunk) {
        reader = Box::new(reader.chain(Cursor::new(part.to_vec())));
    }
    let mut strict = Strict::new(reader, Arc::clone(&gate));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut out = Vec::new();
    runtime.block_on(strict.read_to_end(&mut out)).unwrap();
    let refusal = gate.refusal(REFUSED);
    if refusal.is_some() {
        assert!(out.ends_with(STAND_IN));
        out.truncate(out.len() - STAND_IN.len());
    }
    (out, refusal)
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const FIXED: &str = "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 31\r\n\r\nGET /c HTTP/1.1\r\nHost: a\r\n\r\n...";
const CHUNKED: &str = "POST /d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
    5\r\nhello\r\n1a\r\nGET /e HTTP/1.1\r\nHost: a\r\n\r\n0\r\nX-Sum: 1\r\n\r\n";

#[test]
fn messages_pass_whole_however_they_come() {
    let all = format!("{GET}{FIXED}\r\n{CHUNKED}{GET}");
    let expected = format!("{GET}{FIXED}{CHUNKED}{GET}");
    for chunk in [1, 2, 3, 5, 17, 64, 10_000] {
        let (out, refusal) = through(all.as_bytes(), chunk);
        assert_eq!(refusal, None, "by {chunk}");
        assert_eq!(String::from_utf8(out).unwrap(), expected, "by {chunk}");
    }
}

#[test]
fn nothing_of_a_refused_message_or_behind_it_passes() {
    let bad = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for chunk in [1, 7, 10_000] {
        let (out, refusal) = through(format!("{GET}{bad}{GET}").as_bytes(), chunk);
        assert_eq!(String::from_utf8(out).unwrap(), GET);
        assert!(refusal.unwrap().contains("both"));
    }
}

#[test]
fn chunks_are_read_in_one_way_only() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for size in [
        "0x5",
        "-5",
        "5\n",
        "g",
        "",
        "+5",
        "5 5\n",
        "1000000000000000",
        "5\r",
    ] {
        let (_, refusal) = through(format!("{head}{size}\r\nhello\r\n0\r\n\r\n").as_bytes(), 64);
        assert!(refusal.is_some(), "{size:?}");
    }
    let (out, refusal) = through(
        format!("{head}5;name=value\r\nhello\r\n0\r\n\r\n").as_bytes(),
        3,
    );
    assert_eq!(refusal, None);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        format!("{head}5\r\nhello\r\n0\r\n\r\n")
    );
}

#[test]
fn heads_sizes_and_trailers_are_bounded() {
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(MAX_HEAD));
    assert!(
        through(head.as_bytes(), 9999)
            .1
            .unwrap()
            .contains("head of the request is longer")
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: y\r\n".repeat(200)
    );
    assert!(
        through(many.as_bytes(), 9999)
            .1
            .unwrap()
            .contains("more than 128 headers")
    );
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = format!("{chunked}5;{}", "x".repeat(300));
    assert!(
        through(long.as_bytes(), 9999)
            .1
            .unwrap()
            .contains("size of a chunk")
    );
    let long = format!("{chunked}0\r\nX: {}", "x".repeat(MAX_TRAILERS));
    assert!(
        through(long.as_bytes(), 9999)
            .1
            .unwrap()
            .contains("trailers")
    );
}

#[tokio::test]
async fn what_follows_a_wish_to_change_waits_for_the_answer() {
    let asks = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for change in [true, false] {
        let gate = Arc::new(Gate::default());
        let input = format!("{asks}{GET}\x00\r\n");
        let mut strict = Strict::new(Cursor::new(input.into_bytes()), Arc::clone(&gate));
        let mut head = vec![0; asks.len()];
        strict.read_exact(&mut head).await.unwrap();
        let mut byte = [0; 1];
        let early =
            tokio::time::timeout(std::time::Duration::from_millis(20), strict.read(&mut byte));
        assert!(early.await.is_err(), "bytes passed before the answer");
        if change {
            gate.changed();
            let mut rest = Vec::new();
            strict.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, format!("{GET}\x00\r\n").into_bytes());
        } else {
            gate.declined();
            let mut rest = vec![0; GET.len()];
            strict.read_exact(&mut rest).await.unwrap();
            assert_eq!(rest, GET.as_bytes());
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_grow(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        chunk in 1usize..50,
    ) {
        let (out, _) = through(&bytes, chunk);
        prop_assert!(out.len() <= bytes.len());
    }

    #[test]
    fn almost_messages_pass_the_same_by_any_chunks(
        cut in 0usize..200,
        byte in any::<u8>(),
        chunk in 1usize..50,
    ) {
        let mut bytes = format!("{CHUNKED}{FIXED}{GET}").into_bytes();
        let at = cut % bytes.len();
        bytes[at] = byte;
        let (whole, refused) = through(&bytes, 10_000);
        let (parts, again) = through(&bytes, chunk);
        prop_assert_eq!(whole, parts);
        prop_assert_eq!(refused, again);
    }
}
