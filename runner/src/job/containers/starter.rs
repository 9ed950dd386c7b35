//! Starts what runs in a container without the engine being told what it is given.
//!
//! The engine keeps what it is told, in the memory of processes that outlive the step and in files of
//! its own: a later step, root in the sandbox, could find an earlier one's secrets there. So the
//! container starts a program of Mayfly's, which reads variables and arguments from a file of the step,
//! removes it and becomes what is to run.

use std::path::Path;

use mayfly_guest::launch::Launch;
use uuid::Uuid;

use crate::{
    job::{files::bounded, reporter::Reporter, shared::Shared},
    sandbox::{ExecRequest, Sandbox},
};

use super::{Client, ContainerError, JobContainer};

/// Where the program is in the sandbox.
const OUTSIDE: &str = "/run/mayfly/start";

/// Where it is in a container.
const INSIDE: &str = "/.mayfly/start";

/// How to start something in a container.
pub(super) struct Start {
    /// The mount that the container needs.
    pub(super) mount: String,
    /// What it runs instead.
    pub(super) entrypoint: &'static str,
    /// With these arguments.
    pub(super) arguments: [String; 2],
}

/// What is to be started.
pub(super) struct Given<'a> {
    pub(super) env: &'a [(String, String)],
    pub(super) argv: &'a [String],
    /// A folder of the sandbox for the file, and what it is called in the container.
    pub(super) folder: (&'a str, &'a str),
}

impl<S: Sandbox, R: Reporter> Shared<'_, S, R> {
    /// The mount by which a container has the program, which is in the sandbox then; none without
    /// one.
    pub(super) async fn starter_mount(&self) -> Result<Option<String>, ContainerError> {
        let Some(program) = &self.options.starter else {
            return Ok(None);
        };
        let starter = &self.containers.starter;
        starter
            .get_or_try_init(|| copy(self.sandbox, program))
            .await?;
        Ok(Some(format!("{OUTSIDE}:{INSIDE}:ro")))
    }

    /// A step's process in the job's container, told by the engine no more than to start the program.
    /// `folder` is that of the step's environment files.
    pub(in crate::job) async fn container_process(
        &self,
        container: &JobContainer,
        request: ExecRequest,
        added: &[String],
        folder: &str,
    ) -> Result<ExecRequest, ContainerError> {
        let mut request = container.translate(request, added);
        if let Some(program) = &self.options.starter {
            let given = Given {
                env: &std::mem::take(&mut request.env),
                argv: &std::mem::take(&mut request.argv),
                folder: (folder, &container.paths.inside(folder)),
            };
            let start = self.start_with(program, given).await?;
            request.argv = vec![start.entrypoint.to_owned()];
            request.argv.extend(start.arguments);
        }
        Ok(container.exec(request))
    }

    /// Puts the program into the sandbox, once, and what it is to start into a file.
    pub(super) async fn start_with(
        &self,
        program: &Path,
        given: Given<'_>,
    ) -> Result<Start, ContainerError> {
        let starter = &self.containers.starter;
        starter
            .get_or_try_init(|| copy(self.sandbox, program))
            .await?;
        let env = given.env.iter();
        let env = env.map(|(name, value)| (name.as_str(), value.as_str()));
        let content = Launch::write(env, given.argv.iter().map(String::as_str));
        let content = content.ok_or(ContainerError::Zero)?;
        let name = format!("start_{}", Uuid::new_v4());
        let (outside, inside) = given.folder;
        let path = format!("{outside}/{name}");
        // Whoever the image runs as must be able to read it.
        let write = self.sandbox.write_file(&path, 0o644, &content);
        bounded("writing what a container is given", write).await?;
        Ok(Start {
            mount: format!("{OUTSIDE}:{INSIDE}:ro"),
            entrypoint: INSIDE,
            arguments: ["--launch".to_owned(), format!("{inside}/{name}")],
        })
    }

    /// What an image runs: its entrypoint and its command.
    pub(super) async fn image_command(
        &self,
        client: &Client,
        image: &str,
    ) -> Result<(Vec<String>, Vec<String>), ContainerError> {
        let format = "--format=[{{json .Config.Entrypoint}},{{json .Config.Cmd}}]";
        let inspect = ["image", "inspect", format, image];
        let asked = client.quiet(self.sandbox, &inspect);
        let (code, answer) = bounded("looking at an image", asked).await?;
        if code != 0 {
            let what = "image inspect";
            return Err(ContainerError::Docker { what, code });
        }
        let parsed: Result<[Option<Vec<String>>; 2], _> = serde_json::from_str(answer.trim());
        let [entrypoint, command] = parsed.map_err(|_| ContainerError::Answer("image inspect"))?;
        Ok((entrypoint.unwrap_or_default(), command.unwrap_or_default()))
    }
}

async fn copy<S: Sandbox>(sandbox: &S, program: &Path) -> Result<(), ContainerError> {
    let read = tokio::fs::read(program).await;
    let bytes = read.map_err(|error| {
        let path = program.to_owned();
        ContainerError::Starter { path, error }
    })?;
    let write = sandbox.write_file(OUTSIDE, 0o755, &bytes);
    Ok(bounded("putting a program into the sandbox", write).await?)
}

/// What runs in the end, by Docker's rules: an entrypoint given takes the place of both that the image
/// has, and arguments take the place of its command.
pub(super) fn whole_command(
    given: Option<&str>,
    arguments: &[String],
    image: (Vec<String>, Vec<String>),
) -> Vec<String> {
    let (entrypoint, command) = image;
    let (mut argv, rest) = match given {
        Some(given) => (vec![given.to_owned()], arguments.to_vec()),
        None if arguments.is_empty() => (entrypoint, command),
        None => (entrypoint, arguments.to_vec()),
    };
    argv.extend(rest);
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_as_docker_has_it() {
        let own = |words: &[&str]| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        let image = || (own(&["/e", "1"]), own(&["c", "2"]));
        for (given, arguments, expected) in [
            (None, &[][..], &["/e", "1", "c", "2"][..]),
            (None, &["a"], &["/e", "1", "a"]),
            (Some("/x"), &[], &["/x"]),
            (Some("/x"), &["a"], &["/x", "a"]),
        ] {
            assert_eq!(whole_command(given, &own(arguments), image()), expected);
        }
        assert!(whole_command(None, &[], (Vec::new(), Vec::new())).is_empty());
    }
}
