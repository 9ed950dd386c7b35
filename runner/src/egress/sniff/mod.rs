//! What the beginning of a TCP stream says of itself, read before anything is sent outside.
//!
//! Everything here is the sandbox's word: bounded, never trusted, and compared with what DNS said.

mod http;
#[cfg(test)]
mod tests;
mod tls;

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::{Instant, timeout_at},
};

pub use http::Head;
pub use tls::Hello;

/// The most bytes that are read to learn what a stream is.
pub const MOST: usize = 64 << 10;

/// What a stream is, as its beginning says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// TLS.
    Tls(Hello),
    /// HTTP without TLS.
    Http(Head),
    /// Something else.
    Other,
    /// Nothing, or not enough to tell, within the time.
    Silent,
}

/// Whether the bytes so far tell what a stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// They do.
    Is(Beginning),
    /// More of them may.
    More,
}

/// Looks at the bytes of a stream so far.
pub(super) fn look(bytes: &[u8]) -> Look {
    let bytes = &bytes[..bytes.len().min(MOST)];
    match bytes.first() {
        None => Look::More,
        Some(&tls::HANDSHAKE) => tls::look(bytes),
        Some(byte) if byte.is_ascii_uppercase() => http::look(bytes),
        Some(_) => Look::Is(Beginning::Other),
    }
}

/// A beginning, and the bytes that were read for it, which the other side must get first.
#[derive(Debug)]
pub struct Sniffed {
    /// What it is.
    pub beginning: Beginning,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether the stream ended meanwhile.
    pub ended: bool,
}

/// Reads the beginning of a stream, for as long as `patience`.
///
/// # Errors
/// The stream's own.
pub async fn sniff(
    stream: &mut (impl AsyncRead + Unpin),
    patience: Duration,
) -> std::io::Result<Sniffed> {
    let deadline = Instant::now() + patience;
    let mut bytes = Vec::with_capacity(2 << 10);
    loop {
        let room = MOST.saturating_sub(bytes.len());
        let mut read = Vec::new();
        let more = {
            let mut limited = (&mut *stream).take(room.min(16 << 10) as u64);
            read.reserve(room.min(16 << 10));
            match timeout_at(deadline, limited.read_buf(&mut read)).await {
                Err(_) => None,
                Ok(read) => Some(read?),
            }
        };
        bytes.extend_from_slice(&read);
        let found = |beginning, ended| Sniffed {
            beginning,
            bytes: Vec::new(),
            ended,
        };
        let sniffed = match (look(&bytes), more) {
            (Look::Is(beginning), more) => found(beginning, more == Some(0)),
            (Look::More, None) => found(unfinished(&bytes), false),
            (Look::More, Some(0)) => found(unfinished(&bytes), bytes.len() < MOST),
            (Look::More, Some(_)) => continue,
        };
        return Ok(Sniffed { bytes, ..sniffed });
    }
}

/// What a stream is that began as something and does not go on.
fn unfinished(bytes: &[u8]) -> Beginning {
    match bytes.first() {
        Some(&tls::HANDSHAKE) => Beginning::Tls(Hello::default()),
        Some(byte) if byte.is_ascii_uppercase() && http::is_request(bytes) => {
            Beginning::Http(Head::default())
        }
        Some(_) => Beginning::Other,
        None => Beginning::Silent,
    }
}
