//! A supervisor's ordinary life: jobs come and go, the configuration changes, it is told to end.

use std::{collections::BTreeSet, thread, time::Duration};

use libtest_mimic::{Failed, Trial};
use mayfly::supervisor::state::WorkerState;
use mayfly_tests::memory;
use rustix::process::Signal;
use serde_json::json;

use crate::rig::{CANARY, Rig};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("each_job_has_a_worker_of_its_own_and_nothing_is_left", jit),
        Trial::test("a_scale_set_starts_workers_as_jobs_are_assigned", || {
            scale_set(false)
        }),
        Trial::test(
            "a_scale_set_acquires_jobs_where_the_server_wants_it",
            || scale_set(true),
        ),
        Trial::test("no_secret_of_a_job_is_in_the_supervisors_memory", canary),
        Trial::test(
            "told_to_end_it_lets_jobs_finish_and_takes_no_new_ones",
            drain,
        ),
        Trial::test(
            "jobs_that_run_too_long_after_that_are_cancelled_and_reported",
            drain_limit,
        ),
        Trial::test("told_to_end_twice_it_ends_now", twice),
        Trial::test(
            "a_new_configuration_is_taken_and_a_wrong_one_is_not",
            reload,
        ),
        Trial::test("a_second_supervisor_does_not_start", second),
    ]
}

fn jit() -> Result<(), Failed> {
    let mut rig = Rig::new("labels = [\"sandbox\", \"fast\"]\ncapacity = 3\nmin_idle = 1")?;
    rig.start()?;
    rig.until("a runner waits", |rig| {
        rig.in_state(WorkerState::Idle).len() == 1
    })?;
    assert_eq!(rig.github.runners()[0].labels, ["sandbox", "fast"]);
    let jobs = rig.queue_many(8, "sleep 150");
    rig.until_succeeded(&jobs)?;
    rig.until("all jobs are shown", |rig| {
        rig.view()
            .is_some_and(|view| view.recent.len() == 8 && view.workers.len() == 1)
    })?;
    let view = rig.view().ok_or("no view")?;
    let processes: BTreeSet<u32> = view.recent.iter().map(|job| job.pid).collect();
    assert_eq!(
        processes.len(),
        8,
        "each job has a process of its own: {view:#?}"
    );
    assert!(
        view.recent
            .iter()
            .all(|job| job.result == "succeeded" && job.job.repository == "octo/hello")
    );
    assert_eq!(view.runner_version.as_deref(), Some("2.340.1"));
    assert!(
        view.rate_limit
            .is_some_and(|limit| limit.remaining < limit.limit)
    );
    // All worked with one token of the installation, which the App's key earned.
    assert_eq!(rig.requests(&["access_tokens"]), 1);
    rig.end()
}

fn scale_set(acquire: bool) -> Result<(), Failed> {
    let mut rig = Rig::new("mode = \"scale-set\"\ncapacity = 3")?;
    if acquire {
        rig.github.wants_acquisition();
    }
    rig.start()?;
    rig.until("a session", |rig| {
        rig.github.scale_sets() == [("sandbox".to_owned(), true)]
    })?;
    assert!(rig.github.runners().is_empty(), "nobody needs a runner");
    let jobs = rig.queue_many(4, "sleep 100");
    rig.until_succeeded(&jobs)?;
    // Both kinds of tokens end, and a session is taken away: it goes on.
    rig.github.expire_queue_tokens();
    let jobs = rig.queue_many(4, "sleep 100");
    rig.until_succeeded(&jobs)?;
    assert!(
        rig.requests(&["PATCH /tenant/", "sessions/"]) >= 1,
        "the session was refreshed"
    );
    assert_eq!(rig.requests(&["acquirejobs 200"]) > 0, acquire);
    rig.until("nobody needs a runner any more", |rig| {
        rig.view().is_some_and(|view| view.workers.is_empty())
    })?;
    rig.end()?;
    assert_eq!(
        rig.github.scale_sets(),
        [("sandbox".to_owned(), false)],
        "the session is ended"
    );
    Ok(())
}

fn canary() -> Result<(), Failed> {
    let mut rig = Rig::new("capacity = 2\nmin_idle = 1")?;
    rig.start()?;
    let job = rig.queue("sleep 2000");
    rig.until("the job runs", |rig| {
        rig.in_state(WorkerState::Busy).len() == 1
    })?;
    let worker = rig.in_state(WorkerState::Busy)[0];
    let needles = [CANARY, "job-token-", "ghs_installation-"];
    // The control: what is to be looked for can be found.
    let found = memory::search(worker, &needles)?;
    assert!(
        found.iter().any(|found| found == CANARY),
        "in the worker: {found:?}"
    );
    let found = memory::search(rig.pid(), &needles)?;
    assert_eq!(found, ["ghs_installation-"], "in the supervisor");
    rig.until_succeeded(&[job])?;
    assert_eq!(memory::search(rig.pid(), &needles)?, ["ghs_installation-"]);
    rig.end()
}

