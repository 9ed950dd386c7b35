//! The HTTP listener of `/metrics`, `/healthz` and `/readyz`: few connections, each short.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

use super::{Metrics, lacking};
use crate::supervisor::state::State;

/// Most connections at the same time; others wait in the kernel.
pub(super) const CONNECTIONS: usize = 16;
/// How long the head of a request may take.
const HEAD_LIMIT: Duration = Duration::from_secs(3);
/// How long a connection may take in all. Prometheus gives a scrape up 10 s after it began.
const LIMIT: Duration = Duration::from_secs(10);
/// Most bytes of a request's head.
const HEAD_BYTES: usize = 16 << 10;
/// How long to wait where the kernel gives no connection, as when descriptors are short.
const PAUSE: Duration = Duration::from_millis(200);

/// Why the listener did not come up.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} for metrics: {cause}; is it taken? choose another in [metrics]"
)]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    cause: io::Error,
}

/// A bound address that answers nobody yet.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Takes the address; port 0 is any free one.
    ///
    /// # Errors
    /// [`ListenError`] when the address is not to be had.
    pub async fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let failed = |cause| ListenError { address, cause };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// The address, with its real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the task is dropped.
    pub async fn serve(self, metrics: Arc<Metrics>, state: Arc<State>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (metrics, state) = (Arc::clone(&metrics), Arc::clone(&state));
                    tokio::spawn(connection(stream, metrics, state, place));
                }
                Err(error) => {
                    tracing::debug!(%error, "no connection for metrics could be accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    metrics: Arc<Metrics>,
    state: Arc<State>,
    _place: OwnedSemaphorePermit,
) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &metrics, &state);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    match timeout(LIMIT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics broke off"),
        Err(_) => tracing::debug!("a connection for metrics was too slow"),
    }
}

fn answer(method: &Method, path: &str, metrics: &Metrics, state: &State) -> Response<Full<Bytes>> {
    const PLAIN: &str = "text/plain; charset=utf-8";
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refused = response(
            StatusCode::METHOD_NOT_ALLOWED,
            PLAIN,
            "GET or HEAD\n".into(),
        );
        let allowed = hyper::header::HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(ALLOW, allowed);
        return refused;
    }
    match path {
        "/metrics" => match metrics.text(&state.view()) {
            Ok(text) => response(StatusCode::OK, prometheus::TEXT_FORMAT, text),
            Err(error) => {
                tracing::error!(%error, "metrics cannot be written as text");
                let text = "metrics cannot be written as text; see the log\n".into();
                response(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, text)
            }
        },
        "/healthz" => response(StatusCode::OK, PLAIN, "ok\n".into()),
        "/readyz" => ready(&lacking(&state.view())),
        _ => {
            let text = "/metrics, /healthz and /readyz are here\n".into();
            response(StatusCode::NOT_FOUND, PLAIN, text)
        }
    }
}

fn ready(lacking: &[String]) -> Response<Full<Bytes>> {
    const PLAIN: &str = "text/plain; charset=utf-8";
    if lacking.is_empty() {
        return response(StatusCode::OK, PLAIN, "ready\n".into());
    }
    let mut text = String::from("not ready\n");
    for line in lacking {
        text.push_str(&crate::printable::line(line));
        text.push('\n');
    }
    response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, text)
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
