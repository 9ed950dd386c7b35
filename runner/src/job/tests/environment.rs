//! What a step is given and what it leaves for the next.

use super::*;
use crate::egress::intercept::secrets::Placeholders;

#[tokio::test]
async fn env_is_layered_and_github_env_holds_for_later_steps() {
    let mut second = run("", "second");
    second.environment = Some(strings(&[("B", "step"), ("FROM", "${{ env.A }}")]));
    let steps = vec![run("", "first"), second, run("", "third")];
    let mut job = Job::new(steps, |script, request, files| {
        if script == "first" {
            write(request, files, "GITHUB_ENV", "B=file\nNEW=1\n");
            write(request, files, "GITHUB_PATH", "/one\n/two\n");
        }
        Reply::exit(0)
    });
    job.request.environment_variables = vec![
        strings(&[("A", "workflow"), ("B", "workflow")]),
        strings(&[("A", "job")]),
    ];
    job.execute().await;
    let scripts = job.scripts();
    let seen = |step: usize| {
        let value = |name| env(&scripts[step], name).unwrap_or("-").to_owned();
        ["A", "B", "NEW", "FROM"].map(value).join(" ")
    };
    assert_eq!(seen(0), "job workflow - -");
    assert_eq!(seen(1), "job step 1 job");
    assert_eq!(seen(2), "job file 1 -");
    let path = |step: usize| env(&scripts[step], "PATH").unwrap();
    assert!(path(0).starts_with("/usr/local/sbin:"));
    assert!(
        path(1).starts_with("/two:/one:/usr/local/sbin:"),
        "{}",
        path(1)
    );
}

#[tokio::test]
async fn a_step_gets_the_secrets_it_names_and_no_others() {
    let mut second = run("", "use ${{x}}");
    second.inputs = Some(strings(&[(
        "script",
        "${{ format('use {0}', secrets.TWO) }}",
    )]));
    second.environment = Some(strings(&[("MINE", "${{ secrets.ONE }}")]));
    let steps = vec![run("", "first"), second, run("", "third")];
    let mut job = Job::new(steps, |_, _, _| Reply::exit(0));
    for (name, value) in [("ONE", "value-1"), ("TWO", "value-2"), ("THREE", "value-3")] {
        job.secret(name, value);
    }
    job.execute().await;
    let scripts = job.scripts();
    let all = |step: usize| format!("{:?}{:?}", scripts[step].argv, scripts[step].env);
    assert_eq!(env(&scripts[1], "MINE"), Some("value-1"));
    assert!(
        !all(1).contains("value-2"),
        "a secret of a script is not on a command line"
    );
    for step in [0, 2] {
        assert!(!all(step).contains("value-"), "{}", all(step));
    }
    assert!(!all(1).contains("value-3"));
    assert!(!job.reporter.everything().contains("value-"));
    assert!(job.reporter.lines(3).contains(&"  MINE: ***".to_owned()));
}

#[tokio::test]
async fn scripts_and_environment_files_are_gone_after_their_step() {
    let job = Job::new(vec![run("", "one"), run("", "two")], |script, _, files| {
        let scripts = files.keys().filter(|path| path.ends_with(".sh")).count();
        let outputs = files
            .keys()
            .filter(|path| path.contains("/set_output_"))
            .count();
        assert_eq!((scripts, outputs), (1, 1), "{script}");
        Reply::exit(0)
    });
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Success);
    let left: Vec<_> = job.sandbox.files().into_keys().collect();
    assert_eq!(
        left,
        ["/home/runner/work/_temp/_github_workflow/event.json"]
    );
}

#[tokio::test]
async fn the_event_is_a_file_in_the_sandbox() {
    let mut job = Job::new(vec![run("", "x")], |_, _, _| Reply::exit(0));
    let event = Object::from_iter([("action", "opened")]);
    let mut github = Object::from_iter([("repository", "octo/hello")]);
    github.insert("event", event);
    job.request.context_data.insert("github", github);
    job.execute().await;
    let path = env(&job.scripts()[0], "GITHUB_EVENT_PATH")
        .unwrap()
        .to_owned();
    let content = job.sandbox.get(&path).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&content).unwrap();
    assert_eq!(json, serde_json::json!({"action": "opened"}));
}

