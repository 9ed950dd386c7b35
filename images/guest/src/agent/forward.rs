//! Carries connections of steps to the worker, by TCP or at a Unix socket, one for each `Accept` request.
//!
//! Memory is bounded: each direction reads only when its last piece is on its way. The worker keeps
//! its end open until this side closed, so that a hang-up of it always means that it gave up.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use super::{Connection, ConnectionError, connection::PIECE};
use crate::wire::{Answer, Frame, FrameKind, encode};

/// Where steps open the connections that are carried. Several processes accept from it, and another one
/// may take the connection that woke this one, so nothing of it blocks.
#[derive(Debug)]
pub struct Forward {
    tcp: TcpListener,
    unix: Option<UnixListener>,
}

impl Forward {
    /// Listens on an address.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn listen(address: SocketAddr) -> io::Result<Self> {
        let tcp = TcpListener::bind(address)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { tcp, unix: None })
    }

    /// Listens at a Unix socket, too, which everybody in the machine may use. Its folder is made.
    ///
    /// # Errors
    /// The folder or the socket cannot be made.
    pub fn add_socket(&mut self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        let unix = UnixListener::bind(path)?;
        unix.set_nonblocking(true)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        self.unix = Some(unix);
        Ok(())
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// The kernel does not tell it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    fn accept(&self, from_unix: bool) -> io::Result<Stream> {
        match &self.unix {
            Some(unix) if from_unix => Ok(Stream::Unix(unix.accept()?.0)),
            _ => Ok(Stream::Tcp(self.tcp.accept()?.0)),
        }
    }
}

