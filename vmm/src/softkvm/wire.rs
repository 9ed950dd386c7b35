//! What goes over the serial ports between `softkvm` and its supervisor inside the machine.
//!
//! Four ports: one for control messages, one each for stdin, stdout and stderr. A stream port
//! carries chunks, so that end-of-file is a message and no state of a port has to stand for it.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Largest control message: an environment may be 2 MiB, and each byte takes up to four in JSON.
const MAX_MESSAGE: usize = 32 << 20;
/// Largest chunk on a stream port.
pub(super) const MAX_CHUNK: usize = 64 << 10;

/// Names of the ports, in the order in which QEMU creates them.
pub(super) const PORT_NAMES: [&str; 4] = [
    "softkvm.control",
    "softkvm.stdin",
    "softkvm.stdout",
    "softkvm.stderr",
];

/// Number of the standard streams, which are also their descriptor numbers.
pub(super) const STREAMS: usize = 3;

/// The command to run. No `Debug`: the environment may hold secrets.
#[derive(Serialize, Deserialize)]
#[allow(missing_debug_implementations)]
pub(super) struct Start {
    /// Program and arguments.
    pub(super) argv: Vec<Vec<u8>>,
    /// The whole environment.
    pub(super) env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directory.
    pub(super) cwd: Vec<u8>,
    /// Folders whose content is the host's own, not the overlay's.
    pub(super) real_folders: Vec<Vec<u8>>,
    /// The host's files are served by a process that is root only of a user namespace.
    pub(super) in_user_namespace: bool,
    /// Name of the host.
    pub(super) hostname: Vec<u8>,
    /// File mode creation mask.
    pub(super) umask: u32,
    /// Soft and hard limit of open files.
    pub(super) open_files: (u64, u64),
    /// Which of stdin, stdout and stderr are terminals.
    pub(super) terminals: [bool; STREAMS],
    /// Rows and columns of the terminal.
    pub(super) window: (u16, u16),
    /// Name servers have to be reached through QEMU's user network.
    pub(super) network: bool,
    /// Seconds and nanoseconds since 1970 when this message was sent.
    pub(super) clock: (u64, u32),
}

/// From the host to the supervisor.
#[derive(Serialize, Deserialize)]
#[allow(missing_debug_implementations)]
pub(super) enum ToInside {
    /// The answer to [`FromInside::Ready`]; first, exactly once.
    Start(Box<Start>),
    /// Send this signal to the process group of the command.
    Signal(i32),
    /// The terminal has this many rows and columns now.
    Window(u16, u16),
    /// Nobody reads this stream (1 or 2) any more: the command's next write must fail.
    ReaderGone(usize),
}

/// From the supervisor to the host.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FromInside {
    /// The machine has started and waits for the command.
    Ready,
    /// The command runs.
    Started,
    /// The command could not be started: what a shell would say, and its exit code (126 or 127).
    NotStarted(String, u8),
    /// The command ended with this exit code, 128 + n for signal n; all output has been sent and
    /// all writes to real folders are on the host.
    Exited(u8),
}

/// Sends one control message.
pub(super) fn send<T: Serialize>(port: &mut impl Write, message: &T) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    if body.len() > MAX_MESSAGE {
        return Err(io::Error::other(
            "the arguments and the environment are too large",
        ));
    }
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    port.write_all(&bytes)
}

/// Receives one control message; `UnexpectedEof` when the other side is gone.
pub(super) fn receive<T: DeserializeOwned>(port: &mut impl Read) -> io::Result<T> {
    let length = read_length(port, MAX_MESSAGE)?;
    let mut body = vec![0; length];
    port.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

/// Sends one chunk of a stream; an empty one means end-of-file.
pub(super) fn send_chunk(port: &mut impl Write, chunk: &[u8]) -> io::Result<()> {
    debug_assert!(chunk.len() <= MAX_CHUNK);
    let mut bytes = Vec::with_capacity(4 + chunk.len());
    bytes.extend_from_slice(&(chunk.len() as u32).to_le_bytes());
    bytes.extend_from_slice(chunk);
    port.write_all(&bytes)
}

/// Receives one chunk into `buffer` (at least [`MAX_CHUNK`] long); `None` at end-of-file.
pub(super) fn receive_chunk<'a>(
    port: &mut impl Read,
    buffer: &'a mut [u8],
) -> io::Result<Option<&'a [u8]>> {
    let length = read_length(port, MAX_CHUNK)?;
    port.read_exact(&mut buffer[..length])?;
    Ok((length > 0).then_some(&buffer[..length]))
}

fn read_length(port: &mut impl Read, most: usize) -> io::Result<usize> {
    let mut length = [0; 4];
    port.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > most {
        let what = format!("a message of {length} bytes is longer than the {most} allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_arrives_whole_and_an_empty_one_is_the_end() {
        let mut wire = Vec::new();
        send_chunk(&mut wire, b"a\0b").unwrap();
        send_chunk(&mut wire, b"").unwrap();
        let mut from = wire.as_slice();
        let mut buffer = vec![0; MAX_CHUNK];
        assert_eq!(
            receive_chunk(&mut from, &mut buffer).unwrap(),
            Some(&b"a\0b"[..])
        );
        assert_eq!(receive_chunk(&mut from, &mut buffer).unwrap(), None);
        let gone = receive_chunk(&mut from, &mut buffer).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_read() {
        let wire = (MAX_CHUNK as u32 + 1).to_le_bytes();
        let mut buffer = vec![0; MAX_CHUNK];
        let refused = receive_chunk(&mut wire.as_slice(), &mut buffer).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn arguments_that_are_not_utf8_survive() {
        let start = Start {
            argv: vec![b"printf".to_vec(), vec![0xff, 0x20, 0x27]],
            env: vec![(b"A".to_vec(), vec![0xfe])],
            cwd: b"/".to_vec(),
            real_folders: Vec::new(),
            in_user_namespace: false,
            hostname: b"host".to_vec(),
            umask: 0o22,
            open_files: (1024, 4096),
            terminals: [false; STREAMS],
            window: (0, 0),
            network: false,
            clock: (0, 0),
        };
        let mut wire = Vec::new();
        send(&mut wire, &ToInside::Start(Box::new(start))).unwrap();
        let ToInside::Start(back) = receive(&mut wire.as_slice()).unwrap() else {
            panic!("another message came back");
        };
        assert_eq!(back.argv[1], [0xff, 0x20, 0x27]);
        assert_eq!(back.env[0].1, [0xfe]);
    }
}
