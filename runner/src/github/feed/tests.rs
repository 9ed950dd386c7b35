//! The live log against a service on loopback that refuses, breaks off, or takes nothing.

use std::sync::{Arc, Mutex};

use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::handshake::server::{Request, Response},
};

use super::*;
use crate::job::request;

/// How the service treats its connections, the first first.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// It answers with no WebSocket.
    Refuse,
    /// It ends after so many messages.
    End(usize),
    /// It reads nothing.
    Stall,
    /// It takes all.
    Take,
}

#[derive(Default)]
struct Seen {
    messages: Vec<Json>,
    bearers: Vec<String>,
    connections: usize,
}

struct Service {
    url: String,
    seen: Arc<Mutex<Seen>>,
}

impl Service {
    async fn new(manners: &'static [Manner]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/_ws/ingest.sock", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let kept = Arc::clone(&seen);
        tokio::spawn(async move {
            for manner in manners {
                let (stream, _) = listener.accept().await.unwrap();
                kept.lock().unwrap().connections += 1;
                tokio::spawn(treat(*manner, stream, Arc::clone(&kept)));
            }
        });
        Self { url, seen }
    }

    fn messages(&self) -> Vec<Json> {
        self.seen.lock().unwrap().messages.clone()
    }

    fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }
}

async fn treat(manner: Manner, stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    if let Manner::Refuse = manner {
        return;
    }
    #[allow(clippy::result_large_err)]
    let note = |request: &Request, response: Response| {
        let bearer = request.headers()[AUTHORIZATION].to_str().unwrap();
        seen.lock().unwrap().bearers.push(bearer.to_owned());
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, note).await.unwrap();
    let mut left = match manner {
        Manner::End(messages) => messages,
        Manner::Stall => std::future::pending().await,
        Manner::Take | Manner::Refuse => usize::MAX,
    };
    while left > 0
        && let Some(Ok(message)) = socket.next().await
    {
        if let Message::Text(text) = message {
            let json = serde_json::from_str(&text).unwrap();
            seen.lock().unwrap().messages.push(json);
            left -= 1;
        }
    }
}

fn quick() -> FeedTimes {
    let ms = Duration::from_millis;
    FeedTimes {
        pace: ms(5),
        early: Duration::from_secs(60),
        tries: 3,
        retry: ms(1)..=ms(5),
        pause: ms(200),
        send: ms(300),
        drain: ms(500),
    }
}

fn begun(url: &str) -> Option<(Feed, Feeding)> {
    let mut job = request::decode(include_bytes!("../../job/request/fixture.json")).unwrap();
    for endpoint in &mut job.endpoints {
        endpoint.data.retain(|(name, _)| name != "FeedStreamUrl");
        endpoint.data.push(("FeedStreamUrl".into(), url.into()));
    }
    start(&job, quick())
}

fn step(id: &str) -> Arc<str> {
    Arc::from(id)
}

async fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "it never came to hold");
        sleep(Duration::from_millis(2)).await;
    }
}

/// The lines that arrived, by number.
fn lines(messages: &[Json]) -> Vec<(u64, String)> {
    let mut lines = Vec::new();
    for message in messages {
        let start = message["startLine"].as_u64().unwrap();
        let value = message["value"].as_array().unwrap();
        assert_eq!(message["count"], json!(value.len()));
        for (number, text) in (start..).zip(value) {
            lines.push((number, text.as_str().unwrap().to_owned()));
        }
    }
    lines
}

#[test]
fn lines_are_sent_together_as_far_as_they_follow_each_other() {
    let line = |step: &str, number, text: &str| Line {
        step: Arc::from(step),
        number,
        text: text.into(),
    };
    // The numbers go on from one step to the other by chance.
    let mut all = vec![line("a", 1, "one"), line("a", 2, "two"), line("b", 3, "x")];
    all.push(line("b", 5, "after a gap"));
    all.extend((6..=155).map(|number| line("b", number, "more")));
    let batches = batches(&all);
    let shape: Vec<_> = batches
        .iter()
        .map(|batch| (batch.step_id, batch.start_line, batch.count))
        .collect();
    assert_eq!(
        shape,
        [("a", 1, 2), ("b", 3, 1), ("b", 5, 100), ("b", 105, 51)]
    );
    let json = serde_json::to_value(&batches[0]).unwrap();
    let wanted = json!({"count": 2, "value": ["one", "two"], "stepId": "a", "startLine": 1});
    assert_eq!(json, wanted);
}

