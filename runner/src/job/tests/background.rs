//! Steps in the background: order, waiting, results, cancellation, what they change and when.

use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::job::request::StepAction;

/// A script step in the background.
fn background(key: &str, script: &str) -> StepRequest {
    StepRequest {
        background: true,
        ..run(key, script)
    }
}

/// A `wait`, `wait-all` or `cancel` step.
fn control(control_type: &str, steps: &[&str]) -> StepRequest {
    StepRequest {
        action: StepAction::BackgroundControl {
            control_type: control_type.to_owned(),
            step_ids: steps.iter().map(|&step| step.to_owned()).collect(),
        },
        condition: "always()".to_owned(),
        inputs: None,
        ..run("", "")
    }
}

/// Scripts `sleep N` take N seconds; those named `fail` fail; `hang` waits for a signal.
fn behave(script: &str, _: &ExecRequest, _: &mut Files) -> Reply {
    let mut reply = Reply::default();
    for word in script.split("; ") {
        reply = match word.split_once(' ') {
            Some(("sleep", seconds)) => {
                reply.then_sleep(Duration::from_secs(seconds.parse().unwrap()))
            }
            Some(("say", text)) => reply.then_stdout(format!("{text}\n")),
            _ if word == "hang" => return reply.then_until_signal(),
            _ if word == "fail" => return reply.then_exit(1),
            _ => reply,
        };
    }
    reply.then_exit(0)
}

