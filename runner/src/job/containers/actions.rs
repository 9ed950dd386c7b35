//! Docker actions: their images, and the container in which one of their stages runs.

use std::{future::Future, sync::PoisonError};

use indexmap::IndexMap;
use uuid::Uuid;

use crate::{
    action::{
        dockerfile,
        manifest::{DockerImage, DockerRuns},
    },
    job::{
        actions::Action, files::bounded, layout::Layout, log::StepLog, process::Stop,
        reporter::Reporter, shared::Shared,
    },
    sandbox::{ExecRequest, Sandbox},
};

use super::{
    Call, Client, ContainerError, Containers, Docker, Paths,
    client::{Input, SOCKET},
    display_name, spec,
    starter::{Given, whole_command},
};

/// What the folder of the environment files is called in an action's container.
const FILE_COMMANDS: &str = "/github/file_commands";

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
    shown: Vec<String>,
    arguments: Vec<String>,
    env: Vec<(String, String)>,
}

impl<S: Sandbox, R: Reporter> Docker<'_, '_, S, R> {
    /// Builds the image of an action, on what its Dockerfile names as it is pinned; gives the image's
    /// name.
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
        // The very text that was looked at: a step in the background could write another meanwhile.
        let text = self.pinned_dockerfile(dockerfile).await?;
        let build = Call {
            input: Some(Input::Text(text)),
            ..Call::new(["build", "-t", &tag, "-f", "-", folder])
        };
        self.call(build, stop).await?.expect("build")?;
        Ok(tag)
    }

    /// A Dockerfile whose images are named by their digests, as far as they are pinned.
    async fn pinned_dockerfile(&self, file: &str) -> Result<String, ContainerError> {
        let wrong = |why: String| ContainerError::Dockerfile {
            file: file.to_owned(),
            why,
        };
        let read = self.sandbox.read_file(file, dockerfile::MAX_BYTES as u64);
        let read = bounded("reading a Dockerfile", read).await?;
        let text = read.ok_or_else(|| wrong("there is no such file".to_owned()))?;
        let text = String::from_utf8(text).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
        let mut named = Vec::new();
        let pinned = dockerfile::renamed(&text, |base| {
            let name = match self.loaded_as(&base.image) {
                Some(name) => name,
                None => self.options.actions.image(&base.image)?,
            };
            if name != base.image {
                named.push(format!("{} is {name}", base.image));
            }
            Ok::<_, ContainerError>(name)
        });
        for line in named {
            self.log.line(&line).await;
        }
        match pinned {
            Ok(pinned) => pinned,
            Err(error) if self.options.actions.refuses_unpinned() => Err(wrong(error.to_string())),
            Err(_) => Ok(text),
        }
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
        let client = client.await?;
        let paths = action_paths(layout, file_commands);
        let mut env = stage.env;
        env.insert("GITHUB_ACTIONS".to_owned(), "true".to_owned());
        env.entry("CI".to_owned())
            .or_insert_with(|| "true".to_owned());
        let env = env.into_iter();
        let env: Vec<_> = env
            .map(|(key, value)| (key, paths.inside(&value)))
            .collect();
        let options = self.run_options(stage.image, layout, file_commands);
        let mut container = ActionContainer {
            shown: run_arguments(
                &options,
                &env,
                stage.entrypoint,
                stage.image,
                &stage.arguments,
            ),
            arguments: Vec::new(),
            name: options.name.clone(),
            client,
            env,
            paths,
        };
        let Some(program) = &self.options.starter else {
            container.arguments.clone_from(&container.shown);
            return Ok(container);
        };
        let image = match stage.entrypoint {
            Some(_) => (Vec::new(), Vec::new()),
            None => self.image_command(&container.client, stage.image).await?,
        };
        let argv = whole_command(stage.entrypoint, &stage.arguments, image);
        if argv.is_empty() {
            return Err(ContainerError::NoCommand(stage.image.to_owned()));
        }
        let given = Given {
            env: &std::mem::take(&mut container.env),
            argv: &argv,
            folder: (file_commands, FILE_COMMANDS),
        };
        let start = self.start_with(program, given).await?;
        let mut options = options;
        options.mounts.push(start.mount);
        container.arguments = run_arguments(
            &options,
            &[],
            Some(start.entrypoint),
            stage.image,
            &start.arguments,
        );
        Ok(container)
    }

    /// What a stage's container is run with, whatever runs in it.
    fn run_options(&self, image: &str, layout: &Layout, file_commands: &str) -> RunOptions<'_> {
        let mounts = mounts(layout, file_commands).into_iter();
        let mounts = mounts.map(|(outside, inside)| format!("{outside}:{inside}"));
        RunOptions {
            name: display_name("", image),
            label: &self.containers.label,
            network: self.containers.network.get().map(String::as_str),
            mounts: [format!("{SOCKET}:{SOCKET}")]
                .into_iter()
                .chain(mounts)
                .collect(),
        }
    }
}

struct RunOptions<'a> {
    name: String,
    label: &'a str,
    network: Option<&'a str>,
    mounts: Vec<String>,
}

/// The arguments of Docker's client, in the order in which GitHub's runner gives them.
fn run_arguments(
    options: &RunOptions<'_>,
    env: &[(String, String)],
    entrypoint: Option<&str>,
    image: &str,
    arguments: &[String],
) -> Vec<String> {
    let mut words = vec!["run", "--name", &options.name, "--label", options.label];
    words.extend(["--workdir", "/github/workspace", "--rm"]);
    words.extend(env.iter().flat_map(|(name, _)| ["-e", name]));
    words.extend(
        entrypoint
            .iter()
            .flat_map(|entrypoint| ["--entrypoint", entrypoint]),
    );
    words.extend(
        options
            .network
            .iter()
            .flat_map(|network| ["--network", network]),
    );
    words.extend(options.mounts.iter().flat_map(|mount| ["-v", mount]));
    words.push(image);
    words.extend(arguments.iter().map(String::as_str));
    words.into_iter().map(str::to_owned).collect()
}

impl ActionContainer {
    /// The command line as people read it: that of GitHub's runner.
    pub(in crate::job) fn shown(&self) -> String {
        self.client.shown(&self.shown)
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
        let remove = ["rm", "--force", &self.name];
        let removed = self.client.quiet(sandbox, &remove);
        bounded("removing the container of a step", removed).await?;
        Ok(())
    }
}

/// What an action's container sees of the sandbox, and under which names.
fn mounts(layout: &Layout, file_commands: &str) -> [(String, &'static str); 5] {
    [
        (layout.temp.clone(), "/github/runner_temp"),
        (layout.github_home(), "/github/home"),
        (layout.github_workflow(), "/github/workflow"),
        (file_commands.to_owned(), FILE_COMMANDS),
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
