//! Jobs with containers: what Docker's client is told, and what the log and the contexts say.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::action::{
    bytes::{ActionBytes, ActionSource, NoActions, SourceError},
    enforce::ImageRefused,
    policy::PinPolicy,
    reference::RepositoryReference,
};
use crate::{
    expression::{coerce::to_text, json::from_json, value::Value},
    sandbox::ExecInput,
    workflow::token::TokenKind,
};

const DOCKER: &str = "/usr/bin/docker";

/// A token from JSON; texts that begin with `${{` are expressions.
fn tree(json: &str) -> TemplateToken {
    fn make(value: &Value) -> TemplateToken {
        match value {
            Value::Null => TemplateToken::new(Default::default(), TokenKind::Null),
            Value::String(text) => token(text),
            Value::Object(object) => {
                TemplateToken::mapping(object.iter().map(|(key, value)| (key, make(value))))
            }
            Value::Array(items) => TemplateToken::new(
                Default::default(),
                TokenKind::Sequence(items.iter().map(make).collect()),
            ),
            other => token(&to_text(other)),
        }
    }
    make(&from_json(json).unwrap())
}

/// A job with these containers, in a sandbox with an engine: `answer` may decide what the client
/// does with its arguments; scripts do what they say: `env …`, `path …`, `fail`, `wait`.
fn job(
    steps: Vec<StepRequest>,
    container: Option<&str>,
    services: Option<&str>,
    mut answer: impl FnMut(&str) -> Option<Reply> + Send + 'static,
) -> Job {
    let mut job = Job::new(steps, |_, _, _| Reply::exit(0));
    job.request.job_container = container.map(tree);
    job.request.job_service_containers = services.map(tree);
    job.sandbox.on_exec(move |request, files| {
        if request.argv[0] == "/bin/sh" && request.argv[2].contains("command -v") {
            let path = format!("/usr/bin/{}\n", request.argv[4]);
            return Some(Reply::stdout(path).then_exit(0));
        }
        if request.argv[0] != DOCKER {
            return Some(Reply::exit(0));
        }
        let arguments = request.argv[1..].join(" ");
        if arguments.contains(" login ") {
            let file = format!("{}/config.json", request.argv[2]);
            files.insert(file, (0o600, b"a login".to_vec()));
        }
        if let Some(reply) = answer(&arguments) {
            return Some(reply);
        }
        Some(match request.argv[1].as_str() {
            "version" => Reply::stdout("1.41 1.41\n").then_exit(0),
            "create" => Reply::stdout("abc123\n").then_exit(0),
            "inspect" if arguments.contains("Config.Env") => {
                let state = "true\nPATH=/img/bin\n80/tcp -> 32768\nhas a health check\n";
                Reply::stdout(state).then_exit(0)
            }
            "inspect" => Reply::stdout("healthy\n").then_exit(0),
            "exec" => step(request, files),
            _ => Reply::exit(0),
        })
    });
    job
}

/// What a step's script does in its container.
fn step(request: &ExecRequest, files: &mut Files) -> Reply {
    let inside = request.argv.last().expect("a script");
    let path = inside.replace("/__w/", "/home/runner/work/");
    let Some((_, script)) = files.get(&path) else {
        return Reply::exit(0);
    };
    let script = String::from_utf8(script.clone()).unwrap();
    for (word, variable) in [("env ", "GITHUB_ENV"), ("path ", "GITHUB_PATH")] {
        if let Some(text) = script.strip_prefix(word) {
            let file = env(request, variable).unwrap();
            let file = file.replace("/__w/", "/home/runner/work/");
            let content = &mut files.get_mut(&file).unwrap().1;
            content.extend_from_slice(text.as_bytes());
        }
    }
    match script.as_str() {
        "wait" => Reply::stdout("begun\n").then_until_signal(),
        script => Reply::exit(i32::from(script == "fail")),
    }
}

/// A process that takes a moment: its input is read meanwhile.
fn later() -> Reply {
    Reply::default().then_sleep(Duration::from_secs(1))
}

/// The arguments of all calls of the client.
fn calls(job: &Job) -> Vec<String> {
    let execs = job.sandbox.execs().into_iter();
    let calls = execs.filter(|exec| exec.argv[0] == DOCKER);
    calls.map(|exec| exec.argv[1..].join(" ")).collect()
}