fn drain() -> Result<(), Failed> {
    let mut rig = Rig::new("capacity = 3\nmin_idle = 2")?;
    rig.start()?;
    let running = rig.queue("sleep 1000");
    rig.until("one runs and two wait", |rig| {
        rig.in_state(WorkerState::Busy).len() == 1 && rig.in_state(WorkerState::Idle).len() == 2
    })?;
    rig.signal(Signal::TERM)?;
    rig.until("idle runners are gone", |rig| {
        rig.github.runners().len() == 1
    })?;
    let late = rig.queue("sleep 1");
    assert_eq!(rig.ended()?, 0);
    assert_eq!(rig.conclusion(&running), json!("succeeded"));
    assert_eq!(
        rig.conclusion(&late),
        json!(null),
        "nobody takes a job any more"
    );
    rig.nothing_left()
}

fn drain_limit() -> Result<(), Failed> {
    let mut rig = Rig::new("capacity = 2\nmin_idle = 1")?;
    rig.start()?;
    let running = rig.queue("sleep 600000");
    rig.until("it runs", |rig| rig.in_state(WorkerState::Busy).len() == 1)?;
    rig.signal(Signal::TERM)?;
    assert_eq!(rig.ended()?, 0);
    assert_eq!(rig.conclusion(&running), json!("canceled"));
    rig.nothing_left()
}

fn twice() -> Result<(), Failed> {
    let mut rig = Rig::new("capacity = 2\nmin_idle = 1")?;
    rig.start()?;
    rig.queue("sleep 600000");
    rig.until("it runs", |rig| rig.in_state(WorkerState::Busy).len() == 1)?;
    rig.signal(Signal::TERM)?;
    rig.until("it drains", |rig| {
        rig.view().is_some_and(|view| view.draining)
    })?;
    rig.signal(Signal::TERM)?;
    assert_eq!(rig.ended()?, 0);
    // The kernel may take a moment for processes that were killed.
    rig.until("no worker lives", |rig| {
        rig.workers().is_ok_and(|workers| workers.is_empty())
    })
}

fn reload() -> Result<(), Failed> {
    let mut rig = Rig::new("capacity = 2\nmin_idle = 1")?;
    rig.start()?;
    rig.until("a runner waits", |rig| {
        rig.in_state(WorkerState::Idle).len() == 1
    })?;
    let first = rig.in_state(WorkerState::Idle);
    // A wrong one: said, and all stays.
    rig.configure("capacity = 0")?;
    rig.signal(Signal::HUP)?;
    rig.until("it is said", |rig| {
        let log = rig.log();
        log.contains("the one before it stays") && log.contains("pools[0].capacity")
    })?;
    assert_eq!(rig.in_state(WorkerState::Idle), first);
    // More of the same: who waits goes on waiting.
    rig.configure("capacity = 3\nmin_idle = 2")?;
    rig.signal(Signal::HUP)?;
    rig.until("two wait", |rig| rig.in_state(WorkerState::Idle).len() == 2)?;
    assert!(rig.in_state(WorkerState::Idle).contains(&first[0]));
    // Other labels: who waits is replaced; who works goes on.
    let running = rig.queue("sleep 1000");
    rig.until("it runs", |rig| {
        rig.in_state(WorkerState::Busy).len() == 1 && rig.in_state(WorkerState::Idle).len() == 2
    })?;
    let old = rig.in_state(WorkerState::Idle);
    rig.configure("capacity = 3\nmin_idle = 2\nlabels = [\"other\"]")?;
    rig.signal(Signal::HUP)?;
    rig.until("others wait", |rig| {
        let idle = rig.in_state(WorkerState::Idle);
        idle.len() == 2 && idle.iter().all(|pid| !old.contains(pid))
    })?;
    let labels: Vec<_> = rig
        .github
        .runners()
        .into_iter()
        .map(|runner| runner.labels)
        .collect();
    assert_eq!(
        labels.iter().filter(|labels| *labels == &["other"]).count(),
        2,
        "{labels:?}"
    );
    rig.until_succeeded(&[running])?;
    rig.end()
}

fn second() -> Result<(), Failed> {
    let mut rig = Rig::new("capacity = 1")?;
    rig.start()?;
    let mut other = std::process::Command::new(std::env::current_exe()?);
    other
        .arg(rig.config())
        .arg(rig.config().with_file_name("serve"))
        .env(crate::roles::ROLE, "supervisor");
    let output = other.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("another `mayfly serve` uses"), "{said}");
    thread::sleep(Duration::from_millis(50));
    rig.end()
}
