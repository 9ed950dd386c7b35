//! The live log: lines go to the job's page by WebSocket while the job runs.
//!
//! Nothing depends on it. What does not get through in time is left out, as the page loads whole logs
//! once steps ended; no line waits here for longer than the queue is, and no job for the feed.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        http::{HeaderValue, header::AUTHORIZATION},
        protocol::WebSocketConfig,
    },
};
use tracing::Instrument;
use url::Url;

use super::pause::between;
use crate::{job::request::JobRequest, web::is_loopback};

/// Lines that may wait to be sent.
const WAITING: usize = 1024;
/// Most lines of a message.
const AT_ONCE: usize = 100;
/// Most characters of a line.
const MAX_LINE: usize = 1024;
/// Most bytes of a message from the service; there is nothing that it has to say.
const MAX_HEARD: usize = 64 << 10;

/// Waits and numbers of tries. The defaults are those of the official runner.
#[derive(Debug, Clone)]
pub struct FeedTimes {
    /// Between messages at first.
    pub pace: Duration,
    /// How long that is the pace; afterwards it is half as fast.
    pub early: Duration,
    /// Tries in a row before a pause.
    pub tries: u32,
    /// Between such tries.
    pub retry: RangeInclusive<Duration>,
    /// The pause.
    pub pause: Duration,
    /// How long connecting may take, and sending a message.
    pub send: Duration,
    /// How long what waits may take once the job is over.
    pub drain: Duration,
}

impl Default for FeedTimes {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            pace: ms(250),
            early: Duration::from_secs(60),
            tries: 3,
            retry: ms(100)..=ms(500),
            pause: Duration::from_secs(600),
            send: Duration::from_secs(10),
            drain: Duration::from_secs(1),
        }
    }
}

/// Takes lines.
#[derive(Debug)]
pub struct Feed {
    lines: mpsc::Sender<Line>,
}

/// The task that sends them.
#[derive(Debug)]
pub struct Feeding {
    task: JoinHandle<()>,
    drain: Duration,
}

#[derive(Debug)]
struct Line {
    step: Arc<str>,
    number: u64,
    text: String,
}

