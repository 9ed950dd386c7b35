//! Many short jobs through `mayfly serve`: how many a minute, how soon each one's first step begins, and
//! what the supervisor's memory does meanwhile.
//!
//! `JOBS=200 CAPACITY=8 cargo bench -p mayfly-tests --bench soak [-- --json]`. The snapshot is warm. Where
//! the host has no usable KVM the bench runs itself on the emulated machine and says so.

use std::{
    env,
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use mayfly_tests::{
    conditions::Host,
    ensure_kvm,
    github::{FakeJob, Job},
    measured, processes,
    served::Served,
};
use serde::Serialize;

#[derive(Debug, Serialize)]
struct Report {
    conditions: Host,
    jobs: usize,
    capacity: usize,
    /// From the first job's queueing to the last one's result.
    seconds: f64,
    jobs_a_minute: f64,
    /// From the answer that holds the job message to the begin of the first step, as GitHub is told it.
    message_to_first_step_p50_ms: f64,
    message_to_first_step_p95_ms: f64,
    supervisor_start_kib: u64,
    supervisor_end_kib: u64,
    supervisor_descriptors_start: usize,
    supervisor_descriptors_end: usize,
}

fn main() -> ExitCode {
    if let Err(why) = ensure_kvm() {
        eprintln!("not measured: {why}");
        return ExitCode::from(3);
    }
    // The fake has a runtime of its own, so the measurement runs beside this one.
    measured::tell(
        async {
            let measured = tokio::task::spawn_blocking(measure).await;
            measured.context("the measurement")?
        },
        print,
    )
}

fn number(name: &str, usual: usize) -> usize {
    env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(usual)
}

fn measure() -> Result<Report> {
    let (jobs, capacity) = (number("JOBS", 200), number("CAPACITY", 8));
    let pool = format!("capacity = {capacity}\nmin_idle = {}", capacity.min(2));
    let mut served = Served::start(&pool)?;
    served.until("a runner waits", |served| {
        served.view().is_some_and(|view| view.pools[0].idle > 0)
    })?;
    let descriptors =
        |process: u32| std::fs::read_dir(format!("/proc/{process}/fd")).map(Iterator::count);
    let (start_kib, start_fds) = (
        processes::resident_kib(served.pid()),
        descriptors(served.pid())?,
    );
    let begun = Instant::now();
    let ids: Vec<String> = (0..jobs)
        .map(|number| served.github.queue(&job(number)))
        .collect();
    // Far longer than any machine takes: a job that hangs is seen.
    let limit = Duration::from_secs(60 * 60);
    while !ids
        .iter()
        .all(|id| served.github.job(id).completed.is_some())
    {
        ensure!(begun.elapsed() < limit, "jobs do not end\n{}", served.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    let took = begun.elapsed().as_secs_f64();
    let (end_kib, end_fds) = (
        processes::resident_kib(served.pid()),
        descriptors(served.pid())?,
    );
    let done: Vec<Job> = ids.iter().map(|id| served.github.job(id)).collect();
    let failed = done.iter().filter(|job| {
        job.completed
            .as_ref()
            .is_some_and(|done| done["conclusion"] != "succeeded")
    });
    ensure!(failed.count() == 0, "jobs failed\n{}", served.log());
    let mut waits: Vec<Duration> = done.iter().filter_map(first_step).collect();
    ensure!(
        waits.len() == jobs,
        "{} of {jobs} first steps are known",
        waits.len()
    );
    waits.sort_unstable();
    let violations = served.github.violations();
    ensure!(violations.is_empty(), "{violations:?}");
    ensure!(served.end()? == 0, "{}", served.log());
    let at = |part: usize| waits[(waits.len() - 1) * part / 100].as_secs_f64() * 1000.0;
    Ok(Report {
        conditions: Host::here(),
        jobs,
        capacity,
        seconds: took,
        jobs_a_minute: jobs as f64 / took * 60.0,
        message_to_first_step_p50_ms: at(50),
        message_to_first_step_p95_ms: at(95),
        supervisor_start_kib: start_kib,
        supervisor_end_kib: end_kib,
        supervisor_descriptors_start: start_fds,
        supervisor_descriptors_end: end_fds,
    })
}

fn job(number: usize) -> FakeJob {
    FakeJob {
        name: format!("short {number}"),
        scripts: vec![("say".into(), format!("echo job {number}"))],
        secrets: vec![("TOKEN".into(), format!("secret-of-{number}"))],
    }
}

/// How long after the job message the first step began; the runner's own "Set up job" is none.
fn first_step(job: &Job) -> Option<Duration> {
    let began: jiff::Timestamp = job.steps.get(&2)?["started_at"].as_str()?.parse().ok()?;
    SystemTime::from(began)
        .duration_since(job.acquired_at?)
        .ok()
}

fn print(report: &Report) {
    println!("{}", report.conditions);
    println!(
        "{} jobs, capacity {}: {:.1} s, {:.1} jobs a minute",
        report.jobs, report.capacity, report.seconds, report.jobs_a_minute
    );
    println!(
        "job message to first step: p50 {:.0} ms, p95 {:.0} ms",
        report.message_to_first_step_p50_ms, report.message_to_first_step_p95_ms
    );
    println!(
        "supervisor: {} KiB at the start, {} KiB at the end; descriptors {} and {}",
        report.supervisor_start_kib,
        report.supervisor_end_kib,
        report.supervisor_descriptors_start,
        report.supervisor_descriptors_end
    );
}
