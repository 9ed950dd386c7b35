//! `mayfly run` on real workflow files, each job in a microVM of its own.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use mayfly_tests::{Ended, bench, finish, repository, run_group};
use serde_json::Value;

fn main() -> ExitCode {
    run_group(vec![
        Trial::test("hello_shows_a_job_with_several_steps", hello),
        Trial::test(
            "a_second_run_restores_the_same_snapshot_and_boots_nothing",
            second_run,
        ),
        Trial::test("the_shell_project_passes_in_needs_order", || {
            project("shell", &["lint", "test", "release-notes"])
        }),
        Trial::test("the_python_project_passes", || project("python", &["test"])),
        Trial::test(
            "the_node_project_passes_for_each_node_of_its_matrix",
            || project("node", &["test (20)", "test (24)"]),
        ),
        Trial::test(
            "a_failing_step_fails_the_job_and_skips_what_follows",
            failing_step,
        ),
        Trial::test("a_job_whose_need_failed_is_skipped", failed_need),
        Trial::test(
            "secrets_are_masked_in_every_form_and_absent_where_not_named",
            secrets,
        ),
        Trial::test("a_step_that_takes_too_long_is_stopped_and_said_so", timeout),
        Trial::test(
            "an_interrupted_run_is_cancelled_cleans_up_and_leaves_nothing",
            interrupted,
        ),
        Trial::test("a_second_interrupt_ends_at_once", interrupted_twice),
        Trial::test(
            "what_is_not_supported_is_refused_by_name_and_line_before_anything_runs",
            unsupported,
        ),
        Trial::test("the_checkout_on_the_host_is_not_changed", host_unchanged),
    ])
}

/// One vCPU a guest: two guests run at a time, and an emulated machine has two.
const SIZE: &[&str] = &["--cpus", "1", "--memory", "1G"];

/// Makes a git checkout with one workflow and runs it.
fn run_workflow(text: &str, arguments: &[&str]) -> Ended {
    let folder = tempfile::tempdir().expect("temporary folder");
    let workflows = folder.path().join(".github/workflows");
    fs::create_dir_all(&workflows).expect("folder");
    fs::write(workflows.join("ci.yml"), text).expect("workflow");
    run_in(folder.path(), arguments)
}

fn run_in(folder: &Path, arguments: &[&str]) -> Ended {
    git_init(folder);
    let mut command =
        bench().mayfly([&["run", ".github/workflows/ci.yml"], SIZE, arguments].concat());
    command.current_dir(folder);
    finish(command)
}

fn git_init(folder: &Path) {
    let status = Command::new("git")
        .args(["init", "-q"])
        .current_dir(folder)
        .status();
    assert!(status.expect("git runs").success());
}

fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(to)
        .status();
    assert!(status.expect("cp runs").success());
}

fn hello() -> Result<(), Failed> {
    let ended = finish(
        bench().mayfly([
            "run",
            repository()
                .join("tests/workflows/hello.yml")
                .to_str()
                .ok_or("path")?,
        ]),
    )
    .expect_code(0);
    assert!(
        ended
            .stdout
            .contains("the answer is 42 and the mood is cheerful"),
        "{}",
        ended.stdout
    );
    assert!(ended.stdout.contains("PID 1 is init"), "{}", ended.stdout);
    Ok(())
}

fn second_run() -> Result<(), Failed> {
    let snapshots = || mayfly_tests::processes::tree(&bench().state.join("snapshots"));
    let script = "on: push\njobs:\n  a:\n    runs-on: sandbox\n    steps:\n      - run: cat /proc/sys/kernel/random/boot_id\n";
    let _ = run_workflow(script, &[]).expect_code(0);
    let before = snapshots();
    let second = run_workflow(script, &[]).expect_code(0);
    assert_eq!(before, snapshots(), "no snapshot is made or changed");
    assert!(!second.stderr.contains("Making"), "{}", second.stderr);
    Ok(())
}

fn project(name: &str, jobs: &[&str]) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    copy_tree(
        &repository().join("tests/projects").join(name),
        folder.path(),
    );
    let ended = run_in(folder.path(), &["--json"]).expect_code(0);
    let finished: Vec<String> = events(&ended)
        .filter(|event| event["event"] == "job_finished")
        .map(|event| {
            assert_eq!(event["result"], "success", "{event}");
            event["name"].as_str().unwrap_or_default().to_owned()
        })
        .collect();
    assert_eq!(finished.len(), jobs.len(), "{finished:?}");
    for job in jobs {
        assert!(
            finished.iter().any(|finished| finished == job),
            "{job} in {finished:?}"
        );
    }
    Ok(())
}

fn events(ended: &Ended) -> impl Iterator<Item = Value> {
    ended.stdout.lines().map(|line| {
        serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("not one JSON object a line: {error}: {line}"))
    })
}

fn failing_step() -> Result<(), Failed> {
    let ended = run_workflow(
        "on: push\njobs:\n  a:\n    runs-on: sandbox\n    steps:\n      - run: exit 3\n      - run: echo never\n      - if: failure()\n        run: echo cleaned up\n",
        &[],
    )
    .expect_code(1);
    assert!(
        ended.stdout.contains("Process completed with exit code 3."),
        "{}",
        ended.stdout
    );
    assert!(ended.stdout.contains("cleaned up"), "{}", ended.stdout);
    assert!(
        !ended
            .stdout
            .lines()
            .any(|line| line.trim_end().ends_with("never")
                && !line.contains("Run echo")
                && !line.contains("echo never"))
    );
    Ok(())
}

