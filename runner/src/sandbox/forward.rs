//! Connections that steps open to the worker's services, carried out of the sandbox by its agent.

use std::time::Duration;

use mayfly_guest::wire::{Answer, FrameKind, Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    time::timeout,
};

use super::{
    SandboxError,
    agent::AgentClient,
    link::{self, Link, LinkReader, LinkWriter, unexpected},
};

const WHAT: &str = "waiting for a connection of a step";
/// Largest piece that is sent to the guest at once, and bytes that wait on their way from it.
const PIECE: usize = 64 << 10;
/// How long the step may take to close its side once the worker closed its own.
const LINGER: Duration = Duration::from_secs(10);

impl AgentClient {
    /// Waits until a step connects to [`mayfly_guest::FORWARD_PORT`], and gives that connection.
    /// `held` is dropped when nothing of it is left in the guest.
    ///
    /// # Errors
    /// [`SandboxError::Lost`] when the sandbox is gone, or has no process left for this.
    pub async fn accept(&self, held: impl Send + 'static) -> Result<DuplexStream, SandboxError> {
        let mut link = Link::open(self.socket(), &Request::Accept).await?;
        // No limit: there may be no connection for hours.
        let frame = link.reader.frame().await?;
        let frame = frame.ok_or_else(|| SandboxError::Lost("the guest agent hung up".into()))?;
        match link::answer(&frame, WHAT)? {
            Answer::Accepted => {}
            answer => return Err(unexpected(&format!("{answer:?}"), WHAT)),
        }
        let (ours, theirs) = tokio::io::duplex(PIECE);
        tokio::spawn(async move {
            if let Err(error) = carry(link, theirs).await {
                tracing::debug!(%error, "a connection of a step broke off");
            }
            drop(held);
        });
        Ok(ours)
    }
}

/// Carries both directions to their ends.
async fn carry(link: Link, stream: DuplexStream) -> Result<(), SandboxError> {
    let Link {
        mut reader,
        mut writer,
    } = link;
    let (mut from, mut to) = tokio::io::split(stream);
    {
        let inward = to_worker(&mut reader, &mut to);
        let outward = to_guest(&mut from, &mut writer);
        tokio::pin!(inward, outward);
        tokio::select! {
            ended = &mut outward => {
                ended?;
                in_time(inward).await?;
            }
            ended = &mut inward => {
                ended?;
                outward.await?;
            }
        }
    }
    // The agent takes a hang-up of ours for giving up, so it closes first.
    match in_time(reader.frame()).await? {
        None => Ok(()),
        Some(frame) => Err(unexpected(&format!("a {:?} frame", frame.kind), WHAT)),
    }
}

async fn in_time<T>(
    work: impl Future<Output = Result<T, SandboxError>>,
) -> Result<T, SandboxError> {
    let late = |_| SandboxError::Lost("a step kept a connection open that was closed".into());
    timeout(LINGER, work).await.map_err(late)?
}

/// Until the worker ends the connection.
async fn to_guest(
    from: &mut ReadHalf<DuplexStream>,
    writer: &mut LinkWriter,
) -> Result<(), SandboxError> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece).await? {
            0 => return writer.frame(FrameKind::End, b"").await,
            read => writer.frame(FrameKind::Data, &piece[..read]).await?,
        }
    }
}

/// Until the step ends the connection. What the worker does not want any more is dropped.
async fn to_worker(
    reader: &mut LinkReader,
    to: &mut WriteHalf<DuplexStream>,
) -> Result<(), SandboxError> {
    let mut wanted = true;
    loop {
        let frame = reader.frame().await?;
        let frame = frame.ok_or_else(|| SandboxError::Lost("the step hung up".into()))?;
        match frame.kind {
            FrameKind::Data if wanted => wanted = to.write_all(&frame.payload).await.is_ok(),
            FrameKind::Data => {}
            FrameKind::End => {
                // The worker's side may be closed already.
                let _ = to.shutdown().await;
                return Ok(());
            }
            kind => return Err(unexpected(&format!("a {kind:?} frame"), WHAT)),
        }
    }
}
