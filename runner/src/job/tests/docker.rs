//! Docker actions and `uses: docker://…`: images, what Docker's client is told, and what comes of it.

use std::sync::Arc;

use super::{
    actions::{Memory, uses},
    containers::{BY_DIGEST, OneImage},
    *,
};
use mayfly_guest::launch::Launch;

use crate::action::bytes::ActionSource;
use crate::job::request::StepAction;
use crate::sandbox::ExecInput;

const DOCKER: &str = "/usr/bin/docker";

const MAIN: &str = "inputs: {who: {default: you}, token: {}}\nruns:\n  using: docker\n  image: \
                    docker/Dockerfile\n  entrypoint: /main\n  args: ['to ${{ inputs.who }}', '', '\"q\"']\n  \
                    env: {MODE: '${{ inputs.who }}', SET: manifest}\n";

fn image(key: &str, image: &str, with: &[(&str, &str)]) -> StepRequest {
    StepRequest {
        action: StepAction::ContainerRegistry {
            image: image.to_owned(),
        },
        inputs: Some(strings(with)),
        ..run(key, "")
    }
}

/// A job in a sandbox with an engine, where `container` decides what a container does.
fn job(
    steps: Vec<StepRequest>,
    remote: &'static [(&'static str, &'static str, &'static str)],
    local: &[(&str, &str)],
    mut container: impl FnMut(&ExecRequest, &mut Files) -> Reply + Send + 'static,
) -> Job {
    let mut job = Job::new(steps, |_, _, _| Reply::exit(0));
    job.options.actions = Arc::new(Memory(remote));
    for (path, content) in local {
        let work = "/home/runner/work/hello/hello";
        job.sandbox.put(&format!("{work}/{path}"), *content);
    }
    job.sandbox.on_exec(move |request, files| {
        if request.argv[0] == "/bin/sh" && request.argv[2].contains("command -v") {
            let path = format!("/usr/bin/{}\n", request.argv[4]);
            return Some(Reply::stdout(path).then_exit(0));
        }
        if request.argv[0] != DOCKER {
            return Some(Reply::exit(0));
        }
        Some(match request.argv[1].as_str() {
            "version" => Reply::stdout("1.41 1.41\n").then_exit(0),
            "image" => Reply::stdout("[[\"/entry\",\"-x\"],[\"unused\"]]\n").then_exit(0),
            "pull" if request.argv[2] == "gone:1" => Reply::exit(1),
            "run" => container(request, files),
            _ => Reply::exit(0),
        })
    });
    job
}

/// The calls of Docker's client whose command is this.
fn calls(job: &Job, command: &str) -> Vec<ExecRequest> {
    let execs = job.sandbox.execs().into_iter();
    let calls = execs.filter(|exec| exec.argv[0] == DOCKER && exec.argv[1] == command);
    calls.collect()
}

fn names(outcome: &JobOutcome) -> Vec<String> {
    let steps = outcome.steps[1..outcome.steps.len() - 1].iter();
    let named = |step: &super::super::outcome::StepRecord| {
        format!("{}: {}", step.name, step.conclusion.as_str())
    };
    steps.map(named).collect()
}

/// Writes into the environment file of a container, by its path there.
fn write_inside(request: &ExecRequest, files: &mut Files, variable: &str, content: &str) {
    let inside = env(request, variable).unwrap_or_else(|| panic!("{variable} is set"));
    let name = inside.strip_prefix("/github/file_commands/").expect(inside);
    let path = format!("/home/runner/work/_temp/_runner_file_commands/{name}");
    let file = files.get_mut(&path).unwrap_or_else(|| panic!("{path}"));
    file.1.extend_from_slice(content.as_bytes());
}

/// What is before `-v`, and what is behind the image's name.
fn around<'a>(request: &'a ExecRequest, image: &str) -> (String, &'a [String]) {
    let at = request.argv.iter().position(|word| word.starts_with(image));
    let at = at.unwrap_or_else(|| panic!("{image}: {:?}", request.argv));
    let options: Vec<_> = request.argv[..at].iter().map(String::as_str).collect();
    (options.join(" "), &request.argv[at + 1..])
}