fn failed_need() -> Result<(), Failed> {
    let ended = run_workflow(
        "on: push\njobs:\n  a:\n    runs-on: sandbox\n    steps: [{run: exit 1}]\n  b:\n    needs: a\n    runs-on: sandbox\n    steps: [{run: echo unreachable-b}]\n  c:\n    needs: a\n    if: always()\n    runs-on: sandbox\n    steps: [{run: 'echo need was ${{ needs.a.result }}'}]\n",
        &[],
    )
    .expect_code(1);
    assert!(
        ended.stdout.contains("need was failure"),
        "{}",
        ended.stdout
    );
    assert!(!ended.stdout.contains("unreachable-b"), "{}", ended.stdout);
    Ok(())
}

fn secrets() -> Result<(), Failed> {
    let ended = run_workflow(
        "on: push\njobs:\n  a:\n    runs-on: sandbox\n    steps:\n      - run: env | grep -c hunter2-value || true\n      - env:\n          TOKEN: ${{ secrets.TOKEN }}\n        run: |\n          echo \"plain $TOKEN\"\n          echo \"base64 $(printf %s \"$TOKEN\" | base64)\"\n          [ \"$TOKEN\" = hunter2-value ] && echo it is there\n",
        &["--secret", "TOKEN=hunter2-value"],
    )
    .expect_code(0);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(
        said.contains("plain ***") && said.contains("base64 ***") && said.contains("it is there"),
        "{said}"
    );
    assert!(!said.contains("plain hunter2"), "{said}");
    assert!(!said.contains("aHVudGVyMi12YWx1ZQ"), "{said}");
    Ok(())
}

fn timeout() -> Result<(), Failed> {
    let ended = run_workflow(
        "on: push\njobs:\n  a:\n    runs-on: sandbox\n    steps:\n      - name: Sleeper\n        timeout-minutes: 0.05\n        run: sleep 600\n",
        &[],
    )
    .expect_code(1);
    assert!(
        ended.stdout.contains("has timed out after"),
        "{}",
        ended.stdout
    );
    Ok(())
}

const INTERRUPTED: &str = "on: push
jobs:
  a:
    runs-on: sandbox
    steps:
      - run: |
          echo now-running
          sleep 600
      - run: echo skipped-by-cancellation
      - if: always()
        run: echo cleaned-up; sleep 5
  b:
    needs: a
    runs-on: sandbox
    steps: [{run: echo unreachable}]
";

/// Starts the workflow above, waits for its first step, interrupts it so many times, and returns
/// what it said in the end.
fn interrupt_run(times: u32) -> Result<Ended, Failed> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("ci.yml"), INTERRUPTED)?;
    git_init(folder.path());
    let mut command = bench().mayfly([&["run", "ci.yml"], SIZE].concat());
    command
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    let mut said = String::new();
    // Two jobs: each line begins with its job's name.
    while !said.ends_with(" now-running\n") || said.ends_with("echo now-running\n") {
        said += &(lines.next().ok_or("it ended too early")?? + "\n");
    }
    let id = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .ok_or("no pid")?;
    for _ in 0..times {
        rustix::process::kill_process(id, rustix::process::Signal::INT)?;
        std::thread::sleep(Duration::from_millis(300));
    }
    for line in lines {
        said += &(line? + "\n");
    }
    let mut ended = Ended::from(child.wait_with_output()?);
    ended.stdout = said;
    mayfly_tests::processes::wait_until_none(Duration::from_secs(10));
    Ok(ended)
}

fn interrupted() -> Result<(), Failed> {
    let ended = interrupt_run(1)?.expect_code(130);
    assert!(ended.stdout.contains("cleaned-up"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("unreachable"), "{}", ended.stdout);
    assert!(ended.stderr.contains("cancelling"), "{}", ended.stderr);
    Ok(())
}

fn interrupted_twice() -> Result<(), Failed> {
    let ended = interrupt_run(2)?.expect_code(130);
    assert!(!ended.stdout.contains("Job a: success"), "{}", ended.stdout);
    Ok(())
}

fn unsupported() -> Result<(), Failed> {
    let ended = run_workflow(
        "on: push\njobs:\n  a:\n    runs-on: sandbox\n    steps:\n      - run: echo started\n      - uses: actions/checkout@v4\n",
        &[],
    )
    .expect_code(1);
    let refused = "ci.yml:7:15: unpinned: `actions/checkout@v4` is not in the lock";
    assert!(ended.stderr.contains(refused), "{}", ended.stderr);
    assert!(!ended.stdout.contains("started"), "{}", ended.stdout);
    Ok(())
}

fn host_unchanged() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let workflows = folder.path().join(".github/workflows");
    fs::create_dir_all(&workflows)?;
    fs::write(folder.path().join("kept"), "as it was")?;
    fs::write(
        workflows.join("ci.yml"),
        "on: push\njobs:\n  a:\n    runs-on: sandbox\n    steps:\n      - run: test \"$(cat kept)\" = 'as it was' && rm -rf ./* && echo x > new\n",
    )?;
    git_init(folder.path());
    let before = mayfly_tests::processes::tree(folder.path());
    let _ = run_in(folder.path(), &[]).expect_code(0);
    let after = mayfly_tests::processes::tree(folder.path());
    assert_eq!(before, after);
    Ok(())
}
