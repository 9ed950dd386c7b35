//! Steps that mean harm, and sandboxes that fail.

use super::*;
use crate::job::lines::MAX_LINE;

#[tokio::test]
async fn secrets_are_masked_wherever_the_output_is_cut() {
    let secret = "correct-horse-battery";
    let text = format!("before {secret} after {secret}\n");
    for size in 1..text.len() {
        let chunks: Vec<Vec<u8>> = text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect();
        let mut job = Job::new(vec![run("", "x")], move |_, _, _| {
            chunks
                .iter()
                .fold(Reply::default(), |reply, chunk| {
                    reply.then_stdout(chunk.clone())
                })
                .then_exit(0)
        });
        job.secret("S", secret);
        job.execute().await;
        assert_eq!(job.reporter.lines(2).pop().unwrap(), "before *** after ***");
    }
}

#[tokio::test]
async fn a_mask_added_by_a_step_is_effective_at_once_on_both_streams() {
    let job = Job::new(vec![run("", "x"), run("", "hush-hush")], |_, _, _| {
        Reply::stdout("::add-mask::hush-hush\nout hush-hush\n")
            .then_stderr("err hush-hush\n")
            .then_exit(0)
    });
    job.execute().await;
    let lines = job.reporter.lines(2);
    assert_eq!(lines[lines.len() - 2..], ["out ***", "err ***"]);
    // The name of the next step, its script and all other events.
    let all = job.reporter.everything();
    assert_eq!(all.matches("hush-hush").count(), 0, "{all}");
}

#[tokio::test]
async fn a_line_without_end_is_logged_in_parts_with_its_secrets_masked() {
    let mut job = Job::new(vec![run("", "x")], |_, _, _| {
        let mut reply = Reply::default();
        for _ in 0..5 {
            let mut chunk = vec![b'x'; MAX_LINE / 2 - 4];
            chunk.extend_from_slice(b"the-secret");
            reply = reply.then_stdout(chunk);
        }
        reply.then_stdout("\nnext\n").then_exit(0)
    });
    job.secret("S", "the-secret");
    job.execute().await;
    let lines = job.reporter.lines(2).split_off(4);
    assert_eq!(lines.last().unwrap(), "next");
    assert!(lines.len() >= 4 && lines.iter().all(|line| line.len() <= MAX_LINE + 3));
    let all = lines.concat();
    assert!(!all.contains("secret") && all.contains("***"));
    assert_eq!(all.matches('x').count(), 5 * (MAX_LINE / 2 - 4) + 1);
}

#[tokio::test]
async fn no_half_of_a_secret_is_left_where_a_message_is_cut() {
    let secret = "correct-horse-battery";
    for shift in [5, 12, 20] {
        let mut job = Job::new(vec![run("", "x")], move |_, request, files| {
            let pad = "x".repeat(200 - "Invalid format '".len() - shift);
            write(request, files, "GITHUB_OUTPUT", &format!("{pad}{secret}\n"));
            let pad = "x".repeat(4096 - shift);
            Reply::stdout(format!("::error::{pad}{secret}\n")).then_exit(0)
        });
        job.secret("S", secret);
        job.execute().await;
        let all = job.reporter.everything();
        assert!(!all.contains("corre"), "{shift}");
        let lines = job.reporter.lines(2);
        assert!(
            lines
                .iter()
                .all(|line| line.len() <= 4096 + "##[error]".len())
        );
        let longest = lines.iter().find(|line| line.ends_with("x***"));
        assert!(longest.is_some(), "{lines:?}");
    }
}

#[tokio::test]
async fn a_mask_too_long_to_read_is_not_shown_and_fails_the_step() {
    let job = Job::new(vec![run("", "x")], |_, _, _| {
        let line = format!("::add-mask::{}\nnext\n", "verysecret".repeat(MAX_LINE / 5));
        Reply::stdout(line).then_exit(0)
    });
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    let lines = job.reporter.lines(2).split_off(4);
    let message = "##[error]The `add-mask` command is longer than 1048576 bytes.";
    assert_eq!(lines, [message, "next"]);
}

