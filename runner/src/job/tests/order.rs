//! Order, conditions, outcomes, the log.

use super::*;

#[tokio::test]
async fn a_job_is_reported_like_at_github() {
    let mut step = run("greet", "\necho hi\nfalse\n");
    step.environment = Some(strings(&[("NAME", "you")]));
    let job = Job::new(vec![step], |_, _, _| {
        Reply::stdout("hi\n::group::more\nhidden\n")
            .then_stderr("oops")
            .then_exit(3)
    });
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    let names: Vec<_> = outcome
        .steps
        .iter()
        .map(|step| step.name.as_str())
        .collect();
    assert_eq!(names, ["Set up job", "Run echo hi", "Complete job"]);
    assert_eq!(
        job.reporter.lines(2),
        [
            "##[group]Run echo hi",
            "\x1b[36;1m\x1b[0m",
            "\x1b[36;1mecho hi\x1b[0m",
            "\x1b[36;1mfalse\x1b[0m",
            "shell: /usr/bin/bash -e {0}",
            "env:",
            "  NAME: you",
            "##[endgroup]",
            "hi",
            "##[group]more",
            "hidden",
            "oops",
            "##[error]Process completed with exit code 3.",
        ]
    );
    let errors = job.reporter.events("annotation");
    assert_eq!(errors[0]["message"], "Process completed with exit code 3.");
    assert_eq!(job.reporter.events("job_started")[0]["name"], "build");
    assert_eq!(job.reporter.events("job_finished")[0]["result"], "failure");
    assert!(
        job.reporter
            .lines(1)
            .contains(&"Complete job name: build".to_owned())
    );
}

