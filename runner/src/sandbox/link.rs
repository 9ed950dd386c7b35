//! One connection to the guest agent: preface, hello, frames. Everything read here is hostile.

use std::{future::Future, io, path::Path, time::Duration};

use mayfly_guest::{
    AGENT_PORT,
    wire::{
        self, Answer, Decoder, Frame, FrameError, FrameKind, MessageError, Request, decode_answer,
        encode, encode_request,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::SandboxError;
use crate::printable;

/// How long the guest may neither take nor give a byte while it owes one.
const STALL: Duration = Duration::from_secs(60);
/// Longest answer to the preface: `OK 4294967295\n`.
const MAX_PREFACE: usize = 16;

/// A connection that carries one request; reading and writing are apart, as they go on at once.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) reader: LinkReader,
    pub(super) writer: LinkWriter,
}

impl Link {
    /// Connects to the agent through the VMM's vsock socket and sends `request`.
    pub(super) async fn open(socket: &Path, request: &Request) -> Result<Self, SandboxError> {
        let request = encode_request(request).map_err(|error| refused(&error))?;
        in_time(async {
            let stream = UnixStream::connect(socket).await.map_err(|error| {
                SandboxError::Lost(format!("connecting to {}: {error}", socket.display()))
            })?;
            let (read, write) = stream.into_split();
            let mut link = Self {
                reader: LinkReader {
                    stream: read,
                    decoder: Decoder::new(),
                    buffer: vec![0; 64 << 10],
                },
                writer: LinkWriter { stream: write },
            };
            let preface = format!("CONNECT {AGENT_PORT}\n");
            link.writer.send(preface.as_bytes()).await?;
            link.reader.preface().await?;
            link.writer.send(&wire::hello()).await?;
            link.writer.send(&request).await?;
            Ok(link)
        })
        .await
    }
}

/// Reads frames.
#[derive(Debug)]
pub(super) struct LinkReader {
    stream: OwnedReadHalf,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl LinkReader {
    /// Reads `OK <port>\n`, and not a byte more.
    async fn preface(&mut self) -> Result<(), SandboxError> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            if line.len() == MAX_PREFACE {
                return Err(SandboxError::Protocol("no OK from the vsock device".into()));
            }
            // End of file here: nobody listens in the guest (yet, or any more).
            let byte = self
                .stream
                .read_u8()
                .await
                .map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        SandboxError::Lost("the guest agent does not listen".into())
                    }
                    _ => lost(&error),
                })?;
            line.push(byte);
        }
        if !line.starts_with(b"OK ") {
            return Err(SandboxError::Protocol("no OK from the vsock device".into()));
        }
        Ok(())
    }

    /// The next frame; `None` at the end. May be dropped half-way and called again.
    pub(super) async fn frame(&mut self) -> Result<Option<Frame>, SandboxError> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(protocol)? {
                return Ok(Some(frame));
            }
            let read = self.stream.read(&mut self.buffer).await;
            match read.map_err(|error| lost(&error))? {
                0 => {
                    self.decoder.finish().map_err(protocol)?;
                    return Ok(None);
                }
                read => self.decoder.push(&self.buffer[..read]),
            }
        }
    }

    /// The next frame, which the guest owes.
    pub(super) async fn owed_frame(&mut self) -> Result<Frame, SandboxError> {
        let frame = in_time(self.frame()).await?;
        frame.ok_or_else(|| SandboxError::Lost("the guest agent hung up".into()))
    }

    /// The next frame, which must be an answer. `what` was asked, for a refusal.
    pub(super) async fn answer(&mut self, what: &str) -> Result<Answer, SandboxError> {
        let frame = self.owed_frame().await?;
        answer(&frame, what)
    }

    /// The next piece of the content that was announced; `None` at its end.
    pub(super) async fn content(&mut self, what: &str) -> Result<Content, SandboxError> {
        let frame = self.owed_frame().await?;
        match frame.kind {
            FrameKind::Data => Ok(Content::Piece(frame.payload)),
            FrameKind::End => Ok(Content::End),
            _ => match answer(&frame, what)? {
                Answer::TooLarge => Ok(Content::TooLarge),
                answer => Err(unexpected(&format!("{answer:?}"), what)),
            },
        }
    }
}

/// A step of a download.
#[derive(Debug)]
pub(super) enum Content {
    Piece(Vec<u8>),
    End,
    TooLarge,
}

/// Writes frames.
#[derive(Debug)]
pub(super) struct LinkWriter {
    stream: OwnedWriteHalf,
}

impl LinkWriter {
    pub(super) async fn frame(
        &mut self,
        kind: FrameKind,
        payload: &[u8],
    ) -> Result<(), SandboxError> {
        in_time(self.send(&encode(kind, payload))).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), SandboxError> {
        self.stream
            .write_all(bytes)
            .await
            .map_err(|error| lost(&error))
    }
}

/// Reads an answer out of a frame; a refusal becomes the error that it is.
pub(super) fn answer(frame: &Frame, what: &str) -> Result<Answer, SandboxError> {
    if frame.kind != FrameKind::Answer {
        return Err(unexpected(&format!("a {:?} frame", frame.kind), what));
    }
    match decode_answer(&frame.payload).map_err(protocol)? {
        Answer::Refused { why } => Err(SandboxError::Refused {
            what: what.to_owned(),
            why: printable::line(&why),
        }),
        answer => Ok(answer),
    }
}

/// An answer that has no place there.
pub(super) fn unexpected(got: &str, what: &str) -> SandboxError {
    SandboxError::Protocol(format!("{got} came while {what}"))
}

async fn in_time<T>(
    work: impl Future<Output = Result<T, SandboxError>>,
) -> Result<T, SandboxError> {
    match tokio::time::timeout(STALL, work).await {
        Ok(result) => result,
        Err(_) => Err(SandboxError::Lost(format!(
            "the guest agent did nothing for {} s",
            STALL.as_secs()
        ))),
    }
}

fn lost(error: &io::Error) -> SandboxError {
    SandboxError::Lost(format!("the connection to the guest agent broke: {error}"))
}

fn protocol<E: Into<ProtocolError>>(error: E) -> SandboxError {
    SandboxError::Protocol(printable::line(&error.into().to_string()))
}

/// This side's own limits on a request, before anything was sent.
fn refused(error: &MessageError) -> SandboxError {
    SandboxError::Refused {
        what: "the request".into(),
        why: error.to_string(),
    }
}

/// Either way in which bytes are not the protocol.
#[derive(Debug, thiserror::Error)]
enum ProtocolError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Message(#[from] MessageError),
}
