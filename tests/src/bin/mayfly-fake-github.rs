//! `mayfly-fake-github`: a GitHub on this machine that serves a folder's workflows, so that a person can
//! watch `mayfly serve` take their jobs. It is the strict GitHub of the tests.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, IsTerminal, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, bail};
use mayfly_tests::{
    github::{APP, FakeGitHub, Job},
    planned::{PlannedRun, Started},
};

const HELP: &str = "\
Serves the workflows of a folder as GitHub does, on this machine, for `mayfly serve` or `mayfly worker`.

Usage: mayfly-fake-github --repo DIR [OPTIONS]

  --repo DIR          the checkout whose workflows are served
  --workflow FILE     only this one of DIR/.github/workflows; may be given several times
  --event NAME        the event that starts them [default: push]
  --secret NAME[=V]   a secret; without =V its value is taken from the environment here
  --actions DIR       git repositories of actions, as DIR/OWNER/NAME: what `uses: OWNER/NAME@REF` finds
  --out DIR           where the configuration for `mayfly serve` is written [default: a temporary folder]
  --once              ends when all jobs are over, with code 1 if one failed
  --jit               prints a just-in-time configuration for each job instead, for `mayfly worker`

Examples:
  mayfly-fake-github --repo . --once
      … prints the command that starts the supervisor:
  MAYFLY_CONFIG=/tmp/mayfly-fake-XXXX/config.toml mayfly serve

  mayfly-fake-github --repo . --workflow ci.yml --jit --once
      … prints where a configuration lies:
  mayfly worker --image minimal < /tmp/mayfly-fake-XXXX/runner-1.jit

Sandboxes have the network that their policy gives them; a step that asks for another machine may fail.
";

#[derive(Debug, Default)]
struct Options {
    repo: PathBuf,
    workflows: Vec<String>,
    event: String,
    secrets: Vec<(String, String)>,
    actions: Option<PathBuf>,
    out: Option<PathBuf>,
    once: bool,
    jit: bool,
}

fn main() -> ExitCode {
    let options = match options(env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("mayfly-fake-github: {error}; --help tells what there is");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mayfly-fake-github: {error}");
            return ExitCode::from(3);
        }
    };
    match runtime.block_on(serve(&options)) {
        Ok(failed) => ExitCode::from(u8::from(failed)),
        Err(error) => {
            eprintln!("mayfly-fake-github: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Reads the command line; nothing if help is asked for.
fn options(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Option<Options>> {
    let mut options = Options {
        event: "push".to_owned(),
        ..Options::default()
    };
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} wants a value"))
        };
        match argument.as_str() {
            "--help" | "-h" => return Ok(None),
            "--repo" => options.repo = value()?.into(),
            "--workflow" => options.workflows.push(value()?),
            "--event" => options.event = value()?,
            "--secret" => options.secrets.push(secret(&value()?)?),
            "--actions" => options.actions = Some(fs::canonicalize(value()?)?),
            "--out" => options.out = Some(value()?.into()),
            "--once" => options.once = true,
            "--jit" => options.jit = true,
            other => bail!("`{other}` is not known"),
        }
    }
    if options.repo.as_os_str().is_empty() {
        bail!("--repo is missing");
    }
    Ok(Some(options))
}

fn secret(text: &str) -> anyhow::Result<(String, String)> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => (
            text,
            env::var(text)
                .with_context(|| format!("the secret {text} is not in the environment"))?,
        ),
    };
    Ok((name.to_owned(), value))
}

