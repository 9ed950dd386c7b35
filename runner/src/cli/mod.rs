//! The command line: one file per command, exit codes by meaning.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::printable;

mod action;
mod copy;
mod doctor;
mod egress;
mod exec;
mod expr;
mod image;
mod interrupt;
mod kvm;
pub mod logs;
mod machine;
mod network;
mod pairs;
mod pin;
mod progress;
mod protect;
mod run;
mod sandbox;
mod serve;
mod snapshot;
mod status;
mod unpack;
mod worker;

/// What `mayfly` tells its caller by its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All that was asked for succeeded.
    Success,
    /// A job failed, or a check found a failure.
    Failed,
    /// The workflow file or the command line is wrong.
    Usage,
    /// This machine, its images or its snapshots cannot do it.
    Machine,
    /// The exit code of a command that ran in a sandbox.
    Command(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Success => Self::SUCCESS,
            Exit::Failed => Self::from(1),
            Exit::Usage => Self::from(2),
            Exit::Machine => Self::from(3),
            Exit::Command(code) => Self::from(code),
        }
    }
}

/// Why a command did not do what it was asked, with the exit code that says so.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, on what, and what to do next.
    pub cause: anyhow::Error,
}

impl Failure {
    /// The caller's mistake: exit code 2.
    pub fn usage(cause: impl Into<anyhow::Error>) -> Self {
        Self {
            exit: Exit::Usage,
            cause: cause.into(),
        }
    }
}

/// Whatever a command could not foresee is the machine's fault: exit code 3.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(cause: E) -> Self {
        Self {
            exit: Exit::Machine,
            cause: cause.into(),
        }
    }
}

/// What a command returns.
pub type CommandResult = Result<Exit, Failure>;

#[derive(Debug, Parser)]
#[command(
    name = "mayfly",
    version,
    about = "GitHub Actions jobs, each in a fresh microVM restored from a snapshot",
    after_help = "Exit codes: 0 success, 1 a job failed, 2 wrong workflow or command line, \
                  3 the machine cannot do it."
)]
struct Cli {
    /// How to reach KVM: auto emulates a machine where KVM is unusable, require refuses instead,
    /// soft always emulates.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        env = "MAYFLY_KVM"
    )]
    kvm: kvm::KvmMode,
    /// Form of the lines that are logged on standard error; MAYFLY_LOG says which (`info`, `mayfly=debug`, …).
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "text",
        env = "MAYFLY_LOG_FORMAT"
    )]
    log_format: logs::LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    Exec(exec::ExecArgs),
    Image(image::ImageArgs),
    Snapshot(snapshot::SnapshotArgs),
    Doctor(doctor::DoctorArgs),
    Expr(expr::ExprArgs),
    Pin(pin::PinArgs),
    Action(action::ActionArgs),
    Egress(egress::EgressCommandArgs),
    Worker(worker::WorkerArgs),
    Sandbox(sandbox::SandboxArgs),
    Status(status::StatusArgs),
    Serve(serve::ServeArgs),
}

/// Parses the command line, runs the command, reports its failure on stderr.
#[must_use]
pub fn main() -> ExitCode {
    end_quietly_without_readers();
    if let Err(cause) = protect::protect_memory() {
        eprintln!("mayfly: cannot keep other processes out of this one's memory: {cause}");
        return Exit::Machine.into();
    }
    let cli = Cli::parse();
    let serves = matches!(cli.command, Command::Serve(_) | Command::Worker(_));
    let usual = if serves { "info" } else { "warn" };
    let format = cli.log_format;
    logs::init(format, usual, serves);
    let result = match cli.command {
        Command::Run(args) => run::run(&args, cli.kvm),
        Command::Exec(args) => exec::exec(&args, cli.kvm),
        Command::Image(args) => image::image(&args),
        Command::Snapshot(args) => snapshot::snapshot(&args, cli.kvm),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Expr(args) => expr::expr(&args),
        Command::Pin(args) => pin::pin(&args),
        Command::Action(args) => action::action(&args),
        Command::Egress(args) => egress::egress(&args),
        Command::Worker(args) => worker::worker(&args, cli.kvm),
        Command::Sandbox(args) => sandbox::sandbox(&args),
        Command::Status(args) => status::status(&args),
        Command::Serve(args) => serve::serve(&args, cli.kvm, format),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let said = describe(&failure.cause);
            match format {
                logs::LogFormat::Text => eprintln!("mayfly: {said}"),
                logs::LogFormat::Json => tracing::error!("{said}"),
            }
            failure.exit.into()
        }
    }
}

/// Ends as other programs do when nobody reads what is printed any more (`mayfly image ls | head`):
/// without a word, as if by SIGPIPE, which the Rust runtime ignores.
fn end_quietly_without_readers() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<String>();
        if message.is_some_and(|message| message.starts_with("failed printing to std")) {
            std::process::exit(128 + rustix::process::Signal::PIPE.as_raw());
        }
        usual(panic);
    }));
}

/// The runtime of a command that talks to sandboxes.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // As the first thread of a process has: actions are nested ten deep.
        .thread_stack_size(8 << 20)
        .build()
}

/// An error with its causes, those left out that a message before them names already. It may quote
/// a workflow file or a guest, and so has no control characters.
fn describe(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if said.is_empty() {
            said = cause;
        } else if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    printable::lines(&said)
}

#[cfg(test)]
mod tests {
    use super::describe;

    #[test]
    fn a_cause_is_told_once() {
        let named = anyhow::anyhow!("gone").context("cannot read x: gone; do this");
        assert_eq!(describe(&named), "cannot read x: gone; do this");
        let unnamed = anyhow::anyhow!("gone").context("cannot read x");
        assert_eq!(describe(&unnamed), "cannot read x: gone");
        let hostile = anyhow::anyhow!("no job \x1b]0;owned\x07\nnext");
        assert_eq!(describe(&hostile), "no job  ]0;owned \nnext");
    }
}
