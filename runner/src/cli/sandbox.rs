//! `mayfly sandbox`: what a sandbox says of itself, asked inside of one, and checked anywhere.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};

use super::{CommandResult, Exit, Failure};
use crate::{
    attestation::{
        Expected, HostKey, PublicKey, Refused, SANDBOX_FILE, SANDBOX_VARIABLE, SandboxFile,
        Statement, verify,
    },
    config::Installation,
    printable,
};

/// Longest file or answer that is read.
const MAX_BYTES: u64 = 128 << 10;
/// How long the worker may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a sandbox says of itself: asked in one, checked anywhere.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  mayfly sandbox ask --nonce $N > answer.json        # in a step\n  \
                  mayfly sandbox key > host.pem                      # on the host\n  \
                  mayfly sandbox verify answer.json --key host.pem --nonce $N --job build\n\n\
                  Exit codes: 0 it is so, 1 it is not, 2 the command line is wrong, 3 nobody answers."
)]
pub struct SandboxArgs {
    #[command(subcommand)]
    command: SandboxCommand,
}

#[derive(Debug, Subcommand)]
enum SandboxCommand {
    /// Print the public key of this host, by which answers of its sandboxes are checked.
    Key,
    /// In a sandbox: print the worker's signed answer.
    Ask {
        /// 16 to 128 letters, digits, `-` and `_`, drawn by whoever checks the answer; drawn here
        /// without one.
        #[arg(long)]
        nonce: Option<String>,
    },
    /// Check an answer, anywhere and offline.
    Verify(Box<VerifyArgs>),
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// The answer; without one, standard input.
    answer: Option<PathBuf>,
    /// The host's public key, from the host itself.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The nonce that was asked with.
    #[arg(long)]
    nonce: String,
    /// The sandbox's UUID.
    #[arg(long)]
    sandbox: Option<String>,
    /// The run's id.
    #[arg(long)]
    run: Option<String>,
    /// The job's name.
    #[arg(long)]
    job: Option<String>,
    /// `owner/name`.
    #[arg(long)]
    repository: Option<String>,
    /// The digest of the sandbox's image.
    #[arg(long)]
    image: Option<String>,
    /// Fail if pins of the job were violated.
    #[arg(long)]
    pins: bool,
    /// Print the statement as JSON.
    #[arg(long)]
    json: bool,
}

pub fn sandbox(args: &SandboxArgs) -> CommandResult {
    match &args.command {
        SandboxCommand::Key => {
            let key = HostKey::in_folder(&Installation::locate()?.keys())?;
            print!("{}", key.public().to_pem());
            Ok(Exit::Success)
        }
        SandboxCommand::Ask { nonce } => ask(nonce.as_deref()),
        SandboxCommand::Verify(args) => check(args),
    }
}

fn ask(nonce: Option<&str>) -> CommandResult {
    let nonce = match nonce {
        Some(nonce) => nonce.to_owned(),
        None => uuid::Uuid::new_v4().simple().to_string(),
    };
    let path =
        std::env::var_os(SANDBOX_VARIABLE).map_or_else(|| SANDBOX_FILE.into(), PathBuf::from);
    let file = match read(&path) {
        Ok(text) => text,
        Err(error) => {
            let why = anyhow::anyhow!(
                "this is no sandbox of Mayfly: {} cannot be read: {error}",
                path.display()
            );
            return Err(failed(why));
        }
    };
    let wrong = || failed(anyhow::anyhow!("{} is not Mayfly's", path.display()));
    let file: SandboxFile = serde_json::from_slice(&file).map_err(|_| wrong())?;
    let key = PublicKey::parse(&file.public_key).map_err(|_| wrong())?;
    let url = format!("{}?nonce={nonce}", file.proof);
    let answer = get(&file.socket, &url)?;
    // That it is an answer to this question; whether it is this host's, only others can tell.
    let expected = Expected {
        nonce: Some(nonce),
        sandbox: Some(file.sandbox.sandbox),
        ..Expected::default()
    };
    verify(&answer, &key, &expected).map_err(|why| failed(why.into()))?;
    let mut out = io::stdout();
    out.write_all(&answer)?;
    out.write_all(b"\n")?;
    Ok(Exit::Success)
}

fn failed(cause: anyhow::Error) -> Failure {
    let exit = Exit::Failed;
    Failure { exit, cause }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The body of an answer by HTTP.
fn get(socket: &str, url: &str) -> Result<Vec<u8>, Failure> {
    let asked = || -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let head = format!("GET {url} HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut bytes = Vec::new();
        stream.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = asked().map_err(|error| anyhow::anyhow!("nobody answers at {socket}: {error}"))?;
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n");
    let (head, body) = bytes.split_at(end.map_or(bytes.len(), |end| end + 4));
    let head = String::from_utf8_lossy(head);
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        let said = printable::line(&String::from_utf8_lossy(&body[..body.len().min(300)]));
        return Err(failed(anyhow::anyhow!(
            "the worker does not answer what this sandbox is ({status}): {said}"
        )));
    }
    Ok(body.to_vec())
}

fn check(args: &VerifyArgs) -> CommandResult {
    let named = |path: &Path, error: io::Error| {
        Failure::usage(anyhow::anyhow!("cannot read {}: {error}", path.display()))
    };
    let pem = read(&args.key).map_err(|error| named(&args.key, error))?;
    let key = PublicKey::parse(&String::from_utf8_lossy(&pem)).map_err(Failure::usage)?;
    let answer = match &args.answer {
        Some(path) => read(path).map_err(|error| named(path, error))?,
        None => {
            let mut bytes = Vec::new();
            io::stdin().take(MAX_BYTES).read_to_end(&mut bytes)?;
            bytes
        }
    };
    match verify(&answer, &key, &expected(args)) {
        Ok(found) if args.json => {
            println!("{}", serde_json::to_string_pretty(&found.statement)?);
            Ok(Exit::Success)
        }
        Ok(found) => {
            print!("{}", shown(&found.statement));
            Ok(Exit::Success)
        }
        Err(why @ Refused::Nonce) => Err(Failure::usage(why)),
        Err(why) => Err(failed(why.into())),
    }
}

fn expected(args: &VerifyArgs) -> Expected {
    Expected {
        nonce: Some(args.nonce.clone()),
        sandbox: args.sandbox.clone(),
        run: args.run.clone(),
        job: args.job.clone(),
        repository: args.repository.clone(),
        image: args.image.clone(),
        pins: args.pins,
    }
}

fn shown(statement: &Statement) -> String {
    let sandbox = &statement.sandbox;
    let violations = sandbox.pins.violations.iter();
    let violations: Vec<_> = violations
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let pins = match sandbox.pins.ok {
        true => "all right".to_owned(),
        false => format!("violated: {}", violations.join(", ")),
    };
    let lines = [
        ("sandbox", sandbox.sandbox.clone()),
        ("answered", statement.issued.clone()),
        ("repository", sandbox.repository.clone()),
        ("run", sandbox.run.clone()),
        ("job", sandbox.job.clone()),
        (
            "image",
            format!("{} {}", sandbox.image.name, sandbox.image.digest),
        ),
        ("pins", format!("{}: {pins}", sandbox.pins.policy)),
        ("mayfly", sandbox.mayfly.clone()),
    ];
    let line = |(name, value): (&str, String)| format!("{name:<10} {}\n", printable::line(&value));
    lines.map(line).concat()
}
