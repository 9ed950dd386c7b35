//! What GitHub does wrong or seldom: encrypted messages, messages about no job, lost answers, outages of
//! each endpoint while a log grows, and a flood of lines against a slow service.

use std::{fs, process::Command};

use mayfly_tests::github::Encryption;

use super::*;

/// Whether a condition comes to hold, and then `done`.
async fn when(condition: impl Fn() -> bool, done: Conclusion) -> Conclusion {
    until(condition).await;
    done
}

fn count(github: &FakeGitHub, request: &str) -> usize {
    let requests = github.requests();
    requests
        .iter()
        .filter(|line| line.starts_with(request))
        .count()
}

#[tokio::test]
async fn messages_that_an_old_service_encrypts_are_read() {
    for encryption in [Encryption::Plain, Encryption::Sha1, Encryption::Sha256] {
        let github = FakeGitHub::start().await.unwrap();
        github.encrypt(encryption);
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
        assert!(
            matches!(ended.await.unwrap(), Ended::Job(_)),
            "{encryption:?}"
        );
        let job = github.job(&id);
        assert_eq!(job.completed.unwrap()["conclusion"], json!("canceled"));
        assert_eq!(github.violations(), Vec::<String>::new(), "{encryption:?}");
    }
}

#[tokio::test]
async fn messages_about_no_job_are_heeded_and_do_not_end_the_wait() {
    let github = FakeGitHub::start().await.unwrap();
    let lives = live(worker(&github, "one"), runs_well);
    let talk = async {
        until(|| github.has_session("one")).await;
        for (kind, body) in [
            (
                "RunnerRefresh",
                json!({"target_version": "2.399.0", "download_url": "x", "os": "linux"}),
            ),
            (
                "AgentRefresh",
                json!({"agentId": 1, "timeout": "00:01:00", "targetVersion": "2.1"}),
            ),
            (
                "RunnerRefreshConfig",
                json!({"runnerQualifiedId": "a/b/c/1", "configType": "runner"}),
            ),
            ("SomethingNew", json!([1, 2])),
            ("PipelineAgentJobRequest", json!({"jobId": "old"})),
            (
                "JobCancellation",
                json!({"jobId": "another", "timeout": "00:00:01"}),
            ),
            ("ForceTokenRefresh", json!({})),
        ] {
            github.tell("one", kind, &body);
        }
        until(|| count(&github, "POST /token") == 2).await;
        github.queue(&job())
    };
    let (ended, id) = tokio::join!(lives, talk);
    assert!(matches!(ended.unwrap(), Ended::Job(_)));
    assert!(github.job(&id).completed.is_some());
    assert_eq!(github.violations(), Vec::<String>::new());
    assert_eq!(count(&github, "POST /session"), 1);
}

#[tokio::test]
async fn a_shutdown_ends_the_wait_and_cancels_a_job() {
    let github = FakeGitHub::start().await.unwrap();
    let lives = live(worker(&github, "one"), runs_well);
    let talk = async {
        until(|| github.has_session("one")).await;
        github.tell("one", "RunnerShutdown", &json!({"reason": "maintenance"}));
    };
    let (ended, ()) = tokio::join!(lives, talk);
    assert!(matches!(ended.unwrap(), Ended::Shutdown(why) if why == "maintenance"));
}

#[tokio::test]
async fn an_offer_that_is_gone_when_it_is_acknowledged_ends_the_runner_and_takes_nothing() {
    let github = FakeGitHub::start().await.unwrap();
    let gone = json!({"source": "actions-broker-listener", "errorKind": "AcknowledgeJobNotFound"});
    github.fault(Fault {
        body: gone,
        ..Fault::status("/acknowledge", 1, 404)
    });
    let id = github.queue(&job());
    let ended = live(worker(&github, "one"), runs_well).await.unwrap();
    assert!(matches!(ended, Ended::NoJob(_)), "{ended:?}");
    assert!(github.job(&id).runner.is_none());
    assert_eq!(count(&github, "POST /run/acquirejob"), 0);
    // The acknowledgement comes before the acquisition where all is well.
    let github = FakeGitHub::start().await.unwrap();
    github.queue(&job());
    live(worker(&github, "one"), runs_well).await.unwrap();
    let requests = github.requests();
    let at = |of: &str| {
        requests
            .iter()
            .position(|line| line.starts_with(of))
            .unwrap()
    };
    assert!(at("POST /acknowledge 200") < at("POST /run/acquirejob 200"));
}

