//! The live log: a WebSocket that takes what a runner may send, and misbehaves on demand.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use http_body_util::Full;
use hyper::{Request, Response, body::Bytes};
use hyper_util::rt::TokioIo;
use serde_json::{Value as Json, json};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use super::{FakeGitHub, Shared, State};

/// How live logs are treated from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FeedManner {
    /// Lines are taken.
    #[default]
    Take,
    /// There is no WebSocket.
    Refuse,
    /// Each connection ends after so many messages.
    DropAfter(u32),
    /// Connections are made, and nothing is read from them.
    Stall,
}

/// The lines of a job by step and number.
pub type FeedLines = BTreeMap<String, BTreeMap<u64, String>>;

impl FakeGitHub {
    /// Treats live logs in another manner.
    pub fn feed(&self, manner: FeedManner) {
        self.shared.lock().feed = manner;
    }
}

impl Shared {
    /// Answers a request for the live log of the job whose token it has.
    pub(super) fn open_feed<B>(&self, request: &mut Request<B>) -> Response<Full<Bytes>> {
        let refused = |status: u16| {
            let mut response = Response::new(Full::default());
            *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
            response
        };
        let header = |name: &str| {
            request
                .headers()
                .get(name)?
                .to_str()
                .ok()
                .map(str::to_owned)
        };
        let token = header("authorization").unwrap_or_default();
        let id = token.strip_prefix("Bearer job-token-").unwrap_or_default();
        let (id, manner) = {
            let mut state = self.lock();
            let runs = |job: &&super::Job| job.runner.is_some() && job.completed.is_none();
            if state.jobs.get(id).filter(runs).is_none() {
                state.violation(401, format!("the live log was asked for with {token:?}"));
                return refused(401);
            }
            (id.to_owned(), state.feed)
        };
        let Some(key) = header("sec-websocket-key").filter(|_| manner != FeedManner::Refuse) else {
            return refused(503);
        };
        let (shared, upgrade) = (self.clone(), hyper::upgrade::on(request));
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                let stream = TokioIo::new(upgraded);
                shared.read_feed(&id, manner, stream).await;
            }
        });
        let mut response = refused(101);
        let accept = derive_accept_key(key.as_bytes());
        for (name, value) in [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-accept", &accept),
        ] {
            if let Ok(value) = value.parse() {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    async fn read_feed<S>(&self, id: &str, manner: FeedManner, stream: S)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let config = WebSocketConfig::default().max_message_size(Some(1 << 20));
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        let mut left = match manner {
            FeedManner::Stall => return std::future::pending().await,
            FeedManner::DropAfter(messages) => messages,
            FeedManner::Take | FeedManner::Refuse => u32::MAX,
        };
        while left > 0
            && let Some(Ok(message)) = socket.next().await
        {
            match message {
                Message::Text(text) => {
                    let json = serde_json::from_str(&text).unwrap_or_default();
                    self.lock().fed(id, &json);
                    left -= 1;
                }
                Message::Binary(_) => {
                    self.lock().violation(400, "the live log got bytes");
                }
                _ => {}
            }
        }
    }
}

impl State {
    /// Takes a message of a live log.
    fn fed(&mut self, id: &str, message: &Json) {
        let lines: Vec<String> = message["value"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|line| line.as_str().map(str::to_owned))
            .collect();
        let names: Vec<&str> = message
            .as_object()
            .map(|object| object.keys().map(String::as_str).collect())
            .unwrap_or_default();
        let (step, start) = (message["stepId"].as_str(), message["startLine"].as_u64());
        let good = names.len() == 4
            && message["count"] == json!(lines.len())
            && (1..=100).contains(&lines.len())
            && lines.iter().all(|line| line.chars().count() <= 1024)
            && start.is_some_and(|start| start > 0);
        let (Some(step), Some(start), true) = (step, start, good) else {
            let what: String = message.to_string().chars().take(300).collect();
            self.violation(400, format!("the live log got {what}"));
            return;
        };
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        let known = job.feed.entry(step.to_owned()).or_default();
        for (number, line) in (start..).zip(lines) {
            known.insert(number, line);
        }
    }
}
