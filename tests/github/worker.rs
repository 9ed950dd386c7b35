//! A worker's whole life against a strict GitHub on loopback. What runs the job is a stand-in that
//! reports a step and ends as it is told; sandboxes have tests of their own.

mod faults;

use std::{
    future::pending,
    time::{Duration, Instant},
};

use mayfly::{
    github::{
        broker::Identity,
        jit::JitConfig,
        report::GitHubReporter,
        worker::{Ended, Times, Worker, WorkerError},
    },
    job::{
        Cancellation, Canceller, cancellation,
        outcome::{AnnotationCounts, Conclusion, JobOutcome, StepRecord},
        reporter::{Event, EventKind, Origin, Reporter},
        request::JobRequest,
    },
};
use mayfly_tests::github::{FakeGitHub, FakeJob, Fault, FeedManner};
use serde_json::json;

/// The official runner's waits, a thousand times shorter.
fn times() -> Times {
    let ms = Duration::from_millis;
    Times {
        session: ms(30),
        conflicts: 8,
        poll: ms(5)..=ms(10),
        later_poll: ms(10)..=ms(20),
        polls: 10,
        call: ms(1)..=ms(10),
        calls: 5,
        lost: (ms(1), ms(60)),
        renew: ms(60),
        past_lock: ms(300),
        report: Duration::from_secs(20),
    }
}

fn job() -> FakeJob {
    FakeJob {
        name: "build".into(),
        scripts: vec![("greet".into(), "echo hi".into())],
        secrets: vec![("TOKEN".into(), "s3cr3t".into())],
    }
}

/// Connections of live logs so far.
fn connections(github: &FakeGitHub) -> usize {
    let requests = github.requests();
    requests
        .iter()
        .filter(|request| request.contains("ingest.sock 101"))
        .count()
}

/// Reports a line of the step.
async fn say(request: &JobRequest, reporter: &GitHubReporter, line: &str) {
    let event = Event {
        time: "2026-11-25T10:00:00Z".parse().expect("a time"),
        job: &request.job_id,
        kind: EventKind::Log { step: 1, line },
    };
    reporter.report(&event).await;
}

/// Reports one step with `lines` lines, waits while `wait` does, and ends.
async fn step(
    request: &JobRequest,
    reporter: &GitHubReporter,
    lines: usize,
    wait: impl Future<Output = Conclusion>,
) -> JobOutcome {
    let event = |kind| Event {
        time: "2026-11-25T10:00:00Z".parse().expect("a time"),
        job: &request.job_id,
        kind,
    };
    let started = EventKind::StepStarted {
        step: 1,
        name: "greet",
        origin: Origin {
            id: Some(&request.steps[0].id),
            action: Some(&request.steps[0].action),
            to_come: None,
        },
    };
    reporter.report(&event(started)).await;
    for _ in 0..lines {
        let line = "one line of output";
        reporter
            .report(&event(EventKind::Log { step: 1, line }))
            .await;
    }
    let conclusion = wait.await;
    let record = StepRecord {
        number: 1,
        name: "greet".into(),
        outcome: conclusion,
        conclusion,
        duration: Duration::ZERO,
        annotations: AnnotationCounts::default(),
    };
    reporter
        .report(&event(EventKind::StepFinished { record: &record }))
        .await;
    let outcome = JobOutcome {
        result: conclusion,
        outputs: vec![("version".into(), "7".into())],
        environment_url: None,
        steps: vec![record.clone()],
        duration: Duration::ZERO,
    };
    let finished = EventKind::JobFinished {
        name: "build",
        result: conclusion,
        outputs: &outcome.outputs,
        duration: Duration::ZERO,
    };
    reporter.report(&event(finished)).await;
    outcome
}

fn worker(github: &FakeGitHub, name: &str) -> Worker {
    let config = JitConfig::decode(&github.register(name)).expect("the fake's own");
    let identity = Identity {
        version: "2.336.0".into(),
        owner: "host (PID: 1)".into(),
        os_description: "Linux".into(),
    };
    Worker::new(config, identity, "mayfly-test", times()).expect("TLS")
}

