//! Carries a running process's streams, signals and end over its connection, in one poll loop.
//!
//! Memory is bounded: output is read only when the last piece is on its way, so a slow worker
//! slows the process down; standard input is bounded by its credit.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::process::ExitStatusExt},
    process::{ChildStderr, ChildStdin, ChildStdout},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, Signal},
};

use super::{
    Connection, ConnectionError,
    connection::{PIECE, timespec},
    exec::Started,
};
use crate::wire::{Answer, ExitStatus, Frame, FrameKind, STDIN_WINDOW, encode, encode_answer};

/// After the process ended, how long its descendants may be silent before its output counts as
/// over: enough for the `tee` of a process substitution, little for a daemon that holds the stream.
const QUIET: Duration = Duration::from_millis(200);
/// How long a descendant that never is silent is listened to.
const CHATTER: Duration = Duration::from_secs(5);

/// A running process and its connection.
#[derive(Debug)]
pub(super) struct Pump<'a> {
    connection: &'a mut Connection,
    process: Started,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    stdin: Option<ChildStdin>,
    /// Bytes for standard input, at most [`STDIN_WINDOW`].
    to_stdin: VecDeque<u8>,
    stdin_ended: bool,
    /// Frames for the worker, at most one piece of output and small ones.
    to_worker: Vec<u8>,
    sent: usize,
    /// The worker sent a signal that ends processes.
    told_to_end: bool,
    ended: Option<Ended>,
}

/// Signals by which the worker stops a step, or a person a command.
const ENDING: [Signal; 5] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::KILL,
];

#[derive(Debug)]
struct Ended {
    status: ExitStatus,
    at: Instant,
    /// Bytes that were in the pipes at that moment: those are the process's own for certain.
    owed: u64,
}

/// Which descriptors are ready.
#[derive(Debug, Default)]
struct Ready {
    connection: bool,
    writable: bool,
    ended: bool,
    stdout: bool,
    stderr: bool,
    stdin: bool,
    nothing: bool,
}

impl<'a> Pump<'a> {
    pub(super) fn new(connection: &'a mut Connection, mut process: Started) -> Self {
        let stdout = process.child.stdout.take();
        let stderr = process.child.stderr.take();
        let stdin = process.child.stdin.take();
        Self {
            connection,
            process,
            stdout,
            stderr,
            stdin,
            to_stdin: VecDeque::new(),
            stdin_ended: false,
            to_worker: Vec::new(),
            sent: 0,
            told_to_end: false,
            ended: None,
        }
    }

    pub(super) fn answer(&mut self, answer: &Answer) {
        self.to_worker.extend(encode_answer(answer));
    }

    /// Runs until the process ended and the worker has all of it, or the connection closed.
    pub(super) fn run(&mut self) -> Result<(), ConnectionError> {
        let result = self.set_nonblocking().and_then(|()| self.carry());
        if self.ended.is_none() {
            self.kill();
        }
        if let Some(cgroup) = &self.process.cgroup {
            cgroup.remove_if_empty();
        }
        result
    }

    fn carry(&mut self) -> Result<(), ConnectionError> {
        loop {
            let ready = self.wait()?;
            if ready.connection && !self.take_frames()? {
                // The worker hung up. Before the end that kills; after it nobody listens.
                return Err(ConnectionError::Closed);
            }
            if ready.stdin {
                self.feed_stdin();
            }
            if ready.stdout || ready.stderr {
                self.take_output(&ready)?;
            }
            if ready.ended && self.ended.is_none() {
                self.note_end()?;
            }
            if !self.to_worker.is_empty() && (ready.writable || self.sent == 0) {
                self.flush()?;
            }
            if self.to_worker.is_empty()
                && let Some(status) = self.over(&ready)
            {
                return self.connection.answer(&Answer::Exited(status));
            }
        }
    }

