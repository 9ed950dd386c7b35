//! `mayfly exec`: one command in a fresh sandbox.

use std::{
    io::{self, Read, Write},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use tokio::{signal::unix::SignalKind, sync::mpsc};

use mayfly_vmm::process::Ended;

use super::{
    CommandResult, Exit, Failure, copy,
    egress::EgressArgs,
    interrupt::{Interrupts, interrupted},
    kvm,
    machine::MachineArgs,
    network::Networks,
    pairs,
};
use crate::{
    config::Installation,
    egress::{intercept::trust, policy::JobPlace, proxy::Egress},
    sandbox::{Exec, ExecEvent, ExecInput, ExecRequest, Sandbox, SandboxError},
};

/// Runs one command in a fresh sandbox; streams, exit code and signals pass through. Three signals
/// within two seconds end it whatever the command does.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  mayfly exec -- uname -a\n  mayfly exec --cpus 2 --memory 4G --env CI=true -- sh -c 'echo $CI'\n  \
                        mayfly exec --copy-in .:/src --copy-out /src/out:out -- make -C /src\n\n\
                        Exit codes: the command's own (128 + N when signal N killed it), 2 wrong command line,\n\
                        3 no sandbox could be had, or it was lost."
)]
pub struct ExecArgs {
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    egress: EgressArgs,
    /// Set an environment variable; without `=V` its value here is taken over.
    #[arg(long, short, value_name = "K[=V]")]
    env: Vec<pairs::Argument>,
    /// Working directory in the sandbox.
    #[arg(long, value_name = "DIR", default_value = "/root")]
    workdir: String,
    /// User in the sandbox, by name or number; root without it.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Copy a file or folder in before the command starts.
    #[arg(long, value_name = "SRC:DST")]
    copy_in: Vec<copy::CopySpec>,
    /// Copy a file or folder out after the command ended, whatever its exit code.
    #[arg(long, value_name = "SRC:DST")]
    copy_out: Vec<copy::CopySpec>,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Three signals within this time end `mayfly exec` itself.
const INSISTENCE: Duration = Duration::from_secs(2);

/// `PATH` of a command for which the caller names none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub fn exec(args: &ExecArgs, mode: kvm::KvmMode) -> CommandResult {
    let env = environment(&args.env)?;
    let sources = args
        .copy_in
        .iter()
        .map(copy::Source::open)
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failure::usage)?;
    for spec in &args.copy_out {
        copy::check_destination(spec).map_err(Failure::usage)?;
    }
    kvm::ensure(mode)?;
    let installation = Installation::locate()?;
    let networks = Networks::new(&args.egress, &installation, None)?;
    let place = JobPlace::default();
    super::runtime()?.block_on(async {
        let mut interrupts = Interrupts::take()?;
        let launcher = interrupts
            .guard(args.machine.launcher(installation))
            .await?;
        let restored = networks.restore(&launcher, &place, None);
        let sandbox = interrupts.guard(restored).await?;
        eprintln!("{}", networks.line());
        match in_sandbox(args, env, sources, &sandbox, interrupts).await {
            Ok(exit) => {
                sandbox.end().await;
                Ok(exit)
            }
            Err(failure) => Err(explain(failure, sandbox.post_mortem().await)),
        }
    })
}

/// Adds how the machine ended, where it ended by itself.
fn explain(failure: Failure, ended: Option<(Ended, String)>) -> Failure {
    let Some((ended, console)) = ended else {
        return failure;
    };
    tracing::info!("the end of the console:\n{console}");
    Failure {
        exit: failure.exit,
        cause: failure.cause.context(ended.to_string()),
    }
}