#[tokio::test]
async fn a_local_action_is_built_where_it_runs_and_sees_githubs_paths() {
    let mut step = uses("a", "./a");
    step.inputs = Some(strings(&[
        ("who", "us"),
        ("token", "${{ secrets.TOKEN }}"),
        ("args", "no"),
    ]));
    step.environment = Some(strings(&[
        ("SET", "step"),
        ("AT", "/home/runner/work/hello/hello/x"),
    ]));
    let check = "steps.a.outputs.out == 'value'";
    let mut job = job(
        vec![step, run_if(check, "seen")],
        &[],
        &[
            ("a/action.yml", MAIN),
            ("a/docker/Dockerfile", "FROM img:1\n"),
        ],
        |request, files| {
            write_inside(request, files, "GITHUB_OUTPUT", "out=value\n");
            Reply::stdout("hush is said\n::error file=/github/workspace/a.c,line=3::bad\n")
                .then_exit(0)
        },
    );
    job.secret("TOKEN", "hush");
    let outcome = job.execute().await;
    let log = job.reporter.lines(2).join("\n");
    assert_eq!(
        names(&outcome),
        ["Run ./a: success", "Run seen: success"],
        "{log}"
    );
    let build = &calls(&job, "build")[0].argv;
    let folder = "/home/runner/work/hello/hello/a/docker";
    assert_eq!(build[4..], ["-f", "-", folder]);
    let request = &calls(&job, "run")[0];
    let (options, arguments) = around(request, &build[3]);
    assert_eq!(arguments, ["to us", "", "\"q\""]);
    for part in [
        " --workdir /github/workspace --rm -e ",
        " -e INPUT_TOKEN ",
        " --entrypoint /main ",
        " -v /var/run/docker.sock:/var/run/docker.sock ",
        " -v /home/runner/work/_temp:/github/runner_temp ",
        " -v /home/runner/work/_temp/_github_home:/github/home ",
        " -v /home/runner/work/_temp/_github_workflow:/github/workflow ",
        " -v /home/runner/work/_temp/_runner_file_commands:/github/file_commands ",
        " -v /home/runner/work/hello/hello:/github/workspace",
    ] {
        assert!(options.contains(part), "{part} in {options}");
    }
    assert!(request.argv.iter().all(|word| !word.contains("hush")));
    for (name, value) in [
        ("INPUT_WHO", "us"),
        ("INPUT_TOKEN", "hush"),
        ("MODE", "us"),
        ("SET", "step"),
        ("AT", "/github/workspace/x"),
        ("HOME", "/github/home"),
        ("CI", "true"),
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_WORKSPACE", "/github/workspace"),
        ("GITHUB_EVENT_PATH", "/github/workflow/event.json"),
        ("RUNNER_TEMP", "/github/runner_temp"),
        ("RUNNER_TOOL_CACHE", "/home/runner/work/_tool"),
    ] {
        assert_eq!(env(request, name), Some(value), "{name}");
    }
    assert_eq!(
        env(request, "USER"),
        None,
        "what machine the sandbox is does not show"
    );
    assert!(log.contains("##[group]Building docker image"), "{log}");
    assert!(
        log.contains(&format!("##[command]{DOCKER} run --name ")),
        "{log}"
    );
    assert!(log.contains("*** is said"), "{log}");
    assert!(!log.contains("Unexpected input"), "{log}");
    let annotations = job.reporter.events("annotation");
    assert_eq!(annotations[0]["file"], "a.c", "{annotations:?}");
}

#[tokio::test]
async fn images_known_before_the_steps_are_prepared_first_and_once() {
    let action = "runs: {using: docker, image: Dockerfile, pre-entrypoint: /pre, post-entrypoint: \
                  /post, post-if: success()}\n";
    let registry = "runs: {using: docker, image: 'docker://octo/tool:1'}\n";
    let composite =
        "runs:\n  using: composite\n  steps:\n    - uses: o/a@v1\n    - uses: docker://deep:1\n";
    const REMOTE: &[(&str, &str, &str)] = &[
        ("o/a@v1", "action.yml", ""),
        ("o/a@v1", "Dockerfile", ""),
        ("o/b@v1", "action.yml", ""),
        ("o/c@v1", "action.yml", ""),
    ];
    let remote: Vec<_> = REMOTE
        .iter()
        .zip([action, "FROM base:1\n", registry, composite])
        .map(|((name, file, _), text)| (*name, *file, text))
        .collect();
    let remote: &'static _ = Box::leak(remote.into_boxed_slice());
    let steps = vec![
        uses("", "o/a@v1"),
        image(
            "",
            "alpine:3",
            &[("args", "-c \"a b\" c"), ("entrypoint", "/bin/sh")],
        ),
        uses("", "o/b@v1"),
        uses("", "o/c@v1"),
        image("", "alpine:3", &[]),
    ];
    let job = job(steps, remote, &[], |request, files| {
        if request.argv.iter().any(|word| word == "/pre") {
            write_inside(request, files, "GITHUB_STATE", "kept=yes\n");
        }
        Reply::exit(0)
    });
    let outcome = job.execute().await;
    assert_eq!(
        names(&outcome),
        [
            "Pull alpine:3: success",
            "Pull octo/tool:1: success",
            "Pull deep:1: success",
            "Build o/a@v1: success",
            "Pre Run o/a@v1: success",
            "Pre Run o/c@v1: success",
            "Run o/a@v1: success",
            "Run alpine:3: success",
            "Run o/b@v1: success",
            "Run o/c@v1: success",
            "Run alpine:3: success",
            "Post Run o/c@v1: success",
            "Post Run o/a@v1: success",
        ]
    );
    assert_eq!(calls(&job, "build").len(), 1);
    assert_eq!(calls(&job, "pull").len(), 3);
    let built = &calls(&job, "build")[0].argv[3];
    let runs = calls(&job, "run");
    let entry = |request: &ExecRequest| {
        let at = request.argv.iter().position(|word| word == "--entrypoint");
        at.map(|at| request.argv[at + 1].clone())
            .unwrap_or_default()
    };
    let entries: Vec<_> = runs.iter().map(entry).collect();
    assert_eq!(
        entries,
        [
            "/pre", "/pre", "", "/bin/sh", "", "", "", "", "/post", "/post"
        ]
    );
    assert_eq!(around(&runs[3], "alpine:3").1, ["-c", "a b", "c"]);
    let post = runs.last().unwrap();
    assert!(post.argv.contains(built));
    assert_eq!(env(post, "STATE_kept"), Some("yes"));
    assert_eq!(env(post, "GITHUB_ACTION_REPOSITORY"), Some("o/a"));
}

