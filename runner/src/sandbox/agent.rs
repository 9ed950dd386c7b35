//! Client of the guest agent over the VMM's vsock socket: the [`Sandbox`] that is a microVM.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use mayfly_guest::wire::{AgentState, Answer, ExecSpec, FrameKind, Request};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};

use super::{
    Exec, ExecRequest, Sandbox, SandboxError,
    link::{Content, Link, LinkWriter, unexpected},
    process,
};

/// Bytes of a copy that are under way at once.
const PIECE: usize = 64 << 10;
/// How long the reason for a copy that broke off is waited for.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A sandbox, reached at the Unix socket of its vsock device. Clones reach the same one.
#[derive(Debug, Clone)]
pub struct AgentClient {
    socket: PathBuf,
}

impl AgentClient {
    /// A client of the agent behind `socket`; connects at each request.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Asks whether the agent is there.
    ///
    /// # Errors
    /// [`SandboxError::Lost`] while it is not.
    pub async fn ping(&self) -> Result<AgentState, SandboxError> {
        match self.simple(&Request::Ping, "asking for life").await? {
            Answer::Pong { state } => Ok(state),
            answer => Err(unexpected(&format!("{answer:?}"), "asking for life")),
        }
    }

    /// Waits until the agent answers, at most for `time`.
    ///
    /// # Errors
    /// What the last attempt failed with.
    pub async fn wait_ready(&self, time: Duration) -> Result<AgentState, SandboxError> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let attempt = timeout(left, self.ping()).await;
            match attempt.unwrap_or_else(|_| Err(never_answered(time))) {
                Err(SandboxError::Lost(_)) if Instant::now() < deadline => {
                    sleep(Duration::from_millis(10)).await;
                }
                Err(SandboxError::Lost(why)) => {
                    return Err(SandboxError::Lost(format!(
                        "{why}; waited {} s",
                        time.as_secs()
                    )));
                }
                result => return result,
            }
        }
    }

    /// Asks the guest to write back its disk and to power off; the VMM's exit tells when it did.
    ///
    /// # Errors
    /// The agent is gone or refused.
    pub async fn shutdown(&self) -> Result<(), SandboxError> {
        self.done(&Request::Shutdown, "shutting down").await
    }

    /// As [`Sandbox::write_file`], for a user.
    ///
    /// # Errors
    /// As there.
    pub async fn write_file_as(
        &self,
        path: &str,
        mode: u32,
        owner: Option<&str>,
        content: &[u8],
    ) -> Result<(), SandboxError> {
        let request = Request::WriteFile {
            path: path.to_owned(),
            mode,
            owner: owner.map(ToOwned::to_owned),
        };
        self.upload(&request, &format!("writing {path}"), content)
            .await
    }

    /// As [`Sandbox::copy_in`], for a user.
    ///
    /// # Errors
    /// As there.
    pub async fn copy_in_as(
        &self,
        directory: &str,
        owner: Option<&str>,
        tar: impl AsyncRead + Send + Unpin,
    ) -> Result<(), SandboxError> {
        let request = Request::CopyIn {
            directory: directory.to_owned(),
            owner: owner.map(ToOwned::to_owned),
        };
        self.upload(&request, &format!("copying into {directory}"), tar)
            .await
    }

    /// A request of one frame each way.
    pub(super) async fn simple(
        &self,
        request: &Request,
        what: &str,
    ) -> Result<Answer, SandboxError> {
        let mut link = Link::open(&self.socket, request).await?;
        link.reader.answer(what).await
    }

    async fn done(&self, request: &Request, what: &str) -> Result<(), SandboxError> {
        expect_done(&self.simple(request, what).await?, what)
    }

    /// A request that content follows. The answer is awaited all the while: the guest may refuse
    /// long before it has read everything.
    async fn upload(
        &self,
        request: &Request,
        what: &str,
        content: impl AsyncRead + Send + Unpin,
    ) -> Result<(), SandboxError> {
        let Link { mut reader, writer } = Link::open(&self.socket, request).await?;
        let sending = send_content(writer, content);
        tokio::pin!(sending);
        let sent = tokio::select! {
            biased;
            sent = &mut sending => sent,
            frame = reader.frame() => {
                let early = frame?.ok_or_else(|| SandboxError::Lost("the agent hung up".into()))?;
                let early = super::link::answer(&early, what)?;
                return Err(unexpected(&format!("{early:?}"), what));
            }
        };
        match sent {
            // The writer stays open until the answer: closing would tell the guest to give up.
            Ok(_writer) => expect_done(&reader.answer(what).await?, what),
            Err(SandboxError::Lost(why)) => match timeout(LAST_WORDS, reader.answer(what)).await {
                Ok(Err(refused @ SandboxError::Refused { .. })) => Err(refused),
                _ => Err(SandboxError::Lost(why)),
            },
            Err(error) => Err(error),
        }
    }
}

