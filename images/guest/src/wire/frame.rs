//! Hello and frames: length, kind, payload; an incremental decoder with hard limits.

use thiserror::Error;

/// Version of the protocol; both sides must speak the same one.
pub const PROTOCOL_VERSION: u32 = 3;

/// Length of the hello in bytes.
pub const HELLO_LEN: usize = 8;

/// Largest payload of one frame in bytes.
pub const MAX_PAYLOAD: usize = 1 << 20;

const MAGIC: [u8; 4] = *b"MYFL";
const HEADER_LEN: usize = 5;

/// What a frame's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A piece of the request; more follow.
    RequestPart = 1,
    /// The last (or only) piece of the request.
    Request = 2,
    /// Bytes of a file, a tar stream, standard input or a connection.
    Data = 3,
    /// End of `Data`; no payload.
    End = 4,
    /// Signal number for the process group, little-endian `i32`.
    Signal = 5,
    /// A [`super::Answer`].
    Answer = 17,
    /// Bytes that the process wrote to standard output.
    Stdout = 18,
    /// Bytes that the process wrote to standard error.
    Stderr = 19,
    /// Bytes of standard input that were consumed, little-endian `u32`.
    Credit = 20,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::RequestPart,
            2 => Self::Request,
            3 => Self::Data,
            4 => Self::End,
            5 => Self::Signal,
            17 => Self::Answer,
            18 => Self::Stdout,
            19 => Self::Stderr,
            20 => Self::Credit,
            _ => return None,
        })
    }
}

/// One frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: FrameKind,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

impl std::fmt::Debug for Frame {
    /// Leaves out the payload: it may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}({} bytes)", self.kind, self.payload.len())
    }
}

impl Frame {
    /// The payload as the little-endian number that `Signal` and `Credit` carry.
    ///
    /// # Errors
    /// [`FrameError::Number`] when the payload is not 4 bytes long.
    pub fn number(&self) -> Result<u32, FrameError> {
        let bytes = self.payload.as_slice().try_into();
        let bytes = bytes.map_err(|_| FrameError::Number(self.kind, self.payload.len()))?;
        Ok(u32::from_le_bytes(bytes))
    }
}

/// Bytes that are not this protocol.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// The stream does not begin with the magic.
    #[error("the peer does not speak Mayfly's guest protocol (its hello is {0:02x?})")]
    Magic([u8; 4]),
    /// The peer speaks another version.
    #[error(
        "the peer speaks version {theirs} of the guest protocol and this side version {ours}; \
         rebuild the image with this version of mayfly"
    )]
    Version {
        /// [`PROTOCOL_VERSION`].
        ours: u32,
        /// What the peer's hello says.
        theirs: u32,
    },
    /// A kind that does not exist.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// A length above [`MAX_PAYLOAD`].
    #[error("a frame announces {0} bytes, more than {MAX_PAYLOAD}")]
    TooLong(u32),
    /// A number frame of a wrong length.
    #[error("a {0:?} frame has {1} bytes instead of 4")]
    Number(FrameKind, usize),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame, after {0} of its bytes")]
    Truncated(usize),
}

/// This side's hello.
#[must_use]
pub fn hello() -> [u8; HELLO_LEN] {
    let mut bytes = [0; HELLO_LEN];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    bytes
}

/// Checks the peer's hello.
///
/// # Errors
/// [`FrameError::Magic`] or [`FrameError::Version`].
pub fn check_hello(bytes: [u8; HELLO_LEN]) -> Result<(), FrameError> {
    let [m0, m1, m2, m3, version @ ..] = bytes;
    let magic = [m0, m1, m2, m3];
    if magic != MAGIC {
        return Err(FrameError::Magic(magic));
    }
    match u32::from_le_bytes(version) {
        PROTOCOL_VERSION => Ok(()),
        theirs => Err(FrameError::Version {
            ours: PROTOCOL_VERSION,
            theirs,
        }),
    }
}

