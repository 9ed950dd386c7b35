//! `mayfly status`: what a running supervisor does.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::{CommandResult, Exit};
use crate::{
    config::Installation,
    metrics::lacking,
    notice::JobNames,
    printable,
    supervisor::{
        state::{JobView, PoolView, StateView, WorkerView},
        status,
    },
};

/// The state folder of the Debian package's service.
const SERVICE_STATE: &str = "/var/lib/mayfly";
/// Jobs that ended which a person is shown.
const RECENT: usize = 10;

/// Shows pools, workers, sandboxes and recent jobs of the supervisor that runs on this machine.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 it runs and takes jobs, 1 it runs and takes none (the first lines tell why),\n\
                  2 wrong command line, 3 none runs, or it may not be asked by this user."
)]
pub struct StatusArgs {
    /// As one object of JSON, with more jobs and all times.
    #[arg(long)]
    json: bool,
    /// State folder of the supervisor, instead of $MAYFLY_STATE, this user's, or /var/lib/mayfly.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
}

pub fn status(args: &StatusArgs) -> CommandResult {
    let socket = socket(args);
    let view = super::runtime()?.block_on(status::ask(&socket))?;
    let lacking = lacking(&view);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&view)?);
    } else {
        print!(
            "{}",
            printable::lines(&text(&view, &lacking, Timestamp::now()))
        );
    }
    Ok(if lacking.is_empty() {
        Exit::Success
    } else {
        Exit::Failed
    })
}

/// The socket in the folder that is named, or the first that is there.
fn socket(args: &StatusArgs) -> PathBuf {
    let in_state = |state: &Path| status::socket_path(&Installation::serve_folder_of(state));
    if let Some(state) = &args.state {
        return in_state(state);
    }
    let service = in_state(Path::new(SERVICE_STATE));
    // Root on a service's machine may have neither a home nor a state folder of its own.
    let Ok(own) = Installation::locate().map(|own| in_state(&own.state)) else {
        return service;
    };
    let named = std::env::var_os("MAYFLY_STATE").is_some_and(|state| !state.is_empty());
    // Not `exists`: one that may not be looked at is there.
    let absent = |path: &Path| {
        let found = path.try_exists();
        matches!(found, Ok(false))
    };
    if !named && absent(&own) && !absent(&service) {
        service
    } else {
        own
    }
}

/// The status for a person.
fn text(view: &StateView, lacking: &[String], now: Timestamp) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    head(&mut out, view, lacking, now).ok();
    pools(&mut out, &view.pools).ok();
    workers(&mut out, &view.workers, now).ok();
    recent(&mut out, &view.recent, now).ok();
    out
}

fn head(
    out: &mut String,
    view: &StateView,
    lacking: &[String],
    now: Timestamp,
) -> std::fmt::Result {
    let state = match (view.draining, lacking.is_empty()) {
        (true, _) => "draining",
        (false, true) => "ready",
        (false, false) => "not ready",
    };
    let up = ago(view.started, now);
    writeln!(
        out,
        "{state}: serves {}, process {}, for {up}",
        view.serves, view.pid
    )?;
    for line in lacking {
        writeln!(out, "  {}", printable::line(line))?;
    }
    if let Some(left) = &view.rate_limit {
        let wait = until(left.reset, now);
        let (remaining, limit) = (left.remaining, left.limit);
        writeln!(
            out,
            "GitHub's API: {remaining} of {limit} requests left, new ones in {wait}"
        )?;
    }
    if let Some(version) = &view.runner_version {
        writeln!(
            out,
            "Reports the protocol level of actions/runner {version}"
        )?;
    }
    Ok(())
}

fn pools(out: &mut String, pools: &[PoolView]) -> std::fmt::Result {
    let mut table = vec![cells([
        "POOL", "MODE", "IMAGE", "CAPACITY", "BUSY", "IDLE", "STARTING", "STOPPING", "LABELS",
    ])];
    for pool in pools {
        table.push(vec![
            pool.name.clone(),
            pool.mode.clone(),
            pool.image.clone(),
            pool.capacity.to_string(),
            pool.busy.to_string(),
            format!("{}/{}", pool.idle, pool.min_idle),
            pool.starting.to_string(),
            pool.stopping.to_string(),
            pool.labels.join(","),
        ]);
    }
    columns(out, &table)
}

fn workers(out: &mut String, workers: &[WorkerView], now: Timestamp) -> std::fmt::Result {
    if workers.is_empty() {
        return writeln!(out, "\nNo workers.");
    }
    let head = [
        "WORKER", "POOL", "STATE", "FOR", "PROCESS", "SANDBOX", "JOB",
    ];
    let mut table = vec![cells(head)];
    for worker in workers {
        let state = serde_json::to_value(worker.state).unwrap_or_default();
        let sandbox = worker.vmm.map_or("-".to_owned(), |vmm| vmm.to_string());
        table.push(vec![
            worker.runner_name.clone(),
            worker.pool.clone(),
            state.as_str().unwrap_or_default().to_owned(),
            ago(worker.since, now),
            worker.pid.to_string(),
            sandbox,
            worker.job.as_ref().map_or("-".to_owned(), job),
        ]);
    }
    columns(out, &table)
}

fn recent(out: &mut String, recent: &[JobView], now: Timestamp) -> std::fmt::Result {
    if recent.is_empty() {
        return writeln!(out, "\nNo job has ended yet.");
    }
    let mut table = vec![cells(["ENDED", "RESULT", "TOOK", "POOL", "JOB"])];
    for ended in recent.iter().take(RECENT) {
        table.push(vec![
            format!("{} ago", ago(ended.ended, now)),
            ended.result.clone(),
            ago(ended.started, ended.ended),
            ended.pool.clone(),
            job(&ended.job),
        ]);
    }
    columns(out, &table)
}

