//! Calls of the Docker client in the sandbox: shown in the log, followed, and stopped with the job.

use std::{future::Future, path::PathBuf};

use secrecy::{ExposeSecret, SecretString};
use tokio::{io::AsyncReadExt, sync::mpsc};

use crate::{
    job::{
        Options,
        files::bounded,
        lines::{LineSplitter, MAX_LINE, Piece},
        log::StepLog,
        process::Stop,
        reporter::Reporter,
    },
    sandbox::{Exec, ExecEvent, ExecInput, ExecRequest, Sandbox, SandboxError},
};

use super::ContainerError;

/// Bytes of a call's output that are kept beside the log.
const MAX_KEPT: usize = 64 << 10;

/// Bytes of standard input that are sent at once.
const PIECE: usize = 64 << 10;

/// The engine's socket in the sandbox.
pub(super) const SOCKET: &str = "/var/run/docker.sock";

/// Variables of the client's own that decide which engine it talks to.
const ENGINE_VARIABLES: [&str; 2] = ["DOCKER_HOST", "DOCKER_CONTEXT"];

/// The client: a program in the sandbox and how it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    /// Its path.
    program: String,
    /// Where logins are, those of the steps included.
    config: String,
}

/// What standard input of a call is.
pub(super) enum Input {
    /// A file of the host.
    File(PathBuf),
    /// A password.
    Secret(SecretString),
    /// What is no secret.
    Text(String),
}

/// One call.
#[derive(Default)]
pub(super) struct Call {
    pub(super) arguments: Vec<String>,
    /// Variables that `-e NAME` takes over: values are in no command line.
    pub(super) env: Vec<(String, String)>,
    pub(super) input: Option<Input>,
}

impl Call {
    pub(super) fn new<A: AsRef<str>>(arguments: impl IntoIterator<Item = A>) -> Self {
        Self {
            arguments: arguments
                .into_iter()
                .map(|a| a.as_ref().to_owned())
                .collect(),
            ..Self::default()
        }
    }
}

/// How a call ended.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) code: i32,
    /// What it wrote to standard output, the beginning at least.
    pub(super) output: String,
}

impl Called {
    /// The first line that is not empty.
    pub(super) fn first_line(&self) -> &str {
        let mut lines = self.output.lines().map(str::trim);
        lines.find(|line| !line.is_empty()).unwrap_or_default()
    }

    /// An error that names what failed, unless it went well.
    pub(super) fn expect(self, what: &'static str) -> Result<Self, ContainerError> {
        match self.code {
            0 => Ok(self),
            code => Err(ContainerError::Docker { what, code }),
        }
    }
}

impl Client {
    pub(super) fn new(program: String, options: &Options) -> Self {
        let home = options.environment.iter().rev();
        let mut home = home.filter(|(name, _)| name == "HOME");
        let home = home.next().map_or("/root", |(_, home)| home.as_str());
        let config = format!("{home}/.docker");
        Self { program, config }
    }

    /// The process of a call. It is root's: the steps' user need not be allowed to use the engine,
    /// and does not read the environment of a process of root.
    pub(super) fn request(
        &self,
        arguments: Vec<String>,
        env: Vec<(String, String)>,
    ) -> ExecRequest {
        let decides = |(name, _): &(String, String)| ENGINE_VARIABLES.contains(&name.as_str());
        let mut argv = vec![self.program.clone()];
        if env.iter().any(decides) {
            // Meant for what runs in the container.
            argv.push(format!("--host=unix://{SOCKET}"));
        }
        argv.extend(arguments);
        let own = [
            (
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ),
            ("HOME", "/root"),
            ("DOCKER_CONFIG", &self.config),
        ];
        let mut all: Vec<_> = own
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        all.retain(|(name, _)| env.iter().all(|(given, _)| given != name));
        all.extend(env);
        ExecRequest {
            argv,
            env: all,
            cwd: "/".to_owned(),
            user: None,
            stdin: false,
        }
    }

