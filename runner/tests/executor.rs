//! The executor against the guest agent itself, on a Unix socket instead of in a machine: real
//! shells run real scripts.

use std::{
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

use mayfly::{
    job::{
        Cancellation, Options, cancellation, execute,
        outcome::{Conclusion, JobOutcome},
        reporter::{Event, EventKind, Reporter},
        request::{JobRequest, StepRequest, Variable},
    },
    sandbox::agent::AgentClient,
    workflow::token::TemplateToken,
};
use tempfile::TempDir;

/// Keeps the lines of the log.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Reporter for Lines {
    async fn report(&self, event: &Event<'_>) {
        if let EventKind::Log { line, .. } = event.kind {
            self.0.lock().expect("lines").push(line.to_owned());
        }
    }
}

/// Counts the bytes of the log and forgets them.
#[derive(Default)]
struct Count(Mutex<(usize, usize)>);

impl Reporter for Count {
    async fn report(&self, event: &Event<'_>) {
        if let EventKind::Log { line, .. } = event.kind {
            let mut count = self.0.lock().expect("count");
            count.0 += line.len();
            count.1 += 1;
        }
    }
}

struct Machine {
    client: AgentClient,
    options: Options,
    folder: TempDir,
}

impl Machine {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let socket = folder.path().join("socket");
        let served = socket.clone();
        std::thread::spawn(move || {
            mayfly_guest::agent::serve_unix(&served, Path::new("/"), None).expect("serves");
        });
        let client = AgentClient::new(&socket);
        let ready = client.wait_ready(Duration::from_secs(60)).await;
        ready.expect("ready");
        let options = Options {
            work: folder.path().join("work").display().to_string(),
            ..Options::default()
        };
        Self {
            client,
            options,
            folder,
        }
    }

    async fn run(&self, steps: Vec<StepRequest>) -> (JobOutcome, Vec<String>) {
        self.run_until(steps, cancellation().1).await
    }

    async fn run_until(
        &self,
        steps: Vec<StepRequest>,
        cancellation: Cancellation,
    ) -> (JobOutcome, Vec<String>) {
        let lines = Lines::default();
        let request = request(steps);
        let outcome = execute(&request, &self.options, &self.client, &lines, cancellation).await;
        (outcome, lines.0.into_inner().expect("lines"))
    }
}

fn request(steps: Vec<StepRequest>) -> JobRequest {
    let mut request = JobRequest {
        job_id: "job".to_owned(),
        job_display_name: "build".to_owned(),
        steps,
        ..JobRequest::default()
    };
    let secret = Variable::Secret("very-secret".to_owned().into());
    request.variables.insert("SECRET", secret);
    request
}

fn step(condition: &str, inputs: &[(&str, &str)]) -> StepRequest {
    let token = |(key, value): &(&str, &str)| ((*key).to_owned(), TemplateToken::string(*value));
    StepRequest {
        id: "id".to_owned(),
        name: "__run".to_owned(),
        context_name: "__run".to_owned(),
        condition: condition.to_owned(),
        inputs: Some(TemplateToken::mapping(inputs.iter().map(token))),
        ..StepRequest::default()
    }
}

fn run(script: &str) -> StepRequest {
    step("success()", &[("script", script)])
}

fn has(lines: &[String], line: &str) -> bool {
    lines.iter().any(|known| known == line)
}

#[tokio::test]
async fn scripts_run_in_the_workspace_and_hand_on_variables() {
    let machine = Machine::start().await;
    let mut named = run("echo \"given $GIVEN\"; test -z \"$GITHUB_TOKEN\"");
    let given = TemplateToken::expression("format('{0}!', secrets.SECRET)");
    named.environment = Some(TemplateToken::mapping([("GIVEN", given)]));
    let steps = vec![
        run(
            "echo \"A=1\" >> \"$GITHUB_ENV\"; mkdir -p bin sub; cp /bin/echo bin/my-echo\n\
             echo \"$PWD/bin\" >> $GITHUB_PATH; pwd; jq -n 1 2>/dev/null || true",
        ),
        step(
            "success()",
            &[
                ("script", "my-echo \"A is $A\"; pwd"),
                ("workingDirectory", "sub"),
            ],
        ),
        named,
        run("! env | grep -q very-secret && ls -A $RUNNER_TEMP $RUNNER_TEMP/_runner_file_commands"),
        step(
            "success()",
            &[
                ("script", "import os; print('py', os.environ['CI'])"),
                ("shell", "python"),
            ],
        ),
        step(
            "success()",
            &[
                ("script", "false | true; echo unreachable"),
                ("shell", "bash"),
            ],
        ),
        step("always()", &[("script", "false | true; echo reached")]),
    ];
    let (outcome, lines) = machine.run(steps).await;
    let results: Vec<_> = outcome.steps.iter().map(|s| s.conclusion).collect();
    let mut expected = vec![Conclusion::Success; 9];
    expected[6] = Conclusion::Failure;
    assert_eq!(results, expected, "{lines:#?}");
    let workspace = format!("{}/repository/repository", machine.options.work);
    for line in [
        &workspace,
        "A is 1",
        &format!("{workspace}/sub"),
        "given ***!",
        "py true",
        "reached",
        "##[error]Process completed with exit code 1.",
    ] {
        assert!(has(&lines, line), "{line}: {lines:#?}");
    }
    assert!(!has(&lines, "unreachable"));
    let temp = Path::new(&machine.options.work).join("_temp");
    let entries = std::fs::read_dir(temp).expect("temp").flatten();
    let mut left: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    left.sort();
    // As with the official runner: the home of containers, and the event.
    assert_eq!(left, ["_github_home", "_github_workflow"]);
    drop(machine.folder);
}

