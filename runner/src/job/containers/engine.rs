//! The Docker engine of a sandbox: found, and started when it is first needed.

use std::{future::Future, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    job::{
        Options, files::bounded, log::StepLog, process::Stop, reporter::Reporter, steps::Programs,
    },
    sandbox::{Exec, ExecEvent, ExecRequest, ExecStatus, Sandbox, SandboxError},
};

use super::{Client, ContainerError};

/// How long the engine may take to answer; an emulated machine is slow.
const START: Duration = Duration::from_secs(300);

/// How often it is started: on a busy machine containerd may miss the time that dockerd gives it.
const STARTS: u32 = 3;

/// Pause between two questions whether it answers.
const PAUSE: Duration = Duration::from_millis(300);

/// Where the engine writes what it says.
const LOG: &str = "/var/log/dockerd.log";

/// Most of what the client says about versions, in bytes.
const MAX_VERSIONS: usize = 4 << 10;

/// Most of that log that is shown, in bytes.
const MAX_LOG: usize = 8 << 10;

/// The engine of one sandbox.
#[derive(Debug, Default)]
pub(super) struct Engine {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    client: Option<Client>,
    /// The engine's process, where this worker started it: dropping it ends it.
    process: Option<Exec>,
    /// Versions of the interfaces of engine and client, once the engine answered.
    versions: Option<(String, String)>,
}

impl Engine {
    /// The client, if the sandbox's image has Docker.
    pub(super) async fn client<S: Sandbox>(
        &self,
        sandbox: &S,
        options: &Options,
        programs: &Programs,
    ) -> Result<Client, ContainerError> {
        let mut state = self.state.lock().await;
        find(&mut state, sandbox, options, programs).await
    }

    /// The client of an engine that answers.
    ///
    /// An image may have a socket on which the engine starts by itself, and a step may have started
    /// it; otherwise it is started here.
    pub(super) async fn start<S: Sandbox, R: Reporter>(
        &self,
        sandbox: &S,
        options: &Options,
        programs: &Programs,
        log: &StepLog<'_, R>,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<Client, ContainerError> {
        let mut state = self.state.lock().await;
        let client = find(&mut state, sandbox, options, programs).await?;
        if state.versions.is_none() {
            log.line("##[group]Checking docker version").await;
            let started = tokio::select! {
                started = answer(&mut state, sandbox, &client) => started,
                why = stop => return Err(ContainerError::Stopped(why)),
            };
            if let Err(ContainerError::Engine(_)) = &started {
                show_log(sandbox, log).await;
            }
            let versions = started?;
            log.line(&format!("Docker daemon API version: {}", versions.0))
                .await;
            log.line(&format!("Docker client API version: {}", versions.1))
                .await;
            log.line("##[endgroup]").await;
            state.versions = Some(versions);
        }
        Ok(client)
    }
}

async fn find<S: Sandbox>(
    state: &mut State,
    sandbox: &S,
    options: &Options,
    programs: &Programs,
) -> Result<Client, ContainerError> {
    if let Some(client) = &state.client {
        return Ok(client.clone());
    }
    let request = ExecRequest {
        env: options.environment.clone(),
        cwd: "/".to_owned(),
        ..ExecRequest::default()
    };
    let no_docker = || ContainerError::NoDocker(options.image.clone());
    let found = programs
        .find(sandbox, &["docker".to_owned()], request)
        .await?;
    let client = Client::new(found.ok_or_else(no_docker)?, options);
    state.client = Some(client.clone());
    Ok(client)
}

/// Returns when the engine answers, with the versions.
async fn answer<S: Sandbox>(
    state: &mut State,
    sandbox: &S,
    client: &Client,
) -> Result<(String, String), ContainerError> {
    let deadline = Instant::now() + START;
    let late = |_| ContainerError::Engine(format!("no answer for {} seconds", START.as_secs()));
    let versions = timeout_at(deadline, versions(sandbox, client));
    if let Some(versions) = versions.await.map_err(late)?? {
        return Ok(versions);
    }
    state.process = Some(launch(sandbox, client).await?);
    let mut starts = 1;
    loop {
        if let Some(status) = ended(state) {
            if starts == STARTS {
                let why = format!("dockerd ended with code {}", status.code());
                return Err(ContainerError::Engine(why));
            }
            starts += 1;
            state.process = Some(launch(sandbox, client).await?);
        }
        let versions = timeout_at(deadline, self::versions(sandbox, client));
        if let Some(versions) = versions.await.map_err(late)?? {
            return Ok(versions);
        }
        timeout_at(deadline, sleep(PAUSE)).await.map_err(late)?;
    }
}

/// How the engine's process ended, if it did.
fn ended(state: &mut State) -> Option<ExecStatus> {
    match state.process.as_mut()?.events.try_recv() {
        Ok(ExecEvent::Exited(status)) => Some(status),
        _ => None,
    }
}

async fn launch<S: Sandbox>(sandbox: &S, client: &Client) -> Result<Exec, ContainerError> {
    let script = format!("exec dockerd >>{LOG} 2>&1");
    let mut request = client.request(Vec::new(), Vec::new());
    request.argv = ["/bin/sh", "-c", &script].map(str::to_owned).into();
    match bounded("starting the Docker engine", sandbox.exec(request)).await {
        Err(SandboxError::Refused { why, .. }) => Err(ContainerError::Engine(why)),
        started => Ok(started?),
    }
}

/// The versions, if an engine answers. One that is just starting by itself keeps the client waiting.
async fn versions<S: Sandbox>(
    sandbox: &S,
    client: &Client,
) -> Result<Option<(String, String)>, SandboxError> {
    let format = "{{.Server.APIVersion}} {{.Client.APIVersion}}";
    let arguments = ["version", "--format", format].map(str::to_owned).into();
    let mut exec = sandbox.exec(client.request(arguments, Vec::new())).await?;
    let mut output = Vec::new();
    while let Some(event) = exec.events.recv().await {
        match event {
            ExecEvent::Stdout(bytes) if output.len() < MAX_VERSIONS => output.extend(bytes),
            ExecEvent::Stdout(_) | ExecEvent::Stderr(_) => {}
            ExecEvent::Exited(ExecStatus::Code(0)) => {
                let text = String::from_utf8_lossy(&output);
                let mut words = text.split_whitespace().map(str::to_owned);
                return Ok(words.next().zip(words.next()));
            }
            ExecEvent::Exited(_) => return Ok(None),
        }
    }
    let what = "the connection ended while the Docker engine was asked for";
    Err(SandboxError::Lost(what.to_owned()))
}

/// The end of what the engine said, for the one who has to mend it.
async fn show_log<S: Sandbox, R: Reporter>(sandbox: &S, log: &StepLog<'_, R>) {
    let read = bounded(
        "reading the Docker engine's log",
        sandbox.read_file(LOG, 16 << 20),
    );
    let Ok(Some(content)) = read.await else {
        return;
    };
    let end = &content[content.len().saturating_sub(MAX_LOG)..];
    log.line(&format!("##[group]The end of {LOG}")).await;
    log.line(&String::from_utf8_lossy(end)).await;
    log.line("##[endgroup]").await;
}