#[tokio::test]
async fn an_image_that_cannot_be_had_fails_the_job_and_names_the_flag() {
    let steps = vec![image("", "gone:1", &[]), run_if("always()", "last")];
    let job = job(steps, &[], &[], |_, _| Reply::exit(0));
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    let names = names(&outcome);
    assert_eq!(
        names,
        [
            "Pull gone:1: failure",
            "Run gone:1: skipped",
            "Run last: success"
        ]
    );
    let log = job.reporter.lines(2).join("\n");
    assert!(log.contains("--container-image gone:1=FILE"), "{log}");
}

#[tokio::test]
async fn a_container_that_fails_fails_its_step_and_one_that_is_stopped_is_removed() {
    let failing = job(vec![image("", "a:1", &[])], &[], &[], |_, _| Reply::exit(3));
    assert_eq!(failing.execute().await.result, Conclusion::Failure);
    assert!(calls(&failing, "rm").is_empty());
    let mut step = image("", "a:1", &[]);
    step.timeout_in_minutes = Some(TemplateToken::expression("0.001"));
    let slow = job(vec![step], &[], &[], |_, _| Reply::until_signal());
    let outcome = slow.execute().await;
    assert_eq!(names(&outcome), ["Pull a:1: success", "Run a:1: failure"]);
    let removed = &calls(&slow, "rm")[0].argv;
    let run = &calls(&slow, "run")[0].argv;
    assert_eq!(removed[2..], ["--force", run[3].as_str()]);
    let log = slow.reporter.lines(3).join("\n");
    assert!(log.contains("has timed out after 0.001 minutes"), "{log}");
}

#[tokio::test]
async fn the_engine_is_not_told_what_a_container_is_given() {
    let mut step = image("", "a:1", &[("args", "-p hush")]);
    step.environment = Some(strings(&[("TOKEN", "${{ secrets.TOKEN }}")]));
    let mut job = job(vec![step], &[], &[], |request, files| {
        let inside = request.argv.last().expect("a file");
        let name = inside.strip_prefix("/github/file_commands/").expect(inside);
        let path = format!("/home/runner/work/_temp/_runner_file_commands/{name}");
        let launch = Launch::read(&files.remove(&path).expect("is there").1).expect("well formed");
        let env = |wanted: &str| launch.env.iter().find(|(name, _)| name == wanted).cloned();
        assert_eq!(env("TOKEN").expect("is given").1, "hush");
        assert_eq!(
            env("GITHUB_WORKSPACE").expect("is given").1,
            "/github/workspace"
        );
        assert_eq!(launch.argv, ["/entry", "-x", "-p", "hush"]);
        Reply::exit(0)
    });
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("agent");
    std::fs::write(&program, "a program").unwrap();
    job.options.starter = Some(program);
    job.secret("TOKEN", "hush");
    let outcome = job.execute().await;
    let log = job.reporter.lines(3).join("\n");
    assert_eq!(outcome.result, Conclusion::Success, "{log}");
    assert_eq!(job.sandbox.get("/run/mayfly/start").unwrap(), b"a program");
    let request = &calls(&job, "run")[0];
    let (options, arguments) = around(request, "a:1");
    assert!(
        options.ends_with(" -v /run/mayfly/start:/.mayfly/start:ro"),
        "{options}"
    );
    assert!(
        options.contains(" --entrypoint /.mayfly/start "),
        "{options}"
    );
    assert_eq!(arguments[0], "--launch");
    for exec in job.sandbox.execs() {
        assert!(
            exec.argv.iter().all(|word| !word.contains("hush")),
            "{exec:?}"
        );
        assert_eq!(env(&exec, "TOKEN"), None, "{exec:?}");
    }
    assert!(
        log.contains(" -e TOKEN "),
        "the log has GitHub's words: {log}"
    );
    assert!(log.contains(" a:1 -p ***"), "{log}");
}

