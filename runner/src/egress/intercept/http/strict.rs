//! HTTP/1 from the guest, one message at a time: a head whose framing two readers could understand
//! differently never reaches the server's code, and nothing behind it does.
//!
//! What passes is read by hyper and written anew towards the server, so that the framing there is ours.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::head::{Framing, MAX_HEAD, framing};

/// Most bytes of a line with the size of a chunk.
const MAX_SIZE_LINE: usize = 256;
/// Most bytes of trailers.
const MAX_TRAILERS: usize = 16 << 10;
/// Bytes read from the guest at once.
const READ: usize = 16 << 10;

const UNDECIDED: u8 = 0;
const CHANGED: u8 = 1;
const DECLINED: u8 = 2;

/// What the reader of a connection and its service tell each other.
#[derive(Default)]
pub(super) struct Gate {
    /// Whether the server changed the protocol.
    decision: AtomicU8,
    waker: AtomicWaker,
    refusal: Mutex<Option<String>>,
}

impl Gate {
    /// The server changed the protocol: what follows is no HTTP.
    pub(super) fn changed(&self) {
        self.decide(CHANGED);
    }

    /// It did not: the next message follows.
    pub(super) fn declined(&self) {
        self.decide(DECLINED);
    }

    fn decide(&self, decision: u8) {
        self.decision.store(decision, Ordering::Release);
        self.waker.wake();
    }

    /// Why the head that stands for this one was refused.
    pub(super) fn refusal(&self, path: &str) -> Option<String> {
        if path == REFUSED { self.cut() } else { None }
    }

    /// Why the rest of a message was refused, if it was.
    pub(super) fn cut(&self) -> Option<String> {
        self.refusal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn refuse(&self, why: String) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }
}

/// Path of the request that stands for a refused one. Another with this path finds no reason and is a
/// request like any.
const REFUSED: &str = "/.mayfly-refused";
/// The request itself.
const STAND_IN: &[u8] =
    b"GET /.mayfly-refused HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

enum State {
    Head,
    /// Bytes of a body that are still to come.
    Body(u64),
    Size,
    /// Bytes of a chunk, its line end included.
    Chunk(u64),
    Trailers,
    /// After a head that asks for another protocol.
    Asked,
    /// Another protocol.
    Tunnel,
    /// After a refusal.
    Closed,
}

/// A guest's stream of HTTP/1 messages.
pub(super) struct Strict<S> {
    inner: S,
    gate: Arc<Gate>,
    state: State,
    /// Read from the guest and not yet looked at.
    input: Vec<u8>,
    /// Looked at and not yet taken.
    ready: Vec<u8>,
    taken: usize,
    /// Where the search for the end of the present part goes on.
    searched: usize,
}

impl<S> Strict<S> {
    pub(super) fn new(inner: S, gate: Arc<Gate>) -> Self {
        Self {
            inner,
            gate,
            state: State::Head,
            input: Vec::new(),
            ready: Vec::new(),
            taken: 0,
            searched: 0,
        }
    }