async fn live(
    worker: Worker,
    run: impl AsyncFnOnce(&JobRequest, &GitHubReporter, Cancellation) -> JobOutcome,
) -> Result<Ended, WorkerError> {
    let (_stop, stopped): (Canceller, _) = cancellation();
    tokio::time::timeout(Duration::from_secs(60), worker.live(run, stopped))
        .await
        .expect("no end")
}

/// A job of one line that succeeds.
async fn runs_well(request: &JobRequest, reporter: &GitHubReporter, _: Cancellation) -> JobOutcome {
    step(request, reporter, 1, async { Conclusion::Success }).await
}

/// Whether a condition comes to hold within ten seconds.
async fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "it never came to hold");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_job_is_taken_run_reported_and_completed() {
    let github = FakeGitHub::start().await.unwrap();
    let id = github.queue(&job());
    for name in ["one", "two"] {
        // The two runners sign in the two ways that GitHub knows.
        let id = if name == "one" {
            id.clone()
        } else {
            github.queue(&job())
        };
        let ended = live(worker(&github, name), runs_well).await.unwrap();
        assert!(matches!(ended, Ended::Job(outcome) if outcome.result == Conclusion::Success));
        assert_eq!(github.violations(), Vec::<String>::new());
        let job = github.job(&id);
        assert!(job.acknowledged && job.renewals > 0);
        let completed = job.completed.unwrap();
        assert_eq!(completed["conclusion"], json!("succeeded"));
        assert_eq!(
            completed["outputs"]["version"],
            json!({"value": "7", "isSecret": false})
        );
        assert_eq!(completed["stepResults"][0]["name"], json!("greet"));
        assert_eq!(completed["stepResults"][0]["completed_log_lines"], json!(1));
        let step = &job.message["steps"][0]["id"];
        assert_eq!(&completed["stepResults"][0]["external_id"], step);
        assert_eq!(completed["stepResults"][0]["type"], json!("run"));
        let fed = &job.feed[step.as_str().unwrap()];
        assert_eq!(fed[&1], "one line of output");
        assert_eq!(job.blobs.len(), 2);
        assert_eq!(job.metadata["log-job"]["line_count"], json!(1));
        assert_eq!(job.steps[&1]["status"], json!(6));
        assert!(!github.has_session(name));
    }
}

