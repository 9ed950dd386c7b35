//! Processes of steps in the job's container: how they are started and how signals reach them.

use crate::{
    job::files::bounded,
    sandbox::{Exec, ExecEvent, ExecRequest, Sandbox, SandboxError},
};

use super::{Client, Paths};

/// Sends the signal `$1` to all processes of other process namespaces whose environment holds `$2`.
const SIGNAL: &str = "own=$(readlink /proc/self/ns/pid)
for file in $(grep -lsF -e \"$2\" /proc/[0-9]*/environ); do
  process=${file%/environ}
  [ \"$(readlink \"$process/ns/pid\")\" = \"$own\" ] || kill -s \"$1\" \"${process#/proc/}\"
done";

/// The container in which a job's steps run.
#[derive(Debug)]
pub(in crate::job) struct JobContainer {
    pub(super) client: Client,
    pub(super) id: String,
    /// What the steps' paths are inside.
    pub(super) paths: Paths,
    /// `PATH` of its image.
    pub(super) path: String,
}

impl JobContainer {
    /// What the sandbox's paths are called inside.
    pub(super) fn paths(&self) -> &Paths {
        &self.paths
    }

    /// `request` with the container's paths; `added` are directories for `PATH`.
    pub(super) fn translate(&self, mut request: ExecRequest, added: &[String]) -> ExecRequest {
        let inside = |text: &String| self.paths.inside(text);
        request.cwd = inside(&request.cwd);
        request.argv = request.argv.iter().map(inside).collect();
        for (_, value) in &mut request.env {
            *value = inside(value);
        }
        if !added.is_empty() {
            let mut path: Vec<String> = added.iter().map(inside).collect();
            path.extend(Some(self.path.clone()).filter(|path| !path.is_empty()));
            request.env.retain(|(name, _)| name != "PATH");
            request.env.push(("PATH".to_owned(), path.join(":")));
        }
        request
    }

    /// A translated `request` as a process in the container; values of its environment are in no
    /// command line.
    pub(super) fn exec(&self, request: ExecRequest) -> ExecRequest {
        let mut arguments: Vec<String> = ["exec", "-i", "--workdir"].map(str::to_owned).into();
        arguments.push(request.cwd);
        for (name, _) in &request.env {
            arguments.extend(["-e".to_owned(), name.clone()]);
        }
        arguments.push(self.id.clone());
        arguments.extend(request.argv);
        ExecRequest {
            stdin: request.stdin,
            ..self.client.request(arguments, request.env)
        }
    }

    /// Sends a signal to the processes of a step, which are known by a text of their environment:
    /// Docker's client hands no signals on.
    pub(in crate::job) async fn signal<S: Sandbox>(
        &self,
        sandbox: &S,
        signal: i32,
        mark: &str,
    ) -> Result<(), SandboxError> {
        let mut request = self.client.request(Vec::new(), Vec::new());
        let signal = signal.to_string();
        request.argv = ["/bin/sh", "-c", SIGNAL, "sh", &signal, mark]
            .map(str::to_owned)
            .into();
        bounded("stopping what runs in a container", async {
            end(sandbox.exec(request).await?).await
        })
        .await
    }
}

async fn end(mut exec: Exec) -> Result<(), SandboxError> {
    while let Some(event) = exec.events.recv().await {
        if let ExecEvent::Exited(_) = event {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Options;

    fn container() -> JobContainer {
        let mut paths = Paths::default();
        paths.add("/home/runner/work", "/__w");
        paths.add("/opt/node/20", "/__e/node20");
        JobContainer {
            client: Client::new("/usr/bin/docker".to_owned(), &Options::default()),
            id: "abc".to_owned(),
            paths,
            path: "/bin".to_owned(),
        }
    }

    fn exec(env: &[(&str, &str)], added: &[&str]) -> ExecRequest {
        let own = |text: &&str| (*text).to_owned();
        let request = ExecRequest {
            argv: ["/opt/node/20/bin/node", "/home/runner/work/a.js"]
                .map(str::to_owned)
                .into(),
            env: env.iter().map(|(n, v)| (own(n), own(v))).collect(),
            cwd: "/home/runner/work/hello/hello".to_owned(),
            user: Some("runner".to_owned()),
            stdin: false,
        };
        let added: Vec<_> = added.iter().map(own).collect();
        let container = container();
        container.exec(container.translate(request, &added))
    }

    #[test]
    fn a_step_sees_the_containers_paths_and_its_values_are_in_no_argument() {
        let env = [
            ("TOKEN", "hush"),
            ("GITHUB_ENV", "/home/runner/work/_temp/e"),
        ];
        let request = exec(&env, &[]);
        assert_eq!(
            request.argv.join(" "),
            "/usr/bin/docker exec -i --workdir /__w/hello/hello -e TOKEN -e GITHUB_ENV abc \
             /__e/node20/bin/node /__w/a.js"
        );
        let value = |name: &str| {
            let found = request.env.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!(value("TOKEN"), Some("hush"));
        assert_eq!(value("GITHUB_ENV"), Some("/__w/_temp/e"));
        assert_eq!(request.user, None);
    }

    #[test]
    fn what_github_path_added_comes_before_the_path_of_the_image() {
        let request = exec(&[("PATH", "/own")], &["/home/runner/work/b", "/a"]);
        let paths: Vec<_> = request.env.iter().filter(|(n, _)| n == "PATH").collect();
        assert_eq!(paths.len(), 1);
        assert_eq!(paths[0].1, "/__w/b:/a:/bin");
        assert!(request.argv.join(" ").contains(" -e PATH abc "));
        let request = exec(&[("PATH", "/own")], &[]);
        assert!(
            request
                .env
                .contains(&("PATH".to_owned(), "/own".to_owned()))
        );
    }
}
