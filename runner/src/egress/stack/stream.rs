//! A TCP connection of the guest in the hands of who accepted it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Connection;
use super::incoming::AcceptError;

/// A TCP connection of the guest.
///
/// Reading slows the guest down: its window is what was not read yet. `shutdown` ends the direction to
/// the guest and leaves the other open. Dropped after `shutdown`, the rest is still sent; dropped
/// before, the guest sees a reset.
#[derive(Debug)]
pub struct GuestStream {
    connection: Arc<Connection>,
    abort: bool,
}

impl GuestStream {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        let abort = false;
        Self { connection, abort }
    }

    pub(super) async fn established(&self) -> Result<(), AcceptError> {
        poll_fn(|cx| self.connection.poll_established(cx)).await
    }

    /// Hands bytes of the guest to `take` without a copy, which says how many it took; 0 bytes are the
    /// end. What `take` does not take stays.
    ///
    /// # Errors
    /// What `take` says, or that the connection is broken.
    pub async fn take_with(
        &self,
        mut take: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        poll_fn(|cx| self.connection.poll_take(cx, &mut take)).await
    }

    /// Has `fill` write bytes for the guest in their place, and say how many.
    ///
    /// # Errors
    /// What `fill` says, or that the connection is broken.
    pub async fn fill_with(
        &self,
        mut fill: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        poll_fn(|cx| self.connection.poll_fill(cx, &mut fill)).await
    }

    /// Ends the direction to the guest, as `shutdown` does, without waiting.
    pub fn finish(&self) {
        self.connection.finish();
    }

    /// Has the guest see a reset.
    pub fn reset(mut self) {
        self.abort = true;
    }
}

impl Drop for GuestStream {
    fn drop(&mut self) {
        self.connection.leave(self.abort);
    }
}

impl AsyncRead for GuestStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let read = self.connection.poll_take(cx, |bytes| {
            let length = bytes.len().min(buffer.remaining());
            buffer.put_slice(&bytes[..length]);
            Ok(length)
        });
        read.map_ok(|_| ())
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.connection.poll_fill(cx, |room| {
            let length = room.len().min(bytes.len());
            room[..length].copy_from_slice(&bytes[..length]);
            Ok(length)
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.finish();
        Poll::Ready(Ok(()))
    }
}