#[tokio::test]
async fn inputs_that_a_docker_action_does_not_have_are_warned_of() {
    let mut step = uses("", "./a");
    step.inputs = Some(strings(&[("odd", "x"), ("entryPoint", "/other")]));
    let action = "inputs: {who: {}}\nruns: {using: docker, image: 'docker://a:1'}\n";
    let job = job(vec![step], &[], &[("a/action.yml", action)], |_, _| {
        Reply::exit(0)
    });
    assert_eq!(job.execute().await.result, Conclusion::Success);
    let log = job.reporter.lines(2).join("\n");
    let warning = "Unexpected input(s) 'odd', valid inputs are ['entryPoint', 'args', 'who']";
    assert!(log.contains(warning), "{log}");
    assert!(
        calls(&job, "run")[0]
            .argv
            .join(" ")
            .contains("--entrypoint /other")
    );
}

#[tokio::test]
async fn a_sandbox_without_docker_says_which_image_has_it() {
    let job = job(vec![image("", "a:1", &[])], &[], &[], |_, _| Reply::exit(0));
    job.sandbox
        .on_exec(|request, _| (request.argv[0] == "/bin/sh").then(|| Reply::exit(127)));
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    let log = job.reporter.lines(2).join("\n");
    assert!(log.contains("--image standard"), "{log}");
}

/// What the build of a local action with this Dockerfile gets to read; nothing if there was no build.
async fn built_from(
    dockerfile: &'static str,
    source: Arc<dyn ActionSource>,
) -> (Option<String>, String) {
    let local = [("a/action.yml", MAIN), ("a/docker/Dockerfile", dockerfile)];
    let mut job = job(vec![uses("a", "./a")], &[], &local, |_, _| Reply::exit(0));
    job.options.actions = source;
    let _ = job.execute().await;
    let execs = job.sandbox.execs();
    let build = execs
        .iter()
        .position(|exec| exec.argv[0] == DOCKER && exec.argv[1] == "build");
    let read = build.map(|build| {
        let bytes = job
            .sandbox
            .inputs(build)
            .into_iter()
            .flat_map(|input| match input {
                ExecInput::Stdin(bytes) => bytes,
                _ => Vec::new(),
            });
        String::from_utf8(bytes.collect()).unwrap()
    });
    (read, job.reporter.lines(2).join("\n"))
}

/// An engine that takes its time, so that all of its input is there.
#[tokio::test]
async fn a_dockerfile_is_built_on_digests_or_not_at_all() {
    let one = || Arc::new(OneImage) as Arc<dyn ActionSource>;
    let (read, log) = built_from("ARG V=1\nFROM img:$V AS a\nCOPY --from=a / /\n", one()).await;
    let expected = format!("ARG V=1\nFROM {BY_DIGEST} AS a\nCOPY --from=a / /\n");
    assert_eq!(read, Some(expected), "{log}");
    assert!(log.contains(&format!("img:1 is {BY_DIGEST}")), "{log}");
    for (dockerfile, why) in [
        ("FROM img:2\n", "the image img:2 may not be pulled"),
        (
            "FROM img:1\nCOPY --from=img:2 / /\n",
            "the image img:2 may not be pulled",
        ),
        ("ARG V\nFROM img:$V\n", "a variable without a default"),
        (
            "FROM img:1\nRUN x <<EOF\nFROM img:2\nEOF\n",
            "builders may differ",
        ),
    ] {
        let (read, log) = built_from(dockerfile, one()).await;
        assert_eq!(read, None, "{dockerfile}");
        assert!(log.contains(why), "{log}");
    }
    // Where nothing has to be pinned, what only a build knows is left to it.
    let open = "ARG V\nFROM img:$V\n";
    let (read, _) = built_from(open, Arc::new(Memory(&[]))).await;
    assert_eq!(read.as_deref(), Some(open));
}