#[tokio::test]
async fn lines_arrive_with_the_jobs_token_and_long_ones_are_cut() {
    let service = Service::new(&[Manner::Take]).await;
    let (feed, feeding) = begun(&service.url).unwrap();
    feed.say(&step("s"), 1, "one");
    feed.say(&step("s"), 2, &"\u{e9}".repeat(2000));
    drop(feed);
    feeding.finish().await;
    until(|| !service.messages().is_empty()).await;
    let arrived = lines(&service.messages());
    assert_eq!(arrived[0], (1, "one".into()));
    assert_eq!(arrived[1].1.chars().count(), MAX_LINE);
    assert_eq!(service.seen.lock().unwrap().bearers, ["Bearer job-t0ken"]);
}

#[tokio::test]
async fn a_connection_that_is_refused_or_breaks_off_is_made_again() {
    let service = Service::new(&[Manner::Refuse, Manner::End(1), Manner::Take]).await;
    let (feed, feeding) = begun(&service.url).unwrap();
    feed.say(&step("s"), 1, "one");
    until(|| service.messages().len() == 1).await;
    // The end of the second connection is seen before or while the next line is sent.
    let mut number = 1;
    while service.connections() < 3 {
        number += 1;
        feed.say(&step("s"), number, "more");
        sleep(Duration::from_millis(20)).await;
        assert!(number < 100);
    }
    feed.say(&step("s"), number + 1, "last");
    until(|| lines(&service.messages()).last().unwrap().1 == "last").await;
    drop(feed);
    feeding.finish().await;
    assert_eq!(lines(&service.messages())[0], (1, "one".into()));
}

#[tokio::test]
async fn after_some_failures_there_is_a_pause_and_then_another_try() {
    let service =
        Service::new(&[Manner::Refuse, Manner::Refuse, Manner::Refuse, Manner::Take]).await;
    let (feed, feeding) = begun(&service.url).unwrap();
    feed.say(&step("s"), 1, "lost");
    until(|| service.connections() == 3).await;
    for number in 2..10 {
        feed.say(&step("s"), number, "lost too");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        service.connections(),
        3,
        "nothing is tried during the pause"
    );
    sleep(Duration::from_millis(200)).await;
    feed.say(&step("s"), 10, "here again");
    drop(feed);
    feeding.finish().await;
    until(|| !service.messages().is_empty()).await;
    assert_eq!(lines(&service.messages()), [(10, "here again".into())]);
}

#[tokio::test]
async fn a_service_that_takes_nothing_delays_nobody_and_fills_no_memory() {
    let service = Service::new(&[Manner::Stall, Manner::Stall, Manner::Stall]).await;
    let (feed, feeding) = begun(&service.url).unwrap();
    let began = std::time::Instant::now();
    let text = "x".repeat(1000);
    for number in 1..=100_000 {
        feed.say(&step("s"), number, &text);
        if number % 1000 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert!(feed.lines.max_capacity() == WAITING);
    drop(feed);
    feeding.finish().await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_token_is_not_sent_in_the_clear_and_tls_that_is_none_is_no_panic() {
    assert!(begun("ws://feed.example/x").is_none());
    assert!(begun("https://feed.example/x").is_none());
    assert!(begun("").is_none());
    let service = Service::new(&[Manner::Stall]).await;
    let url = service.url.replace("ws:", "wss:");
    let token = SecretString::from("t");
    let url = url.parse().unwrap();
    let connecting = connect(&url, &token);
    let refused = timeout(Duration::from_secs(5), connecting).await;
    // The service waits for HTTP and this side for TLS, or one of them says so.
    assert!(!matches!(refused, Ok(Ok(_))));
}
