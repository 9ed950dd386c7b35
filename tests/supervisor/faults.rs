//! What goes wrong: GitHub limits, fails, refuses; workers and supervisors are killed.

use std::{
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use mayfly::supervisor::state::WorkerState;
use mayfly_tests::github::Fault;
use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::rig::{Rig, pid};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("a_killed_supervisor_finds_its_workers_again", crash),
        Trial::test(
            "runners_that_lost_their_workers_are_removed_at_the_start",
            orphans,
        ),
        Trial::test(
            "a_killed_worker_is_replaced_and_its_runner_removed",
            killed_worker,
        ),
        Trial::test("a_rate_limit_is_waited_out", limited),
        Trial::test("an_outage_is_waited_out_ever_more_slowly", outage),
        Trial::test("a_token_that_was_revoked_is_replaced", revoked),
        Trial::test("an_answer_that_is_lost_leaves_no_runner", lost_answer),
        Trial::test("a_worker_without_a_session_is_no_capacity", watchdog),
        Trial::test(
            "workers_that_end_badly_are_not_started_in_haste",
            bad_workers,
        ),
        Trial::test(
            "a_scale_sets_session_that_is_lost_or_taken_is_opened_anew",
            sessions,
        ),
        Trial::test(
            "without_releases_the_version_comes_from_the_downloads",
            downloads,
        ),
    ]
}

fn crash() -> Result<(), Failed> {
    for mode in ["min_idle = 1", "mode = \"scale-set\"\nmin_idle = 1"] {
        let mut rig = Rig::new(&format!("capacity = 3\n{mode}"))?;
        rig.start()?;
        let jobs = rig.queue_many(2, "sleep 2500");
        rig.until("two work and one waits", |rig| {
            rig.in_state(WorkerState::Busy).len() == 2 && rig.in_state(WorkerState::Idle).len() == 1
        })?;
        let (busy, idle) = (
            rig.in_state(WorkerState::Busy),
            rig.in_state(WorkerState::Idle),
        );
        let runners = rig.github.runners().len();
        rig.crash()?;
        assert_eq!(rig.workers()?.len(), 3, "they live on");
        rig.start()?;
        rig.until("it has found them", |rig| {
            rig.in_state(WorkerState::Busy) == busy && rig.in_state(WorkerState::Idle) == idle
        })?;
        let view = rig.view().ok_or("no view")?;
        assert!(
            view.workers.iter().all(|worker| worker.adopted),
            "{view:#?}"
        );
        thread::sleep(Duration::from_millis(300));
        assert_eq!(rig.github.runners().len(), runners, "no runner twice");
        rig.until_succeeded(&jobs)?;
        rig.until("both jobs are shown", |rig| {
            let recent = rig.view().map(|view| view.recent).unwrap_or_default();
            recent.len() == 2 && recent.iter().all(|job| job.result == "succeeded")
        })?;
        // The one that waited takes a job of the new supervisor's time.
        let job = rig.queue("sleep 10");
        rig.until_succeeded(&[job])?;
        rig.end()?;
    }
    Ok(())
}

fn orphans() -> Result<(), Failed> {
    let mut rig = Rig::new("capacity = 2\nmin_idle = 2")?;
    rig.start()?;
    rig.until("two wait", |rig| rig.in_state(WorkerState::Idle).len() == 2)?;
    let old: Vec<u64> = rig
        .github
        .runners()
        .iter()
        .map(|runner| runner.id)
        .collect();
    let workers = rig.workers()?;
    rig.crash()?;
    for worker in workers {
        kill_process(pid(worker)?, Signal::KILL)?;
    }
    // Others' runners are none of our business.
    let foreign = rig.github.register("sandbox-00000000-11111111");
    assert!(!foreign.is_empty());
    rig.start()?;
    rig.until("two others wait", |rig| {
        let runners = rig.github.runners();
        let ours = runners
            .iter()
            .filter(|runner| runner.name != "sandbox-00000000-11111111");
        let ids: Vec<u64> = ours.map(|runner| runner.id).collect();
        ids.len() == 2 && ids.iter().all(|id| !old.contains(id))
    })?;
    assert_eq!(
        rig.github.runners().len(),
        3,
        "the foreign one is still there"
    );
    rig.github.remove("sandbox-00000000-11111111");
    rig.end()
}