#[tokio::test]
async fn broken_environment_files_fail_the_step_after_what_is_good_in_them() {
    let steps = vec![
        run("a", "env"),
        run_if("always()", "output"),
        run_if("always()", "node"),
    ];
    let job = Job::new(steps, |script, request, files| {
        match script {
            "env" => write(request, files, "GITHUB_ENV", "GOOD=1\nbroken\n"),
            "output" => write(request, files, "GITHUB_OUTPUT", "A<<E\nx\n"),
            _ => write(request, files, "GITHUB_ENV", "NODE_OPTIONS=--x\nOTHER=2\n"),
        }
        Reply::exit(0)
    });
    let outcome = job.execute().await;
    assert_eq!(
        results(&outcome),
        ["failure/failure", "failure/failure", "success/success"]
    );
    assert_eq!(env(&job.scripts()[1], "GOOD"), Some("1"));
    let tail = |record| job.reporter.lines(record).split_off(4).join("\n");
    assert_eq!(
        tail(2),
        "##[error]Unable to process file command 'env' successfully.\n\
         ##[error]Invalid format 'broken'"
    );
    assert!(tail(3).ends_with("##[error]Invalid value. Matching delimiter not found 'E'"));
    assert!(tail(4).contains("Can't store NODE_OPTIONS"), "{}", tail(4));
}

#[tokio::test]
async fn steps_run_as_the_user_who_owns_the_work_folders() {
    let mut job = Job::new(vec![run("", "x")], |_, _, _| Reply::exit(0));
    job.options = Options::for_user(Some("runner"));
    job.sandbox.on_exec(|_, _| Some(Reply::exit(0)));
    job.execute().await;
    let execs = job.sandbox.execs();
    assert_eq!(
        execs[0].argv,
        ["chown", "-R", "runner:", "/home/runner/work"]
    );
    assert_eq!(execs[0].user, None);
    let last = execs.last().unwrap();
    assert_eq!(last.user.as_deref(), Some("runner"));
    assert_eq!(env(last, "HOME"), Some("/home/runner"));
}

#[tokio::test]
async fn hash_files_sees_what_earlier_steps_wrote_and_is_read_only_for_steps_that_ask() {
    let hashing = |script: &str| {
        let mut step = run("", script);
        step.environment = Some(strings(&[("HASH", "${{ hashFiles('**/*.lock') }}")]));
        step
    };
    let mut broken = run("", "broken");
    broken.condition = "hashFiles('../x') == ''".to_owned();
    let steps = vec![hashing("one"), hashing("two"), run("", "three"), broken];
    let job = Job::new(steps, |script, _, files| {
        if script == "one" {
            let path = "/home/runner/work/hello/hello/a.lock".to_owned();
            files.insert(path, (0o644, b"x".to_vec()));
        }
        Reply::exit(0)
    });
    job.sandbox.put("/home/runner/work/hello/hello/README", "");
    let outcome = job.execute().await;
    let scripts = job.scripts();
    assert_eq!(env(&scripts[0], "HASH"), Some(""));
    // sha256 of the sha256 of "x".
    let hash = "0a325ca303eb3014c43ae004970f343634db176fa1697bcc8c9efac94626488d";
    assert_eq!(env(&scripts[1], "HASH"), Some(hash));
    assert_eq!(
        results(&outcome),
        [
            "success/success",
            "success/success",
            "success/success",
            "failure/failure"
        ]
    );
}