#[tokio::test]
async fn a_cancelled_script_is_interrupted_and_may_clean_up() {
    let machine = Machine::start().await;
    let (canceller, cancellation) = cancellation();
    let started = Instant::now();
    let ready = machine.folder.path().join("ready");
    let watched = ready.clone();
    tokio::spawn(async move {
        while !watched.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        canceller.cancel();
    });
    let script = format!(
        "trap 'echo bye; exit 0' INT; touch {}; while :; do sleep 0.05; done",
        ready.display()
    );
    let steps = vec![
        run(&script),
        run("echo never"),
        step("cancelled()", &[("script", "echo clean")]),
    ];
    let (outcome, lines) = machine.run_until(steps, cancellation).await;
    assert_eq!(outcome.result, Conclusion::Cancelled);
    assert!(
        has(&lines, "bye") && has(&lines, "clean") && !has(&lines, "never"),
        "{lines:#?}"
    );
    assert!(started.elapsed() < Duration::from_secs(200));
}

#[tokio::test]
async fn hostile_scripts_cannot_hold_up_or_break_the_job() {
    let machine = Machine::start().await;
    let elsewhere = machine.folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("folder");
    let away = format!(
        "rm -rf $RUNNER_TEMP; ln -s {} $RUNNER_TEMP",
        elsewhere.display()
    );
    let always = |script| step("always()", &[("script", script)]);
    let steps = vec![
        // Lives on in the background with the streams open; the step itself closes them.
        run("sleep 5 & exec >/dev/null 2>&1; sleep 0.2"),
        always("rm -f $GITHUB_OUTPUT; mkfifo $GITHUB_OUTPUT"),
        always("rm -f $GITHUB_ENV; mkdir $GITHUB_ENV"),
        always(&away),
        always("echo still here"),
    ];
    let started = Instant::now();
    let (outcome, lines) = machine.run(steps).await;
    let time = started.elapsed();
    assert!(time < Duration::from_secs(600), "{time:?}");
    let failed: Vec<_> = outcome
        .steps
        .iter()
        .map(|step| step.outcome == Conclusion::Failure)
        .collect();
    assert_eq!(
        failed,
        [false, false, true, true, false, false, false],
        "{lines:#?}"
    );
    assert!(has(&lines, "still here"));
    let no_file = |line: &String| line.ends_with("it is not a regular file");
    assert_eq!(
        lines.iter().filter(|line| no_file(line)).count(),
        2,
        "{lines:#?}"
    );
}

#[tokio::test]
async fn a_flood_of_output_passes_in_bounded_memory() {
    let machine = Machine::start().await;
    let count = Count::default();
    let request = request(vec![run(
        "head -c 100000000 /dev/zero | tr '\\0' 'x'; yes | head -c 1000000",
    )]);
    let never = cancellation().1;
    let before = resident();
    let outcome = execute(&request, &machine.options, &machine.client, &count, never).await;
    assert_eq!(outcome.result, Conclusion::Success);
    let (bytes, lines) = *count.0.lock().expect("count");
    assert!(
        bytes >= 100_500_000 && lines >= 500_000,
        "{bytes} bytes in {lines} lines"
    );
    let grown = resident().saturating_sub(before);
    assert!(grown < 80 << 20, "{grown} bytes more");
}

/// Bytes of memory that this process holds.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages = text.split(' ').nth(1).expect("pages");
    pages.parse::<usize>().expect("a number") * 4096
}
