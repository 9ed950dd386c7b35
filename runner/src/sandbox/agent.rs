//! Client of the guest agent over the VMM's vsock socket: the [`Sandbox`] that is a microVM.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mayfly_guest::wire::{
    AgentState, Answer, ExecSpec, FrameKind, IdentityProof, IdentityRequest, NetworkRequest,
    Request,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};

use super::{
    Exec, ExecRequest, Sandbox, SandboxError,
    identity::Uniqueness,
    link::{Content, Link, LinkWriter, unexpected},
    process,
};

/// Bytes of a copy that are under way at once.
const PIECE: usize = 64 << 10;
/// How long the reason for a copy that broke off is waited for.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How far the guest's clock may be from the host's.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

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

    /// Where the agent is reached.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
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

    /// Makes a restored sandbox the one that `own` says, and checks that it became that.
    ///
    /// # Errors
    /// [`SandboxError::Identity`] when the guest's proof differs, or another when it has none;
    /// either way the sandbox must be destroyed.
    pub async fn identify(
        &self,
        own: &Uniqueness,
        hostname: &str,
        network: Option<NetworkRequest>,
    ) -> Result<(), SandboxError> {
        const WHAT: &str = "taking its identity";
        let before = since_epoch();
        let request = IdentityRequest {
            entropy: own.seed.to_vec(),
            clock_ns: before.as_nanos().try_into().unwrap_or(u64::MAX),
            hostname: hostname.to_owned(),
            machine_id: own.machine_id.clone(),
            boot_id: own.boot_id.clone(),
            mac: Some(own.mac_text()),
            network,
            nonce: own.nonce.clone(),
        };
        let request = Request::Identity(request);
        let answer = self.simple(&request, WHAT).await?;
        match (answer, request) {
            (Answer::Identified(proof), Request::Identity(asked)) => {
                check_proof(&proof, &asked, before, since_epoch())
            }
            (answer, _) => Err(unexpected(&format!("{answer:?}"), WHAT)),
        }
    }

    /// Asks the guest to power off; the VMM's exit tells when it did.
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

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Compares what the guest read back from its system with what it was asked to become.
fn check_proof(
    proof: &IdentityProof,
    asked: &IdentityRequest,
    before: Duration,
    after: Duration,
) -> Result<(), SandboxError> {
    let mac = |mac: &Option<String>| mac.clone().unwrap_or_default();
    let texts = [
        ("nonce", proof.nonce.clone(), asked.nonce.clone()),
        ("host name", proof.hostname.clone(), asked.hostname.clone()),
        (
            "machine id",
            proof.machine_id.clone(),
            asked.machine_id.clone(),
        ),
        ("boot id", proof.boot_id.clone(), asked.boot_id.clone()),
        ("MAC address", mac(&proof.mac), mac(&asked.mac)),
    ];
    for (what, is, asked) in texts {
        if is != asked {
            return Err(SandboxError::Identity(format!(
                "its {what} is {is:?}, not {asked:?}"
            )));
        }
    }
    if !proof.reseeded {
        let text = "its random pool was not reseeded";
        return Err(SandboxError::Identity(text.to_owned()));
    }
    let clock = Duration::from_nanos(proof.clock_ns);
    if clock + CLOCK_TOLERANCE < before || clock > after + CLOCK_TOLERANCE {
        let off = clock.abs_diff(after).as_secs_f64();
        return Err(SandboxError::Identity(format!(
            "its clock is off by {off:.3} s"
        )));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn asked_and_proof() -> (IdentityRequest, IdentityProof) {
        let own = Uniqueness::draw().expect("random");
        let asked = IdentityRequest {
            entropy: own.seed.to_vec(),
            clock_ns: 0,
            hostname: "mayfly-1".into(),
            machine_id: own.machine_id.clone(),
            boot_id: own.boot_id.clone(),
            mac: Some(own.mac_text()),
            network: None,
            nonce: own.nonce.clone(),
        };
        let proof = IdentityProof {
            nonce: own.nonce.clone(),
            clock_ns: NOW.as_nanos() as u64,
            hostname: asked.hostname.clone(),
            machine_id: own.machine_id.clone(),
            boot_id: own.boot_id.clone(),
            mac: Some(own.mac_text()),
            reseeded: true,
        };
        (asked, proof)
    }

    #[test]
    fn a_proof_that_equals_the_request_is_accepted() {
        let (asked, proof) = asked_and_proof();
        check_proof(&proof, &asked, NOW, NOW).expect("equal");
    }

    type Spoil = fn(&mut IdentityProof);

    #[test]
    fn a_proof_that_differs_in_anything_is_refused_by_its_name() {
        let spoil: [(&str, Spoil); 9] = [
            ("nonce", |p| p.nonce = "0".into()),
            ("host name", |p| p.hostname = "template".into()),
            ("machine id", |p| p.machine_id.clear()),
            ("boot id", |p| p.boot_id = "x\n".into()),
            ("MAC address", |p| p.mac = None),
            ("reseeded", |p| p.reseeded = false),
            ("clock", |p| p.clock_ns -= 1_500_000_000),
            ("clock", |p| p.clock_ns += 1_500_000_000),
            ("clock", |p| p.clock_ns = u64::MAX),
        ];
        for (what, spoil) in spoil {
            let (asked, mut proof) = asked_and_proof();
            spoil(&mut proof);
            let error = check_proof(&proof, &asked, NOW, NOW).expect_err(what);
            assert!(matches!(&error, SandboxError::Identity(text) if text.contains(what)));
        }
    }
}