fn killed_worker() -> Result<(), Failed> {
    let mut rig = Rig::new("capacity = 2\nmin_idle = 1")?;
    rig.start()?;
    rig.until("one waits", |rig| {
        rig.in_state(WorkerState::Idle).len() == 1
    })?;
    let idle = rig.in_state(WorkerState::Idle)[0];
    let old = rig.github.runners()[0].id;
    kill_process(pid(idle)?, Signal::KILL)?;
    rig.until("another waits", |rig| {
        let runners = rig.github.runners();
        rig.in_state(WorkerState::Idle).len() == 1 && runners.len() == 1 && runners[0].id != old
    })?;
    // With a job: it is lost and said to be; GitHub holds the runner until it gives the job up.
    let job = rig.queue("sleep 600000");
    rig.until("it runs", |rig| rig.in_state(WorkerState::Busy).len() == 1)?;
    kill_process(pid(rig.in_state(WorkerState::Busy)[0])?, Signal::KILL)?;
    rig.until("the job is shown as lost", |rig| {
        let recent = rig.view().map(|view| view.recent).unwrap_or_default();
        recent.first().is_some_and(|job| job.result == "lost")
    })?;
    assert_eq!(rig.conclusion(&job), json!(null));
    let next = rig.queue("sleep 10");
    rig.until_succeeded(&[next])?;
    assert!(
        rig.log().contains("without telling its job's result"),
        "{}",
        rig.log()
    );
    Ok(())
}

fn limited() -> Result<(), Failed> {
    let mut rig = Rig::new("capacity = 1")?;
    rig.github.fault(Fault::limited("generate-jitconfig", 1, 2));
    rig.start()?;
    rig.until("it was told", |rig| {
        rig.requests(&["generate-jitconfig 403"]) == 1
    })?;
    let (told, before) = (Instant::now(), rig.requests(&["/api/v3/"]));
    rig.until("it says so", |rig| {
        rig.view().is_some_and(|view| {
            view.pools[0]
                .error
                .as_ref()
                .is_some_and(|error| error.contains("allows no more requests"))
        })
    })?;
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(
        rig.requests(&["/api/v3/"]),
        before,
        "nothing is asked meanwhile"
    );
    rig.until("then a runner waits", |rig| {
        rig.in_state(WorkerState::Idle).len() == 1
    })?;
    assert!(
        told.elapsed() >= Duration::from_secs(2),
        "{:?}",
        told.elapsed()
    );
    assert!(rig.view().is_some_and(|view| view.pools[0].error.is_none()));
    rig.end()
}