    /// Makes a call; its command line and output are in the log.
    pub(super) async fn call<S: Sandbox, R: Reporter>(
        &self,
        sandbox: &S,
        log: &StepLog<'_, R>,
        call: Call,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<Called, ContainerError> {
        log.line(&format!("##[command]{}", self.shown(&call.arguments)))
            .await;
        let Call {
            arguments,
            env,
            input,
        } = call;
        let mut request = self.request(arguments, env);
        request.stdin = input.is_some();
        let mut exec = bounded("starting Docker's client", sandbox.exec(request)).await?;
        if let Some(input) = input {
            // Ends by itself when the process does: nothing can be sent to it then.
            tokio::spawn(feed(input, exec.input.clone()));
        }
        tokio::select! {
            called = follow(&mut exec, log) => called,
            why = stop => Err(ContainerError::Stopped(why)),
        }
    }

    /// Makes a call that is not in the log; gives its exit code and its output, the beginning at least.
    pub(super) async fn quiet<S: Sandbox>(
        &self,
        sandbox: &S,
        arguments: &[&str],
    ) -> Result<(i32, String), SandboxError> {
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        let mut exec = sandbox.exec(self.request(arguments, Vec::new())).await?;
        let mut kept = Vec::new();
        while let Some(event) = exec.events.recv().await {
            match event {
                ExecEvent::Stdout(bytes) => {
                    let room = MAX_KEPT.saturating_sub(kept.len());
                    kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
                ExecEvent::Stderr(_) => {}
                ExecEvent::Exited(status) => {
                    return Ok((status.code(), String::from_utf8_lossy(&kept).into_owned()));
                }
            }
        }
        let what = "the connection ended while Docker's client was running";
        Err(SandboxError::Lost(what.to_owned()))
    }

    /// The command line as people read it.
    pub(super) fn shown(&self, arguments: &[String]) -> String {
        let mut text = self.program.clone();
        for argument in arguments {
            let plain = !argument.is_empty() && !argument.contains([' ', '\t', '\n', '"']);
            text.push(' ');
            if plain {
                text.push_str(argument);
            } else {
                text.push_str(&format!("\"{}\"", argument.replace('"', "\\\"")));
            }
        }
        text
    }
}

/// Puts what a call writes into the log until it ends.
async fn follow<R: Reporter>(
    exec: &mut Exec,
    log: &StepLog<'_, R>,
) -> Result<Called, ContainerError> {
    let splitter = || LineSplitter::new(log.masker().clone(), MAX_LINE);
    let mut streams = [splitter(), splitter()];
    let mut kept = Vec::new();
    while let Some(event) = exec.events.recv().await {
        let mut pieces = Vec::new();
        let (stream, bytes) = match event {
            ExecEvent::Stdout(bytes) => {
                let room = MAX_KEPT.saturating_sub(kept.len());
                kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
                (0, bytes)
            }
            ExecEvent::Stderr(bytes) => (1, bytes),
            ExecEvent::Exited(status) => {
                for splitter in &mut streams {
                    splitter.finish(&mut |piece| pieces.push(piece));
                }
                write(log, pieces).await;
                return Ok(Called {
                    code: status.code(),
                    output: String::from_utf8_lossy(&kept).into_owned(),
                });
            }
        };
        streams[stream].feed(&bytes, &mut |piece| pieces.push(piece));
        write(log, pieces).await;
    }
    let what = "the connection ended while Docker's client was running";
    Err(SandboxError::Lost(what.to_owned()).into())
}

async fn write<R: Reporter>(log: &StepLog<'_, R>, pieces: Vec<Piece>) {
    for piece in pieces {
        match piece {
            Piece::Line(line) => log.line(&line).await,
            Piece::Part { masked, .. } => log.masked(&masked).await,
        }
    }
}

/// Sends standard input, as far as the process takes it.
async fn feed(input: Input, to: mpsc::Sender<ExecInput>) {
    match input {
        Input::Secret(secret) => {
            let bytes = secret.expose_secret().as_bytes().to_vec();
            if to.send(ExecInput::Stdin(bytes)).await.is_err() {
                return;
            }
        }
        Input::Text(text) => {
            for piece in text.as_bytes().chunks(PIECE) {
                if to.send(ExecInput::Stdin(piece.to_vec())).await.is_err() {
                    return;
                }
            }
        }
        Input::File(path) => {
            // Whether it can be read was checked before; what is cut off the client refuses.
            let Ok(mut file) = tokio::fs::File::open(path).await else {
                return;
            };
            let mut piece = vec![0; PIECE];
            while let Ok(length @ 1..) = file.read(&mut piece).await {
                let bytes = piece[..length].to_vec();
                if to.send(ExecInput::Stdin(bytes)).await.is_err() {
                    return;
                }
            }
        }
    }
    let _ = to.send(ExecInput::StdinEnd).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_in_the_environment_and_not_in_the_command_line() {
        let client = Client::new("/usr/bin/docker".to_owned(), &Options::default());
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let env = [
            ("TOKEN", "hush"),
            ("PATH", "/x"),
            ("DOCKER_HOST", "tcp://d:1"),
        ];
        let arguments = ["run", "-e", "TOKEN", "a b", ""].map(str::to_owned);
        let request = client.request(arguments.clone().into(), env.map(own).into());
        assert_eq!(request.argv[0], "/usr/bin/docker");
        assert_eq!(request.argv[1], "--host=unix:///var/run/docker.sock");
        assert!(
            request
                .argv
                .iter()
                .all(|argument| !argument.contains("hush"))
        );
        let paths = request.env.iter().filter(|(name, _)| name == "PATH");
        assert_eq!(paths.map(|(_, path)| path).collect::<Vec<_>>(), ["/x"]);
        assert_eq!(
            client.shown(&arguments),
            "/usr/bin/docker run -e TOKEN \"a b\" \"\""
        );
    }
}
