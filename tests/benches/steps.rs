//! What a step costs, and how soon the first one speaks, printed with their conditions.
//!
//! `cargo bench -p mayfly-tests --bench steps [-- --json]`. The snapshot is warm: it was restored
//! once before. Where the host has no usable KVM the bench runs itself on the emulated machine and
//! says so; then only ratios mean something.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mayfly::sandbox::{ExecEvent, ExecRequest, Sandbox, microvm::MicroVm};
use mayfly_tests::{
    bench,
    conditions::Conditions,
    ensure_kvm,
    guests::{Guests, SIZE},
    measured,
    spread::Spread,
};
use serde::Serialize;

/// Round trips, and runs of the command, of which the median is told.
const ROUNDS: usize = 15;
/// Steps of the job over which the cost of one is told.
const STEPS: usize = 20;

#[derive(Debug, Serialize)]
struct Report {
    conditions: Conditions,
    /// From `exec` of `/bin/true` to its exit status, over vsock.
    agent_round_trip_ms: Spread,
    /// The same for the process that a `run:` step is: `bash -e` with a script of one line.
    shell_round_trip_ms: Spread,
    /// A whole `run:` step of one line: files, script, process, environment files, log.
    step_ms: Spread,
    /// From the start of the process `mayfly run` to the first line that a step wrote.
    start_to_first_line_ms: Spread,
    /// From there until the process has ended.
    first_line_to_end_ms: Spread,
}

fn main() -> ExitCode {
    if let Err(why) = ensure_kvm() {
        eprintln!("not measured: {why}");
        return ExitCode::from(3);
    }
    measured::tell(measure(), print)
}

async fn measure() -> Result<Report> {
    let guests = Guests::open(SIZE).await?;
    let sandbox = guests.restore().await?;
    let agent = round_trips(&sandbox, &["/bin/true"]).await?;
    let script = "/tmp/one-line.sh";
    sandbox.write_file(script, 0o755, b"echo one\n").await?;
    let shell = round_trips(&sandbox, &["/bin/bash", "-e", script]).await?;
    sandbox.end().await;

    let project = tempfile::tempdir()?;
    let made = Command::new("git")
        .args(["init", "--quiet"])
        .current_dir(project.path())
        .status()?;
    ensure!(made.success(), "git init ended with {made}");
    fs::write(project.path().join("steps.yml"), workflow())?;
    run(project.path())?;
    let (mut steps, mut first, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let times = run(project.path())?;
        first.push(times.first_line);
        rest.push(times.end);
        steps.extend(times.steps);
    }
    Ok(Report {
        conditions: Conditions::here(SIZE, &guests),
        agent_round_trip_ms: Spread::of(agent),
        shell_round_trip_ms: Spread::of(shell),
        step_ms: Spread::of(steps),
        start_to_first_line_ms: Spread::of(first),
        first_line_to_end_ms: Spread::of(rest),
    })
}

/// How long a command takes from the request to its exit status.
async fn round_trips(sandbox: &MicroVm, argv: &[&str]) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    // The first one reads the program from the disk.
    for round in 0..=ROUNDS {
        let begun = Instant::now();
        let mut exec = sandbox
            .exec(ExecRequest {
                argv: argv.iter().map(|&word| word.to_owned()).collect(),
                cwd: "/".to_owned(),
                ..ExecRequest::default()
            })
            .await?;
        let mut status = None;
        while let Some(event) = exec.events.recv().await {
            if let ExecEvent::Exited(exited) = event {
                status = Some(exited.code());
                break;
            }
        }
        ensure!(status == Some(0), "{argv:?} ended with {status:?}");
        if round > 0 {
            times.push(begun.elapsed());
        }
    }
    Ok(times)
}

/// A job whose steps do as little as a step can.
fn workflow() -> String {
    let mut text = "on: push\njobs:\n  steps:\n    runs-on: sandbox\n    steps:\n".to_owned();
    for number in 1..=STEPS {
        let _ = writeln!(text, "      - run: echo this-is-step-{number}");
    }
    text
}

/// What one `mayfly run` took.
struct Times {
    first_line: Duration,
    end: Duration,
    /// Each step but the first, which finds the programs of the shell.
    steps: Vec<Duration>,
}

/// Runs the workflow as a user does and reads its events as they come.
fn run(project: &Path) -> Result<Times> {
    let begun = Instant::now();
    let memory = format!("{}M", SIZE.memory_mib);
    let mut child = bench()
        .mayfly(["run", "steps.yml", "--json", "--memory", &memory])
        .args(["--cpus", &SIZE.vcpus.to_string()])
        .current_dir(project)
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().context("a pipe")?;
    let (mut first_line, mut last, mut steps) = (None, None, Vec::new());
    for line in BufReader::new(output).lines() {
        let now = begun.elapsed();
        let event: serde_json::Value = serde_json::from_str(&line?)?;
        match event["event"].as_str() {
            Some("log") if event["line"] == "this-is-step-1" => first_line = Some(now),
            // The first and the last record are the job's own.
            Some("step_finished") => {
                if let Some(before) = last.replace(now) {
                    steps.push(now - before);
                }
            }
            _ => {}
        }
    }
    let status = child.wait()?;
    let Some(first_line) = first_line.filter(|_| status.success()) else {
        bail!("`mayfly run` ended with {status}, first line after {first_line:?}");
    };
    ensure!(steps.len() == STEPS + 1, "{} steps were seen", steps.len());
    Ok(Times {
        first_line,
        end: begun.elapsed() - first_line,
        steps: steps.drain(1..STEPS).collect(),
    })
}

fn print(report: &Report) {
    println!("{}", report.conditions);
    let spread = |what: &str, spread: &Spread| println!("{what:<48} {spread}");
    spread("agent round trip (/bin/true)", &report.agent_round_trip_ms);
    spread(
        "the same, bash -e with one line",
        &report.shell_round_trip_ms,
    );
    spread("a `run:` step of one line", &report.step_ms);
    spread(
        "start of `mayfly run` to the first step's line",
        &report.start_to_first_line_ms,
    );
    spread("from there to the end", &report.first_line_to_end_ms);
    let overhead = report.step_ms.median / report.shell_round_trip_ms.median;
    println!(
        "{:<48} {overhead:>8.2} x",
        "a step against its bare process"
    );
}