/// Names of scripts in the order in which they were started.
fn started(job: &Job) -> Vec<String> {
    let names = job.reporter.events("step_started");
    let names = names.iter().map(|event| event["name"].as_str().unwrap());
    names
        .map(|name| name.trim_start_matches("Run ").to_owned())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_job_goes_on_while_a_step_runs_in_the_background() {
    let steps = vec![
        background("slow", "sleep 60"),
        run("", "sleep 10"),
        run("", "say steps.slow is not there yet"),
        control("wait", &["slow"]),
        run_if("steps.slow.outcome == 'success'", "say after"),
    ];
    let job = Job::new(steps, behave);
    let begun = Instant::now();
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Success);
    assert_eq!(begun.elapsed().as_secs(), 60);
    assert_eq!(results(&outcome), ["success/success"; 5]);
    let numbers: Vec<_> = outcome.steps.iter().map(|step| step.number).collect();
    assert_eq!(numbers, (1..=7).collect::<Vec<_>>());
    let ended = job.reporter.events("step_finished");
    let ended: Vec<_> = ended.iter().map(|event| event["number"].as_u64()).collect();
    assert_eq!(ended, [1, 3, 4, 2, 5, 6, 7].map(Some));
    assert_eq!(
        job.reporter.lines(5),
        [
            "Waiting for background step(s) to complete: Run sleep 60",
            "Finished waiting for background step(s).",
            "  Run sleep 60: Succeeded",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_step_in_the_background_changes_counts_from_where_it_is_waited_for() {
    let steps = vec![
        background("bg", "change"),
        run("", "sleep 5"),
        run_if(
            "env.NAME == '' && steps.bg == null && steps.bg.outputs.out == null",
            "say before",
        ),
        control("wait-all", &[]),
        run_if(
            "env.NAME == 'set' && steps.bg.outputs.out == '1'",
            "say after",
        ),
    ];
    let job = Job::new(steps, |script, request, files| {
        if script == "change" {
            write(request, files, "GITHUB_ENV", "NAME=set\n");
            write(request, files, "GITHUB_OUTPUT", "out=1\n");
            write(request, files, "GITHUB_PATH", "/added\n");
        }
        behave(script, request, files)
    });
    let outcome = job.execute().await;
    assert_eq!(results(&outcome), ["success/success"; 5]);
    let paths = job.scripts();
    let paths = paths.iter().map(|process| env(process, "PATH").unwrap());
    let added: Vec<_> = paths.map(|path| path.starts_with("/added:")).collect();
    assert_eq!(added, [false, false, false, true]);
    assert!(
        job.reporter
            .lines(5)
            .contains(&"Waiting for all background step(s) to complete: Run change".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_counts_where_it_is_waited_for() {
    let steps = vec![
        background("bad", "fail"),
        run("", "sleep 5"),
        run("", "say still well"),
        control("wait", &["bad"]),
        run("", "say never"),
        control("wait-all", &[]),
        run_if("failure()", "say failed"),
    ];
    let job = Job::new(steps, behave);
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    let (success, failure) = ("success/success", "failure/failure");
    assert_eq!(
        results(&outcome),
        [
            failure,
            success,
            success,
            failure,
            "skipped/skipped",
            success,
            success,
        ]
    );
    assert_eq!(
        job.reporter.lines(7),
        [
            "No background steps remaining to wait for.",
            "Finished waiting for all background step(s).",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn continue_on_error_of_the_step_saves_the_job_and_of_the_wait_only_the_steps_before_the_end()
{
    for (of_step, of_wait, job_result, next) in [
        (true, false, Conclusion::Success, "success/success"),
        (false, true, Conclusion::Failure, "success/success"),
        (false, false, Conclusion::Failure, "skipped/skipped"),
    ] {
        let mut steps = vec![
            background("bad", "fail"),
            control("wait", &["bad"]),
            run("", "say next"),
        ];
        steps[0].continue_on_error = Some(token(&format!("${{{{ {of_step} }}}}")));
        steps[1].continue_on_error = Some(token(&format!("${{{{ {of_wait} }}}}")));
        let job = Job::new(steps, behave);
        let outcome = job.execute().await;
        assert_eq!(outcome.result, job_result, "{of_step} {of_wait}");
        assert_eq!(results(&outcome)[2], next, "{of_step} {of_wait}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_waited_for_at_the_end() {
    for (script, result) in [
        ("sleep 60", Conclusion::Success),
        ("sleep 60; fail", Conclusion::Failure),
    ] {
        let job = Job::new(vec![background("bg", script), run("", "x")], behave);
        let begun = Instant::now();
        let outcome = job.execute().await;
        assert_eq!(begun.elapsed().as_secs(), 60);
        assert_eq!(outcome.result, result, "{script}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_step_is_interrupted_and_counts_for_nothing() {
    let steps = vec![
        background("server", "say up; hang"),
        run("", "sleep 5"),
        control("cancel", &["server"]),
        control("wait", &["server"]),
        run_if("success() && steps.server.outcome == 'cancelled'", "say x"),
    ];
    let job = Job::new(steps, behave);
    let begun = Instant::now();
    let outcome = job.execute().await;
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert_eq!(outcome.result, Conclusion::Success);
    let (success, cancelled) = ("success/success", "cancelled/cancelled");
    assert_eq!(
        results(&outcome),
        [cancelled, success, success, cancelled, success]
    );
    assert_eq!(
        job.reporter.lines(4),
        [
            "Cancelling background step(s): Run say up; hang",
            "Finished cancelling background step(s).",
            "  Run say up; hang: Canceled",
        ]
    );
    let last = job.reporter.lines(2).pop().unwrap();
    assert_eq!(last, "##[error]The operation was canceled.");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_failed_before_it_was_cancelled_fails_the_job() {
    let steps = vec![
        background("server", "fail"),
        run("", "sleep 5"),
        control("cancel", &["server"]),
        run("", "say next"),
    ];
    let job = Job::new(steps, behave);
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    // The failure is merged at the end only.
    assert_eq!(results(&outcome)[3], "success/success");
}

#[tokio::test(start_paused = true)]
async fn so_many_run_at_the_same_time_and_the_others_wait() {
    for (limit, seconds) in [(None, 20), (Some("1"), 120), (Some("0"), 20)] {
        let names: Vec<_> = (0..12).map(|index| format!("s{index}")).collect();
        let steps = names.iter().map(|name| background(name, "sleep 10"));
        let mut job = Job::new(steps.collect(), behave);
        if let Some(limit) = limit {
            let value = Variable::Plain(limit.to_owned());
            let variables = &mut job.request.variables;
            variables.insert("system.runner.maxbackgroundsteps", value);
        }
        let begun = Instant::now();
        let outcome = job.execute().await;
        assert_eq!(outcome.result, Conclusion::Success);
        assert_eq!(begun.elapsed().as_secs(), seconds, "{limit:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_cancelled_while_it_waits_for_a_slot_never_runs() {
    let steps = vec![
        background("first", "sleep 10"),
        background("second", "say never"),
        control("cancel", &["second"]),
    ];
    let mut job = Job::new(steps, behave);
    let value = Variable::Plain("1".to_owned());
    let variables = &mut job.request.variables;
    variables.insert("system.runner.maxbackgroundsteps", value);
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Success);
    assert_eq!(results(&outcome)[1], "cancelled/cancelled");
    assert_eq!(job.scripts().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_condition_is_evaluated_in_its_place() {
    let steps = vec![
        background("skipped", "say never"),
        background("broken", "say never"),
        run_if("failure() && steps.skipped.outcome == 'skipped'", "say x"),
        background("late", "say never"),
    ];
    let mut job = Job::new(steps, behave);
    job.request.steps[0].condition = "failure()".to_owned();
    job.request.steps[1].condition = "nope()".to_owned();
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    assert_eq!(
        results(&outcome),
        [
            "skipped/skipped",
            "failure/failure",
            "success/success",
            "skipped/skipped"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_stops_what_is_in_the_background_whatever_its_condition() {
    let mut always = background("always", "hang");
    always.condition = "always()".to_owned();
    let mut late = background("late", "say never");
    late.condition = "always()".to_owned();
    let steps = vec![
        always,
        run("", "hang"),
        late,
        control("wait-all", &[]),
        run_if("cancelled()", "say clean up"),
    ];
    let mut job = Job::new(steps, behave);
    let (canceller, cancellation) = cancellation();
    job.cancellation = cancellation;
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        canceller.cancel();
    });
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Cancelled);
    let (success, cancelled) = ("success/success", "cancelled/cancelled");
    assert_eq!(
        results(&outcome),
        [cancelled, cancelled, cancelled, cancelled, success]
    );
    assert_eq!(job.scripts().len(), 3);
    assert_eq!(started(&job).len(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_step_over_its_time_says_that_it_ran_in_the_background() {
    let mut step = background("slow", "hang");
    step.timeout_in_minutes = Some(token("${{ 2 }}"));
    let job = Job::new(vec![step], behave);
    let begun = Instant::now();
    let outcome = job.execute().await;
    assert_eq!(begun.elapsed().as_secs(), 120);
    assert_eq!(outcome.result, Conclusion::Failure);
    assert_eq!(
        job.reporter.lines(2).pop().unwrap(),
        "##[error]The background step 'Run hang' has timed out after 2 minutes."
    );
}

#[tokio::test(start_paused = true)]
async fn files_of_a_step_outlive_the_end_of_another() {
    let steps = vec![
        background("slow", "slow"),
        run("", "say quick"),
        control("wait-all", &[]),
        run_if("steps.slow.outputs.out == 'late'", "say after"),
    ];
    let job = Job::new(steps, |script, request, files| {
        if script == "slow" {
            write(request, files, "GITHUB_OUTPUT", "out=late\n");
            return Reply::default()
                .then_sleep(Duration::from_secs(9))
                .then_exit(0);
        }
        behave(script, request, files)
    });
    let outcome = job.execute().await;
    assert_eq!(results(&outcome), ["success/success"; 4]);
    let left = job.sandbox.files().into_keys();
    let left: Vec<_> = left
        .filter(|path| path.contains("_runner_file_commands/"))
        .collect();
    assert_eq!(left, [] as [String; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_lost_in_the_background_ends_the_job() {
    let steps = vec![
        background("bg", "lose"),
        background("other", "hang"),
        run("", "sleep 5"),
        run_if("always()", "say never"),
    ];
    let job = Job::new(steps, |script, request, files| match script {
        "lose" => Reply::default().then_lose(),
        _ => behave(script, request, files),
    });
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    assert_eq!(
        results(&outcome),
        ["failure/failure", "cancelled/cancelled", "success/success"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_step_hides_no_failure_of_another() {
    let steps = vec![
        background("bad", "fail"),
        background("server", "hang"),
        run("", "sleep 5"),
        control("cancel", &["server"]),
    ];
    let job = Job::new(steps, behave);
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
}

#[test]
fn post_steps_come_in_the_order_in_which_their_steps_began() {
    let post = |id: &str| {
        let step = std::sync::Arc::new(run("", "x"));
        let mut task = super::super::task::Task::main(&step, 0);
        id.clone_into(&mut task.id);
        task
    };
    let mut posts = Vec::new();
    for (number, id) in [(3, "b"), (2, "a"), (4, "c"), (2, "a2"), (9, "b")] {
        super::super::executor::register(&mut posts, number, vec![post(id)]);
    }
    let order: Vec<_> = posts
        .iter()
        .map(|(number, task)| (*number, task.id.as_str()))
        .collect();
    assert_eq!(order, [(2, "a"), (2, "a2"), (3, "b"), (4, "c")]);
}
