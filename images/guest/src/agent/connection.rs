//! The agent's end of a connection: blocking frames, and data streams as `Read` and `Write`.

use std::{
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown},
};
use thiserror::Error;

use crate::wire::{
    Answer, Decoder, Frame, FrameError, FrameKind, MessageError, Request, RequestAssembler, encode,
    encode_answer, hello,
};

/// How long a peer may take from connecting to the end of its request.
const REQUEST_TIME: Duration = Duration::from_secs(30);
/// How long the last bytes may take to be read by the peer.
const LINGER: Duration = Duration::from_secs(5);
/// Largest data frame that the agent sends, and largest single read.
pub(super) const PIECE: usize = 64 << 10;

/// Why a connection cannot go on.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The socket failed.
    #[error("the connection to the worker failed: {0}")]
    Io(#[from] io::Error),
    /// The worker closed it.
    #[error("the worker closed the connection")]
    Closed,
    /// The worker sent no request in time.
    #[error("the worker sent no whole request within {} s", REQUEST_TIME.as_secs())]
    Slow,
    /// Not this protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A request that is none, or out of bounds.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A frame that has no place there.
    #[error("a {0:?} frame has no place there")]
    Unexpected(FrameKind),
}

impl From<Errno> for ConnectionError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// A stream to the worker.
#[derive(Debug)]
pub struct Connection {
    stream: OwnedFd,
    decoder: Decoder,
}

impl Connection {
    /// Takes over a connected stream socket and says hello.
    ///
    /// # Errors
    /// The socket failed.
    pub fn open(stream: OwnedFd) -> Result<Self, ConnectionError> {
        let mut connection = Self {
            stream,
            decoder: Decoder::new(),
        };
        connection.send_bytes(&hello())?;
        Ok(connection)
    }

    /// Waits for the request, for a limited time.
    ///
    /// # Errors
    /// Any of [`ConnectionError`].
    pub fn request(&mut self) -> Result<Request, ConnectionError> {
        let deadline = Instant::now() + REQUEST_TIME;
        let mut assembler = RequestAssembler::default();
        loop {
            let frame = self.receive(Some(deadline))?;
            let mut frame = frame.ok_or(ConnectionError::Closed)?;
            let taken = assembler.take(frame.kind, &frame.payload);
            zeroize::Zeroize::zeroize(&mut frame.payload);
            if let Some(request) = taken? {
                return Ok(request);
            }
        }
    }

    /// As [`Self::request`]; what is no request is answered with the reason.
    ///
    /// # Errors
    /// Any of [`ConnectionError`].
    pub fn request_or_refuse(&mut self) -> Result<Request, ConnectionError> {
        let request = self.request();
        if let Err(error) = &request {
            // The peer may be gone, or not have been one: the first error is the one to tell.
            let _ = self.refuse(error);
        }
        request
    }

    /// Sends an answer.
    ///
    /// # Errors
    /// The socket failed.
    pub fn answer(&mut self, answer: &Answer) -> Result<(), ConnectionError> {
        self.send_bytes(&encode_answer(answer))
    }

    /// Tells the worker why not.
    ///
    /// # Errors
    /// The socket failed.
    pub fn refuse(&mut self, why: &dyn std::error::Error) -> Result<(), ConnectionError> {
        self.answer(&Answer::Refused {
            why: why.to_string(),
        })
    }

    /// Ends the stream so that the last bytes arrive: a socket closed over unread input could be
    /// reset, and the answer lost with it.
    pub fn close(self) {
        // Each failure here means that the peer is gone already, which is what we wait for.
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Write);
        let deadline = Instant::now() + LINGER;
        let mut scratch = [0; 4096];
        while self.wait_readable(Some(deadline)).is_ok() {
            match rustix::net::recv(&self.stream, &mut scratch[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(_) => break,
                Ok(_) => {}
            }
        }
    }

