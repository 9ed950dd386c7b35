//! Timeouts and cancellation, on a clock that stands still.

use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::{job::Canceller, sandbox::ExecInput};

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A process that ignores signals and ends after some time.
fn stubborn(time: f64) -> Reply {
    Reply::default()
        .then_sleep(seconds(time))
        .then_stdout("end\n")
        .then_exit(0)
}

/// Requests the job's cancellation after some time.
fn cancel_after(job: &mut Job, time: f64) {
    let (canceller, cancellation) = cancellation();
    job.cancellation = cancellation;
    tokio::spawn(async move {
        tokio::time::sleep(seconds(time)).await;
        Canceller::cancel(&canceller);
    });
}

/// The signals that the process of the first script was sent.
fn signals(job: &Job) -> Vec<i32> {
    let execs = job.sandbox.execs();
    let index = execs
        .iter()
        .position(|exec| exec.argv[0] != "/bin/sh")
        .unwrap();
    let signal = |input| match input {
        ExecInput::Signal(signal) => Some(signal),
        _ => None,
    };
    job.sandbox
        .inputs(index)
        .into_iter()
        .filter_map(signal)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_step_over_its_time_is_interrupted_and_fails() {
    let mut step = run("slow", "slow");
    step.timeout_in_minutes = Some(token("${{ 2 }}"));
    step.display_name = Some(token("Slow one"));
    let job = Job::new(
        vec![step, run_if("failure()", "next")],
        |script, _, _| match script {
            "slow" => Reply::until_signal(),
            _ => Reply::exit(0),
        },
    );
    let started = Instant::now();
    let outcome = job.execute().await;
    assert_eq!(results(&outcome), ["failure/failure", "success/success"]);
    assert_eq!(started.elapsed().as_secs(), 120);
    assert_eq!(signals(&job), [2]);
    let last = job.reporter.lines(2).pop().unwrap();
    assert_eq!(
        last,
        "##[error]The action 'Slow one' has timed out after 2 minutes."
    );
}

#[tokio::test(start_paused = true)]
async fn signals_come_with_the_waits_of_the_official_runner() {
    for (ends_after, expected) in [
        (7.4, vec![2]),
        (7.6, vec![2, 15]),
        (9.9, vec![2, 15]),
        (10.1, vec![2, 15, 9]),
        (14.9, vec![2, 15, 9]),
    ] {
        let mut job = Job::new(vec![run("", "x")], move |_, _, _| {
            stubborn(60.0 + ends_after)
        });
        cancel_after(&mut job, 60.0);
        let outcome = job.execute().await;
        assert_eq!(outcome.result, Conclusion::Cancelled);
        assert_eq!(signals(&job), expected, "{ends_after}");
        let last = job.reporter.lines(2).pop().unwrap();
        assert_eq!(last, "##[error]The operation was canceled.");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_cancels_may_say_how_long_the_job_has_to_end() {
    // SIGKILL has its five seconds.
    for (grace, expected) in [(Some(20.0), 26), (None, 306)] {
        let steps = vec![run_if("always()", "x"), run_if("always()", "never")];
        let mut job = Job::new(steps, |_, _, _| stubborn(1e6));
        let (canceller, cancellation) = cancellation();
        job.cancellation = cancellation;
        tokio::spawn(async move {
            tokio::time::sleep(seconds(1.0)).await;
            match grace {
                Some(grace) => canceller.cancel_within(seconds(grace)),
                None => canceller.cancel(),
            }
            // A second request changes nothing.
            canceller.cancel_within(seconds(1.0));
            std::future::pending::<()>().await;
        });
        let started = Instant::now();
        let outcome = job.execute().await;
        assert_eq!(outcome.result, Conclusion::Cancelled);
        assert_eq!(started.elapsed().as_secs(), expected, "{grace:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_outlives_its_kill_is_abandoned() {
    let mut job = Job::new(vec![run("", "x")], |_, _, _| stubborn(1e6));
    cancel_after(&mut job, 1.0);
    let started = Instant::now();
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Cancelled);
    assert_eq!(started.elapsed().as_secs(), 16);
    while job.sandbox.abandoned().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_cancellation_only_steps_that_want_to_still_run() {
    let steps = vec![
        run("", "hang"),
        run("", "never"),
        run_if("failure()", "never"),
        run_if("cancelled()", "clean up"),
        run_if("always() && job.status == 'cancelled'", "always"),
        run_if("!cancelled()", "never"),
    ];
    let mut job = Job::new(steps, |script, _, _| match script {
        "hang" => Reply::until_signal(),
        // Longer than the waits between signals: it is left alone.
        _ => stubborn(30.0),
    });
    cancel_after(&mut job, 5.0);
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Cancelled);
    let skipped = "skipped/skipped";
    let success = "success/success";
    let expected = [
        "cancelled/cancelled",
        skipped,
        skipped,
        success,
        success,
        skipped,
    ];
    assert_eq!(results(&outcome), expected);
}

#[tokio::test(start_paused = true)]
async fn a_running_step_whose_condition_holds_when_cancelled_goes_on() {
    let mut job = Job::new(vec![run_if("always()", "x")], |_, _, _| stubborn(60.0));
    cancel_after(&mut job, 5.0);
    let outcome = job.execute().await;
    assert_eq!(results(&outcome), ["success/success"]);
    assert_eq!(outcome.result, Conclusion::Cancelled);
    assert!(signals(&job).is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_outlives_the_grace_after_a_cancellation() {
    let steps = vec![run_if("always()", "x"), run_if("always()", "never")];
    let mut job = Job::new(steps, |_, _, _| stubborn(1e6));
    job.options.cancel_grace = seconds(20.0);
    cancel_after(&mut job, 5.0);
    let started = Instant::now();
    let outcome = job.execute().await;
    // SIGKILL has its five seconds.
    assert_eq!(started.elapsed().as_secs(), 30);
    assert_eq!(results(&outcome), ["cancelled/cancelled"]);
    assert_eq!(outcome.result, Conclusion::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_job_over_its_time_is_cancelled() {
    let steps = vec![run("", "x"), run_if("always()", "clean up")];
    let mut job = Job::new(steps, |script, _, _| match script {
        "x" => Reply::until_signal(),
        _ => Reply::exit(0),
    });
    job.options.timeout = Some(Duration::from_secs(90));
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Cancelled);
    assert_eq!(
        results(&outcome),
        ["cancelled/cancelled", "success/success"]
    );
    let lines = job.reporter.lines(4);
    let message = "##[error]The job running on runner mayfly has exceeded the maximum execution \
                   time of 1.5 minutes.";
    assert!(lines.contains(&message.to_owned()), "{lines:?}");
}

#[tokio::test]
async fn a_job_cancelled_before_it_begins_runs_only_what_always_runs() {
    let steps = vec![run("", "never"), run_if("always()", "x")];
    let mut job = Job::new(steps, |_, _, _| Reply::exit(0));
    let (canceller, cancellation) = cancellation();
    job.cancellation = cancellation;
    canceller.cancel();
    let outcome = job.execute().await;
    assert_eq!(results(&outcome), ["skipped/skipped", "success/success"]);
    assert_eq!(outcome.result, Conclusion::Cancelled);
}

/// A job with a composite action whose first step hangs and whose second one always runs.
fn composite(condition: &str, first: Reply) -> Job {
    let step = StepRequest {
        action: crate::job::request::StepAction::Repository {
            name: String::new(),
            reference: String::new(),
            repository_type: "self".to_owned(),
            path: "./act".to_owned(),
        },
        inputs: None,
        condition: condition.to_owned(),
        ..run("act", "")
    };
    let steps = vec![step, run_if("cancelled()", "clean up")];
    let mut job = Job::new(steps, move |script, _, _| match script {
        "hang" => first.clone(),
        _ => Reply::exit(0),
    });
    let manifest = "runs:\n  using: composite\n  steps:\n    - {run: hang, shell: bash}\n    \
                    - {run: second, shell: bash, if: always()}\n";
    let path = "/home/runner/work/hello/hello/act/action.yml";
    job.sandbox.put(path, manifest);
    cancel_after(&mut job, 5.0);
    job
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_composite_action_runs_none_of_its_further_steps() {
    let job = composite("success()", Reply::until_signal());
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Cancelled);
    let expected = ["cancelled/cancelled", "success/success"];
    assert_eq!(results(&outcome), expected);
    assert_eq!(signals(&job), [2]);
    let log = job.reporter.lines(2);
    let cancelled = log
        .iter()
        .filter(|line| *line == "##[error]The operation was canceled.");
    assert_eq!(cancelled.count(), 1, "{log:?}");
    assert!(!log.join("\n").contains("second"), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_composite_action_that_always_runs_goes_on_when_the_job_is_cancelled() {
    let job = composite("always()", stubborn(30.0));
    let started = Instant::now();
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Cancelled);
    assert_eq!(results(&outcome), ["success/success", "success/success"]);
    assert_eq!(started.elapsed().as_secs(), 30);
    assert!(signals(&job).is_empty());
    assert!(job.reporter.lines(2).join("\n").contains("second"));
}