fn find<'a>(calls: &'a [String], beginning: &str) -> &'a str {
    let mut found = calls.iter().filter(|call| call.starts_with(beginning));
    found
        .next()
        .unwrap_or_else(|| panic!("{beginning}: {calls:#?}"))
}

fn names(outcome: &JobOutcome) -> Vec<String> {
    let steps = outcome.steps.iter();
    let named = |step: &super::super::outcome::StepRecord| {
        format!("{}: {}", step.name, step.conclusion.as_str())
    };
    steps.map(named).collect()
}

fn lines(job: &Job) -> String {
    (0..20)
        .flat_map(|step| job.reporter.lines(step))
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test(start_paused = true)]
async fn steps_of_a_job_with_a_container_run_in_it() {
    let mut both = run("both", "one");
    both.environment = Some(strings(&[("TOKEN", "${{ secrets.TOKEN }}")]));
    let mut job = job(
        vec![both, run("two", "path /__w/bin\n"), run("three", "three")],
        Some(
            r#"{"image": "img:1", "env": {"A": "${{ github.repository }}"}, "options": "--cpus 1",
                "volumes": ["/v:/v"], "ports": [80]}"#,
        ),
        None,
        |_| None,
    );
    job.secret("TOKEN", "hush");
    let outcome = job.execute().await;
    assert_eq!(
        names(&outcome),
        [
            "Set up job: success",
            "Initialize containers: success",
            "Run one: success",
            "Run path /__w/bin: success",
            "Run three: success",
            "Stop containers: success",
            "Complete job: success"
        ]
    );
    let calls = calls(&job);
    let create = find(&calls, "create ");
    for part in [
        " --workdir /__w/hello/hello --network github_network_",
        " -p 80 --cpus 1 -e A -e HOME -e GITHUB_ACTIONS -e CI ",
        " -v /var/run/docker.sock:/var/run/docker.sock -v /home/runner/work:/__w ",
        " -v /opt/node/20:/__e/node20:ro ",
        " -v /v:/v --entrypoint tail img:1 -f /dev/null",
    ] {
        assert!(create.contains(part), "{part}: {create}");
    }
    let execs: Vec<_> = job.sandbox.execs().into_iter().collect();
    let steps: Vec<_> = execs
        .iter()
        .filter(|e| e.argv.get(1).is_some_and(|a| a == "exec"))
        .collect();
    assert_eq!(steps.len(), 3);
    let tail = |request: &ExecRequest| request.argv[request.argv.len() - 4..].join(" ");
    assert!(
        tail(steps[0]).starts_with("abc123 sh -e /__w/_temp/"),
        "{}",
        tail(steps[0])
    );
    assert_eq!(env(steps[0], "TOKEN"), Some("hush"));
    assert_eq!(env(steps[0], "GITHUB_WORKSPACE"), Some("/__w/hello/hello"));
    assert_eq!(env(steps[0], "RUNNER_TEMP"), Some("/__w/_temp"));
    assert_eq!(env(steps[0], "RUNNER_TOOL_CACHE"), Some("/__t"));
    assert_eq!(
        env(steps[0], "GITHUB_EVENT_PATH"),
        Some("/github/workflow/event.json")
    );
    // What the machine has is not the container's.
    assert!(!steps[0].argv.contains(&"HOME".to_owned()));
    assert!(!steps[0].argv.contains(&"PATH".to_owned()));
    assert_eq!(env(steps[2], "PATH"), Some("/__w/bin:/img/bin"));
    // The next step is not told what this one was, and no command line holds a value.
    assert_eq!(env(steps[1], "TOKEN"), None);
    let all: Vec<_> = execs.iter().flat_map(|exec| &exec.argv).collect();
    assert!(all.iter().all(|argument| !argument.contains("hush")));
    let rest: Vec<_> = calls.iter().rev().take(2).collect();
    assert!(rest[1].starts_with("rm --force abc123"), "{rest:?}");
    assert!(
        rest[0].starts_with("network rm github_network_"),
        "{rest:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn services_are_waited_for_and_told_to_the_steps() {
    let mut asked = 0;
    let script = "echo ${{ job.services.db.ports['80'] }}";
    let mut told = run("told", script);
    told.inputs = Some(strings(&[(
        "script",
        "${{ format('{0} {1} {2}', job.services.db.ports['80'], job.services.db.id, \
         job.services.db.network == job.container.network) }}",
    )]));
    let job = job(
        vec![told],
        None,
        Some(r#"{"db": {"image": "db:1", "ports": ["80"]}, "none": {"image": ""}}"#),
        move |arguments| {
            arguments.contains("State.Health.Status").then(|| {
                asked += 1;
                let status = if asked < 3 { "starting" } else { "healthy" };
                Reply::stdout(format!("{status}\n")).then_exit(0)
            })
        },
    );
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Success, "{}", lines(&job));
    let calls = calls(&job);
    assert!(find(&calls, "create ").contains(" --network-alias db -p 80 "));
    assert_eq!(
        calls
            .iter()
            .filter(|call| call.starts_with("create"))
            .count(),
        1
    );
    let lines = lines(&job);
    for line in [
        "##[group]Starting db service container",
        "db service is starting, waiting 2 seconds before checking again.",
        "db service is starting, waiting 4 seconds before checking again.",
        "db service is healthy.",
        "##[group]Run 32768 abc123 true",
    ] {
        assert!(lines.lines().any(|known| known == line), "{line}: {lines}");
    }
    // Steps run in the sandbox itself.
    assert!(!calls.iter().any(|call| call.starts_with("exec")));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_healthy_fails_the_job_and_is_removed() {
    let job = job(
        vec![run("a", "one"), run_if("always()", "two")],
        Some("\"img:1\""),
        Some(r#"{"db": "db:1"}"#),
        |arguments| match arguments {
            health if health.contains("State.Health.Status") => {
                Some(Reply::stdout("unhealthy\n").then_exit(0))
            }
            logs if logs.starts_with("logs") => Some(Reply::stdout("no disk\n").then_exit(0)),
            _ => None,
        },
    );
    let outcome = job.execute().await;
    assert_eq!(
        names(&outcome)[1..],
        [
            "Initialize containers: failure",
            "Run one: skipped",
            "Run two: success",
            "Stop containers: success",
            "Complete job: success"
        ]
    );
    assert_eq!(outcome.result, Conclusion::Failure);
    let lines = lines(&job);
    for line in [
        "db service is unhealthy.",
        "##[group]Service container db failed.",
        "no disk",
        "##[error]Failed to initialize container db:1",
        "##[error]One or more containers failed to start.",
    ] {
        assert!(lines.lines().any(|known| known == line), "{line}: {lines}");
    }
    assert!(calls(&job).contains(&"rm --force abc123 abc123".to_owned()));
}

/// Knows one image by its digest.
#[derive(Debug)]
pub(super) struct OneImage;

pub(super) const BY_DIGEST: &str =
    "docker.io/library/img@sha256:0000000000000000000000000000000000000000000000000000000000000000";

impl ActionSource for OneImage {
    fn find(&self, reference: &RepositoryReference) -> Result<Arc<dyn ActionBytes>, SourceError> {
        NoActions.find(reference)
    }

    fn image(&self, image: &str) -> Result<String, ImageRefused> {
        match image {
            "img:1" => Ok(BY_DIGEST.to_owned()),
            other => Err(ImageRefused::Unpinned(other.to_owned(), PinPolicy::Require)),
        }
    }

    fn refuses_unpinned(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_is_pulled_and_started_by_its_digest_and_one_that_nothing_pins_is_not_pulled() {
    for (image, conclusion) in [
        ("img:1", Conclusion::Success),
        ("img:2", Conclusion::Failure),
    ] {
        let image = format!("\"{image}\"");
        let mut job = job(vec![run("a", "one")], Some(&image), None, |_| None);
        job.options.actions = Arc::new(OneImage);
        let outcome = job.execute().await;
        assert_eq!(outcome.result, conclusion, "{}", lines(&job));
        let calls = calls(&job);
        let (pulls, starts) = (format!("pull {BY_DIGEST}"), format!(" {BY_DIGEST} "));
        let pulled = calls.iter().filter(|call| call.starts_with("pull")).count();
        if conclusion == Conclusion::Success {
            assert!(calls.contains(&pulls), "{calls:?}");
            assert!(
                calls
                    .iter()
                    .any(|call| call.starts_with("create") && call.contains(&starts)),
                "{calls:?}"
            );
        } else {
            assert_eq!(pulled, 0, "{calls:?}");
            assert!(
                lines(&job)
                    .contains("the image img:2 may not be pulled under the policy pins = require")
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_had_is_named_with_its_place_and_the_mend() {
    let mut job = job(
        vec![run("a", "one"), run_if("always()", "two")],
        Some("\"img:1\""),
        None,
        |arguments| arguments.starts_with("pull").then(|| Reply::exit(1)),
    );
    let token = job.request.job_container.as_mut().unwrap();
    token.at.file = Some(1);
    (token.at.line, token.at.column) = (Some(4), Some(7));
    job.request.file_table = vec!["a.yml".to_owned()];
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    let calls = calls(&job);
    assert_eq!(calls.iter().filter(|call| *call == "pull img:1").count(), 3);
    let lines = lines(&job);
    assert!(lines.contains("##[error]a.yml (Line: 4, Col: 7): Docker pull failed with exit code 1: the image img:1 is not"), "{lines}");
    assert!(lines.contains("--container-image img:1=FILE"), "{lines}");
    // A step that runs nevertheless does not run elsewhere.
    assert!(names(&outcome).contains(&"Run two: failure".to_owned()));
    assert!(
        lines.contains("The job's container was not started"),
        "{lines}"
    );
    let scripts = job
        .scripts()
        .into_iter()
        .filter(|exec| exec.argv[0] != DOCKER);
    assert_eq!(scripts.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_archive_stands_for_an_image_and_the_registry_is_not_asked() {
    let archive = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(archive.path(), "archive").unwrap();
    let mut job = job(
        vec![],
        Some("\"docker://img\""),
        Some(r#"{"a": "img:latest"}"#),
        |arguments| {
            arguments
                .starts_with("load")
                .then(|| later().then_stdout("Loaded image: other:1\n").then_exit(0))
        },
    );
    let given = (
        "docker.io/library/img".to_owned(),
        archive.path().to_owned(),
    );
    job.options.container_images = vec![given];
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Success, "{}", lines(&job));
    let execs = job.sandbox.execs();
    let load = execs
        .iter()
        .position(|exec| exec.argv.get(1).is_some_and(|a| a == "load"))
        .unwrap();
    let sent = [ExecInput::Stdin(b"archive".to_vec()), ExecInput::StdinEnd];
    assert_eq!(job.sandbox.inputs(load), sent);
    let calls = calls(&job);
    assert_eq!(calls.iter().filter(|call| *call == "load").count(), 1);
    assert!(calls.contains(&"tag other:1 img".to_owned()));
    assert!(!calls.iter().any(|call| call.starts_with("pull")));
}

#[tokio::test(start_paused = true)]
async fn a_login_is_for_one_pull_and_its_password_in_no_command_line() {
    let mut job = job(
        vec![],
        Some(
            r#"{"image": "reg.example/img:1",
                "credentials": {"username": "ada", "password": "${{ secrets.PASSWORD }}"}}"#,
        ),
        None,
        |arguments| match arguments {
            pull if pull.contains(" pull ") => Some(Reply::exit(1)),
            login if login.contains(" login ") => Some(later().then_exit(0)),
            _ => None,
        },
    );
    job.secret("PASSWORD", "hush");
    job.sandbox.put("/home/runner/work/_temp/keep", "");
    job.execute().await;
    let execs = job.sandbox.execs();
    let login = execs
        .iter()
        .position(|exec| exec.argv.iter().any(|a| a == "login"))
        .unwrap();
    let sent = [ExecInput::Stdin(b"hush".to_vec()), ExecInput::StdinEnd];
    assert_eq!(job.sandbox.inputs(login), sent);
    let words = &execs[login].argv;
    let config = words[2].clone();
    assert_eq!(
        words[3..].join(" "),
        "login reg.example -u ada --password-stdin"
    );
    let all = execs
        .iter()
        .flat_map(|exec| exec.argv.iter().chain(exec.env.iter().map(|(_, v)| v)));
    assert!(all.clone().all(|text| !text.contains("hush")));
    let mut pulls = calls(&job)
        .into_iter()
        .filter(|call| call.contains(" pull "));
    assert!(pulls.all(|call| call.starts_with(&format!("--config {config} "))));
    let files = job.sandbox.files();
    assert!(files.keys().all(|path| !path.starts_with(&config)));
    assert!(files.contains_key("/home/runner/work/_temp/keep"));
}

#[tokio::test(start_paused = true)]
async fn an_empty_image_is_no_container_and_a_sandbox_without_docker_is_named() {
    let mut no = job(
        vec![run("a", "one")],
        Some(r#"{"image": "${{ matrix.image }}"}"#),
        Some("null"),
        |_| None,
    );
    no.request
        .context_data
        .insert("matrix", Object::from_iter([("image", "")]));
    let outcome = no.execute().await;
    assert_eq!(
        names(&outcome),
        [
            "Set up job: success",
            "Run one: success",
            "Complete job: success"
        ]
    );
    assert!(calls(&no).is_empty());

    let mut job = Job::new(vec![run("a", "one")], |_, _, _| Reply::exit(0));
    job.request.job_container = Some(token("img:1"));
    job.options.image = "`minimal`".to_owned();
    job.sandbox.on_exec(|_, _| Some(Reply::exit(127)));
    let outcome = job.execute().await;
    assert_eq!(names(&outcome)[0], "Set up job: failure");
    let lines = lines(&job);
    assert!(
        lines.contains("which the image `minimal` does not have"),
        "{lines}"
    );
    assert!(lines.contains("--image standard"), "{lines}");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_step_is_stopped_in_its_container_and_the_container_removed() {
    let (canceller, requested) = cancellation();
    let mut job = job(
        vec![run("a", "wait"), run_if("always()", "last")],
        Some("\"img:1\""),
        None,
        |_| None,
    );
    job.cancellation = requested;
    let cancel = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        canceller.cancel();
    };
    let (outcome, ()) = tokio::join!(job.execute(), cancel);
    assert_eq!(
        names(&outcome)[1..],
        [
            "Initialize containers: success",
            "Run wait: cancelled",
            "Run last: success",
            "Stop containers: success",
            "Complete job: success"
        ]
    );
    assert_eq!(outcome.result, Conclusion::Cancelled);
    let execs = job.sandbox.execs();
    let is = |word: &str| {
        let at = execs
            .iter()
            .position(|exec| exec.argv.iter().any(|a| a == word));
        at.unwrap_or_else(|| panic!("{word}"))
    };
    let waiting = is("exec");
    let mark = env(&execs[waiting], "GITHUB_OUTPUT").unwrap();
    let mark = &mark[mark.len() - 36..];
    let signals: Vec<_> = execs
        .iter()
        .filter(|exec| exec.argv[0] == "/bin/sh")
        .collect();
    let signals: Vec<_> = signals
        .iter()
        .filter(|s| s.argv.last().unwrap() == mark)
        .collect();
    let numbers: Vec<_> = signals.iter().map(|s| s.argv[4].as_str()).collect();
    assert_eq!(numbers, ["2", "15", "9"]);
    // Docker's client would end at the first and leave the step behind.
    assert_eq!(job.sandbox.inputs(waiting), [ExecInput::Signal(9)]);
    assert!(waiting < is("rm"));
}

#[tokio::test(start_paused = true)]
async fn places_in_a_container_are_those_of_the_checkout() {
    let job = job(
        vec![run("a", "fail"), run_if("failure()", "said")],
        Some("\"img:1\""),
        None,
        |arguments| {
            arguments.contains(" sh -e ").then(|| {
                Reply::stdout("::warning file=/__w/hello/hello/src/a.c::odd\n").then_exit(1)
            })
        },
    );
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    let events = job.reporter.events("annotation");
    assert!(events[0].to_string().contains("\"src/a.c\""), "{events:?}");
    assert!(lines(&job).contains("##[error]Process completed with exit code 1."));
}

#[tokio::test(start_paused = true)]
async fn javascript_actions_run_on_the_runners_node_where_the_container_can() {
    let action = StepRequest {
        action: crate::job::request::StepAction::Repository {
            name: String::new(),
            reference: String::new(),
            repository_type: "self".to_owned(),
            path: "./act".to_owned(),
        },
        inputs: Some(strings(&[("who", "Ada")])),
        ..run("act", "")
    };
    let mut job = job(vec![action], Some("\"img:1\""), None, |arguments| {
        let node = arguments.contains("/bin/node");
        node.then(|| Reply::stdout("no such file\n").then_exit(127))
    });
    let manifest = "inputs: {who: {}}\nruns: {using: node20, main: m.js}\n";
    let folder = "/home/runner/work/hello/hello/act";
    job.sandbox.put(&format!("{folder}/action.yml"), manifest);
    job.options.services = Some(crate::job::Services {
        address: "http://127.0.0.1:7000/".to_owned(),
        token: "hush".to_owned().into(),
    });
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    let execs = job.sandbox.execs();
    let node = execs
        .iter()
        .find(|e| e.argv.iter().any(|a| a.ends_with("/bin/node")));
    let node = node.expect("it was started");
    let command = node.argv[node.argv.len() - 3..].join(" ");
    assert_eq!(
        command,
        "abc123 /__e/node20/bin/node /__w/hello/hello/act/m.js"
    );
    assert_eq!(env(node, "INPUT_WHO"), Some("Ada"));
    // To the container, the sandbox is the engine's gateway.
    let results = env(node, "ACTIONS_RESULTS_URL").expect("the services");
    assert!(results.starts_with("http://172."), "{results}");
    assert_eq!(env(node, "ACTIONS_RUNTIME_TOKEN"), Some("hush"));
    assert!(
        lines(&job).contains("needs the GNU C library"),
        "{}",
        lines(&job)
    );
}

#[tokio::test(start_paused = true)]
async fn the_engine_is_not_told_what_a_step_is_given() {
    let mut one = run("one", "one");
    one.environment = Some(strings(&[("TOKEN", "${{ secrets.TOKEN }}")]));
    let mut job = job(vec![one], Some("\"img:1\""), None, |arguments| {
        arguments.starts_with("exec").then(|| Reply::exit(3))
    });
    job.secret("TOKEN", "hush");
    let program = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(program.path(), "program").unwrap();
    job.options.starter = Some(program.path().to_owned());
    let kept = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&kept);
    let outcome = {
        // Looks at the file at the moment in which the step's process begins.
        let sandbox = job.sandbox.clone();
        let watched = job.execute();
        tokio::pin!(watched);
        loop {
            tokio::select! {
                biased;
                outcome = &mut watched => break outcome,
                () = tokio::task::yield_now() => {
                    let files = sandbox.files();
                    let start = files.iter().find(|(path, _)| path.contains("/start_"));
                    seen.lock().unwrap().extend(start.map(|(path, file)| (path.clone(), file.1.clone())));
                }
            }
        }
    };
    assert_eq!(
        outcome.result,
        Conclusion::Failure,
        "it ends with the code 3"
    );
    let execs = job.sandbox.execs();
    let step = execs
        .iter()
        .find(|e| e.argv.get(1).is_some_and(|a| a == "exec"))
        .unwrap();
    let words = step.argv[2..].join(" ");
    assert!(
        words.starts_with(
            "-i --workdir /__w/hello/hello abc123 /.mayfly/start --launch /__w/_temp/"
        ),
        "{words}"
    );
    assert_eq!(env(step, "TOKEN"), None);
    assert!(find(&calls(&job), "create").contains(" -v /run/mayfly/start:/.mayfly/start:ro "));
    assert_eq!(
        job.sandbox.get("/run/mayfly/start").as_deref(),
        Some(&b"program"[..])
    );
    let kept = kept.lock().unwrap();
    let (path, content) = kept.first().expect("the file was there");
    let content = String::from_utf8_lossy(content);
    assert!(content.contains("\0TOKEN=hush\0"), "{content}");
    assert!(content.contains("\0sh\0-e\0/__w/_temp/"), "{content}");
    assert!(
        !job.sandbox.files().contains_key(path),
        "it is gone with the step's other files"
    );
}
