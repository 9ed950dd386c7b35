//! What interception adds to a request, and what an intercepted connection costs in memory. Client, worker
//! and server are this process, on loopback; runs no guest.
//!
//! `cargo bench -p mayfly-tests --bench interception [-- --json]`.

use std::{
    convert::Infallible,
    fs,
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::SendRequest,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use mayfly::egress::intercept::{
    Authority, Interceptor, Judge, Note, RequestHead, Target, Verdict, secrets::Bindings,
};
use mayfly_tests::{conditions::Host, measured, spread::Spread};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Requests on one connection, and connections, that are timed.
const REQUESTS: usize = 500;
const CONNECTIONS: usize = 100;
/// Connections that are open at a time for the figure of memory.
const OPEN: usize = 200;

const NAME: &str = "bench.example.com";
/// A secret to search for, as a job has one.
const SECRET: &str = "ghs_0123456789abcdefghijklmnopqrstuvwxyz";

#[derive(Debug, Serialize)]
struct Report {
    host: Host,
    /// A request on a connection that is there.
    kept_direct_ms: Spread,
    kept_intercepted_ms: Spread,
    /// A request on a new connection, handshakes included.
    new_direct_ms: Spread,
    new_intercepted_ms: Spread,
    /// What the worker adds to an open connection that had one request.
    memory_kib: f64,
}

/// Lets all pass.
struct Everything;

impl Judge for Everything {
    fn request(&self, _: &RequestHead<'_>) -> Verdict {
        Verdict::Allow
    }

    fn note(&self, note: Note) {
        eprintln!("{note}");
    }
}

fn main() -> ExitCode {
    measured::tell(measure(), print)
}

fn print(report: &Report) {
    println!("{}", report.host);
    println!(
        "client, worker and server in one process on loopback, HTTP/1.1, TLS 1.3, answers of 1 KiB, one bound secret"
    );
    println!(
        "{:<42} {:>12} {:>12} {:>12}",
        "a request (median, ms)", "direct", "intercepted", "added"
    );
    for (what, direct, intercepted) in [
        (
            "on a connection that is there",
            &report.kept_direct_ms,
            &report.kept_intercepted_ms,
        ),
        (
            "on a new connection",
            &report.new_direct_ms,
            &report.new_intercepted_ms,
        ),
    ] {
        let added = intercepted.median - direct.median;
        println!(
            "{what:<42} {:>12.3} {:>12.3} {added:>12.3}",
            direct.median, intercepted.median
        );
    }
    println!(
        "{:<42} {:>12.1} KiB",
        "worker's memory for an idle connection", report.memory_kib
    );
}

async fn measure() -> Result<Report> {
    let root = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&root)?.der().clone();
    let server = serve(&Issuer::new(params, root)).await?;
    let binding = toml::from_str("hosts = \"api.example.com\"")?;
    let bindings = Bindings::new([("TOKEN".to_owned(), SECRET.into(), binding)])?;
    let authority = Authority::draw(None)?;
    let guests = authority.der().clone();
    let interceptor = Interceptor::new(
        authority,
        std::slice::from_ref(&certificate),
        Arc::new(bindings),
    )?;
    let worker = intercept(Arc::new(interceptor), server).await?;
    let direct = Way::new(server, certificate)?;
    let intercepted = Way::new(worker, guests)?;
    // Both take turns, so that the machine's mood is the same for both.
    let (mut new_direct, mut new_intercepted) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        new_direct.push(direct.new_connection().await?);
        new_intercepted.push(intercepted.new_connection().await?);
    }
    let (mut kept_direct, mut kept_intercepted) = (Vec::new(), Vec::new());
    let (mut one, mut other) = (direct.connect().await?, intercepted.connect().await?);
    for _ in 0..REQUESTS {
        kept_direct.push(request(&mut one).await?);
        kept_intercepted.push(request(&mut other).await?);
    }
    let (without, with) = (direct.memory().await?, intercepted.memory().await?);
    Ok(Report {
        host: Host::here(),
        kept_direct_ms: Spread::of(kept_direct),
        kept_intercepted_ms: Spread::of(kept_intercepted),
        new_direct_ms: Spread::of(new_direct),
        new_intercepted_ms: Spread::of(new_intercepted),
        memory_kib: (with - without) / OPEN as f64,
    })
}

type Client = SendRequest<Empty<Bytes>>;

/// A way to the server.
struct Way {
    to: SocketAddr,
    connector: TlsConnector,
}

impl Way {
    fn new(to: SocketAddr, trusted: CertificateDer<'static>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { to, connector })
    }

    async fn connect(&self) -> Result<Client> {
        let stream = TcpStream::connect(self.to).await?;
        stream.set_nodelay(true)?;
        let stream = self
            .connector
            .connect(ServerName::try_from(NAME)?, stream)
            .await?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn new_connection(&self) -> Result<Duration> {
        let begun = Instant::now();
        request(&mut self.connect().await?).await?;
        Ok(begun.elapsed())
    }

    /// Memory, in KiB, that open connections add to this process.
    async fn memory(&self) -> Result<f64> {
        let before = resident()?;
        let mut open = Vec::new();
        for _ in 0..OPEN {
            let mut client = self.connect().await?;
            request(&mut client).await?;
            open.push(client);
        }
        let after = resident()?;
        drop(open);
        Ok(after - before)
    }
}

async fn request(client: &mut Client) -> Result<Duration> {
    let begun = Instant::now();
    client.ready().await?;
    let request = Request::get("/").header("host", NAME).body(Empty::new())?;
    let answer = client.send_request(request).await?;
    ensure!(answer.status() == 200, "{}", answer.status());
    answer.into_body().collect().await?;
    Ok(begun.elapsed())
}

fn resident() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("VmRSS")?.parse()?)
}

/// A server of answers of 1 KiB.
async fn serve(issuer: &Issuer<'_, KeyPair>) -> Result<SocketAddr> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new([NAME.to_owned()])?.signed_by(&key, issuer)?;
    let der = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], der)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(async |_: Request<Incoming>| {
                    let body = Full::new(Bytes::from_static(&[b'x'; 1024]));
                    Ok::<_, Infallible>(Response::new(body))
                });
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(address)
}

/// The worker between them.
async fn intercept(interceptor: Arc<Interceptor>, server: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((guest, _)) = listener.accept().await {
            let interceptor = Arc::clone(&interceptor);
            let _ = guest.set_nodelay(true);
            tokio::spawn(async move {
                let Ok(upstream) = TcpStream::connect(server).await else {
                    return;
                };
                let _ = upstream.set_nodelay(true);
                let target = Target::new(NAME, 443);
                let carried = interceptor
                    .carry(guest, upstream, target, Arc::new(Everything))
                    .await;
                if let Err(error) = carried {
                    eprintln!("{error}");
                }
            });
        }
    });
    Ok(address)
}