async fn in_sandbox(
    args: &ExecArgs,
    mut env: Vec<(String, String)>,
    sources: Vec<copy::Source>,
    sandbox: &impl Sandbox,
    mut interrupts: Interrupts,
) -> CommandResult {
    if let Some(interceptor) = sandbox.egress().and_then(Egress::interceptor) {
        let installed = trust::install(sandbox, interceptor.authority());
        let mut variables = interrupts.guard(installed).await?;
        variables.retain(|(name, _)| env.iter().all(|(known, _)| known != name));
        env.append(&mut variables);
    }
    for source in sources {
        interrupts.guard(source.send(sandbox)).await?;
    }
    let request = ExecRequest {
        argv: args.command.clone(),
        env,
        cwd: args.workdir.clone(),
        user: args.user.clone(),
        stdin: true,
    };
    let exit = match interrupts.guard(started(sandbox, request)).await? {
        // As shells do: 127 for a command that is not there or cannot be started.
        Err(SandboxError::Refused { what, why }) => {
            eprintln!("mayfly: {what}: {why}");
            Exit::Command(127)
        }
        exec => stream(exec?).await?,
    };
    // Signals up to here were the command's; a guest that withholds its files can be left.
    let mut interrupts = Interrupts::take()?;
    for spec in &args.copy_out {
        interrupts.guard(copy::receive(sandbox, spec)).await?;
    }
    Ok(exit)
}

/// The start of the command. A refusal is the command's own failure, and no failure here.
async fn started(
    sandbox: &impl Sandbox,
    request: ExecRequest,
) -> Result<Result<Exec, SandboxError>, SandboxError> {
    match sandbox.exec(request).await {
        refused @ Err(SandboxError::Refused { .. }) => Ok(refused),
        started => started.map(Ok),
    }
}

/// Connects the process to this one's streams and signals until it ends.
async fn stream(mut exec: Exec) -> CommandResult {
    forward_stdin(exec.input.clone());
    let mut insisted = forward_signals(&exec.signals)?;
    loop {
        let event = tokio::select! {
            event = exec.events.recv() => event,
            Some(number) = insisted.recv() => return Err(interrupted(number)),
        };
        let Some(event) = event else { break };
        match event {
            ExecEvent::Stdout(bytes) => write_all(&mut io::stdout().lock(), &bytes)?,
            ExecEvent::Stderr(bytes) => write_all(&mut io::stderr().lock(), &bytes)?,
            ExecEvent::Exited(status) => {
                return Ok(Exit::Command(
                    u8::try_from(status.code()).unwrap_or(u8::MAX),
                ));
            }
        }
    }
    Err(anyhow::anyhow!(
        "the sandbox ended before the command did; see its console with MAYFLY_LOG=info"
    )
    .into())
}

fn write_all(sink: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    sink.write_all(bytes).and_then(|()| sink.flush())
}

/// Reads stdin on a thread of its own: a blocking read of a terminal cannot be cancelled, and must
/// not keep the runtime from ending.
fn forward_stdin(input: mpsc::Sender<ExecInput>) {
    thread::spawn(move || {
        let mut stdin = io::stdin();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) | Err(_) => {
                    let _ = input.blocking_send(ExecInput::StdinEnd);
                    return;
                }
                Ok(read) => {
                    if input
                        .blocking_send(ExecInput::Stdin(buffer[..read].to_vec()))
                        .is_err()
                    {
                        return;
                    }
                }
            }
        }
    });
}

/// Passes interrupt, termination, hang-up and quit to the command's process group. What it gives
/// has a signal when a person insists: a hostile guest need not end for any.
fn forward_signals(guest: &mpsc::Sender<i32>) -> io::Result<mpsc::Receiver<i32>> {
    let (all, mut signals) = mpsc::channel(1);
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::quit(),
    ] {
        let mut signals = tokio::signal::unix::signal(kind)?;
        let all = all.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if all.send(kind.as_raw_value()).await.is_err() {
                    return;
                }
            }
        });
    }
    let (insist, insisted) = mpsc::channel(1);
    let guest = guest.clone();
    tokio::spawn(async move {
        let mut before = Vec::new();
        while let Some(number) = signals.recv().await {
            // A guest that takes no more has enough of them, and must not hold this up.
            let _ = guest.try_send(number);
            before.retain(|at: &Instant| at.elapsed() < INSISTENCE);
            before.push(Instant::now());
            if before.len() >= 3 && insist.send(number).await.is_err() {
                return;
            }
        }
    });
    Ok(insisted)
}