fn outage() -> Result<(), Failed> {
    let mut rig = Rig::new("capacity = 1")?;
    rig.github
        .fault(Fault::status("generate-jitconfig", 5, 502));
    rig.github.fault(Fault::status("access_tokens", 3, 500));
    let begun = Instant::now();
    rig.start()?;
    rig.until("a runner waits", |rig| {
        rig.in_state(WorkerState::Idle).len() == 1
    })?;
    // 50 ms at first, twice as long each time, half of it at random.
    assert!(
        begun.elapsed() > Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(rig.requests(&["generate-jitconfig 502"]), 5);
    assert!(
        rig.requests(&["/api/v3/"]) < 40,
        "{:?}",
        rig.github.requests()
    );
    let view = rig.view().ok_or("no view")?;
    assert_eq!(view.github.ok, Some(true), "{view:#?}");
    rig.end()
}

fn revoked() -> Result<(), Failed> {
    let mut rig = Rig::new("capacity = 2\nmin_idle = 1")?;
    rig.start()?;
    rig.until("a runner waits", |rig| {
        rig.in_state(WorkerState::Idle).len() == 1
    })?;
    rig.github.revoke_installation_tokens();
    let jobs = rig.queue_many(3, "sleep 10");
    rig.until_succeeded(&jobs)?;
    assert!(rig.requests(&[" 401"]) >= 1);
    assert!(rig.requests(&["access_tokens 201"]) >= 2);
    rig.end()
}

fn lost_answer() -> Result<(), Failed> {
    let mut rig = Rig::new("capacity = 1")?;
    // The runner is made, and nobody hears of it.
    rig.github.fault(Fault::status("generate-jitconfig", 1, 0));
    rig.start()?;
    rig.until("one runner waits, and there is no other", |rig| {
        rig.in_state(WorkerState::Idle).len() == 1 && rig.github.runners().len() == 1
    })?;
    assert_eq!(rig.requests(&["generate-jitconfig dropped"]), 1);
    rig.end()
}

fn watchdog() -> Result<(), Failed> {
    let mut rig = Rig::new("capacity = 1")?;
    rig.github.fault(Fault::status("/session", 20, 500));
    rig.start()?;
    rig.until("it is ended", |rig| {
        rig.log().contains("no session with GitHub after 2 s")
    })?;
    rig.until("another one has a session", |rig| {
        rig.in_state(WorkerState::Idle).len() == 1
    })?;
    assert_eq!(rig.github.runners().len(), 1);
    rig.end()
}

fn bad_workers() -> Result<(), Failed> {
    let mut rig = Rig::new("capacity = 4\nmin_idle = 1")?;
    rig.manner(Some("ends-badly"));
    rig.start()?;
    thread::sleep(Duration::from_millis(3000));
    // 50, 100, 200, … ms between them: some, not hundreds.
    let made = rig.requests(&["generate-jitconfig 201"]);
    assert!((3..=9).contains(&made), "{made} runners were made");
    let view = rig.view().ok_or("no view")?;
    let error = view.pools[0].error.clone().unwrap_or_default();
    assert!(
        error.contains("workers end before they have a job"),
        "{view:#?}"
    );
    rig.end()
}

fn sessions() -> Result<(), Failed> {
    let mut rig = Rig::new("mode = \"scale-set\"\ncapacity = 2")?;
    rig.github.admin_tokens_live(Duration::from_secs(1));
    rig.github.fault(Fault::status("/sessions", 2, 409));
    rig.start()?;
    let jobs = rig.queue_many(2, "sleep 10");
    rig.until_succeeded(&jobs)?;
    assert_eq!(rig.requests(&["sessions 409"]), 2);
    // Polls fail in all ways.
    for fault in [
        Fault::status("/queue/", 2, 503),
        Fault::status("/queue/", 1, 0),
        Fault::status("/queue/", 1, 200),
    ] {
        rig.github.fault(fault);
    }
    rig.until("all faults are over", |rig| {
        rig.requests(&["GET /queue/", " 503"]) == 2 && rig.requests(&["/queue/", "dropped"]) == 1
    })?;
    let jobs = rig.queue_many(2, "sleep 10");
    rig.until_succeeded(&jobs)?;
    // A crash leaves the session open at GitHub; the next supervisor ends it instead of waiting for it.
    rig.until("a session is open", |rig| rig.github.scale_sets()[0].1)?;
    rig.crash()?;
    rig.start()?;
    let jobs = rig.queue_many(2, "sleep 10");
    rig.until_succeeded(&jobs)?;
    rig.until("nobody works", |rig| {
        rig.view().is_some_and(|view| view.workers.is_empty())
    })?;
    rig.end()
}

fn downloads() -> Result<(), Failed> {
    let mut rig = Rig::new("capacity = 1")?;
    rig.github.without_releases();
    rig.start()?;
    rig.until("the version is known", |rig| {
        rig.view()
            .is_some_and(|view| view.runner_version.as_deref() == Some("2.340.1"))
    })?;
    rig.until("a runner waits", |rig| {
        rig.in_state(WorkerState::Idle).len() == 1
    })?;
    rig.end()
}
