//! Docker actions: their images, and the container in which one of their stages runs.

use std::{future::Future, sync::PoisonError};

use indexmap::IndexMap;
use uuid::Uuid;

use crate::{
    action::manifest::{DockerImage, DockerRuns},
    job::{
        actions::Action, files::bounded, layout::Layout, log::StepLog, process::Stop,
        reporter::Reporter, shared::Shared,
    },
    sandbox::{ExecEvent, ExecRequest, Sandbox},
};

use super::{
    Call, Client, ContainerError, Containers, Docker, Paths, client::SOCKET, display_name, spec,
};

/// The image of an action, and what it is known by in a job.
pub(in crate::job) struct WantedImage<'a> {
    key: String,
    image: DockerImage<'a>,
    /// The action's folder.
    directory: &'a str,
}

impl<'a> WantedImage<'a> {
    /// The image of `action`, which the step `id` runs. An action of the workspace may be another
    /// one in each step.
    pub(in crate::job) fn of(action: &'a Action, docker: &'a DockerRuns, id: &str) -> Self {
        let image = docker.image();
        let key = match (image, &action.reference) {
            (DockerImage::Registry(image), _) => format!("image {image}"),
            (DockerImage::Dockerfile(_), Some(_)) => format!("action {}", action.name),
            (DockerImage::Dockerfile(_), None) => format!("step {id}"),
        };
        let directory = &action.directory;
        Self {
            key,
            image,
            directory,
        }
    }

    /// An image of a registry.
    pub(super) fn registry(image: &'a str) -> Self {
        Self {
            key: format!("image {image}"),
            image: DockerImage::Registry(image),
            directory: "",
        }
    }
}

/// What a stage of a Docker action runs.
pub(in crate::job) struct ActionStage<'a> {
    /// What its image is called.
    pub(in crate::job) image: &'a str,
    /// What runs instead of what the image says.
    pub(in crate::job) entrypoint: Option<&'a str>,
    /// Its arguments.
    pub(in crate::job) arguments: Vec<String>,
    /// Its variables, with the sandbox's paths.
    pub(in crate::job) env: IndexMap<String, String>,
}

/// A stage's container, ready to run.
pub(in crate::job) struct ActionContainer {
    /// What it calls the sandbox's paths.
    pub(in crate::job) paths: Paths,
    client: Client,
    name: String,
    arguments: Vec<String>,
    env: Vec<(String, String)>,
}

impl<S: Sandbox, R: Reporter> Docker<'_, '_, S, R> {
    /// Builds the image of an action; gives the image's name.
    async fn build(
        &self,
        label: &str,
        dockerfile: &str,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<String, ContainerError> {
        // What the person gave may be what the Dockerfile begins with.
        for (image, _) in &self.options.container_images {
            self.load(image, stop).await?;
        }
        let folder = dockerfile
            .rsplit_once('/')
            .map_or(".", |(folder, _)| folder);
        let tag = format!("{label}:{}", Uuid::new_v4().simple());
        let build = Call::new(["build", "-t", &tag, "-f", dockerfile, folder]);
        self.call(build, stop).await?.expect("build")?;
        Ok(tag)
    }
}

impl Containers {
    /// What an image is called that was built or got already.
    pub(in crate::job) fn prepared(&self, wanted: &WantedImage<'_>) -> Option<String> {
        let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.get(&wanted.key).cloned()
    }
}

impl<S: Sandbox, R: Reporter> Shared<'_, S, R> {
    /// Builds or gets an image; gives the name under which it can be used.
    pub(in crate::job) async fn action_image(
        &self,
        wanted: &WantedImage<'_>,
        layout: &Layout,
        log: &StepLog<'_, R>,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<String, ContainerError> {
        let docker = self.docker(log, stop).await?;
        let image = match wanted.image {
            DockerImage::Registry(image) => {
                let image = spec::image("uses", image)?;
                docker.provide(&image, "", None, &layout.temp, stop).await?
            }
            DockerImage::Dockerfile(file) => {
                let dockerfile = format!("{}/{file}", wanted.directory);
                log.line(&format!("Dockerfile for action: '{dockerfile}'."))
                    .await;
                docker
                    .build(&self.containers.label, &dockerfile, stop)
                    .await?
            }
        };
        let mut prepared = self
            .containers
            .prepared
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        prepared.insert(wanted.key.clone(), image.clone());
        Ok(image)
    }

