//! Frames of WebSockets from the guest: their payload is masked with a key that the guest draws, so a
//! search in the bytes as they come would find nothing.

use super::super::leak::Scanner;
use super::inflate::InflateError;

/// Bytes that are unmasked at once.
const PIECE: usize = 4 << 10;
/// Longest head: two bytes, eight of length, four of the key.
const MAX_HEAD: usize = 14;

/// The search in the frames of one connection.
pub(super) struct Frames {
    head: Vec<u8>,
    /// Bytes of the present payload that are still to come.
    left: u64,
    key: [u8; 4],
    /// Place in the key.
    at: usize,
    is_control: bool,
    messages: Scanner,
    /// Control frames stand in the midst of messages.
    control: Scanner,
}

/// The guest's stream is none of frames.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sandbox sent no WebSocket frame: {0}")]
pub(super) struct FrameError(&'static str);

/// Why frames do not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    /// A secret was found.
    #[error(transparent)]
    Found(#[from] InflateError),
    /// Their form.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl Frames {
    pub(super) fn new(messages: Scanner, control: Scanner) -> Self {
        Self {
            head: Vec::with_capacity(MAX_HEAD),
            left: 0,
            key: [0; 4],
            at: 0,
            is_control: false,
            messages,
            control,
        }
    }

    /// Looks at the next bytes.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            if self.left == 0 {
                self.head.push(bytes[0]);
                bytes = &bytes[1..];
                self.begin()?;
                continue;
            }
            let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE);
            let (piece, rest) = bytes.split_at(most.min(bytes.len()));
            self.payload(piece)?;
            bytes = rest;
        }
        Ok(())
    }

    /// Reads the head when it is whole.
    fn begin(&mut self) -> Result<(), FrameError> {
        let [first, second, rest @ ..] = self.head.as_slice() else {
            return Ok(());
        };
        if first & 0x70 != 0 {
            return Err(FrameError("it uses an extension that was not agreed on"));
        }
        if second & 0x80 == 0 {
            return Err(FrameError("its payload is not masked"));
        }
        let size = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if rest.len() < size + 4 {
            return Ok(());
        }
        let (length, key) = rest.split_at(size);
        let number = length
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte));
        self.left = if size == 0 {
            u64::from(second & 0x7f)
        } else {
            number
        };
        self.is_control = first & 0x08 != 0;
        self.key.copy_from_slice(key);
        self.at = 0;
        self.head.clear();
        if self.is_control {
            self.control.restart();
        }
        Ok(())
    }

    fn payload(&mut self, piece: &[u8]) -> Result<(), StreamError> {
        let mut open = [0; PIECE];
        let open = &mut open[..piece.len()];
        for (open, byte) in open.iter_mut().zip(piece) {
            *open = byte ^ self.key[self.at];
            self.at = (self.at + 1) % 4;
        }
        self.left -= piece.len() as u64;
        let scanner = if self.is_control {
            &mut self.control
        } else {
            &mut self.messages
        };
        scanner.scan(open).map_err(InflateError::Leak)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::egress::intercept::leak::{Watch, Watched};

    const VALUE: &str = "value-of-a-secret-in-a-frame";

    fn frames() -> Frames {
        let secret = Watched {
            name: "S",
            value: VALUE,
            placeholder: None,
        };
        let watch = Arc::new(Watch::new(&[secret]).unwrap());
        let scanner = || watch.scanner(&[].into());
        Frames::new(scanner(), scanner())
    }

    fn frame(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..126 => bytes.push(0x80 | length as u8),
            length @ 126..65536 => {
                bytes.push(0x80 | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(0x80 | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(key);
        bytes.extend(
            payload
                .iter()
                .zip(key.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
        bytes
    }

    #[test]
    fn a_secret_in_pieces_around_a_ping_is_found() {
        let (first, second) = VALUE.as_bytes().split_at(11);
        let bytes = [
            frame(0x82, &vec![b'x'; 70_000], [9, 8, 7, 6]),
            frame(0x01, first, [1, 2, 3, 4]),
            frame(0x89, b"ping", [5, 6, 7, 8]),
            frame(0x80, second, [9, 10, 11, 12]),
        ]
        .concat();
        for chunk in [1, 3, 1000, 100_000] {
            let mut frames = frames();
            let found = bytes
                .chunks(chunk)
                .map(|part| frames.push(part))
                .find(Result::is_err);
            assert!(
                matches!(found, Some(Err(StreamError::Found(_)))),
                "{chunk}: {found:?}"
            );
        }
        assert!(frames().push(&frame(0x81, b"harmless", [1; 4])).is_ok());
    }

    #[test]
    fn frames_that_cannot_be_looked_into_are_refused() {
        assert!(matches!(
            frames().push(&[0x81, 0x01, b'x']),
            Err(StreamError::Frame(_))
        ));
        assert!(matches!(
            frames().push(&[0xc1, 0x81]),
            Err(StreamError::Frame(_))
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = frames().push(&bytes);
        }
    }
}