#[tokio::test]
async fn the_url_of_the_environment_is_evaluated_after_the_steps() {
    for (url, result, line) in [
        (
            "${{ format('{0}/x', steps.a.outputs.at) }}",
            Conclusion::Success,
            "Evaluated environment url: https://e/x",
        ),
        (
            "${{ format('https://{0}', steps.a.outputs.secret) }}",
            Conclusion::Success,
            "##[warning]Skip setting environment url as environment 'live' may contain secret.",
        ),
        (
            "${{ fromJSON('{') }}",
            Conclusion::Failure,
            "##[error]Failed to evaluate environment url",
        ),
    ] {
        let mut job = Job::new(vec![run("a", "x")], |_, request, files| {
            write(
                request,
                files,
                "GITHUB_OUTPUT",
                "at=https://e\nsecret=hush\n",
            );
            Reply::exit(0)
        });
        job.secret("S", "hush");
        job.request.actions_environment = Some(strings(&[("name", "live"), ("url", url)]));
        let outcome = job.execute().await;
        assert_eq!(outcome.result, result, "{url}");
        let lines = job.reporter.lines(3);
        assert_eq!(lines[0], "Evaluate and set environment url");
        assert!(lines.contains(&line.to_owned()), "{lines:?}");
        assert!(!job.reporter.everything().contains("hush"));
    }
}

#[tokio::test]
async fn secrets_of_workflows_around_are_hidden_and_not_given() {
    let mut job = Job::new(vec![run("", "x ${{ secrets.S }}")], |_, _, _| {
        Reply::stdout("see hunter2 there\n").then_exit(0)
    });
    job.request.masked = vec!["hunter2".to_owned().into()];
    job.options.without_services = Some("no room".to_owned());
    job.execute().await;
    assert_eq!(job.reporter.lines(2).pop().unwrap(), "see *** there");
    let warning = "##[warning]This job has no caches and no artifacts: no room";
    assert!(job.reporter.lines(1).contains(&warning.to_owned()));
}

#[tokio::test]
async fn steps_get_placeholders_of_bound_secrets_and_logs_show_neither() {
    let mut bound = run("", "x ${{x}}");
    let token = "${{ format('curl -H {0} {1}', secrets.NPM_TOKEN, github.token) }}";
    bound.inputs = Some(strings(&[("script", token)]));
    bound.environment = Some(strings(&[
        ("NPMRC", "${{ secrets.NPMRC }}"),
        ("FREE", "${{ secrets.FREE }}"),
        ("TOKEN", "${{ secrets.GITHUB_TOKEN }}"),
    ]));
    let mut job = Job::new(vec![bound], |script, request, _| {
        let npmrc = env(request, "NPMRC").unwrap_or_default();
        Reply::stdout(format!("{script}\n{npmrc}\nnpm_value\nghs_value\n")).then_exit(0)
    });
    job.secret("NPM_TOKEN", "npm_value");
    // The value within another secret, as in a file of settings.
    job.secret("NPMRC", "//r.example/:_authToken=npm_value");
    job.secret("FREE", "not-bound");
    job.secret("system.github.token", "ghs_value");
    let pair = |value: &str, placeholder: &str| (value.to_owned().into(), placeholder.to_owned());
    job.options.placeholders = Placeholders::new(vec![
        pair("npm_value", "npm_stand-in"),
        pair("ghs_value", "ghs_stand-in"),
    ]);
    job.execute().await;
    let scripts = job.scripts();
    assert_eq!(
        env(&scripts[0], "NPMRC"),
        Some("//r.example/:_authToken=npm_stand-in")
    );
    assert_eq!(env(&scripts[0], "FREE"), Some("not-bound"));
    assert_eq!(env(&scripts[0], "TOKEN"), Some("ghs_stand-in"));
    let given = format!("{:?}", job.sandbox.files());
    assert!(
        !given.contains("npm_value") && !given.contains("ghs_value"),
        "{given}"
    );
    let lines = job.reporter.lines(2).join("\n");
    assert!(lines.contains("curl -H *** ***"), "{lines}");
    let all = job.reporter.everything();
    for text in ["npm_value", "ghs_value", "npm_stand-in", "ghs_stand-in"] {
        assert!(!all.contains(text), "{text}: {all}");
    }
}