    /// The data that follows a request.
    pub(super) fn data(&mut self) -> DataReader<'_> {
        DataReader {
            connection: self,
            frame: Vec::new(),
            start: 0,
            ended: false,
        }
    }

    /// Where data that follows an answer goes.
    pub(super) fn sink(&mut self) -> DataWriter<'_> {
        DataWriter(self)
    }

    pub(super) fn send(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), ConnectionError> {
        self.send_bytes(&encode(kind, payload))
    }

    fn send_bytes(&mut self, mut bytes: &[u8]) -> Result<(), ConnectionError> {
        while !bytes.is_empty() {
            match rustix::net::send(&self.stream, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Sends what fits now; zero when nothing does.
    pub(super) fn try_send(&self, bytes: &[u8]) -> Result<usize, ConnectionError> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::net::send(&self.stream, bytes, flags) {
            Ok(sent) => Ok(sent),
            Err(Errno::INTR | Errno::AGAIN) => Ok(0),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads what is there into the decoder; `false` at the end of the stream.
    pub(super) fn try_fill(&mut self) -> Result<bool, ConnectionError> {
        let mut bytes = [0; 16 << 10];
        match rustix::net::recv(&self.stream, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Ok(false),
            Ok((_, length)) => {
                self.decoder.push(&bytes[..length]);
                Ok(true)
            }
            Err(Errno::INTR | Errno::AGAIN) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A frame that arrived whole already.
    pub(super) fn decoded(&mut self) -> Result<Option<Frame>, ConnectionError> {
        Ok(self.decoder.next_frame()?)
    }

    /// Waits for a frame; `None` at the end of the stream.
    fn receive(&mut self, deadline: Option<Instant>) -> Result<Option<Frame>, ConnectionError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            self.wait_readable(deadline)?;
            if !self.try_fill()? {
                self.decoder.finish()?;
                return Ok(None);
            }
        }
    }

    fn wait_readable(&self, deadline: Option<Instant>) -> Result<(), ConnectionError> {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.map(timespec);
            let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) => return Err(ConnectionError::Slow),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A duration as poll(2) takes it.
pub(super) fn timespec(time: Duration) -> Timespec {
    // Every caller's time is seconds to minutes, so neither part can be out of range.
    Timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

/// The `Data` frames of a request, up to its `End`.
#[derive(Debug)]
pub(super) struct DataReader<'a> {
    connection: &'a mut Connection,
    frame: Vec<u8>,
    start: usize,
    ended: bool,
}

impl DataReader<'_> {
    /// The answer to a request that consumed this stream: `Done` only if it came whole.
    pub(super) fn finish(mut self, result: Result<(), String>) -> Result<Answer, String> {
        result?;
        // tar streams are followed by padding that an unpacker need not read.
        io::copy(&mut self, &mut io::sink()).map_err(|error| error.to_string())?;
        Ok(Answer::Done)
    }

    fn refill(&mut self) -> Result<(), ConnectionError> {
        zeroize::Zeroize::zeroize(&mut self.frame);
        self.start = 0;
        let frame = self.connection.receive(None)?;
        let frame = frame.ok_or(ConnectionError::Closed)?;
        match frame.kind {
            FrameKind::Data => self.frame = frame.payload,
            FrameKind::End => self.ended = true,
            kind => return Err(ConnectionError::Unexpected(kind)),
        }
        Ok(())
    }
}

impl Read for DataReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended && self.start == self.frame.len() {
            self.refill()
                .map_err(|error| io::Error::other(error.to_string()))?;
        }
        let read = (&self.frame[self.start..]).read(buffer)?;
        self.start += read;
        Ok(read)
    }
}

/// Cuts what is written into `Data` frames.
#[derive(Debug)]
pub(super) struct DataWriter<'a>(&'a mut Connection);

impl DataWriter<'_> {
    pub(super) fn end(self) -> Result<(), ConnectionError> {
        self.0.send(FrameKind::End, b"")
    }
}

impl Write for DataWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE)];
        if !piece.is_empty() {
            let sent = self.0.send(FrameKind::Data, piece);
            sent.map_err(|error| io::Error::other(error.to_string()))?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