/// Serves until it is interrupted, or with `--once` until all jobs are over; whether one failed.
async fn serve(options: &Options) -> anyhow::Result<bool> {
    let github = FakeGitHub::start().await?;
    if let Some(actions) = &options.actions {
        github.repositories(actions);
    }
    let started = Started {
        event: options.event.clone(),
        commit: commit(&options.repo),
        secrets: options.secrets.clone(),
    };
    let mut runs = Vec::new();
    for (file, inside) in workflows(options)? {
        let run = PlannedRun::new(&github, &file, &inside, &started);
        runs.push((inside, run?));
    }
    let out = folder(options)?;
    if !options.jit {
        let config = configuration(&github, &out)?;
        println!(
            "GitHub is at {}; start the supervisor in another terminal:\n",
            github.base()
        );
        println!("  MAYFLY_CONFIG={} mayfly serve\n", config.display());
    }
    let mut show = Show::default();
    loop {
        for (file, run) in &mut runs {
            for (name, id) in run.queue_ready(&github)? {
                println!("queued: {name} ({file})");
                if options.jit {
                    let path = out.join(format!("runner-{}.jit", show.jobs.len() + 1));
                    let config = github.register(&format!("runner-{}", show.jobs.len() + 1));
                    write_secret(&path, &config)?;
                    println!("  mayfly worker < {}", path.display());
                }
                show.jobs.push((name, id, Shown::default()));
            }
        }
        show.news(&github)?;
        let over = runs.iter().all(|(_, run)| run.is_over());
        if over && options.once {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for violation in github.violations() {
        println!("against the protocol: {violation}");
    }
    Ok(runs.iter().any(|(_, run)| run.failed()) || !github.violations().is_empty())
}

/// The workflow files that are served, with their paths in the repository.
fn workflows(options: &Options) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let folder = options.repo.join(".github/workflows");
    let mut names = options.workflows.clone();
    if names.is_empty() {
        let found = fs::read_dir(&folder)
            .with_context(|| format!("no workflows in {}", folder.display()))?;
        let found = found
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        names = found
            .filter(|name| name.ends_with(".yml") || name.ends_with(".yaml"))
            .collect();
        names.sort();
    }
    let place = |name: &String| (folder.join(name), format!(".github/workflows/{name}"));
    Ok(names.iter().map(place).collect())
}

fn commit(repo: &Path) -> String {
    let asked = Command::new("git")
        .args(["rev-parse", "HEAD"])
        .current_dir(repo)
        .output();
    let found = asked.ok().filter(|output| output.status.success());
    let id = found.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    id.unwrap_or_else(|| "0".repeat(40))
}

fn folder(options: &Options) -> anyhow::Result<PathBuf> {
    let out = match &options.out {
        Some(out) => out.clone(),
        None => env::temp_dir().join(format!("mayfly-fake-{}", std::process::id())),
    };
    fs::create_dir_all(&out)?;
    fs::set_permissions(&out, fs::Permissions::from_mode(0o700))?;
    Ok(fs::canonicalize(out)?)
}

/// What `mayfly serve` needs to be a runner of this GitHub.
fn configuration(github: &FakeGitHub, out: &Path) -> anyhow::Result<PathBuf> {
    let (key, config) = (out.join("app.pem"), out.join("config.toml"));
    write_secret(&key, &github.app_key())?;
    let text = format!(
        "[github]\nurl = \"{}\"\nrepository = \"octo/hello\"\napp_id = {APP}\nprivate_key_file = \"{}\"\n\n\
         [actions]\npins = \"lock-on-first-use\"\n\n\
         [[pools]]\nname = \"sandbox\"\nimage = \"minimal\"\ncpus = 1\nmemory = \"512M\"\ncapacity = 2\n\
         min_idle = 1\n",
        github.base().trim_end_matches('/'),
        key.display()
    );
    fs::write(&config, text)?;
    Ok(config)
}

fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

/// Prints what is new.
#[derive(Debug, Default)]
struct Show {
    jobs: Vec<(String, String, Shown)>,
}

/// A line without what a terminal would act on.
fn printable(line: &str) -> String {
    let mut shown = String::new();
    let mut rest = line;
    while let Some(at) = rest.find('\u{1b}') {
        shown.push_str(&rest[..at]);
        // Colours end with `m`; of anything else the control characters alone are left out.
        let colour = rest[at..].find('m').filter(|end| *end < 12);
        rest = &rest[at + colour.map_or(1, |end| end + 1)..];
    }
    shown.push_str(rest);
    shown.retain(|c| !c.is_control());
    shown
}

/// What was printed of a job.
#[derive(Debug, Default)]
struct Shown {
    taken: bool,
    steps: BTreeMap<String, String>,
    lines: BTreeMap<String, u64>,
    over: bool,
}

impl Show {
    fn news(&mut self, github: &FakeGitHub) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for (name, id, shown) in self.jobs.iter_mut().filter(|(_, _, shown)| !shown.over) {
            let job = github.job(id);
            shown.news(&mut out, name, &job)?;
        }
        out.flush()
    }
}

impl Shown {
    fn news(&mut self, out: &mut impl Write, name: &str, job: &Job) -> io::Result<()> {
        let bold = |text: &str| match io::stdout().is_terminal() {
            true => format!("\x1b[1m{text}\x1b[0m"),
            false => text.to_owned(),
        };
        if job.runner.is_some() && !std::mem::replace(&mut self.taken, true) {
            writeln!(out, "{name}: {}", bold("taken by a runner"))?;
        }
        for step in job.steps.values() {
            let id = step["external_id"].as_str().unwrap_or_default().to_owned();
            let title = step["name"].as_str().unwrap_or_default();
            let state = match (step["status"].as_u64(), step["conclusion"].as_u64()) {
                (Some(5), _) => continue,
                (Some(3), _) => "begins",
                (_, Some(2)) => "succeeded",
                (_, Some(3)) => "failed",
                (_, Some(4)) => "cancelled",
                _ => "skipped",
            };
            if self.steps.insert(id.clone(), state.to_owned()).as_deref() != Some(state) {
                writeln!(out, "{name}: {} {state}", bold(title))?;
            }
        }
        for (step, lines) in &job.feed {
            let last = self.lines.entry(step.clone()).or_default();
            for (number, line) in lines.range(*last + 1..) {
                writeln!(out, "{name} | {}", printable(line))?;
                *last = *number;
            }
        }
        if let Some(done) = &job.completed {
            let log = job.blobs.get("log-job").map_or(0, |blob| blob.bytes.len());
            let said = done["conclusion"].as_str().unwrap_or_default();
            writeln!(out, "{name}: {} (whole log: {log} bytes)", bold(said))?;
            self.over = true;
        }
        Ok(())
    }
}
