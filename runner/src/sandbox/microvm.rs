//! A sandbox: one microVM restored from a template, with an identity that it has proven.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use mayfly_vmm::{
    control::{Command, Outcome},
    process::{CommandVmmError, Ended},
    statistics::Statistics,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Exec, ExecRequest, Sandbox, SandboxError,
    agent::AgentClient,
    identity::Uniqueness,
    machine::{Machine, StartMachineError},
    network::{self, NetworkEnd},
    template::Template,
};
use crate::{
    config::Installation,
    egress::{online::Online, proxy::Egress, stack::Addresses},
};

/// How long an agent may take to show that it lives.
const PING_LIMIT: Duration = Duration::from_secs(10);
/// How long a restored guest may take to prove its identity; emulated machines are slow.
const IDENTITY_LIMIT: Duration = Duration::from_secs(60);
/// How long a machine whose agent hung up may take to end by itself.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(10);
/// How long writing all of a guest into files may take.
const SAVE_LIMIT: Duration = Duration::from_secs(180);
/// How long a command that only touches memory may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// A running sandbox. Dropped or ended, nothing of it is left.
#[derive(Debug)]
pub struct MicroVm {
    agent: AgentClient,
    machine: Mutex<Option<Machine>>,
    process: u32,
    /// Its network, if it has one.
    online: Option<Online>,
    /// How long it took from the start of the restore to the proven identity.
    pub ready_after: Duration,
    /// How much of that the guest took to prove its identity.
    pub identity_took: Duration,
}