#[tokio::test]
async fn a_cancellation_reaches_the_job_that_runs() {
    let github = FakeGitHub::start().await.unwrap();
    let id = github.queue(&job());
    let ended = live(
        worker(&github, "one"),
        async |request, reporter, cancelled| {
            github.cancel(&id);
            let cancelled = async {
                cancelled.requested().await;
                Conclusion::Cancelled
            };
            step(request, reporter, 1, cancelled).await
        },
    );
    assert!(matches!(ended.await.unwrap(), Ended::Job(_)));
    assert_eq!(
        github.job(&id).completed.unwrap()["conclusion"],
        json!("canceled")
    );
    assert_eq!(github.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_job_that_github_gave_up_is_cancelled() {
    let github = FakeGitHub::start().await.unwrap();
    let id = github.queue(&job());
    let ended = live(
        worker(&github, "one"),
        async |request, reporter, cancelled| {
            github.give_up(&id);
            let cancelled = async {
                cancelled.requested().await;
                Conclusion::Cancelled
            };
            step(request, reporter, 0, cancelled).await
        },
    );
    assert!(matches!(ended.await, Err(WorkerError::Complete(_))));
    assert!(github.job(&id).completed.is_none());
}

#[tokio::test]
async fn outages_of_every_endpoint_are_waited_out() {
    for path in [
        "/token",
        "/session",
        "/message",
        "/acknowledge",
        "/run/acquirejob",
        "/run/renewjob",
        "/run/completejob",
        "LogsSignedBlobURL",
        "LogsMetadata",
        "WorkflowStepsUpdate",
        "/blob/",
    ] {
        for status in [503, 0] {
            // An answer that is lost after the job was acquired, completed or its step counted is no
            // outage: the service has done its part, and says so to the next try.
            let done =
                ["/run/acquirejob", "/run/completejob", "/session", "/blob/"].contains(&path);
            if status == 0 && done {
                continue;
            }
            let github = FakeGitHub::start().await.unwrap();
            let id = github.queue(&job());
            github.fault(Fault::status(path, 2, status));
            let ended = live(worker(&github, "one"), runs_well).await;
            assert!(
                matches!(ended, Ok(Ended::Job(_))),
                "{path} {status}: {ended:?}"
            );
            assert_eq!(github.violations(), Vec::<String>::new(), "{path} {status}");
            let job = github.job(&id);
            assert_eq!(
                job.completed.unwrap()["conclusion"],
                json!("succeeded"),
                "{path} {status}"
            );
            assert!(job.blobs["log-job"].sealed, "{path} {status}");
        }
    }
}

#[tokio::test]
async fn a_flood_of_lines_is_whole_when_the_blob_store_fails_now_and_then() {
    let github = FakeGitHub::start().await.unwrap();
    let id = github.queue(&job());
    for after in [3, 5] {
        let fault = Fault {
            after,
            ..Fault::status("/blob/", 1, 500)
        };
        github.fault(fault);
    }
    let lines = 100_000;
    let ended = live(worker(&github, "one"), async |request, reporter, _| {
        step(request, reporter, lines, async { Conclusion::Success }).await
    });
    assert!(matches!(ended.await.unwrap(), Ended::Job(_)));
    assert_eq!(github.violations(), Vec::<String>::new());
    let job = github.job(&id);
    assert_eq!(job.blobs.len(), 2);
    for (name, blob) in &job.blobs {
        let found = blob.bytes.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(found, lines, "{name}");
        assert!(blob.bytes.len() > 4 << 20, "{name} went in one block");
    }
}

#[tokio::test]
async fn a_session_that_ended_is_opened_anew_and_a_token_that_ended_is_replaced() {
    let github = FakeGitHub::start().await.unwrap();
    let worker = worker(&github, "one");
    let lives = live(worker, runs_well);
    let queue = async {
        until(|| github.has_session("one")).await;
        github.end_session("one");
        github.expire_tokens();
        until(|| github.has_session("one")).await;
        github.queue(&job())
    };
    let (ended, id) = tokio::join!(lives, queue);
    assert!(matches!(ended.unwrap(), Ended::Job(_)));
    assert!(github.job(&id).completed.is_some());
    assert_eq!(github.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn an_offer_that_another_runner_took_is_left() {
    let github = FakeGitHub::start().await.unwrap();
    let first = github.queue(&job());
    live(worker(&github, "one"), runs_well).await.unwrap();
    github.offer_again(&first);
    let second = github.queue(&job());
    live(worker(&github, "two"), runs_well).await.unwrap();
    assert!(github.job(&second).completed.is_some());
    assert_eq!(github.job(&first).offered_to.len(), 2);
    assert_eq!(github.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_second_offer_during_a_job_is_left_and_the_session_of_another_process_waited_for() {
    let github = FakeGitHub::start().await.unwrap();
    let conflict = Fault::status("/session", 3, 409);
    github.fault(conflict);
    let id = github.queue(&job());
    live(worker(&github, "one"), runs_well).await.unwrap();
    assert!(github.job(&id).completed.is_some());
    let conflicts = github
        .requests()
        .iter()
        .filter(|r| *r == "POST /session 409")
        .count();
    assert_eq!(conflicts, 3);
}

#[tokio::test]
async fn what_does_not_pass_ends_the_worker_with_its_own_error() {
    let too_old = json!({"source": "actions-broker-listener", "errorKind": "RunnerVersionTooOld"});
    let fault = |path, times, status, body| Fault {
        after: 0,
        path,
        times,
        status,
        body,
        headers: Vec::new(),
    };
    type Check = fn(&WorkerError) -> bool;
    let table: [(Fault, Check); 5] = [
        (Fault::status("/session", 100, 403), |e| {
            matches!(e, WorkerError::Session(_))
        }),
        (Fault::status("/session", 100, 409), |e| {
            matches!(e, WorkerError::Session(_))
        }),
        (fault("/message", 100, 400, too_old), |e| {
            matches!(e, WorkerError::Poll(_))
        }),
        (Fault::status("/message", 100, 500), |e| {
            matches!(e, WorkerError::Poll(_))
        }),
        (
            fault("/token", 100, 400, json!({"error": "invalid_client"})),
            |e| matches!(e, WorkerError::Session(_)),
        ),
    ];
    for (fault, check) in table {
        let github = FakeGitHub::start().await.unwrap();
        let path = fault.path;
        github.fault(fault);
        let error = live(worker(&github, "one"), runs_well).await.unwrap_err();
        assert!(check(&error), "{path}: {error:?}");
        assert!(github.requests().len() < 40, "{path}: nothing busy-loops");
    }
}

#[tokio::test]
async fn a_worker_that_is_stopped_leaves_no_session_and_a_job_that_runs_is_cancelled() {
    let github = FakeGitHub::start().await.unwrap();
    let (stop, stopped) = cancellation();
    let idle = worker(&github, "one").live(runs_well, stopped);
    let stopper = async {
        until(|| github.has_session("one")).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(idle, stopper);
    assert!(matches!(ended.unwrap(), Ended::Stopped));
    assert!(!github.has_session("one"));

    let id = github.queue(&job());
    let (stop, stopped) = cancellation();
    let busy = worker(&github, "two").live(
        async |request, reporter, cancelled| {
            stop.cancel();
            let cancelled = async {
                cancelled.requested().await;
                Conclusion::Cancelled
            };
            step(request, reporter, 1, cancelled).await
        },
        stopped,
    );
    assert!(matches!(busy.await.unwrap(), Ended::Job(_)));
    assert_eq!(
        github.job(&id).completed.unwrap()["conclusion"],
        json!("canceled")
    );
    assert_eq!(github.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_runner_that_was_removed_ends_and_the_fake_notices_a_wrong_token() {
    let github = FakeGitHub::start().await.unwrap();
    let lives = live(worker(&github, "one"), runs_well);
    let remove = async {
        until(|| github.has_session("one")).await;
        github.remove("one");
        pending::<()>().await;
    };
    tokio::select! {
        ended = lives => assert!(matches!(ended, Err(WorkerError::Poll(_))), "{ended:?}"),
        () = remove => {}
    }
}

#[tokio::test]
async fn a_live_log_that_is_refused_breaks_off_or_stalls_costs_neither_line_nor_time() {
    for manner in [
        FeedManner::Refuse,
        FeedManner::DropAfter(1),
        FeedManner::Stall,
    ] {
        let github = FakeGitHub::start().await.unwrap();
        let id = github.queue(&job());
        github.feed(manner);
        let began = Instant::now();
        let lines = 30_000;
        let ended = live(worker(&github, "one"), async |request, reporter, _| {
            let again = || connections(&github) > 1;
            let more = async {
                while manner == FeedManner::DropAfter(1) && !again() {
                    say(request, reporter, "one more line").await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    assert!(began.elapsed() < Duration::from_secs(20), "no connection");
                }
                Conclusion::Success
            };
            step(request, reporter, lines, more).await
        });
        assert!(matches!(ended.await.unwrap(), Ended::Job(_)), "{manner:?}");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(30), "{manner:?}: {took:?}");
        assert_eq!(github.violations(), Vec::<String>::new(), "{manner:?}");
        let job = github.job(&id);
        assert_eq!(job.completed.unwrap()["conclusion"], json!("succeeded"));
        let whole = &job.blobs["log-job"];
        let found = whole.bytes.iter().filter(|byte| **byte == b'\n').count();
        let told = job.metadata["log-job"]["line_count"].as_u64();
        assert!(whole.sealed && found >= lines, "{manner:?}: {found}");
        assert_eq!(told, Some(found as u64), "{manner:?}");
    }
}
