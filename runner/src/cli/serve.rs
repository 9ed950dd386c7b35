//! `mayfly serve`: the supervisor.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use mayfly_images::store::ImageStore;
use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
};

use super::{
    CommandResult, Exit, Failure,
    kvm::{self, KvmMode},
    logs::LogFormat,
};
use crate::{
    config::{self, CredentialFiles, Installation, Problem, ServeConfig},
    metrics::{Listener, Metrics},
    supervisor::{
        Order, Program, Setup, Supervisor, Times, credentials, notify, status::StatusSocket,
    },
};

/// Serves GitHub: registers runners, gives each job a worker process and a sandbox of its own.
#[derive(Debug, Args)]
#[command(
    after_help = "SIGHUP reads the configuration anew. SIGTERM ends: idle workers at once, running jobs within\n\
                  `drain_timeout`, after which they are cancelled and GitHub is told; a second one ends all now.\n\n\
                  Exit codes: 0 ended as told, 2 the configuration is wrong, 3 the machine cannot do it."
)]
pub struct ServeArgs {
    /// The configuration file, instead of $MAYFLY_CONFIG or /etc/mayfly/config.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only says what is wrong with the configuration, credentials and images included.
    #[arg(long)]
    check_config: bool,
    /// As JSON, with --check-config.
    #[arg(long, requires = "check_config")]
    json: bool,
}

/// What `--check-config --json` prints.
#[derive(Serialize)]
struct Checked {
    file: PathBuf,
    ok: bool,
    problems: Vec<Problem>,
}

pub fn serve(args: &ServeArgs, mode: KvmMode, format: LogFormat) -> CommandResult {
    let file = args.config.clone().unwrap_or_else(config::file);
    let checked = checked(&file);
    if args.check_config {
        return report(args, file, checked);
    }
    let config = checked.map_err(|problems| wrong(&problems))?;
    // A service is up where KVM cannot be used (yet): metrics and status tell it, and its pools try again.
    if mode != KvmMode::Require {
        kvm::ensure(mode)?;
    }
    let installation = Installation::locate()?;
    super::runtime()?.block_on(async {
        let (orders, received) = orders()?;
        let metrics = Metrics::new(&config.github.scope);
        let listen = config.metrics;
        let folder = installation.serve_folder();
        let supervisor = Supervisor::new(Setup {
            config,
            folder: folder.clone(),
            program: program(&file, format)?,
            times: Times::default(),
            observers: vec![metrics.observer()],
        })?;
        let state = supervisor.state();
        let status = StatusSocket::bind(&folder)?.serve(Arc::clone(&state));
        let mut asked = vec![tokio::spawn(status)];
        if let Some(address) = listen {
            asked.push(tokio::spawn(
                Listener::bind(address).await?.serve(metrics, state),
            ));
        }
        tracing::info!(serves = supervisor.state().view().serves, "begins to serve");
        notify::ready();
        let served = supervisor.run(received, || self::checked(&file)).await;
        drop(orders);
        for task in asked {
            task.abort();
            // What it holds, like the socket's file, is gone when it is.
            let _ = task.await;
        }
        served?;
        Ok(Exit::Success)
    })
}

/// Signals as orders.
fn orders() -> io::Result<(JoinHandle<()>, mpsc::Receiver<Order>)> {
    let (sender, receiver) = mpsc::channel(8);
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let task = tokio::spawn(async move {
        loop {
            let order = tokio::select! {
                _ = hangup.recv() => Order::Reload,
                _ = terminate.recv() => Order::End,
                _ = interrupt.recv() => Order::End,
            };
            if sender.send(order).await.is_err() {
                return;
            }
        }
    });
    Ok((task, receiver))
}

/// Workers are this very program.
fn program(config: &Path, format: LogFormat) -> io::Result<Program> {
    Ok(Program {
        path: std::env::current_exe()?,
        arguments: vec!["worker".into()],
        variables: vec![
            // A worker must not become an emulated machine.
            ("MAYFLY_KVM".into(), "require".into()),
            ("MAYFLY_LOG_FORMAT".into(), format.as_str().into()),
            ("MAYFLY_CONFIG".into(), std::path::absolute(config)?.into()),
        ],
    })
}

/// The configuration, if it, the credentials it names and its images are as they must be.
fn checked(file: &Path) -> Result<ServeConfig, Vec<Problem>> {
    let config = ServeConfig::read(file)?;
    let mut problems = Vec::new();
    let mut wrong = |key: &str, what: String| {
        problems.push(Problem {
            file: file.to_owned(),
            line: None,
            key: key.to_owned(),
            what,
        });
    };
    if let Err(error) = credentials::read(&config.github.credentials) {
        let key = match config.github.credentials {
            CredentialFiles::App { .. } => "github.private_key_file",
            CredentialFiles::Token(_) => "github.token_file",
        };
        wrong(key, error.to_string());
    }
    match Installation::locate() {
        Ok(installation) => {
            for (index, pool) in config.pools.iter().enumerate() {
                let image = ImageStore::open(&installation.state)
                    .map_err(|error| error.to_string())
                    .and_then(|store| store.get(&pool.image).map_err(|error| error.to_string()));
                if let Err(what) = image {
                    wrong(&format!("pools[{index}].image"), what);
                }
            }
        }
        Err(error) => wrong("", error.to_string()),
    }
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(problems)
    }
}

fn report(
    args: &ServeArgs,
    file: PathBuf,
    checked: Result<ServeConfig, Vec<Problem>>,
) -> CommandResult {
    let problems = checked.err().unwrap_or_default();
    let ok = problems.is_empty();
    if args.json {
        let checked = Checked { file, ok, problems };
        println!("{}", serde_json::to_string_pretty(&checked)?);
    } else if ok {
        println!("{} is right", file.display());
    } else {
        for problem in &problems {
            println!("{problem}");
        }
    }
    Ok(if ok { Exit::Success } else { Exit::Usage })
}

fn wrong(problems: &[Problem]) -> Failure {
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Failure::usage(anyhow::anyhow!(
        "the configuration is wrong\n{}",
        said.join("\n")
    ))
}