fn never_answered(time: Duration) -> SandboxError {
    let text = format!("the guest agent did not answer within {} s", time.as_secs());
    SandboxError::Lost(text)
}

fn expect_done(answer: &Answer, what: &str) -> Result<(), SandboxError> {
    match answer {
        Answer::Done => Ok(()),
        answer => Err(unexpected(&format!("{answer:?}"), what)),
    }
}

async fn send_content(
    mut writer: LinkWriter,
    mut content: impl AsyncRead + Send + Unpin,
) -> Result<LinkWriter, SandboxError> {
    let mut piece = vec![0; PIECE];
    loop {
        match content.read(&mut piece).await? {
            0 => break,
            read => writer.frame(FrameKind::Data, &piece[..read]).await?,
        }
    }
    writer.frame(FrameKind::End, b"").await?;
    Ok(writer)
}

impl Sandbox for AgentClient {
    async fn exec(&self, request: ExecRequest) -> Result<Exec, SandboxError> {
        let program = request.argv.first().map_or("nothing", String::as_str);
        let what = format!("starting {program}");
        let spec = ExecSpec {
            argv: request.argv,
            env: request.env,
            cwd: request.cwd,
            user: request.user,
            stdin: request.stdin,
        };
        let mut link = Link::open(&self.socket, &Request::Exec(spec)).await?;
        match link.reader.answer(&what).await? {
            Answer::Started { .. } => Ok(process::follow(link)),
            answer => Err(unexpected(&format!("{answer:?}"), &what)),
        }
    }

    async fn write_file(&self, path: &str, mode: u32, content: &[u8]) -> Result<(), SandboxError> {
        self.write_file_as(path, mode, None, content).await
    }

    async fn read_file(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, SandboxError> {
        let what = format!("reading {path}");
        let too_large = || SandboxError::TooLarge {
            path: path.to_owned(),
            limit,
        };
        let request = Request::ReadFile {
            path: path.to_owned(),
            limit,
        };
        let mut link = Link::open(&self.socket, &request).await?;
        match link.reader.answer(&what).await? {
            Answer::Content => {}
            Answer::Missing => return Ok(None),
            Answer::TooLarge => return Err(too_large()),
            answer => return Err(unexpected(&format!("{answer:?}"), &what)),
        }
        let mut content = Vec::new();
        loop {
            match link.reader.content(&what).await? {
                // The guest was told the limit; it need not keep to it.
                Content::Piece(piece) if (content.len() + piece.len()) as u64 <= limit => {
                    content.extend(piece);
                }
                Content::Piece(_) | Content::TooLarge => return Err(too_large()),
                Content::End => return Ok(Some(content)),
            }
        }
    }

    async fn copy_in(
        &self,
        directory: &str,
        tar: impl AsyncRead + Send + Unpin,
    ) -> Result<(), SandboxError> {
        self.copy_in_as(directory, None, tar).await
    }

    async fn copy_out(
        &self,
        path: &str,
        mut sink: impl AsyncWrite + Send + Unpin,
    ) -> Result<(), SandboxError> {
        let what = format!("copying {path} out");
        let request = Request::CopyOut {
            path: path.to_owned(),
        };
        let mut link = Link::open(&self.socket, &request).await?;
        match link.reader.answer(&what).await? {
            Answer::Content => {}
            answer => return Err(unexpected(&format!("{answer:?}"), &what)),
        }
        loop {
            match link.reader.content(&what).await? {
                Content::Piece(piece) => sink.write_all(&piece).await?,
                Content::End => return Ok(sink.shutdown().await?),
                Content::TooLarge => return Err(unexpected("a limit", &what)),
            }
        }
    }

    async fn remove(&self, path: &str) -> Result<(), SandboxError> {
        let request = Request::Remove {
            path: path.to_owned(),
        };
        self.done(&request, &format!("removing {path}")).await
    }
}