#[tokio::test]
async fn conditions_look_at_the_job_and_outcomes_at_the_step() {
    let mut tolerated = run("tolerated", "fail");
    tolerated.continue_on_error = Some(token("${{ github.repository == 'octo/hello' }}"));
    let steps = vec![
        run("first", "ok"),
        tolerated,
        run_if("steps.tolerated.outcome == 'failure'", "a"),
        run_if("success() && steps.tolerated.conclusion == 'success'", "b"),
        run_if("failure()", "never"),
        run("broken", "fail"),
        run("", "never"),
        run_if("failure() && steps.broken.outcome == 'failure'", "c"),
        run_if("always()", "d"),
        run_if("cancelled()", "never"),
    ];
    let job = Job::new(steps, |script, _, _| {
        Reply::exit(i32::from(script == "fail"))
    });
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    assert_eq!(
        results(&outcome),
        [
            "success/success",
            "failure/success",
            "success/success",
            "success/success",
            "skipped/skipped",
            "failure/failure",
            "skipped/skipped",
            "success/success",
            "success/success",
            "skipped/skipped",
        ]
    );
    let numbers: Vec<_> = outcome.steps.iter().map(|step| step.number).collect();
    assert_eq!(numbers, (1..=12).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_cannot_be_evaluated_fails_its_step() {
    let mut bad_env = run("", "x");
    bad_env.environment = Some(strings(&[("A", "${{ github }}")]));
    let mut bad_input = run_if("always()", "${{ fromJSON('{') }}");
    bad_input.name = "n".to_owned();
    let mut bad_continue = run_if("always()", "fail");
    bad_continue.continue_on_error = Some(token("maybe"));
    let mut bad_timeout = run_if("always()", "ok");
    bad_timeout.timeout_in_minutes = Some(token("soon"));
    let steps = vec![
        bad_env,
        run_if("nope()", "x"),
        bad_input,
        bad_continue,
        bad_timeout,
    ];
    let job = Job::new(steps, |script, _, _| {
        Reply::exit(i32::from(script == "fail"))
    });
    let outcome = job.execute().await;
    let failed = "failure/failure";
    assert_eq!(
        results(&outcome),
        [failed, failed, failed, failed, "success/success"]
    );
    assert_eq!(job.scripts().len(), 2);
    for (record, message) in [
        (
            2,
            "##[error]The template is not valid. A mapping was not expected",
        ),
        (3, "##[error]Unrecognized function: 'nope'"),
        (
            5,
            "##[error]The template is not valid. Unexpected value 'maybe'",
        ),
        (
            6,
            "##[error]An error occurred when attempting to determine the step timeout.",
        ),
    ] {
        let lines = job.reporter.lines(record);
        assert!(
            lines.iter().any(|line| line.starts_with(message)),
            "{lines:?}"
        );
    }
}

#[tokio::test]
async fn what_this_version_cannot_do_is_refused_before_anything_runs() {
    let action = StepRequest {
        action: crate::job::request::StepAction::Repository {
            name: "actions/checkout".to_owned(),
            reference: "v4".to_owned(),
            repository_type: "GitHub".to_owned(),
            path: String::new(),
        },
        ..run("", "")
    };
    let job = Job::new(vec![run("", "first"), action], |_, _, _| Reply::exit(0));
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    assert!(job.scripts().is_empty());
    let lines = job.reporter.lines(1);
    let message = "nothing behind the action actions/checkout@v4";
    assert!(lines.iter().any(|line| line.contains(message)), "{lines:?}");
}

#[tokio::test]
async fn shell_and_directory_come_from_the_step_then_the_job_then_the_workflow() {
    let mut own = run("", "own");
    own.inputs = Some(strings(&[
        ("script", "own"),
        ("shell", "python"),
        ("workingDirectory", "/abs"),
    ]));
    let mut job = Job::new(vec![run("", "default"), own], |_, _, _| Reply::exit(0));
    job.request.defaults = vec![
        TemplateToken::mapping([(
            "run",
            strings(&[("shell", "sh"), ("working-directory", "w")]),
        )]),
        TemplateToken::mapping([("run", strings(&[("shell", "bash")]))]),
    ];
    job.execute().await;
    let scripts = job.scripts();
    let arguments = scripts[0].argv[..5].join(" ");
    assert_eq!(arguments, "/usr/bin/bash --noprofile --norc -e -o");
    assert!(scripts[0].argv[6].starts_with("/home/runner/work/_temp/"));
    assert!(scripts[0].argv[6].ends_with(".sh"));
    assert_eq!(scripts[0].cwd, "/home/runner/work/hello/hello/w");
    assert_eq!(scripts[1].argv[0], "/usr/bin/python");
    assert!(scripts[1].argv[1].ends_with(".py"));
    assert_eq!(scripts[1].cwd, "/abs");
}

#[tokio::test]
async fn a_program_that_is_missing_or_cannot_start_fails_the_step() {
    let job = Job::new(vec![run("", "x"), run_if("always()", "y")], |_, _, _| {
        Reply::refuse("no such directory")
    });
    let outcome = job.execute().await;
    assert_eq!(results(&outcome), ["failure/failure", "failure/failure"]);
    let last = job.reporter.lines(2).pop().unwrap();
    assert!(last.starts_with("##[error]the sandbox refused"), "{last}");

    let job = Job::new(vec![run("", "x")], |_, _, _| Reply::exit(0));
    job.sandbox.on_exec(|_, _| Some(Reply::exit(127)));
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    let last = job.reporter.lines(2).pop().unwrap();
    assert_eq!(last, "##[error]bash: command not found");
}

#[tokio::test]
async fn outputs_of_steps_become_outputs_of_the_job_but_secrets_do_not() {
    let steps = vec![run("make", "make"), run("", "old")];
    let mut job = Job::new(steps, |script, request, files| {
        if script == "make" {
            let content = "version=1.2\nleak=a hush b\ntext<<E\none\ntwo\nE\n";
            write(request, files, "GITHUB_OUTPUT", content);
        }
        Reply::stdout("::set-output name=x::1\n").then_exit(0)
    });
    job.secret("S", "hush");
    job.request.job_outputs = Some(strings(&[
        ("version", "${{ steps.make.outputs.VERSION }}"),
        ("leak", "${{ steps.make.outputs.leak }}"),
        ("text", "${{ steps.make.outputs.text }}"),
        ("empty", "${{ steps.make.outputs.missing }}"),
    ]));
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Success);
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    assert_eq!(
        outcome.outputs,
        [("version", "1.2"), ("text", "one\ntwo")].map(own)
    );
    let lines = job.reporter.lines(4);
    let warning = "##[warning]Skip output 'leak' since it may contain secret.";
    assert!(lines.contains(&warning.to_owned()), "{lines:?}");
    assert!(!job.reporter.everything().contains("hush"));
}

#[tokio::test]
async fn a_job_whose_outputs_cannot_be_evaluated_fails() {
    let mut job = Job::new(vec![run("", "x")], |_, _, _| Reply::exit(0));
    job.request.job_outputs = Some(strings(&[("m", "${{ fromJSON('{') }}")]));
    let outcome = job.execute().await;
    assert_eq!(results(&outcome), ["success/success"]);
    assert_eq!(outcome.result, Conclusion::Failure);
    assert_eq!(outcome.outputs, []);
    let lines = job.reporter.lines(3);
    let said = "##[error]Fail to evaluate job outputs".to_owned();
    assert!(lines.contains(&said), "{lines:?}");
    assert_eq!(job.reporter.events("job_finished")[0]["result"], "failure");
}

#[tokio::test]
async fn a_summary_is_reported_masked() {
    let mut job = Job::new(vec![run("", "x")], |_, request, files| {
        write(request, files, "GITHUB_STEP_SUMMARY", "# Title\nsee hush\n");
        Reply::exit(0)
    });
    job.secret("S", "hush");
    job.execute().await;
    let summary = &job.reporter.events("summary")[0];
    assert_eq!(summary["markdown"], "# Title\nsee ***");
    assert_eq!(summary["step"], 2);
}

#[tokio::test]
async fn debug_lines_appear_only_when_asked_for() {
    for (debug, expected) in [(false, 0), (true, 1)] {
        let mut job = Job::new(vec![run("", "x")], |_, _, _| {
            Reply::stdout("::debug::inner\n").then_exit(0)
        });
        let value = Variable::Plain(debug.to_string());
        job.request.variables.insert("ACTIONS_STEP_DEBUG", value);
        job.execute().await;
        let lines = job.reporter.lines(2);
        let found = lines
            .iter()
            .filter(|line| *line == "##[debug]inner")
            .count();
        assert_eq!(found, expected, "{lines:?}");
        let process = &job.scripts()[0];
        assert_eq!(env(process, "RUNNER_DEBUG"), debug.then_some("1"));
    }
}

#[tokio::test]
async fn a_local_javascript_action_gets_its_inputs_and_its_outputs_count() {
    let step = |path: &str| StepRequest {
        action: crate::job::request::StepAction::Repository {
            name: String::new(),
            reference: String::new(),
            repository_type: "self".to_owned(),
            path: path.to_owned(),
        },
        inputs: Some(strings(&[("who am", "Ada"), ("odd", "x")])),
        ..run("act", "")
    };
    let steps = vec![
        step("./greet"),
        run_if("steps.act.outputs.said == 'hi'", "next"),
        step("./none"),
    ];
    let job = Job::new(steps, |_, _, _| Reply::exit(0));
    let work = "/home/runner/work/hello/hello";
    let manifest = "inputs:\n  who am: {}\n  mood:\n    default: ${{ github.repository }}\n\
                    runs: {using: node16, main: dist/index.js}\n";
    job.sandbox
        .put(&format!("{work}/greet/action.yml"), manifest);
    job.sandbox.on_exec(|request, files| {
        if request.argv[0] == "/opt/node/20/bin/node" {
            write(request, files, "GITHUB_OUTPUT", "said=hi\n");
        }
        Some(Reply::stdout("/usr/bin/bash\n").then_exit(0))
    });
    let outcome = job.execute().await;
    let failed = "failure/failure";
    let success = "success/success";
    assert_eq!(results(&outcome), [success, success, failed]);
    let node = job.scripts().remove(0);
    let script = format!("{work}/greet/dist/index.js");
    assert_eq!(node.argv, ["/opt/node/20/bin/node", &script]);
    assert_eq!(node.cwd, work);
    assert_eq!(env(&node, "INPUT_WHO_AM"), Some("Ada"));
    assert_eq!(env(&node, "INPUT_MOOD"), Some("octo/hello"));
    assert_eq!(outcome.steps[1].name, "Run ./greet");
    assert_eq!(
        job.reporter.lines(2),
        [
            "##[warning]Unexpected input(s) 'odd', valid inputs are ['who am', 'mood']",
            "##[group]Run ./greet",
            "with:",
            "  who am: Ada",
            "  odd: x",
            "  mood: octo/hello",
            "##[endgroup]",
            "##[warning]The following actions uses Node.js version which is deprecated and will be \
             forced to run on node20: ./greet.",
            "/usr/bin/bash",
        ]
    );
    let missing = job.reporter.lines(4).pop().unwrap();
    assert!(
        missing.starts_with("##[error]Can't find 'action.yml'"),
        "{missing}"
    );
}

#[tokio::test]
async fn services_are_for_actions_not_for_scripts_and_their_token_is_masked() {
    let action = StepRequest {
        action: crate::job::request::StepAction::Repository {
            name: String::new(),
            reference: String::new(),
            repository_type: "self".to_owned(),
            path: "./act".to_owned(),
        },
        inputs: None,
        environment: Some(strings(&[("ACTIONS_RESULTS_URL", "http://forged/")])),
        ..run("act", "")
    };
    let mut job = Job::new(vec![action, run("", "script")], |_, _, _| Reply::exit(0));
    job.options.services = Some(crate::job::Services {
        address: "http://127.0.0.1:20777/".to_owned(),
        token: "head.claims.signature".to_owned().into(),
    });
    job.sandbox.put(
        "/home/runner/work/hello/hello/act/action.yml",
        "runs: {using: node20, main: index.js}\n",
    );
    job.sandbox.on_exec(|request, _| {
        let token = env(request, "ACTIONS_RUNTIME_TOKEN").unwrap_or("none");
        Some(Reply::stdout(format!("token {token}\n")).then_exit(0))
    });
    job.execute().await;
    let (node, script) = (&job.scripts()[0], &job.scripts()[1]);
    for name in [
        "ACTIONS_RUNTIME_URL",
        "ACTIONS_RESULTS_URL",
        "ACTIONS_CACHE_URL",
    ] {
        assert_eq!(env(node, name), Some("http://127.0.0.1:20777/"), "{name}");
        assert_eq!(env(script, name), None, "{name}");
    }
    assert_eq!(env(node, "ACTIONS_CACHE_SERVICE_V2"), Some("True"));
    assert_eq!(env(script, "ACTIONS_RUNTIME_TOKEN"), None);
    let lines = job.reporter.lines(2);
    assert!(lines.contains(&"token ***".to_owned()), "{lines:?}");
    assert!(!job.reporter.everything().contains("signature"));
}
