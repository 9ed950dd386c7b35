//! HTTP between a guest and a server: each head is checked and judged, bodies stream through.

mod answer;
mod body;
mod head;
mod inflate;
mod strict;
mod tunnel;
mod websocket;

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{
    Request, Response, StatusCode, Version,
    body::Incoming,
    client::conn::{http1 as client1, http2 as client2},
    header::{self, HeaderValue},
    http::request::Parts,
    server::conn::{http1 as server1, http2 as server2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use self::{
    answer::{Said, said},
    body::{Answer, Outgoing},
    head::{HeadError, MAX_HEAD, MAX_HEADERS},
    inflate::Inflate,
    strict::{Gate, Strict},
};
use super::{
    Target,
    echo::Values,
    judge::{Judge, Note, RequestHead, Verdict},
    leak::{Leak, Scanner, Watch},
    secrets::Bindings,
    tls::Protocol,
};

/// Requests that one connection of HTTP/2 may have at a time.
const MAX_STREAMS: u32 = 128;
/// Bytes of one stream, and of one connection, that are on their way at most.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 2 << 20;
/// How long the last answer of a stopped connection may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What all requests of one intercepted connection share.
pub(super) struct Session {
    pub(super) target: Target,
    pub(super) judge: Arc<dyn Judge>,
    pub(super) bindings: Arc<Bindings>,
    /// Secrets that may go to the host.
    pub(super) allowed: Arc<[usize]>,
    /// Values that the host may send back.
    pub(super) values: Arc<Values>,
    /// The same, for a search in compressed answers.
    pub(super) returning: Arc<Watch>,
    stopped: CancellationToken,
    why: Mutex<Option<String>>,
    /// What goes on after a change of protocol.
    tunnel: Mutex<Option<Task>>,
}

impl Session {
    pub(super) fn new(
        target: Target,
        judge: Arc<dyn Judge>,
        bindings: Arc<Bindings>,
        allowed: Arc<[usize]>,
        values: Arc<Values>,
        returning: Arc<Watch>,
    ) -> Arc<Self> {
        Arc::new(Self {
            target,
            judge,
            bindings,
            allowed,
            values,
            returning,
            stopped: CancellationToken::new(),
            why: Mutex::default(),
            tunnel: Mutex::default(),
        })
    }

    /// A search in something that goes to the host.
    fn scanner(&self) -> Scanner {
        self.bindings.watch().scanner(&self.allowed)
    }

    /// A secret was on its way out: the connection ends.
    fn leaks(&self, leak: Leak) {
        let words = leak.to_string();
        self.judge.note(Note::Leak(leak));
        self.end(words);
    }

    /// Something else may not go on: the connection ends.
    fn stops(&self, why: String) {
        self.judge.note(Note::Refused(why.clone()));
        self.end(why);
    }

    fn end(&self, why: String) {
        let mut known = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert(why);
        self.stopped.cancel();
    }

    fn keep(&self, task: Task) {
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// Waits for what goes on after a change of protocol.
    async fn tunnel(&self) {
        let task = self
            .tunnel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut task) = task {
            // It gives nothing; a panic there ends it alone.
            let _ = (&mut task.0).await;
        }
    }

    fn why(&self) -> Option<String> {
        self.why
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The way to the server.
enum Server {
    One(tokio::sync::Mutex<client1::SendRequest<Outgoing>>),
    Two(client2::SendRequest<Outgoing>),
}

impl Server {
    async fn send(&self, request: Request<Outgoing>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::One(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Two(sender) => sender.clone().send_request(request).await,
        }
    }
}

/// Whether the server's connection is over. One that changes its protocol ends as a connection of HTTP, and
/// that must not end the guest's before the answer is through.
#[derive(Default)]
struct Gone {
    token: CancellationToken,
    changing: AtomicBool,
    ended: AtomicBool,
}

impl Gone {
    fn ends(&self) {
        self.ended.store(true, Ordering::SeqCst);
        if !self.changing.load(Ordering::SeqCst) {
            self.token.cancel();
        }
    }

    fn may_change(&self) {
        self.changing.store(true, Ordering::SeqCst);
    }

    fn does_not_change(&self) {
        self.changing.store(false, Ordering::SeqCst);
        if self.ended.load(Ordering::SeqCst) {
            self.token.cancel();
        }
    }
}

/// Ends the task with its connection.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Carries requests until one side ends the connection or it is stopped.
pub(super) async fn serve<G, U>(guest: G, upstream: U, protocol: Protocol, session: Arc<Session>)
where
    G: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    U: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let gone = Arc::new(Gone::default());
    let Some((server, _task)) = connect(upstream, protocol, Arc::clone(&gone)).await else {
        return;
    };
    requests(guest, server, protocol, gone, &session).await;
    session.tunnel().await;
}

async fn requests<G>(
    guest: G,
    server: Server,
    protocol: Protocol,
    gone: Arc<Gone>,
    session: &Arc<Session>,
) where
    G: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let gate = Arc::new(Gate::default());
    let exchange = Arc::new(Exchange {
        session: Arc::clone(session),
        server,
        gate: Arc::clone(&gate),
        gone: Arc::clone(&gone),
    });
    let service = service_fn(move |request| {
        let exchange = Arc::clone(&exchange);
        async move { Ok::<_, Infallible>(exchange.answer(request).await) }
    });
    match protocol {
        Protocol::Http1 => {
            let io = TokioIo::new(Strict::new(guest, gate));
            let mut connection =
                std::pin::pin!(one().serve_connection(io, service).with_upgrades());
            tokio::select! {
                _ = connection.as_mut() => return,
                () = gone.token.cancelled() => {}
                () = session.stopped.cancelled() => {}
            }
            connection.as_mut().graceful_shutdown();
            last_words(session, connection).await;
        }
        Protocol::Http2 => {
            let io = TokioIo::new(guest);
            let mut connection = std::pin::pin!(two().serve_connection(io, service));
            tokio::select! {
                _ = connection.as_mut() => return,
                () = gone.token.cancelled() => {}
                () = session.stopped.cancelled() => {}
            }
            connection.as_mut().graceful_shutdown();
            last_words(session, connection).await;
        }
    }
}

/// What is under way may end, unless the connection was stopped: then only the answer that says so.
async fn last_words(session: &Session, connection: impl Future) {
    tokio::select! {
        _ = connection => {}
        () = async {
            session.stopped.cancelled().await;
            tokio::time::sleep(LAST_WORDS).await;
        } => {}
    }
}

/// Answers every request of a guest that goes on although the server's certificate is refused.
pub(super) async fn excuse<G>(guest: G, protocol: Protocol, words: String)
where
    G: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let words = Arc::new(words);
    let service = service_fn(move |_: Request<Incoming>| {
        let answer = said(StatusCode::BAD_GATEWAY, &words);
        async move { Ok::<_, Infallible>(answer) }
    });
    // How it ends does not matter: nothing went out.
    let _ = match protocol {
        Protocol::Http1 => {
            one()
                .keep_alive(false)
                .serve_connection(TokioIo::new(guest), service)
                .await
        }
        Protocol::Http2 => two().serve_connection(TokioIo::new(guest), service).await,
    };
}

fn one() -> server1::Builder {
    let mut builder = server1::Builder::new();
    builder
        .preserve_header_case(true)
        .half_close(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(2 * MAX_HEAD)
        .auto_date_header(false)
        // An idle connection may stay; how long is said elsewhere.
        .header_read_timeout(None)
        .timer(TokioTimer::new());
    builder
}

fn two() -> server2::Builder<TokioExecutor> {
    let mut builder = server2::Builder::new(TokioExecutor::new());
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD as u32)
        .max_send_buf_size(STREAM_WINDOW as usize)
        .auto_date_header(false)
        .timer(TokioTimer::new());
    builder
}

async fn connect<U>(upstream: U, protocol: Protocol, gone: Arc<Gone>) -> Option<(Server, Task)>
where
    U: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(upstream);
    match protocol {
        Protocol::Http1 => {
            let mut builder = client1::Builder::new();
            builder
                .preserve_header_case(true)
                .max_headers(MAX_HEADERS)
                .max_buf_size(2 * MAX_HEAD);
            let (sender, connection) = builder.handshake(io).await.ok()?;
            let task = tokio::spawn(async move {
                // Whoever waits for an answer hears of its error.
                let _ = connection.with_upgrades().await;
                gone.ends();
            });
            Some((Server::One(sender.into()), Task(task)))
        }
        Protocol::Http2 => {
            let mut builder = client2::Builder::new(TokioExecutor::new());
            builder
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(MAX_HEAD as u32)
                .max_send_buf_size(STREAM_WINDOW as usize)
                .timer(TokioTimer::new());
            let (sender, connection) = builder.handshake(io).await.ok()?;
            let task = tokio::spawn(async move {
                let _ = connection.await;
                gone.ends();
            });
            Some((Server::Two(sender), Task(task)))
        }
    }
}