    /// The container of a stage.
    pub(in crate::job) async fn action_container(
        &self,
        stage: ActionStage<'_>,
        layout: &Layout,
        file_commands: &str,
    ) -> Result<ActionContainer, ContainerError> {
        let engine = &self.containers.engine;
        let client = engine.client(self.sandbox, self.options, &self.programs);
        let paths = action_paths(layout, file_commands);
        let name = display_name("", stage.image);
        let mut arguments: Vec<String> = ["run", "--name", &name, "--label"]
            .map(str::to_owned)
            .into();
        let mut add =
            |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        add(&[
            &self.containers.label,
            "--workdir",
            "/github/workspace",
            "--rm",
        ]);
        let mut env = stage.env;
        env.insert("GITHUB_ACTIONS".to_owned(), "true".to_owned());
        env.entry("CI".to_owned())
            .or_insert_with(|| "true".to_owned());
        for key in env.keys() {
            add(&["-e", key]);
        }
        if let Some(entrypoint) = stage.entrypoint {
            add(&["--entrypoint", entrypoint]);
        }
        if let Some(network) = self.containers.network.get() {
            add(&["--network", network]);
        }
        add(&["-v", &format!("{SOCKET}:{SOCKET}")]);
        for (outside, inside) in mounts(layout, file_commands) {
            add(&["-v", &format!("{outside}:{inside}")]);
        }
        add(&[stage.image]);
        arguments.extend(stage.arguments);
        let env = env.into_iter();
        Ok(ActionContainer {
            client: client.await?,
            name,
            arguments,
            env: env
                .map(|(key, value)| (key, paths.inside(&value)))
                .collect(),
            paths,
        })
    }
}

impl ActionContainer {
    /// The command line as people read it.
    pub(in crate::job) fn shown(&self) -> String {
        self.client.shown(&self.arguments)
    }

    /// The process that runs the container to its end.
    pub(in crate::job) fn request(&self) -> ExecRequest {
        self.client
            .request(self.arguments.clone(), self.env.clone())
    }

    /// Removes the container of a stage that was stopped: what it does not end by itself would run
    /// on beside later steps, with what this one was given.
    pub(in crate::job) async fn remove<S: Sandbox>(
        &self,
        sandbox: &S,
    ) -> Result<(), ContainerError> {
        let arguments = ["rm", "--force", &self.name].map(str::to_owned).into();
        let request = self.client.request(arguments, Vec::new());
        let removed = async {
            let mut exec = sandbox.exec(request).await?;
            while let Some(event) = exec.events.recv().await {
                if let ExecEvent::Exited(_) = event {
                    break;
                }
            }
            Ok(())
        };
        Ok(bounded("removing the container of a step", removed).await?)
    }
}

/// What an action's container sees of the sandbox, and under which names.
fn mounts(layout: &Layout, file_commands: &str) -> [(String, &'static str); 5] {
    [
        (layout.temp.clone(), "/github/runner_temp"),
        (layout.github_home(), "/github/home"),
        (layout.github_workflow(), "/github/workflow"),
        (file_commands.to_owned(), "/github/file_commands"),
        (layout.workspace.clone(), "/github/workspace"),
    ]
}

/// The same as a translation.
fn action_paths(layout: &Layout, file_commands: &str) -> Paths {
    let mut paths = Paths::default();
    for (outside, inside) in mounts(layout, file_commands) {
        paths.add(&outside, inside);
    }
    paths
}