/// A job as GitHub's page names it. Its names are written by whoever can push.
fn job(names: &JobNames) -> String {
    let short = |text: &str| printable::line(text).chars().take(60).collect::<String>();
    let workflow = names.job_workflow_ref.split('@').next().unwrap_or_default();
    let file = workflow.rsplit('/').next().unwrap_or_default();
    let parts = [
        short(&names.repository),
        short(file),
        short(&names.job_name),
    ];
    let parts: Vec<&str> = parts
        .iter()
        .map(String::as_str)
        .filter(|part| !part.is_empty())
        .collect();
    format!("{} (run {})", parts.join(" / "), names.run_id)
}

fn cells<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// An empty line and a table.
fn columns(out: &mut String, table: &[Vec<String>]) -> std::fmt::Result {
    writeln!(out)?;
    let number = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = table.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..number).map(width).collect();
    for row in table {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:width$}  ")?;
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn ago(then: Timestamp, now: Timestamp) -> String {
    short(now.duration_since(then))
}

fn until(then: Timestamp, now: Timestamp) -> String {
    short(then.duration_since(now))
}

/// A time as one or two units.
fn short(time: SignedDuration) -> String {
    let seconds = time.as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        github::rest::RateLimit,
        supervisor::state::{Connection, WorkerState},
    };

    fn view() -> StateView {
        let at = |second| Timestamp::from_second(second).unwrap();
        let names = JobNames {
            repository: "acme/shop".into(),
            job_name: "test\x1b[2J".into(),
            job_workflow_ref: "acme/shop/.github/workflows/ci.yml@refs/heads/main".into(),
            run_id: 77,
            ..JobNames::default()
        };
        StateView {
            started: at(1000),
            pid: 5,
            serves: "https://github.com/acme".into(),
            draining: false,
            github: Connection {
                ok: Some(true),
                since: Some(at(1000)),
                error: None,
            },
            rate_limit: Some(RateLimit {
                limit: 5000,
                remaining: 4321,
                reset: at(5130),
            }),
            runner_version: Some("2.336.0".into()),
            pools: vec![PoolView {
                name: "sandbox".into(),
                mode: "jit".into(),
                labels: vec!["sandbox".into(), "x64".into()],
                image: "standard".into(),
                capacity: 4,
                min_idle: 1,
                desired: 2,
                starting: 0,
                idle: 1,
                busy: 1,
                stopping: 0,
                assigned: None,
                ready: true,
                snapshot_created: Some(at(900)),
                error: None,
            }],
            workers: vec![WorkerView {
                pool: "sandbox".into(),
                runner_name: "sandbox-1".into(),
                runner_id: 9,
                pid: 11,
                state: WorkerState::Busy,
                started: at(4000),
                since: at(4900),
                adopted: false,
                vmm: Some(12),
                job: Some(names.clone()),
                phases: Vec::new(),
                result: None,
            }],
            recent: vec![JobView {
                job: names,
                pool: "sandbox".into(),
                runner_name: "sandbox-0".into(),
                pid: 7,
                vmm: Some(8),
                started: at(4000),
                ended: at(4090),
                result: "failed".into(),
                phases: Vec::new(),
            }],
        }
    }

    #[test]
    fn a_person_sees_pools_workers_sandboxes_and_jobs() {
        let view = view();
        let now = Timestamp::from_second(5010).unwrap();
        let said = printable::lines(&text(&view, &lacking(&view), now));
        insta::assert_snapshot!(said, @r"
        ready: serves https://github.com/acme, process 5, for 1h 6m
        GitHub's API: 4321 of 5000 requests left, new ones in 2m 0s
        Reports the protocol level of actions/runner 2.336.0

        POOL     MODE  IMAGE     CAPACITY  BUSY  IDLE  STARTING  STOPPING  LABELS
        sandbox  jit   standard  4         1     1/1   0         0         sandbox,x64

        WORKER     POOL     STATE  FOR     PROCESS  SANDBOX  JOB
        sandbox-1  sandbox  busy   1m 50s  11       12       acme/shop / ci.yml / test [2J (run 77)

        ENDED        RESULT  TOOK    POOL     JOB
        15m 20s ago  failed  1m 30s  sandbox  acme/shop / ci.yml / test [2J (run 77)
        ");
    }

    #[test]
    fn what_keeps_jobs_from_coming_is_said_first() {
        let mut view = view();
        view.github.ok = Some(false);
        view.github.error = Some("HTTP 502\nfrom a proxy".into());
        view.pools[0].ready = false;
        view.workers.clear();
        view.recent.clear();
        let now = Timestamp::from_second(1002).unwrap();
        let said = text(&view, &lacking(&view), now);
        insta::assert_snapshot!(said, @r"
        not ready: serves https://github.com/acme, process 5, for 2s
          github: HTTP 502 from a proxy
          pool sandbox: its snapshot is not ready yet
        GitHub's API: 4321 of 5000 requests left, new ones in 1h 8m
        Reports the protocol level of actions/runner 2.336.0

        POOL     MODE  IMAGE     CAPACITY  BUSY  IDLE  STARTING  STOPPING  LABELS
        sandbox  jit   standard  4         1     1/1   0         0         sandbox,x64

        No workers.

        No job has ended yet.
        ");
    }
}