/// What is sent at once.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Batch<'a> {
    count: usize,
    value: Vec<&'a str>,
    step_id: &'a str,
    start_line: u64,
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("the live log cannot be connected: {0}")]
    Connect(#[source] Box<tungstenite::Error>),
    #[error("the live log broke off: {0}")]
    Send(#[source] Box<tungstenite::Error>),
    #[error("the live log's service does not take lines in time")]
    Slow,
}

/// Begins the live log of a job, if its message says where it goes.
#[must_use]
pub fn start(job: &JobRequest, times: FeedTimes) -> Option<(Feed, Feeding)> {
    let connection = job.system_connection()?;
    let text = connection.get("FeedStreamUrl")?;
    let token = connection.access_token.clone()?;
    let Some(url) = address(text) else {
        tracing::warn!("there is no live log: FeedStreamUrl is not a wss URL");
        return None;
    };
    let (lines, waiting) = mpsc::channel(WAITING);
    let drain = times.drain;
    let sender = Sender {
        url,
        token,
        lines: waiting,
        socket: None,
        began: Instant::now(),
        paused_until: None,
        times,
    };
    let task = tokio::spawn(sender.run().in_current_span());
    Some((Feed { lines }, Feeding { task, drain }))
}

/// An address that a token may be sent to.
fn address(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    match url.scheme() {
        "wss" => Some(url),
        "ws" if is_loopback(&url) => Some(url),
        _ => None,
    }
}

impl Feed {
    /// Shows a line of a step, if there is room for it. It is masked already.
    pub fn say(&self, step: &Arc<str>, number: u64, text: &str) {
        let Ok(place) = self.lines.try_reserve() else {
            return;
        };
        place.send(Line {
            step: Arc::clone(step),
            number,
            text: text.chars().take(MAX_LINE).collect(),
        });
    }
}

impl Feeding {
    /// Waits a moment for what is left; the [`Feed`] is to be dropped before.
    pub async fn finish(mut self) {
        if timeout(self.drain, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::debug!("the end of the live log was not shown");
        }
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

struct Sender {
    url: Url,
    token: SecretString,
    lines: mpsc::Receiver<Line>,
    socket: Option<Socket>,
    began: Instant,
    /// Until when no connection is tried.
    paused_until: Option<Instant>,
    times: FeedTimes,
}

impl Sender {
    async fn run(mut self) {
        while let Some(line) = self.next().await {
            let mut lines = vec![line];
            self.gather(&mut lines).await;
            for batch in batches(&lines) {
                // Once one is lost, the others of its time are late.
                if !self.deliver(&batch).await {
                    break;
                }
            }
        }
        if let Some(mut socket) = self.socket {
            // The service may be gone already.
            let _ = socket.close(None).await;
        }
    }

    /// The next line; meanwhile the service is listened to, so that it is answered and its end seen.
    async fn next(&mut self) -> Option<Line> {
        loop {
            let Some(socket) = &mut self.socket else {
                return self.lines.recv().await;
            };
            tokio::select! {
                line = self.lines.recv() => return line,
                heard = socket.next() => match heard {
                    Some(Ok(message)) if !message.is_close() => {}
                    _ => self.socket = None,
                },
            }
        }
    }

    /// Adds the lines of the time until the next message may be sent.
    async fn gather(&mut self, lines: &mut Vec<Line>) {
        let late = self.began.elapsed() > self.times.early;
        let pace = self.times.pace * if late { 2 } else { 1 };
        let until = Instant::now() + pace;
        while lines.len() < WAITING {
            match timeout_at(until, self.next()).await {
                Ok(Some(line)) => lines.push(line),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Sends a message, over a new connection if need be; whether it got through.
    async fn deliver(&mut self, batch: &Batch<'_>) -> bool {
        if self
            .paused_until
            .is_some_and(|until| Instant::now() < until)
        {
            return false;
        }
        // It is text and numbers.
        let text = serde_json::to_string(batch).unwrap_or_default();
        for attempt in 1..=self.times.tries {
            match self.send(&text).await {
                Ok(()) => {
                    self.paused_until = None;
                    return true;
                }
                Err(error) => {
                    self.socket = None;
                    tracing::debug!(%error, attempt, "lines are not shown while the job runs");
                }
            }
            if attempt < self.times.tries {
                sleep(between(self.times.retry.clone())).await;
            }
        }
        tracing::warn!(pause = ?self.times.pause, "the live log is given up for a while; the logs are not");
        self.paused_until = Some(Instant::now() + self.times.pause);
        false
    }

    async fn send(&mut self, text: &str) -> Result<(), FeedError> {
        let limit = self.times.send;
        let sending = async {
            let socket = match &mut self.socket {
                Some(socket) => socket,
                None => self.socket.insert(connect(&self.url, &self.token).await?),
            };
            let sent = socket.send(Message::text(text)).await;
            sent.map_err(|error| FeedError::Send(Box::new(error)))
        };
        timeout(limit, sending)
            .await
            .unwrap_or(Err(FeedError::Slow))
    }
}

async fn connect(url: &Url, token: &SecretString) -> Result<Socket, FeedError> {
    let connect = async {
        let mut request = url.as_str().into_client_request()?;
        let bearer = format!("Bearer {}", token.expose_secret());
        let mut bearer = HeaderValue::from_str(&bearer)?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_HEARD))
            .max_frame_size(Some(MAX_HEARD));
        connect_async_with_config(request, Some(config), false).await
    };
    let connected: Result<_, tungstenite::Error> = connect.await;
    let connected = connected.map_err(|error| FeedError::Connect(Box::new(error)));
    connected.map(|(socket, _)| socket)
}

/// Lines in messages: each has lines of one step that follow each other.
fn batches(lines: &[Line]) -> Vec<Batch<'_>> {
    let mut batches: Vec<Batch<'_>> = Vec::new();
    for line in lines {
        let follows = |batch: &&mut Batch<'_>| {
            let next = batch.start_line.saturating_add(batch.count as u64);
            batch.step_id == &*line.step && batch.count < AT_ONCE && next == line.number
        };
        if let Some(batch) = batches.last_mut().filter(follows) {
            batch.count += 1;
            batch.value.push(&line.text);
        } else {
            batches.push(Batch {
                count: 1,
                value: vec![&line.text],
                step_id: &line.step,
                start_line: line.number,
            });
        }
    }
    batches
}

#[cfg(test)]
mod tests;
