//! A guest, an interceptor and a server that says what it saw.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    header::HeaderMap,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, Issuer, KeyPair, date_time_ymd};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use crate::egress::intercept::{
    Authority, InterceptError, Interceptor, Judge, Note, RequestHead, Target, Verdict,
    secrets::Bindings,
};

pub(in crate::egress) type TestBody = UnsyncBoxBody<Bytes, Infallible>;

/// A policy that forbids what its list names, and remembers.
#[derive(Default)]
pub(in crate::egress) struct TestJudge {
    pub(in crate::egress) denied: Vec<(&'static str, &'static str)>,
    pub(in crate::egress) asked: Mutex<Vec<String>>,
    pub(in crate::egress) notes: Mutex<Vec<Note>>,
}

impl Judge for TestJudge {
    fn request(&self, head: &RequestHead<'_>) -> Verdict {
        let line = format!(
            "{} {} {}{}",
            head.version, head.method, head.host, head.path
        );
        self.asked.lock().unwrap().push(line);
        if self.denied.contains(&(head.method, head.path)) {
            return Verdict::Deny(format!("rule 7 forbids {} {}", head.method, head.path));
        }
        Verdict::Allow
    }

    fn note(&self, note: Note) {
        self.notes.lock().unwrap().push(note);
    }
}

