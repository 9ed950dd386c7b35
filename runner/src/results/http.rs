//! HTTP over the streams of a sandbox: connections, their limits, and bodies of both directions.

use std::{
    convert::Infallible,
    future::Future,
    io::{self, Read},
    os::unix::fs::FileExt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, mpsc},
    task::{JoinSet, spawn_blocking},
    time::timeout,
};

use super::{
    blobs::{BlobReader, Upload},
    service::JobService,
};
use crate::sandbox::agent::AgentClient;

/// Most connections of one sandbox at the same time.
const CONNECTIONS: usize = 32;
/// How long the head of a request may take, and a connection may be idle.
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// How long a piece of a body may take.
const PIECE_LIMIT: Duration = Duration::from_secs(120);
/// Most bytes of a request's head.
const HEAD_BYTES: usize = 32 << 10;
/// How long to wait before the next attempt where a connection could not be had.
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes of a file that are sent at once, and how many such pieces may wait.
const PIECE: usize = 128 << 10;
const PIECES: usize = 4;

/// Answers all connections that steps of one sandbox open, until it is dropped.
pub async fn serve(agent: AgentClient, service: Arc<JobService>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match agent.accept(place).await {
            Ok(stream) => {
                let service = Arc::clone(&service);
                connections.spawn(connection(stream, service));
            }
            Err(error) => {
                // The sandbox may have had no process to spare; when it is gone, so is this task.
                tracing::debug!(%error, "no connection of a step could be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers the requests of one connection.
pub async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: Arc<JobService>,
) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let service = Arc::clone(&service);
        async move { Ok::<Response<Content>, Infallible>(service.answer(request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of a step to the services broke off");
    }
}

/// Why a body did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Longer than is taken, or of another length than announced.
    #[error("the body is too long or has another length than was announced")]
    Length,
    /// It came too slowly, or not to its end.
    #[error("the body did not arrive")]
    Broken,
    /// The disk.
    #[error("writing the body: {0}")]
    Io(#[source] io::Error),
}

/// Reads a small body.
///
/// # Errors
/// [`BodyError`].
pub async fn small(body: Incoming, limit: usize) -> Result<Bytes, BodyError> {
    let collected = timeout(PIECE_LIMIT, Limited::new(body, limit).collect()).await;
    let collected = collected.map_err(|_| BodyError::Broken)?;
    Ok(collected.map_err(|_| BodyError::Length)?.to_bytes())
}

/// Writes a body of exactly `length` bytes at `offset` of an upload.
///
/// # Errors
/// [`BodyError`]; the range is of no use then.
pub async fn receive(
    mut body: Incoming,
    upload: &Upload,
    mut offset: u64,
    length: u64,
) -> Result<(), BodyError> {
    let mut left = length;
    loop {
        let frame = timeout(PIECE_LIMIT, body.frame()).await;
        let Some(frame) = frame.map_err(|_| BodyError::Broken)? else {
            break;
        };
        let Ok(piece) = frame.map_err(|_| BodyError::Broken)?.into_data() else {
            continue;
        };
        let size = piece.len() as u64;
        left = left.checked_sub(size).ok_or(BodyError::Length)?;
        let file = upload.file();
        let written = spawn_blocking(move || file.write_all_at(&piece, offset)).await;
        written
            .map_err(|error| BodyError::Io(io::Error::other(error)))?
            .map_err(BodyError::Io)?;
        offset += size;
    }
    match left {
        0 => Ok(()),
        _ => Err(BodyError::Length),
    }
}

/// The body of an answer.
#[derive(Debug)]
pub enum Content {
    /// All of it.
    Whole(Option<Bytes>),
    /// What a thread reads from a file.
    Pieces {
        /// Pieces of it.
        from: mpsc::Receiver<io::Result<Bytes>>,
        /// How much is to come.
        left: u64,
    },
}

impl Content {
    /// A body that is in memory.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()))
    }

    /// A body of `length` bytes that is read while it is sent.
    #[must_use]
    pub fn read(mut reader: BlobReader, length: u64) -> Self {
        let (to, from) = mpsc::channel(PIECES);
        spawn_blocking(move || {
            loop {
                let mut piece = vec![0; PIECE];
                let read = reader.read(&mut piece);
                let ended = !matches!(read, Ok(1..));
                if matches!(read, Ok(0)) {
                    break;
                }
                let piece = read.map(|read| {
                    piece.truncate(read);
                    Bytes::from(piece)
                });
                if to.blocking_send(piece).is_err() || ended {
                    break;
                }
            }
        });
        Self::Pieces { from, left: length }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pieces { from, left } => from.poll_recv(context).map(|piece| {
                piece.map(|piece| {
                    piece.map(|bytes| {
                        *left = left.saturating_sub(bytes.len() as u64);
                        Frame::data(bytes)
                    })
                })
            }),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Pieces { left, .. } => SizeHint::with_exact(*left),
        }
    }
}

/// A server that ends when this is dropped.
#[derive(Debug)]
pub struct Server(tokio::task::JoinHandle<()>);

impl Server {
    /// Runs a server until it is dropped.
    pub fn start(serving: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(serving))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}