/// The header that goes before a payload of `len` bytes.
///
/// # Panics
/// Above [`MAX_PAYLOAD`]: the caller cuts its data.
#[must_use]
pub fn header(kind: FrameKind, len: usize) -> [u8; HEADER_LEN] {
    assert!(len <= MAX_PAYLOAD, "callers cut payloads to MAX_PAYLOAD");
    let mut bytes = [kind as u8; HEADER_LEN];
    bytes[1..].copy_from_slice(&(len as u32).to_le_bytes());
    bytes.rotate_left(1);
    bytes
}

/// A whole frame as bytes; see [`header`].
#[must_use]
pub fn encode(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    bytes.extend_from_slice(&header(kind, payload.len()));
    bytes.extend_from_slice(payload);
    bytes
}

/// Cuts a stream of bytes, given in pieces of any size, into the hello and frames.
///
/// Holds at most one frame and the last piece, if the caller takes all frames after each piece.
#[derive(Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    greeted: bool,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decoder({} bytes)", self.buffer.len() - self.start)
    }
}

impl Decoder {
    /// A decoder at the start of a stream, before the hello.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` when more bytes are needed.
    ///
    /// # Errors
    /// A wrong hello, an unknown kind or too long a frame. The stream cannot be used after that.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if !self.greeted {
            let Some(hello) = self.buffer[self.start..].first_chunk::<HELLO_LEN>() else {
                return Ok(None);
            };
            check_hello(*hello)?;
            self.start += HELLO_LEN;
            self.greeted = true;
        }
        let rest = &self.buffer[self.start..];
        let Some((&[l0, l1, l2, l3, kind], rest)) = rest.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        let kind = FrameKind::from_byte(kind).ok_or(FrameError::Kind(kind))?;
        if len as usize > MAX_PAYLOAD {
            return Err(FrameError::TooLong(len));
        }
        let Some(payload) = rest.get(..len as usize) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.start += HEADER_LEN + payload.len();
        Ok(Some(Frame { kind, payload }))
    }

    /// Says that the stream ended here.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] when that is inside the hello or a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        match self.buffer.len() - self.start {
            0 => Ok(()),
            left => Err(FrameError::Truncated(left)),
        }
    }
}

impl Drop for Decoder {
    /// Requests and answers pass through here; their bytes do not outlive the connection.
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8], piece: usize) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = Decoder::new();
        let mut frames = Vec::new();
        for piece in bytes.chunks(piece.max(1)) {
            decoder.push(piece);
            while let Some(frame) = decoder.next_frame()? {
                frames.push(frame);
            }
        }
        decoder.finish()?;
        Ok(frames)
    }

    #[test]
    fn frames_survive_any_cut_of_the_stream() {
        let mut bytes = hello().to_vec();
        bytes.extend(encode(FrameKind::Data, b"abc"));
        bytes.extend(encode(FrameKind::End, b""));
        bytes.extend(encode(FrameKind::Stdout, &[7; 300]));
        for piece in 1..bytes.len() {
            let frames = decoded(&bytes, piece).expect("valid");
            assert_eq!(frames.len(), 3);
            assert_eq!(frames[0].payload, b"abc");
            assert_eq!(frames[1].kind, FrameKind::End);
            assert_eq!(frames[2].payload, [7; 300]);
        }
    }

    #[test]
    fn another_version_is_refused_with_both_named() {
        let mut bytes = hello();
        bytes[4] = 9;
        let error = check_hello(bytes).expect_err("version 9");
        let ours = PROTOCOL_VERSION;
        assert_eq!(error, FrameError::Version { ours, theirs: 9 });
        let text = error.to_string();
        assert!(text.contains("version 9") && text.contains(&format!("version {ours}")));
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_its_payload_arrives() {
        let mut bytes = hello().to_vec();
        bytes.extend((MAX_PAYLOAD as u32 + 1).to_le_bytes());
        bytes.push(FrameKind::Data as u8);
        assert_eq!(
            decoded(&bytes, 64),
            Err(FrameError::TooLong(MAX_PAYLOAD as u32 + 1))
        );
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_is_truncated() {
        let mut bytes = hello().to_vec();
        bytes.extend(encode(FrameKind::Data, b"abc"));
        assert_eq!(
            decoded(&bytes[..bytes.len() - 1], 5),
            Err(FrameError::Truncated(7))
        );
        assert_eq!(decoded(&bytes[..3], 5), Err(FrameError::Truncated(3)));
    }
}