fn environment(given: &[pairs::Argument]) -> Result<Vec<(String, String)>, Failure> {
    let mut env = vec![
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOME".to_owned(), "/root".to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ];
    for (name, value) in pairs::parse_all(given).map_err(Failure::usage)? {
        env.retain(|(known, _)| *known != name);
        env.push((name, value));
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use clap::Parser;
    use rustix::process::{Signal, getpid, kill_process};
    use tokio::{
        io::{AsyncRead, AsyncWrite},
        sync::mpsc,
        time::{sleep, timeout},
    };

    use super::{ExecArgs, in_sandbox};
    use crate::{
        cli::{Exit, interrupt::Interrupts},
        sandbox::{Exec, ExecEvent, ExecRequest, ExecStatus, Sandbox, SandboxError},
    };

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ExecArgs,
    }

    /// A guest that withholds its files, and perhaps the end of its command.
    struct Withholding {
        ends: bool,
    }

    impl Sandbox for Withholding {
        async fn exec(&self, _: ExecRequest) -> Result<Exec, SandboxError> {
            let (sender, events) = mpsc::channel(1);
            let (input, inputs) = mpsc::channel(1);
            if self.ends {
                let ended = ExecEvent::Exited(ExecStatus::Code(0));
                sender.send(ended).await.map_err(|_| withheld())?;
            } else {
                // Neither end is ever used again, nor closed.
                std::mem::forget((sender, inputs));
            }
            let (signals, _) = mpsc::channel(1);
            Ok(Exec {
                events,
                input,
                signals,
            })
        }

        async fn write_file(&self, _: &str, _: u32, _: &[u8]) -> Result<(), SandboxError> {
            pending().await
        }

        async fn read_file(&self, _: &str, _: u64) -> Result<Option<Vec<u8>>, SandboxError> {
            pending().await
        }

        async fn copy_in(
            &self,
            _: &str,
            _: impl AsyncRead + Send + Unpin,
        ) -> Result<(), SandboxError> {
            pending().await
        }

        async fn copy_out(
            &self,
            _: &str,
            _: impl AsyncWrite + Send + Unpin,
        ) -> Result<(), SandboxError> {
            pending().await
        }

        async fn remove(&self, _: &str) -> Result<(), SandboxError> {
            pending().await
        }
    }

    fn withheld() -> SandboxError {
        SandboxError::Lost("nobody listens".to_owned())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_guest_that_withholds_its_files_can_be_interrupted() {
        // Both in one test: signals are the whole process's.
        assert_eq!(
            left(Withholding { ends: true }, 1).await,
            Exit::Command(129)
        );
        assert_eq!(
            left(Withholding { ends: false }, 3).await,
            Exit::Command(129)
        );
    }

    /// How `exec` ends after so many signals.
    async fn left(sandbox: Withholding, signals: usize) -> Exit {
        let folder = tempfile::tempdir().unwrap();
        let spec = format!("/out:{}", folder.path().join("out").display());
        let Line { args } = Line::parse_from(["exec", "--copy-out", &spec, "--", "true"]);
        let interrupts = Interrupts::take().unwrap();
        let interrupt = async {
            for _ in 0..signals {
                sleep(Duration::from_millis(200)).await;
                kill_process(getpid(), Signal::HUP).unwrap();
            }
            pending::<()>().await;
        };
        let run = in_sandbox(&args, Vec::new(), Vec::new(), &sandbox, interrupts);
        let ended = tokio::select! {
            ended = timeout(Duration::from_secs(20), run) => ended,
            () = interrupt => unreachable!("never ends"),
        };
        ended.expect("the interrupt was heard").unwrap_err().exit
    }
}