impl TestJudge {
    pub(in crate::egress) fn notes(&self) -> Vec<String> {
        self.notes
            .lock()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

/// What a server was sent.
#[derive(Default, Clone)]
pub(in crate::egress) struct Seen {
    pub(in crate::egress) line: String,
    pub(in crate::egress) headers: HeaderMap,
    pub(in crate::egress) body: Vec<u8>,
}

/// A server: its certificate, its protocols and what it saw.
#[derive(Clone)]
pub(in crate::egress) struct Server {
    config: Arc<ServerConfig>,
    pub(in crate::egress) seen: Arc<Mutex<Vec<Seen>>>,
}

pub(in crate::egress) struct Lab {
    pub(in crate::egress) interceptor: Arc<Interceptor>,
    pub(in crate::egress) judge: Arc<TestJudge>,
    root: Issuer<'static, KeyPair>,
}

/// A certificate authority that the interceptor trusts as it does those of the system.
fn root() -> (Issuer<'static, KeyPair>, CertificateDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    (Issuer::new(params, key), certificate.der().clone())
}

/// An interceptor that trusts the authority of a server for `name`, and that server.
pub(in crate::egress) fn interceptor_and_server(
    bindings: Bindings,
    name: &str,
) -> (Interceptor, Server) {
    let (root, certificate) = root();
    let authority = Authority::draw(None).unwrap();
    let interceptor = Interceptor::new(authority, &[certificate], Arc::new(bindings)).unwrap();
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    (interceptor, server(&params, &root, &["http/1.1"]))
}

impl Lab {
    pub(in crate::egress) fn new(bindings: Bindings, judge: TestJudge) -> Self {
        let (root, certificate) = root();
        let authority = Authority::draw(None).unwrap();
        let interceptor = Interceptor::new(authority, &[certificate], Arc::new(bindings));
        Self {
            interceptor: Arc::new(interceptor.unwrap()),
            judge: Arc::new(judge),
            root,
        }
    }

    pub(in crate::egress) fn plain() -> Self {
        Self::new(Bindings::none().unwrap(), TestJudge::default())
    }

    /// A server with a good certificate for `name`.
    pub(in crate::egress) fn server(&self, name: &str, alpn: &[&str]) -> Server {
        self.server_with(&CertificateParams::new([name.to_owned()]).unwrap(), alpn)
    }

    pub(in crate::egress) fn server_with(
        &self,
        params: &CertificateParams,
        alpn: &[&str],
    ) -> Server {
        server(params, &self.root, alpn)
    }

    /// A server whose certificate nobody signed whom anybody trusts.
    pub(in crate::egress) fn stranger(name: &str) -> Server {
        server(
            &CertificateParams::new([name.to_owned()]).unwrap(),
            &root().0,
            &[],
        )
    }

    pub(in crate::egress) fn expired(&self, name: &str) -> Server {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(2001, 1, 1);
        self.server_with(&params, &[])
    }

    /// Opens a connection of the guest to `name`, before any byte of TLS.
    pub(in crate::egress) fn open(
        &self,
        name: &str,
        server: &Server,
    ) -> (DuplexStream, JoinHandle<Result<(), InterceptError>>) {
        let (guest, inside) = duplex(64 << 10);
        let (upstream, outside) = duplex(64 << 10);
        let server = server.clone();
        tokio::spawn(async move { server.run(outside).await });
        let interceptor = Arc::clone(&self.interceptor);
        let judge = Arc::clone(&self.judge);
        let target = Target::new(name, 443);
        let task =
            tokio::spawn(async move { interceptor.carry(inside, upstream, target, judge).await });
        (guest, task)
    }

    /// What a guest trusts.
    pub(in crate::egress) fn trust(&self, alpn: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.interceptor.authority().der().clone())
            .unwrap();
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// A guest's TLS connection to `name`.
    pub(in crate::egress) async fn tls(
        &self,
        name: &str,
        server: &Server,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<DuplexStream>> {
        let (guest, _) = self.open(name, server);
        let connector = TlsConnector::from(Arc::new(self.trust(alpn)));
        connector
            .connect(ServerName::try_from(name.to_owned()).unwrap(), guest)
            .await
    }

    /// Sends bytes as they are and reads all of the answer.
    pub(in crate::egress) async fn raw(&self, name: &str, server: &Server, bytes: &[u8]) -> String {
        let mut stream = self.tls(name, server, &["http/1.1"]).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = Vec::new();
        // A cut connection is an answer too.
        let read = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(5), read)
            .await
            .expect("no end of the answer");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// One request by HTTP/2.
    pub(in crate::egress) async fn two(&self, name: &str, server: &Server) -> Two {
        let stream = self.tls(name, server, &["h2", "http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Two(sender)
    }
}

pub(in crate::egress) struct Two(
    pub(in crate::egress) hyper::client::conn::http2::SendRequest<TestBody>,
);

impl Two {
    /// Sends it; gives the status and the whole answer.
    pub(in crate::egress) async fn send(
        &self,
        request: Request<TestBody>,
    ) -> hyper::Result<(u16, HeaderMap, String, Option<HeaderMap>)> {
        let answer = self.0.clone().send_request(request).await?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned();
        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok((parts.status.as_u16(), parts.headers, text, trailers))
    }
}

pub(in crate::egress) fn full(text: impl Into<Bytes>) -> TestBody {
    Full::new(text.into()).boxed_unsync()
}

/// A body in these chunks, with trailers.
pub(in crate::egress) fn chunks(parts: Vec<Bytes>, trailers: HeaderMap) -> TestBody {
    let frames = parts
        .into_iter()
        .map(Frame::data)
        .chain([Frame::trailers(trailers)]);
    StreamBody::new(futures_util::stream::iter(frames.map(Ok))).boxed_unsync()
}

pub(in crate::egress) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn server(params: &CertificateParams, issuer: &Issuer<'_, KeyPair>, alpn: &[&str]) -> Server {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], der)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Server {
        config: Arc::new(config),
        seen: Arc::default(),
    }
}

impl Server {
    pub(in crate::egress) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(in crate::egress) async fn run<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let accept = TlsAcceptor::from(Arc::clone(&self.config)).accept(stream);
        let Ok(stream) = accept.await else { return };
        let is_two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let seen = Arc::clone(&self.seen);
        let service = service_fn(move |request| {
            let seen = Arc::clone(&seen);
            async move { Ok::<_, Infallible>(handle(request, &seen).await) }
        });
        let io = TokioIo::new(stream);
        if is_two {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(io, service).await;
        } else {
            let builder = hyper::server::conn::http1::Builder::new();
            let _ = builder.serve_connection(io, service).with_upgrades().await;
        }
    }
}

async fn handle(request: Request<Incoming>, seen: &Mutex<Vec<Seen>>) -> Response<TestBody> {
    let line = format!(
        "{} {}",
        request.method(),
        request.uri().path_and_query().unwrap()
    );
    let headers = request.headers().clone();
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(Seen {
            line: line.clone(),
            headers: headers.clone(),
            body: Vec::new(),
        });
        seen.len() - 1
    };
    if request.uri().path() == "/ws" {
        return websocket(request, seen);
    }
    let compressed = request.uri().path() == "/gzip";
    let mut body = request.into_body();
    let (mut all, mut trailers) = (Vec::new(), None);
    while let Some(Ok(frame)) = body.frame().await {
        match frame.into_data() {
            Ok(data) => {
                all.extend_from_slice(&data);
                seen.lock().unwrap()[number].body.extend_from_slice(&data);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &all);
    let said = format!("{line}\n{headers:?}\n{}\n{trailers:?}\n", hex::encode(sum));
    let mut sent = HeaderMap::new();
    sent.insert("x-status", "0".parse().unwrap());
    let mut answer = Response::builder();
    for (name, value) in &headers {
        if name.as_str().starts_with("x-echo") || name == "authorization" {
            answer = answer.header(format!("back-{name}"), value);
        }
    }
    if compressed {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(said.as_bytes()).unwrap();
        let body = full(encoder.finish().unwrap());
        return answer
            .header("content-encoding", "gzip")
            .body(body)
            .unwrap();
    }
    let pieces = said
        .as_bytes()
        .chunks(1000)
        .map(|part| Bytes::from(part.to_vec()));
    answer
        .header("trailer", "x-status")
        .body(chunks(pieces.collect(), sent))
        .unwrap()
}

/// Echoes the messages of a WebSocket.
fn websocket(mut request: Request<Incoming>, seen: &Mutex<Vec<Seen>>) -> Response<TestBody> {
    let key = request.headers()["sec-websocket-key"].clone();
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    seen.lock().unwrap().last_mut().unwrap().body = b"websocket".to_vec();
    tokio::spawn(async move {
        let Ok(stream) = upgrade.await else { return };
        let role = tokio_tungstenite::tungstenite::protocol::Role::Server;
        let io = TokioIo::new(stream);
        let mut socket = tokio_tungstenite::WebSocketStream::from_raw_socket(io, role, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if !(message.is_text() || message.is_binary()) || socket.send(message).await.is_err() {
                break;
            }
        }
    });
    Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", accept)
        .body(full(""))
        .unwrap()
}