/// One connection's requests and answers.
struct Exchange {
    session: Arc<Session>,
    server: Server,
    gate: Arc<Gate>,
    gone: Arc<Gone>,
}

impl Exchange {
    async fn answer(&self, request: Request<Incoming>) -> Response<Said> {
        match self.try_answer(request).await {
            Ok(answer) => answer,
            Err(Refusal { status, words }) => {
                self.declined();
                said(status, &words)
            }
        }
    }

    async fn try_answer(&self, request: Request<Incoming>) -> Result<Response<Said>, Refusal> {
        let (mut parts, body) = request.into_parts();
        self.check(&mut parts)?;
        let wish = upgrade(&parts);
        self.judge(&parts, wish.as_deref())?;
        self.scan(&parts)?;
        let inflate = self.inflate(&parts)?;
        self.inject(&mut parts)?;
        if wish.as_deref() == Some("websocket") {
            // What an extension compresses could not be searched.
            parts.headers.remove("sec-websocket-extensions");
        }
        let mut request = Request::from_parts(parts, body);
        let guest = wish.is_some().then(|| hyper::upgrade::on(&mut request));
        if guest.is_some() {
            self.gone.may_change();
        }
        let request = request.map(|body| Outgoing::new(body, &self.session, inflate));
        let mut answer = self
            .server
            .send(request)
            .await
            .map_err(|cause| self.failed(&cause))?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let (Some(guest), Some(wish)) = (guest, wish) else {
                return Err(Refusal::gateway(
                    "the server changed the protocol unasked".to_owned(),
                ));
            };
            let server = hyper::upgrade::on(&mut answer);
            self.gate.changed();
            let session = Arc::clone(&self.session);
            let task = tunnel::start(session, guest, server, wish == "websocket");
            self.session.keep(task);
        } else {
            self.declined();
        }
        Ok(self.shown(answer))
    }

    fn declined(&self) {
        self.gate.declined();
        self.gone.does_not_change();
    }

    fn check(&self, parts: &mut Parts) -> Result<(), Refusal> {
        if parts.version < Version::HTTP_2
            && let Some(why) = self.gate.refusal(parts.uri.path())
        {
            self.session.stops(why.clone());
            return Err(Refusal::new(StatusCode::BAD_REQUEST, why));
        }
        head::check(parts, &self.session.target).map_err(|error| match error {
            HeadError::Form(why) => {
                self.session.judge.note(Note::Refused(why.clone()));
                Refusal::new(StatusCode::BAD_REQUEST, why)
            }
            HeadError::OtherHost(named) => {
                let name = self.session.target.name();
                let why = format!("a request for {named:?} in a connection to {name}");
                self.session.judge.note(Note::Refused(why.clone()));
                Refusal::new(StatusCode::MISDIRECTED_REQUEST, why)
            }
        })
    }

    fn judge(&self, parts: &Parts, wish: Option<&str>) -> Result<(), Refusal> {
        let verdict = self.session.judge.request(&RequestHead {
            host: self.session.target.name(),
            port: self.session.target.port(),
            version: version(parts.version),
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: parts.uri.query(),
            upgrade: wish,
        });
        match verdict {
            Verdict::Allow => Ok(()),
            Verdict::Deny(words) => Err(Refusal::new(StatusCode::FORBIDDEN, words)),
        }
    }

    /// Searches the head as the guest sent it.
    fn scan(&self, parts: &Parts) -> Result<(), Refusal> {
        let session = &self.session;
        let mut scanner = session.scanner();
        let address = parts
            .uri
            .path_and_query()
            .map_or("", |address| address.as_str());
        let found = scanner
            .scan(parts.method.as_str().as_bytes())
            .and_then(|()| scanner.scan(b" "))
            .and_then(|()| scanner.scan(address.as_bytes()))
            .and_then(|()| session.scan_headers(&parts.headers));
        found.map_err(|leak| {
            session.leaks(leak.clone());
            Refusal::new(StatusCode::FORBIDDEN, leak.to_string())
        })
    }

    /// How the body is decoded for the search.
    fn inflate(&self, parts: &Parts) -> Result<Option<Inflate>, Refusal> {
        let Some(encoding) = encoding(&parts.headers) else {
            return Ok(None);
        };
        if self.session.bindings.watch().is_empty() {
            return Ok(None);
        }
        let inflate = Inflate::new(&encoding, self.session.scanner());
        inflate.map(Some).ok_or_else(|| {
            let why = format!(
                "a body encoded as {encoding} cannot be searched for secrets; send it as gzip or as it is"
            );
            self.session.judge.note(Note::Refused(why.clone()));
            Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why)
        })
    }

    fn inject(&self, parts: &mut Parts) -> Result<(), Refusal> {
        let session = &self.session;
        let injected = session.bindings.inject(&session.allowed, parts);
        let injected = injected.map_err(|error| Refusal::gateway(error.to_string()))?;
        if !session.values.is_empty() && parts.headers.contains_key(header::ACCEPT_ENCODING) {
            // The answer must be readable; where a value went out, so that it can be replaced.
            let readable = if injected.is_empty() {
                "gzip"
            } else {
                "identity"
            };
            let readable = HeaderValue::from_static(readable);
            parts.headers.insert(header::ACCEPT_ENCODING, readable);
        }
        for secret in injected {
            session.judge.note(Note::Injected { secret });
        }
        Ok(())
    }

    /// The server's answer as the guest may see it.
    fn shown(&self, answer: Response<Incoming>) -> Response<Said> {
        let session = &self.session;
        let (mut parts, body) = answer.into_parts();
        if session.values.is_empty() {
            return Response::from_parts(parts, Said::Plain(body));
        }
        let inflate = match encoding(&parts.headers) {
            None => None,
            Some(encoding) => {
                let scanner = session.returning.scanner(&[].into());
                let Some(inflate) = Inflate::new(&encoding, scanner) else {
                    let why = format!("the server answered in {encoding}, which was not asked for");
                    session.judge.note(Note::Refused(why.clone()));
                    return said(StatusCode::BAD_GATEWAY, &why);
                };
                Some(inflate)
            }
        };
        session.clean_headers(&mut parts.headers);
        Response::from_parts(
            parts,
            Said::Guarded(Box::new(Answer::new(body, session, inflate))),
        )
    }

    fn failed(&self, cause: &hyper::Error) -> Refusal {
        if let Some(why) = self.session.why() {
            return Refusal::new(StatusCode::FORBIDDEN, why);
        }
        if let Some(why) = self.gate.cut() {
            self.session.stops(why.clone());
            return Refusal::new(StatusCode::BAD_REQUEST, why);
        }
        let name = self.session.target.name();
        let cause = crate::web::causes(cause);
        Refusal::gateway(format!("the server of {name} gave no answer: {cause}"))
    }
}

/// An answer of Mayfly's own.
struct Refusal {
    status: StatusCode,
    words: String,
}

impl Refusal {
    fn new(status: StatusCode, words: String) -> Self {
        Self { status, words }
    }

    fn gateway(words: String) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, words)
    }
}

/// The protocol that a request wants to change to.
fn upgrade(parts: &Parts) -> Option<String> {
    if parts.version != Version::HTTP_11 {
        return None;
    }
    let wish = parts.headers.get(header::UPGRADE)?.to_str().ok()?;
    Some(wish.trim().to_ascii_lowercase())
}

/// How a body is encoded, unless it is as it is.
fn encoding(headers: &header::HeaderMap) -> Option<String> {
    let all = headers.get_all(header::CONTENT_ENCODING).iter();
    let all: Vec<_> = all
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    let encoding = all.join(",").trim().to_ascii_lowercase();
    (!encoding.is_empty() && encoding != "identity").then_some(encoding)
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}