    /// Moves what may pass from `input` to `ready`; says whether more must be read first.
    fn advance(&mut self) -> Result<(), String> {
        while self.ready.is_empty() && !self.input.is_empty() {
            let before = (self.input.len(), std::mem::discriminant(&self.state));
            match self.state {
                State::Head => self.head()?,
                State::Body(left) => {
                    let left = left - self.pass(left);
                    self.state = if left == 0 {
                        State::Head
                    } else {
                        State::Body(left)
                    };
                }
                State::Size => self.size()?,
                State::Chunk(left) => {
                    let left = left - self.pass(left);
                    self.state = if left == 0 {
                        State::Size
                    } else {
                        State::Chunk(left)
                    };
                }
                State::Trailers => self.trailers()?,
                State::Asked => return Ok(()),
                State::Tunnel => {
                    self.pass(u64::MAX);
                }
                State::Closed => self.input.clear(),
            }
            if before == (self.input.len(), std::mem::discriminant(&self.state)) {
                // The present part is not whole.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Lets at most `most` bytes pass; gives how many.
    fn pass(&mut self, most: u64) -> u64 {
        let count = usize::try_from(most)
            .unwrap_or(usize::MAX)
            .min(self.input.len());
        self.ready.extend(self.input.drain(..count));
        self.searched = 0;
        count as u64
    }

    fn head(&mut self) -> Result<(), String> {
        // Line ends between messages are allowed; a few.
        while self.ready.is_empty() && self.input.starts_with(b"\r\n") && self.searched < 8 {
            self.input.drain(..2);
            self.searched += 2;
        }
        let Some(end) = self.find(b"\r\n\r\n", MAX_HEAD, "the head of the request")? else {
            return Ok(());
        };
        let framing = framing(&self.input[..end])?;
        self.pass(end as u64);
        self.state = match framing {
            Framing::Length(0) => State::Head,
            Framing::Length(length) => State::Body(length),
            Framing::Chunked => State::Size,
            Framing::Upgrade => {
                self.gate.decision.store(UNDECIDED, Ordering::Release);
                State::Asked
            }
        };
        Ok(())
    }

    fn size(&mut self) -> Result<(), String> {
        let Some(end) = self.find(b"\r\n", MAX_SIZE_LINE, "the size of a chunk")? else {
            return Ok(());
        };
        let line = &self.input[..end - 2];
        let digits = line
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let number = std::str::from_utf8(&line[..digits]).unwrap_or_default();
        let size = u64::from_str_radix(number, 16);
        let rest = line.get(digits).copied();
        // An extension may follow; it is not passed on.
        if digits > 15
            || !matches!(rest, None | Some(b';' | b' ' | b'\t'))
            || line.contains(&b'\n')
            || line.contains(&b'\r')
        {
            return Err("the size of a chunk is no hexadecimal number".to_owned());
        }
        let size = size.map_err(|_| "a chunk has no size".to_owned())?;
        self.input.drain(..end);
        self.searched = 0;
        self.ready
            .extend_from_slice(format!("{size:x}\r\n").as_bytes());
        self.state = if size == 0 {
            State::Trailers
        } else {
            State::Chunk(size + 2)
        };
        Ok(())
    }

    fn trailers(&mut self) -> Result<(), String> {
        if self.input.starts_with(b"\r\n") {
            self.pass(2);
            self.state = State::Head;
            return Ok(());
        }
        let Some(end) = self.find(b"\r\n\r\n", MAX_TRAILERS, "the trailers of the request")? else {
            return Ok(());
        };
        self.pass(end as u64);
        self.state = State::Head;
        Ok(())
    }

    /// Where the first `mark` ends, if it is there; an error when it is not within `most` bytes.
    fn find(&mut self, mark: &[u8], most: usize, what: &str) -> Result<Option<usize>, String> {
        let from = self
            .searched
            .saturating_sub(mark.len())
            .min(self.input.len());
        let found = self.input[from..]
            .windows(mark.len())
            .position(|window| window == mark);
        if let Some(found) = found
            && from + found + mark.len() <= most
        {
            return Ok(Some(from + found + mark.len()));
        }
        self.searched = self.input.len();
        if self.input.len() > most {
            return Err(format!("{what} is longer than {most} bytes"));
        }
        Ok(None)
    }

    fn refuse(&mut self, why: String) {
        self.gate.refuse(why);
        self.input.clear();
        self.ready = STAND_IN.to_vec();
        self.taken = 0;
        self.state = State::Closed;
    }

    fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let left = &self.ready[self.taken..];
        if left.is_empty() {
            return false;
        }
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..count]);
        self.taken += count;
        if self.taken == self.ready.len() {
            self.ready.clear();
            self.taken = 0;
        }
        true
    }
}

impl<S: AsyncRead + Unpin> Strict<S> {
    /// Reads more from the guest; says whether there was any.
    fn fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut bytes = [0; READ];
        let mut buffer = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer))?;
        self.input.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(!buffer.filled().is_empty()))
    }

    /// Waits until it is known which protocol goes on.
    fn decided(&mut self, context: &mut Context<'_>) -> bool {
        self.gate.waker.register(context.waker());
        match self.gate.decision.load(Ordering::Acquire) {
            CHANGED => self.state = State::Tunnel,
            DECLINED => self.state = State::Head,
            _ => return false,
        }
        true
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.give(buffer) || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if matches!(self.state, State::Closed) {
                return Poll::Ready(Ok(()));
            }
            if matches!(self.state, State::Asked) && !self.decided(context) {
                return Poll::Pending;
            }
            if let Err(why) = self.advance() {
                self.refuse(why);
            }
            if self.ready.is_empty() && !matches!(self.state, State::Closed | State::Asked) {
                // The end in the midst of a message is hyper's to tell.
                if !ready!(self.fill(context))? {
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