#[tokio::test]
async fn commands_cannot_fill_the_memory_with_values() {
    let job = Job::new(vec![run("x", "x")], |_, _, _| {
        let mut reply = Reply::default();
        for index in 0..20 {
            let value = "v".repeat(1_000_000);
            reply = reply.then_stdout(format!("::set-output name=o{index}::{value}\n"));
        }
        reply.then_exit(0)
    });
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    let lines = job.reporter.lines(2);
    let message = "##[error]The commands of this step set more than 16 MiB of values.";
    assert_eq!(lines.iter().filter(|line| *line == message).count(), 1);
}

#[tokio::test]
async fn many_steps_cannot_fill_the_memory_with_values_either() {
    let steps = (0..8).map(|index| run(&format!("s{index}"), "x")).collect();
    let job = Job::new(steps, |_, request, files| {
        let content = format!("x={}\n", "v".repeat(10 << 20));
        write(request, files, "GITHUB_OUTPUT", &content);
        Reply::exit(0)
    });
    let outcome = job.execute().await;
    // Six fit into 64 MiB, the seventh fails, and the rest is skipped.
    let mut expected = vec!["success/success"; 6];
    expected.push("failure/failure");
    expected.push("skipped/skipped");
    assert_eq!(results(&outcome), expected);
    let message = "##[error]The steps of this job set more than 64 MiB of values.";
    assert!(job.reporter.lines(8).iter().any(|line| line == message));
}

#[tokio::test]
async fn only_ten_annotations_of_a_level_leave_the_log() {
    let job = Job::new(vec![run("", "x")], |_, _, _| {
        Reply::stdout("::warning::w\n".repeat(50)).then_exit(0)
    });
    let outcome = job.execute().await;
    assert_eq!(job.reporter.events("annotation").len(), 10);
    assert_eq!(outcome.steps[1].annotations.warning, 50);
    let lines = job.reporter.lines(2);
    assert_eq!(
        lines.iter().filter(|line| *line == "##[warning]w").count(),
        50
    );
}

#[tokio::test]
async fn an_environment_file_that_is_too_large_fails_the_step() {
    let job = Job::new(vec![run("", "x")], |_, request, files| {
        write(request, files, "GITHUB_OUTPUT", &"x=1\n".repeat(5 << 20));
        write(request, files, "GITHUB_STEP_SUMMARY", &"x".repeat(2 << 20));
        Reply::exit(0)
    });
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    let all = job.reporter.lines(2).join("\n");
    assert!(
        all.contains("Unable to process file command 'output' successfully."),
        "{all}"
    );
    assert!(all.contains("larger than 16777216 bytes"), "{all}");
    assert!(all.contains("$GITHUB_STEP_SUMMARY upload aborted"), "{all}");
}

#[tokio::test]
async fn a_lost_sandbox_fails_the_job_and_no_further_step_is_tried() {
    let steps = vec![run("", "x"), run_if("always()", "never")];
    let job = Job::new(steps, |_, _, _| Reply::stdout("partial").then_lose());
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    assert_eq!(results(&outcome), ["failure/failure"]);
    let lines = job.reporter.lines(2);
    let [.., output, error] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    assert_eq!(output, "partial");
    assert!(error.starts_with("##[error]the sandbox is gone"), "{error}");
    assert_eq!(job.reporter.events("job_finished").len(), 1);
}

#[tokio::test]
async fn bytes_that_are_no_text_do_no_harm() {
    let job = Job::new(vec![run("", "x")], |_, _, _| {
        Reply::stdout(b"\xff\xfe\0\x1b[31m\n::error::\xff\n".to_vec()).then_exit(0)
    });
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Success);
    let lines = job.reporter.lines(2);
    assert_eq!(lines[lines.len() - 2], "\u{fffd}\u{fffd}\0\x1b[31m");
    assert_eq!(lines[lines.len() - 1], "##[error]\u{fffd}");
}
