//! A stored action on its way to a sandbox, verified while it is read.

use std::{
    fs::File,
    io::{self, BufWriter},
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, DuplexStream, ReadBuf},
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::io::SyncIoBridge;

use super::{BUFFER, ReadError, whole};
use crate::action::digest::ContentDigest;

/// A tar stream that fails instead of ending if the action is damaged.
#[derive(Debug)]
pub struct Reading {
    stream: DuplexStream,
    /// `None` once it was found that the stream ended whole, or the failure was told.
    verifier: Option<JoinHandle<Result<(), ReadError>>>,
}

impl Reading {
    pub(super) fn start(file: File, digest: ContentDigest, path: PathBuf) -> Self {
        let (stream, sink) = tokio::io::duplex(BUFFER);
        let sink = BufWriter::with_capacity(BUFFER, SyncIoBridge::new(sink));
        let verifier = spawn_blocking(move || whole(file, digest, &path, sink).map(drop));
        Self {
            stream,
            verifier: Some(verifier),
        }
    }
}

impl AsyncRead for Reading {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // No more comes. Whether that is the end, the verifier tells.
        let Some(verifier) = &mut self.verifier else {
            return Poll::Ready(Ok(()));
        };
        let found = ready!(Pin::new(verifier).poll(context));
        self.verifier = None;
        Poll::Ready(match found {
            Ok(Ok(())) => Ok(()),
            Ok(Err(damaged)) => Err(io::Error::new(io::ErrorKind::InvalidData, damaged)),
            Err(stopped) => Err(io::Error::other(stopped)),
        })
    }
}