/// Why a sandbox could not be had.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The machine could not be started.
    #[error(transparent)]
    Start(#[from] StartMachineError),
    /// The files of the template could not be opened again.
    #[error("opening the template's files: {0}")]
    Files(#[source] io::Error),
    /// The kernel gave no randomness.
    #[error("drawing an identity: {0}")]
    Randomness(#[source] io::Error),
    /// There is no socket for its network.
    #[error("making the sandbox's network: {0}")]
    Network(#[source] io::Error),
    /// The guest did not prove its identity; the sandbox was destroyed before any step ran.
    #[error("the sandbox did not prove its identity and was destroyed: {why}; {how}\n{console}")]
    Identity {
        /// What the client found.
        why: SandboxError,
        /// How the machine ended.
        how: String,
        /// The end of the console.
        console: String,
    },
}

impl MicroVm {
    /// Restores a sandbox without a network and gives it its identity.
    ///
    /// # Errors
    /// [`RestoreError`]; nothing of the sandbox is left then.
    pub async fn restore(
        installation: &Installation,
        template: &Template,
    ) -> Result<Self, RestoreError> {
        let begun = Instant::now();
        let unique = Uniqueness::draw().map_err(RestoreError::Randomness)?;
        Self::start(installation, template, &unique, None, begun).await
    }

    /// Restores a sandbox with a network, and gives the end of its link behind which a stack is to run.
    ///
    /// # Errors
    /// [`RestoreError`]; nothing of the sandbox is left then.
    pub async fn restore_online(
        installation: &Installation,
        template: &Template,
    ) -> Result<(Self, NetworkEnd), RestoreError> {
        let begun = Instant::now();
        let unique = Uniqueness::draw().map_err(RestoreError::Randomness)?;
        let (card, end) = NetworkEnd::pair(unique.mac).map_err(RestoreError::Network)?;
        let network = Some((card, end.addresses));
        let sandbox = Self::start(installation, template, &unique, network, begun).await?;
        Ok((sandbox, end))
    }

    async fn start(
        installation: &Installation,
        template: &Template,
        unique: &Uniqueness,
        network: Option<(OwnedFd, Addresses)>,
        begun: Instant,
    ) -> Result<Self, RestoreError> {
        let (from, disks) = template.files().map_err(RestoreError::Files)?;
        let (card, addresses) = network.unzip();
        let machine = Machine::start(installation, template.size(), from, disks, unique, card)?;
        let running = Instant::now();
        if let Err(why) = identify(&machine.agent, unique, addresses.as_ref()).await {
            return Err(refused(machine, why));
        }
        Ok(Self {
            agent: machine.agent.clone(),
            process: machine.vmm.id(),
            online: None,
            machine: Mutex::new(Some(machine)),
            ready_after: begun.elapsed(),
            identity_took: running.elapsed(),
        })
    }

    /// Its network is served from now on, and ends with it.
    pub fn goes_online(&mut self, online: Online) {
        self.online = Some(online);
    }

    /// Client of the guest's agent, for what only a microVM can do.
    #[must_use]
    pub fn agent(&self) -> &AgentClient {
        &self.agent
    }

    /// Process id of the VMM.
    #[must_use]
    pub fn vmm_process(&self) -> u32 {
        self.process
    }

    /// Whether the VMM still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.with_machine(|machine| machine.vmm.is_running())
            .unwrap_or(false)
    }

    /// Times and counters of the VMM.
    ///
    /// # Errors
    /// [`CommandVmmError`] when it does not answer.
    pub fn statistics(&self) -> Result<Statistics, CommandVmmError> {
        match self.command(Command::Statistics)? {
            Outcome::Statistics(statistics) => Ok(statistics),
            other => Err(CommandVmmError::Refused {
                command: Command::Statistics,
                message: format!("it answered {other:?}"),
            }),
        }
    }

    /// Stops the guest's vCPUs.
    ///
    /// # Errors
    /// [`CommandVmmError`] when the VMM does not answer.
    pub fn pause(&self) -> Result<(), CommandVmmError> {
        self.command(Command::Pause).map(|_| ())
    }

    /// Lets the guest's vCPUs go on.
    ///
    /// # Errors
    /// [`CommandVmmError`] when the VMM does not answer.
    pub fn resume(&self) -> Result<(), CommandVmmError> {
        self.command(Command::Resume).map(|_| ())
    }

    /// Pauses the guest, writes all of it into three empty files, and lets it go on.
    ///
    /// # Errors
    /// [`CommandVmmError`] when the VMM does not answer or a file cannot be written.
    pub fn save(&self, memory: &File, state: &File, disk: &File) -> Result<(), CommandVmmError> {
        let files = [memory.as_fd(), state.as_fd(), disk.as_fd()];
        let command = Command::Snapshot;
        let ended = CommandVmmError::Ended {
            command: command.clone(),
        };
        self.pause()?;
        let saved = self
            .with_machine(|machine| machine.vmm.command(command, &files, SAVE_LIMIT))
            .ok_or(ended)?;
        self.resume()?;
        saved.map(|_| ())
    }

    fn command(&self, command: Command) -> Result<Outcome, CommandVmmError> {
        let ended = CommandVmmError::Ended {
            command: command.clone(),
        };
        self.with_machine(|machine| machine.vmm.command(command, &[], COMMAND_LIMIT))
            .ok_or(ended)?
    }

    fn with_machine<T>(&self, act: impl FnOnce(&mut Machine) -> T) -> Option<T> {
        self.machine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
            .map(act)
    }

    /// Destroys a sandbox that no longer answers and tells how its machine ended. One that ends by
    /// itself is given a moment to say why, so that its own words are not cut off.
    pub async fn post_mortem(&self) -> Option<(Ended, String)> {
        let machine = self
            .machine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()?;
        let ended = tokio::task::spawn_blocking(move || machine.wait(LAST_WORDS_LIMIT).ok());
        ended.await.ok().flatten()
    }

    /// Destroys the sandbox after its job. If something looks wrong (`suspect`) and it does not answer
    /// any more, tells how its machine ended, and the end of its console.
    pub async fn finish(&self, suspect: bool) -> Option<(Ended, String)> {
        if suspect {
            let ping = tokio::time::timeout(PING_LIMIT, self.agent().ping());
            if !matches!(ping.await, Ok(Ok(_))) {
                return self.post_mortem().await;
            }
        }
        self.end().await;
        None
    }

    /// Destroys the sandbox.
    pub async fn end(&self) {
        let machine = self
            .machine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // Dropping it kills the VMM and waits for it. A panic there would be the runtime's end.
        let _ = tokio::task::spawn_blocking(move || drop(machine)).await;
    }
}

async fn identify(
    agent: &AgentClient,
    unique: &Uniqueness,
    addresses: Option<&Addresses>,
) -> Result<(), SandboxError> {
    let network = addresses.map(network::request);
    let hostname = format!("mayfly-{}", &unique.machine_id[..8]);
    match tokio::time::timeout(IDENTITY_LIMIT, agent.identify(unique, &hostname, network)).await {
        Ok(proven) => proven,
        Err(_) => Err(SandboxError::Lost(format!(
            "no answer within {IDENTITY_LIMIT:?}"
        ))),
    }
}

fn refused(machine: Machine, why: SandboxError) -> RestoreError {
    let (how, console) = match machine.end() {
        Ok((ended, console)) => (ended.to_string(), console),
        Err(error) => (error.to_string(), String::new()),
    };
    RestoreError::Identity { why, how, console }
}

impl Sandbox for MicroVm {
    fn egress(&self) -> Option<&Egress> {
        self.online.as_ref().map(Online::egress)
    }

    async fn exec(&self, request: ExecRequest) -> Result<Exec, SandboxError> {
        self.agent.exec(request).await
    }

    async fn write_file(&self, path: &str, mode: u32, content: &[u8]) -> Result<(), SandboxError> {
        self.agent.write_file(path, mode, content).await
    }

    async fn read_file(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, SandboxError> {
        self.agent.read_file(path, limit).await
    }

    async fn copy_in(
        &self,
        directory: &str,
        tar: impl AsyncRead + Send + Unpin,
    ) -> Result<(), SandboxError> {
        self.agent.copy_in(directory, tar).await
    }

    async fn copy_out(
        &self,
        path: &str,
        sink: impl AsyncWrite + Send + Unpin,
    ) -> Result<(), SandboxError> {
        self.agent.copy_out(path, sink).await
    }

    async fn remove(&self, path: &str) -> Result<(), SandboxError> {
        self.agent.remove(path).await
    }
}