    /// Waits for what the state of things allows to happen next.
    fn wait(&self) -> Result<Ready, ConnectionError> {
        let idle = self.to_worker.is_empty();
        let to_worker = if idle {
            PollFlags::empty()
        } else {
            PollFlags::OUT
        };
        let mut fds = vec![PollFd::new(self.connection, PollFlags::IN | to_worker)];
        let ended = self.ended.is_none().then(|| self.process.ended.as_fd());
        let stdout = self.stdout.as_ref().filter(|_| idle).map(AsFd::as_fd);
        let stderr = self.stderr.as_ref().filter(|_| idle).map(AsFd::as_fd);
        let stdin = self
            .stdin
            .as_ref()
            .filter(|_| !self.to_stdin.is_empty())
            .map(AsFd::as_fd);
        let mut slots = [None; 4];
        let watched = [
            (ended, PollFlags::IN),
            (stdout, PollFlags::IN),
            (stderr, PollFlags::IN),
            (stdin, PollFlags::OUT),
        ];
        for (slot, (fd, flags)) in slots.iter_mut().zip(watched) {
            if let Some(fd) = fd {
                *slot = Some(fds.len());
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        let timeout = (self.ended.is_some() && idle).then(|| timespec(QUIET));
        let count = match poll(&mut fds, timeout.as_ref()) {
            Ok(count) => count,
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(errno) => return Err(errno.into()),
        };
        let is = |slot: usize| slots[slot].is_some_and(|at| !fds[at].revents().is_empty());
        let connection = fds[0].revents();
        Ok(Ready {
            connection: connection.intersects(!PollFlags::OUT),
            writable: connection.contains(PollFlags::OUT),
            ended: is(0),
            stdout: is(1),
            stderr: is(2),
            stdin: is(3),
            nothing: count == 0,
        })
    }

    /// The status to tell, once the output is over too.
    fn over(&self, ready: &Ready) -> Option<ExitStatus> {
        let ended = self.ended.as_ref()?;
        let closed = self.stdout.is_none() && self.stderr.is_none();
        let silent = ready.nothing;
        let chatter = ended.owed == 0 && ended.at.elapsed() > CHATTER;
        (closed || silent || chatter).then_some(ended.status)
    }

    /// Takes what the worker sent; `false` when it closed the connection.
    fn take_frames(&mut self) -> Result<bool, ConnectionError> {
        if !self.connection.try_fill()? {
            return Ok(false);
        }
        while let Some(frame) = self.connection.decoded()? {
            self.take_frame(&frame)?;
        }
        Ok(true)
    }

    fn take_frame(&mut self, frame: &Frame) -> Result<(), ConnectionError> {
        match frame.kind {
            FrameKind::Data if !self.stdin_ended => {
                if self.to_stdin.len() + frame.payload.len() > STDIN_WINDOW {
                    return Err(ConnectionError::Unexpected(FrameKind::Data));
                }
                self.to_stdin.extend(&frame.payload);
                self.feed_stdin();
            }
            FrameKind::End => {
                self.stdin_ended = true;
                self.feed_stdin();
            }
            FrameKind::Signal => {
                // One that has no name, real-time signals among them, is not sent.
                let number = i32::try_from(frame.number()?).unwrap_or(0);
                self.signal(number);
            }
            kind => return Err(ConnectionError::Unexpected(kind)),
        }
        Ok(())
    }

    /// Writes what the pipe takes and gives its credit back; a closed pipe takes everything.
    fn feed_stdin(&mut self) {
        let mut consumed = 0;
        while !self.to_stdin.is_empty() {
            let (bytes, _) = self.to_stdin.as_slices();
            let written = match &mut self.stdin {
                None => bytes.len(),
                Some(stdin) => match stdin.write(bytes) {
                    Ok(written) => written,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                    // The process closed its standard input: it wants no more, which is no error.
                    Err(_) => {
                        self.stdin = None;
                        0
                    }
                },
            };
            self.to_stdin.drain(..written);
            consumed += written as u32;
        }
        if consumed > 0 {
            let credit = encode(FrameKind::Credit, &consumed.to_le_bytes());
            self.to_worker.extend(credit);
        }
        if self.stdin_ended && self.to_stdin.is_empty() {
            self.stdin = None;
        }
    }

    /// Reads one piece of each stream that has one.
    fn take_output(&mut self, ready: &Ready) -> Result<(), ConnectionError> {
        let mut read = 0;
        if ready.stdout {
            read += take(&mut self.stdout, FrameKind::Stdout, &mut self.to_worker)?;
        }
        if ready.stderr {
            read += take(&mut self.stderr, FrameKind::Stderr, &mut self.to_worker)?;
        }
        if let Some(ended) = &mut self.ended {
            ended.owed = ended.owed.saturating_sub(read);
        }
        Ok(())
    }

    fn note_end(&mut self) -> Result<(), ConnectionError> {
        let Some(status) = self.process.child.try_wait()? else {
            return Ok(());
        };
        let status = match (status.code(), status.signal()) {
            (Some(code), _) => ExitStatus::Code(code),
            (None, signal) => ExitStatus::Signal(signal.unwrap_or(0)),
        };
        let pending = |fd: Option<_>| fd.map_or(Ok(0), rustix::io::ioctl_fionread);
        let owed = pending(self.stdout.as_ref().map(AsFd::as_fd))?
            + pending(self.stderr.as_ref().map(AsFd::as_fd))?;
        self.stdin = None;
        // What a step leaves in the background lives on, but not that of one that was stopped: a
        // fork bomb whose first process heeded the signal would go on beside the next step.
        if let (true, Some(cgroup)) = (self.told_to_end, &self.process.cgroup) {
            cgroup.kill();
        }
        self.ended = Some(Ended {
            status,
            at: Instant::now(),
            owed,
        });
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectionError> {
        self.sent += self.connection.try_send(&self.to_worker[self.sent..])?;
        if self.sent == self.to_worker.len() {
            self.to_worker.clear();
            self.sent = 0;
        }
        Ok(())
    }

    /// Sends a signal to the process group, while its number is certain to be its own.
    fn signal(&mut self, number: i32) {
        if self.ended.is_some() {
            return;
        }
        let Some(signal) = Signal::from_named_raw(number) else {
            return;
        };
        self.told_to_end |= ENDING.contains(&signal);
        // A group that is gone by now is what the signal was for.
        let _ = rustix::process::kill_process_group(self.group(), signal);
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.process.child)
    }

    /// Ends the process and everything that it started.
    fn kill(&mut self) {
        let _ = rustix::process::kill_process_group(self.group(), Signal::KILL);
        if let Some(cgroup) = &self.process.cgroup {
            cgroup.kill();
        }
        // Reaps it; it cannot fail for a child of ours that nobody else waits for.
        let _ = self.process.child.wait();
    }

    fn set_nonblocking(&self) -> Result<(), ConnectionError> {
        let fds = [
            self.stdout.as_ref().map(AsFd::as_fd),
            self.stderr.as_ref().map(AsFd::as_fd),
            self.stdin.as_ref().map(AsFd::as_fd),
        ];
        for fd in fds.into_iter().flatten() {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        Ok(())
    }
}

/// Reads one piece from a stream into a frame; forgets the stream at its end.
fn take(
    stream: &mut Option<impl Read>,
    kind: FrameKind,
    frames: &mut Vec<u8>,
) -> Result<u64, ConnectionError> {
    let Some(reader) = stream else { return Ok(0) };
    let mut piece = [0; PIECE];
    match reader.read(&mut piece) {
        Ok(0) => *stream = None,
        Ok(length) => {
            frames.extend(encode(kind, &piece[..length]));
            return Ok(length as u64);
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) => return Err(error.into()),
    }
    Ok(0)
}
