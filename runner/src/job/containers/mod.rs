//! Containers of a job: the engine, the job's own container, its services, and images for actions.
//!
//! The engine runs in the sandbox; the worker calls Docker's client there, as GitHub's runner does.
//! Nothing is left to clean from earlier jobs: each has a sandbox of its own.

mod actions;
mod client;
mod engine;
mod exec;
mod health;
mod images;
mod paths;
mod prepare;
mod records;
mod spec;
mod start;
mod starter;

use std::{
    collections::HashMap,
    future::Future,
    path::PathBuf,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use uuid::Uuid;

use crate::{
    action::enforce::ImageRefused,
    sandbox::{Sandbox, SandboxError},
};

use super::{Options, log::StepLog, process::Stop, reporter::Reporter, shared::Shared};

pub(super) use actions::{ActionStage, WantedImage};
use client::{Call, Called, Client};
use engine::Engine;
pub(super) use exec::JobContainer;
pub(super) use paths::Paths;
use spec::{ContainerSpec, SpecError};

/// Why something with containers did not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContainerError {
    /// The image of the sandbox has no Docker.
    #[error(
        "Containers need Docker, which the image {0} does not have. Image `standard` has it: build \
         it with `mayfly image build standard` and choose it with `--image standard`."
    )]
    NoDocker(String),
    /// The engine does not answer.
    #[error("The Docker engine in the sandbox did not start: {0}")]
    Engine(String),
    /// Nothing pins an image.
    #[error(transparent)]
    Unpinned(#[from] ImageRefused),
    /// What a Dockerfile builds on is not known.
    #[error("{file}: {why}")]
    Dockerfile {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// What the job says about a container.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The client failed; its own words are in the log.
    #[error("Docker {what} failed with exit code {code}")]
    Docker {
        /// Its command.
        what: &'static str,
        /// Its exit code.
        code: i32,
    },
    /// No archive stands for an image, and its registry did not give it.
    #[error(
        "{place}Docker pull failed with exit code {code}: the image {image} is not in the sandbox, and \
         its registry did not give it. An archive of it can stand for it: `docker save {image} -o \
         FILE`, then `--container-image {image}=FILE`."
    )]
    Pull {
        /// Where the job names it.
        place: String,
        /// The image reference.
        image: String,
        /// The client's exit code.
        code: i32,
    },
    /// Nothing says what is to run in a container.
    #[error("The image {0} has no command, and neither the action nor the step has one")]
    NoCommand(String),
    /// A variable or an argument that no process can have.
    #[error("A variable or an argument of the container holds a zero byte")]
    Zero,
    /// The program that starts what runs in containers cannot be read.
    #[error("reading {}: {error}; is Mayfly installed as a whole?", path.display())]
    Starter {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: std::io::Error,
    },
    /// The client said something else than it should.
    #[error("Docker {0} did not say what was made")]
    Answer(&'static str),
    /// The file that stands for an image cannot be read.
    #[error("reading {} for the image {image}: {error}", path.display())]
    Archive {
        /// The image reference.
        image: String,
        /// The file.
        path: PathBuf,
        /// The cause.
        error: std::io::Error,
    },
    /// A service is not healthy.
    #[error("One or more containers failed to start.")]
    Unhealthy,
    /// A step wants to run in a container that is not there.
    #[error("The job's container was not started, so nothing can run in it.")]
    NotStarted,
    /// The step or job was stopped meanwhile.
    #[error("The operation was canceled.")]
    Stopped(Stop),
    /// The sandbox did not do it.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// What a job says about its containers, evaluated.
#[derive(Default)]
struct Plan {
    /// The container for the steps.
    job: Option<ContainerSpec>,
    services: Vec<ContainerSpec>,
}

impl Plan {
    fn is_empty(&self) -> bool {
        self.job.is_none() && self.services.is_empty()
    }
}

/// The containers of one job.
pub(super) struct Containers {
    engine: Engine,
    /// The label of all that the job makes.
    label: String,
    plan: OnceLock<Plan>,
    /// The network of the job's containers.
    network: OnceLock<String>,
    /// The container in which steps run.
    job: OnceLock<JobContainer>,
    /// Display name and id of what is to be removed.
    made: Mutex<Vec<(String, String)>>,
    /// Images of actions that were built or got: what they are called, by what they are known by.
    prepared: Mutex<HashMap<String, String>>,
    /// Set once what starts the stages of actions is in the sandbox.
    starter: tokio::sync::OnceCell<()>,
    /// Images that came from archives: what they are called, by the reference they stand for.
    loaded: Mutex<HashMap<String, String>>,
}

impl Default for Containers {
    fn default() -> Self {
        Self {
            engine: Engine::default(),
            label: Uuid::new_v4().simple().to_string()[..6].to_owned(),
            plan: OnceLock::new(),
            network: OnceLock::new(),
            job: OnceLock::new(),
            made: Mutex::default(),
            prepared: Mutex::default(),
            starter: tokio::sync::OnceCell::new(),
            loaded: Mutex::default(),
        }
    }
}

impl Containers {
    /// The container in which steps run, if the job has one.
    ///
    /// # Errors
    /// It should have one, which was not started.
    pub(super) fn job(&self) -> Result<Option<&JobContainer>, ContainerError> {
        match (self.job.get(), self.plan.get()) {
            (None, Some(Plan { job: Some(_), .. })) => Err(ContainerError::NotStarted),
            (started, _) => Ok(started),
        }
    }

    /// What the paths of the sandbox are called in the job's container, if there is one.
    pub(super) fn paths(&self) -> Option<&Paths> {
        self.job.get().map(JobContainer::paths)
    }
}

/// What calls of the client need.
pub(super) struct Docker<'a, 'log, S, R> {
    client: Client,
    sandbox: &'a S,
    options: &'a Options,
    log: &'a StepLog<'log, R>,
    loaded: &'a Mutex<HashMap<String, String>>,
}

impl<S: Sandbox, R: Reporter> Shared<'_, S, R> {
    /// The client of an engine that answers, started if need be; what it does is in `log`.
    pub(super) async fn docker<'a, 'log>(
        &'a self,
        log: &'a StepLog<'log, R>,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<Docker<'a, 'log, S, R>, ContainerError> {
        let engine = &self.containers.engine;
        let started = engine.start(self.sandbox, self.options, &self.programs, log, stop);
        Ok(Docker {
            client: started.await?,
            sandbox: self.sandbox,
            options: self.options,
            log,
            loaded: &self.containers.loaded,
        })
    }
}

impl<S: Sandbox, R: Reporter> Docker<'_, '_, S, R> {
    /// Makes a call of the client.
    async fn call(
        &self,
        call: Call,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<Called, ContainerError> {
        self.client.call(self.sandbox, self.log, call, stop).await
    }

    /// A call that must succeed: the first line of its output, and the rest.
    async fn ask(
        &self,
        call: Call,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<(String, String), ContainerError> {
        let answer = self.call(call, stop).await?.expect("inspect")?;
        let output = &answer.output;
        let (first, rest) = output.split_once('\n').unwrap_or((output, ""));
        Ok((first.trim().to_owned(), rest.to_owned()))
    }

    /// A call whose failure is only warned of.
    async fn try_call(
        &self,
        arguments: &[&str],
        what: &str,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<(), ContainerError> {
        let called = self.call(Call::new(arguments), stop).await?;
        if called.code != 0 {
            let code = called.code;
            let message = format!("##[warning]Docker {what} failed with exit code {code}");
            self.log.line(&message).await;
        }
        Ok(())
    }

    fn loaded(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name for a container of `image`.
fn display_name(alias: &str, image: &str) -> String {
    let plain: String = format!("{alias}{image}")
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        .take(64)
        .collect();
    let unique = Uuid::new_v4().simple().to_string();
    // Docker wants a letter or digit first.
    format!("c{plain}_{}", &unique[..6])
}