/// A connection of a step.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(true),
            Self::Unix(stream) => stream.set_nonblocking(true),
        }
    }

    fn end_writing(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// Waits for a connection and carries it until both sides ended, or either gave up.
pub(super) fn serve(connection: &mut Connection, forward: &Forward) -> Result<(), ConnectionError> {
    let Some(stream) = wait(connection, forward)? else {
        return Ok(());
    };
    connection.answer(&Answer::Accepted)?;
    stream.set_nonblocking()?;
    Carrier::new(connection, stream).run()
}

/// Waits for a connection; `None` when the worker wants none any more.
fn wait(connection: &mut Connection, forward: &Forward) -> Result<Option<Stream>, ConnectionError> {
    loop {
        let mut fds = vec![
            PollFd::new(connection, PollFlags::IN | PollFlags::RDHUP),
            PollFd::new(&forward.tcp, PollFlags::IN),
        ];
        if let Some(unix) = &forward.unix {
            fds.push(PollFd::new(unix, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let happened = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let (worker, tcp, unix) = (happened(0), happened(1), happened(2));
        drop(fds);
        if worker {
            if !connection.try_fill()? {
                return Ok(None);
            }
            if let Some(frame) = connection.decoded()? {
                return Err(ConnectionError::Unexpected(frame.kind));
            }
        }
        if tcp || unix {
            match forward.accept(unix && !tcp) {
                Ok(stream) => return Ok(Some(stream)),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Nobody is there, or not any more.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    let kind = error.kind();
    matches!(
        kind,
        WouldBlock | Interrupted | ConnectionAborted | ConnectionReset
    )
}

/// A connection on its way between a step and the worker.
struct Carrier<'a> {
    connection: &'a mut Connection,
    stream: Stream,
    /// Bytes for the step: what one read of the worker's stream held.
    to_stream: Vec<u8>,
    written: usize,
    /// The worker sends no more.
    worker_ended: bool,
    /// A frame for the worker.
    to_worker: Vec<u8>,
    sent: usize,
    /// The step sends no more.
    stream_ended: bool,
    /// The step was told that no more comes.
    shut: bool,
}

impl<'a> Carrier<'a> {
    fn new(connection: &'a mut Connection, stream: Stream) -> Self {
        Self {
            connection,
            stream,
            to_stream: Vec::new(),
            written: 0,
            worker_ended: false,
            to_worker: Vec::new(),
            sent: 0,
            stream_ended: false,
            shut: false,
        }
    }

    fn run(mut self) -> Result<(), ConnectionError> {
        // What came together with an earlier frame is in the decoder already.
        self.take_frames()?;
        loop {
            if self.is_over() {
                return Ok(());
            }
            let (worker, stream) = self.poll()?;
            if worker.intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR) {
                return Err(ConnectionError::Closed);
            }
            if worker.contains(PollFlags::IN) && self.to_stream.is_empty() {
                if !self.connection.try_fill()? {
                    return Err(ConnectionError::Closed);
                }
                self.take_frames()?;
            }
            // A step that reset its connection wants neither direction any more.
            if !stream.is_empty() && self.exchange().is_err() {
                return Ok(());
            }
            if !self.to_worker.is_empty() {
                self.send()?;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.shut && self.stream_ended && self.to_worker.is_empty()
    }

    /// Waits for what can happen next; what happened at the worker's and at the step's side.
    fn poll(&self) -> Result<(PollFlags, PollFlags), ConnectionError> {
        let when = |wanted, flag| if wanted { flag } else { PollFlags::empty() };
        let worker = PollFlags::RDHUP
            | when(self.to_stream.is_empty(), PollFlags::IN)
            | when(!self.to_worker.is_empty(), PollFlags::OUT);
        let stream =
            when(self.may_read(), PollFlags::IN) | when(!self.to_stream.is_empty(), PollFlags::OUT);
        let mut fds = vec![PollFd::new(self.connection, worker)];
        if !stream.is_empty() {
            fds.push(PollFd::new(&self.stream, stream));
        }
        match poll(&mut fds, None) {
            Ok(_) => Ok((
                fds[0].revents(),
                fds.get(1).map_or(PollFlags::empty(), PollFd::revents),
            )),
            Err(Errno::INTR) => Ok((PollFlags::empty(), PollFlags::empty())),
            Err(errno) => Err(errno.into()),
        }
    }

    fn may_read(&self) -> bool {
        !self.stream_ended && self.to_worker.is_empty()
    }

    /// Takes the frames that arrived whole.
    fn take_frames(&mut self) -> Result<(), ConnectionError> {
        while let Some(Frame { kind, payload }) = self.connection.decoded()? {
            match kind {
                FrameKind::Data if !self.worker_ended => self.to_stream.extend(payload),
                FrameKind::End if !self.worker_ended => self.worker_ended = true,
                kind => return Err(ConnectionError::Unexpected(kind)),
            }
        }
        // A step that is gone shows when it is read or written next.
        let _ = self.shut_if_done();
        Ok(())
    }

    fn shut_if_done(&mut self) -> io::Result<()> {
        if self.worker_ended && self.to_stream.is_empty() && !self.shut {
            self.shut = true;
            self.stream.end_writing()?;
        }
        Ok(())
    }

    /// Writes what the step takes, and reads one piece of what it sends.
    fn exchange(&mut self) -> io::Result<()> {
        if !self.to_stream.is_empty() {
            self.written += now(self.stream.write(&self.to_stream[self.written..]))?.unwrap_or(0);
            if self.written == self.to_stream.len() {
                self.to_stream.clear();
                self.written = 0;
            }
            self.shut_if_done()?;
        }
        if self.may_read() {
            let mut piece = [0; PIECE];
            match now(self.stream.read(&mut piece))? {
                None => {}
                Some(0) => {
                    self.stream_ended = true;
                    self.to_worker = encode(FrameKind::End, b"");
                }
                Some(length) => self.to_worker = encode(FrameKind::Data, &piece[..length]),
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), ConnectionError> {
        self.sent += self.connection.try_send(&self.to_worker[self.sent..])?;
        if self.sent == self.to_worker.len() {
            self.to_worker.clear();
            self.sent = 0;
        }
        Ok(())
    }
}

/// What could be done at once; `None` when nothing could.
fn now(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(length) => Ok(Some(length)),
        Err(error) if is_passing_now(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_passing_now(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