#[tokio::test]
async fn an_offer_that_is_delivered_twice_is_taken_once() {
    let github = FakeGitHub::start().await.unwrap();
    let id = github.queue(&job());
    let ended = live(worker(&github, "one"), async |request, reporter, _| {
        github.deliver_again(&id);
        github.tell("one", "ForceTokenRefresh", &json!({}));
        // Both were heard when the second has its effect.
        let heard = when(|| count(&github, "POST /token") == 2, Conclusion::Success);
        step(request, reporter, 1, heard).await
    });
    assert!(matches!(ended.await.unwrap(), Ended::Job(_)));
    assert_eq!(count(&github, "POST /run/acquirejob"), 1);
    assert_eq!(github.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn tokens_that_end_while_a_job_runs_cost_it_nothing() {
    let github = FakeGitHub::start().await.unwrap();
    let id = github.queue(&job());
    let ended = live(
        worker(&github, "one"),
        async |request, reporter, cancelled| {
            github.expire_tokens();
            github.fault(Fault::status("/run/renewjob", 3, 401));
            let renewed = async {
                let renewals = github.job(&id).renewals;
                until(|| github.job(&id).renewals > renewals + 1).await;
                assert!(
                    !cancelled.is_requested(),
                    "a refused renewal is tried again"
                );
                Conclusion::Success
            };
            step(request, reporter, 1, renewed).await
        },
    );
    assert!(matches!(ended.await.unwrap(), Ended::Job(_)));
    let done = github.job(&id).completed.unwrap();
    assert_eq!(done["conclusion"], json!("succeeded"));
    assert!(count(&github, "POST /token") >= 2);
    assert_eq!(github.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_result_whose_answer_is_lost_was_told() {
    let github = FakeGitHub::start().await.unwrap();
    let id = github.queue(&job());
    github.fault(Fault::status("/run/completejob", 1, 0));
    let ended = live(worker(&github, "one"), runs_well).await;
    assert!(matches!(ended, Ok(Ended::Job(_))), "{ended:?}");
    assert!(github.job(&id).completed.is_some());
    assert_eq!(github.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn endpoints_that_are_slow_are_waited_for() {
    let github = FakeGitHub::start().await.unwrap();
    for path in [
        "/token",
        "/session",
        "/acknowledge",
        "/run/",
        "/twirp/",
        "/blob/",
    ] {
        github.slow(path, Duration::from_millis(150));
    }
    let id = github.queue(&job());
    live(worker(&github, "one"), runs_well).await.unwrap();
    let done = github.job(&id).completed.unwrap();
    assert_eq!(done["conclusion"], json!("succeeded"));
    assert_eq!(github.violations(), Vec::<String>::new());
}

/// Lines that are told apart, enough for three blocks.
const LINES: usize = 45_000;

fn numbered(number: usize) -> String {
    format!("line {number:06} of a log that is long enough to be sent in several blocks")
}

#[tokio::test]
async fn no_line_is_lost_doubled_or_moved_while_any_endpoint_fails_for_a_while() {
    for (path, status) in [
        ("/blob/", 503),
        ("/blob/", 0),
        ("StepLogsSignedBlobURL", 503),
        ("JobLogsSignedBlobURL", 0),
        ("LogsMetadata", 0),
        ("WorkflowStepsUpdate", 503),
        ("/run/renewjob", 503),
        ("/message", 0),
    ] {
        let github = FakeGitHub::start().await.unwrap();
        let id = github.queue(&job());
        let ended = live(worker(&github, "one"), async |request, reporter, _| {
            for (after, times) in [(0, 2), (1, 2), (2, 1)] {
                github.fault(Fault {
                    after,
                    ..Fault::status(path, times, status)
                });
            }
            let lines = async {
                for number in 0..LINES {
                    say(request, reporter, &numbered(number)).await;
                }
                Conclusion::Success
            };
            step(request, reporter, 0, lines).await
        });
        let ended = ended.await;
        assert!(
            matches!(ended, Ok(Ended::Job(_))),
            "{path} {status}: {ended:?}"
        );
        assert_eq!(github.violations(), Vec::<String>::new(), "{path} {status}");
        let job = github.job(&id);
        assert_eq!(job.blobs.len(), 2, "{path} {status}");
        for (name, blob) in &job.blobs {
            let text = String::from_utf8(blob.bytes.clone()).unwrap();
            let text = text.strip_prefix('\u{feff}').unwrap();
            let time = "2026-11-25T10:00:00.0000000Z ";
            let mut found = text.lines().map(|line| line.strip_prefix(time).unwrap());
            for number in 0..LINES {
                assert_eq!(
                    found.next(),
                    Some(numbered(number).as_str()),
                    "{path} {status} {name}"
                );
            }
            assert!(
                found.next().is_none() && blob.sealed,
                "{path} {status} {name}"
            );
            assert_eq!(
                job.metadata[name]["line_count"],
                json!(LINES),
                "{path} {status} {name}"
            );
        }
    }
}

/// Most memory that this process had, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("the kernel tells it")
}

/// Run by the next one in a process of its own, in which nothing else takes memory.
#[tokio::test]
#[ignore = "measures a process; `a_flood_of_lines_keeps_memory_bounded` runs it"]
async fn flood() {
    let github = FakeGitHub::start().await.unwrap();
    github.count_blobs();
    github.slow("/blob/", Duration::from_millis(20));
    github.feed(FeedManner::Stall);
    let id = github.queue(&job());
    let line = "x".repeat(1000);
    let ended = live(worker(&github, "one"), async |request, reporter, _| {
        let lines = async {
            for _ in 0..100_000 {
                say(request, reporter, &line).await;
            }
            Conclusion::Success
        };
        step(request, reporter, 0, lines).await
    });
    assert!(matches!(ended.await.unwrap(), Ended::Job(_)));
    let job = github.job(&id);
    assert_eq!(job.metadata["log-job"]["line_count"], json!(100_000));
    assert_eq!(job.blobs["log-job"].length, 3 + 100_000 * 1030);
    println!("peak {} KiB", peak());
}

#[test]
fn a_flood_of_lines_keeps_memory_bounded() {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args(["--exact", "faults::flood", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let peak = said
        .lines()
        .find_map(|line| line.strip_prefix("peak "))
        .unwrap();
    let peak: u64 = peak.strip_suffix(" KiB").unwrap().parse().unwrap();
    println!("200 MB of logs, peak {peak} KiB");
    assert!(peak < 100 << 10, "{peak} KiB");
}
