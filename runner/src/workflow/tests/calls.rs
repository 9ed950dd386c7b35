//! Calls of reusable workflows: what is read from the checkout, refused with its place, and planned.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use secrecy::ExposeSecret;

use super::super::{LoadError, Loaded, Sources, load};
use super::{Outcomes, Plan, inputs, outcome, run};
use crate::action::bytes::{ActionSource, NoActions};
use crate::action::folders::Folders;
use crate::action::image_archives::ImageArchives;
use crate::expression::value::{Object, Value};
use crate::job::request::Variable;
use crate::workflow::plan::{JobOutcome, JobResult};

const JOB: &str = "{runs-on: x, steps: [{run: a}]}";

/// A checkout with these files of `.github/workflows`; the first is the one that is run.
fn checkout(files: &[(&str, &str)]) -> Result<Loaded, String> {
    let folder = tempfile::tempdir().unwrap();
    let workflows = folder.path().join(".github/workflows");
    fs::create_dir_all(&workflows).unwrap();
    for (name, text) in files {
        fs::write(workflows.join(name), text).unwrap();
    }
    loaded(&workflows.join(files[0].0), folder.path())
}

fn loaded(file: &Path, top: &Path) -> Result<Loaded, String> {
    load(file)
        .and_then(|loaded| loaded.runnable_with(&sources(&NoActions, top)))
        .map_err(|error| match error {
            LoadError::Rejected { .. } => error.to_string(),
            LoadError::Read { .. } => panic!("{error}"),
        })
}

fn sources<'a>(actions: &'a dyn ActionSource, top: &'a Path) -> Sources<'a> {
    static NO_IMAGES: LazyLock<ImageArchives> = LazyLock::new(ImageArchives::default);
    Sources {
        actions,
        checkout: Some(top),
        images: &NO_IMAGES,
    }
}

fn caller(call: &str) -> String {
    format!("on: push\njobs:\n  c:\n    uses: ./.github/workflows/f.yml\n{call}")
}

fn callee(on: &str) -> String {
    format!("on: {{workflow_call: {{{on}}}}}\njobs:\n  j: {JOB}\n")
}

fn refused(call: &str, on: &str) -> String {
    checkout(&[("ci.yml", &caller(call)), ("f.yml", &callee(on))]).unwrap_err()
}

fn called(call: &str, on: &str) -> Plan {
    let loaded = checkout(&[("ci.yml", &caller(call)), ("f.yml", &callee(on))]).unwrap();
    let plan = Plan::new(loaded.workflow, inputs());
    let mut prepared = run(plan.prepare("c", &Outcomes::new(), false).unwrap());
    assert!(prepared.runs.is_empty());
    prepared.calls.remove(0)
}

#[test]
fn inputs_have_the_declared_types_and_defaults() {
    let plan = called(
        "    with: {name: 5, fast: true, count: \"${{ fromJSON('3') }}\"}\n",
        "inputs: {name: {type: string}, fast: {type: boolean, required: true}, count: {type: number}, \
         none: {type: boolean}, word: {type: string, default: \"${{ github.event_name }}\"}}",
    );
    let inputs = &plan.inputs().inputs;
    assert_eq!(inputs.get("name"), Some(&Value::string("5")));
    assert_eq!(inputs.get("fast"), Some(&Value::Bool(true)));
    assert_eq!(inputs.get("count"), Some(&Value::Number(3.0)));
    assert_eq!(inputs.get("none"), Some(&Value::Bool(false)));
    assert_eq!(inputs.get("word"), Some(&Value::string("push")));
    let request = run(plan.prepare("j", &Outcomes::new(), false).unwrap())
        .runs
        .remove(0)
        .request;
    assert_eq!(request.job_display_name, "c / j");
    assert_eq!(request.file_table, [".github/workflows/f.yml"]);
}

#[test]
fn what_does_not_fit_is_told_with_the_place_of_the_call() {
    let required = "inputs: {a: {type: number, required: true, default: 1}}";
    for (call, on, parts) in [
        (
            "",
            required,
            [
                "input `a` is required by `.github/workflows/f.yml`",
                "ci.yml:4:11",
            ],
        ),
        (
            "    with: {a: \"1\"}\n",
            required,
            ["the input `a` must be a number", "ci.yml:5:15"],
        ),
        (
            "    with: {aa: 1, a: 1}\n",
            required,
            ["the input `aa` is not defined in", "ci.yml:5:12"],
        ),
        (
            "",
            "secrets: {t: {required: true}}",
            ["the secret `t` is required", "ci.yml:4:11"],
        ),
        (
            "    secrets: {u: x}\n",
            "secrets: {t: }",
            ["the secret `u` is not defined", "ci.yml:5:15"],
        ),
    ] {
        let said = refused(call, on);
        for part in parts {
            assert!(said.contains(part), "{part}\n{said}");
        }
    }
}

#[test]
fn an_expression_of_another_type_is_told_with_its_place() {
    let call = "    with:\n      a: ${{ github.event_name }}\n";
    let files = [
        ("ci.yml", caller(call)),
        ("f.yml", callee("inputs: {a: {type: number}}")),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let plan = Plan::new(checkout(&files).unwrap().workflow, inputs());
    let error = plan
        .prepare("c", &Outcomes::new(), false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("ci.yml:6:10: the job `c`"), "{error}");
    assert!(error.contains("must be a number, it is `push`"), "{error}");
}

#[test]
fn secrets_are_those_that_are_named_or_all_that_there_are() {
    let secrets = |call: &str, on: &str| {
        let plan = called(call, on);
        let request = run(plan.prepare("j", &Outcomes::new(), false).unwrap())
            .runs
            .remove(0)
            .request;
        let mut found = Vec::new();
        for name in ["TOKEN", "OWN", "EMPTY"] {
            if let Some(Variable::Secret(value)) = request.variables.get(name) {
                found.push(format!("{name}={}", value.expose_secret()));
            }
        }
        found.join(" ")
    };
    assert_eq!(secrets("", "secrets: {TOKEN: }"), "");
    assert_eq!(
        secrets("    secrets: inherit\n", "secrets: {t: {required: true}}"),
        "TOKEN=hunter2"
    );
    let named = "    secrets: {OWN: \"x${{ secrets.token }}\", EMPTY: \"${{ secrets.NONE }}\"}\n";
    let on = "secrets: {OWN: , EMPTY: {required: true}}";
    assert_eq!(secrets(named, on), "OWN=xhunter2");
    let plan = called(named, on);
    let masked = plan.inputs().masked.iter();
    let masked: Vec<_> = masked.map(|value| value.expose_secret()).collect();
    assert_eq!(masked, ["hunter2"]);
}

#[test]
fn outputs_come_from_the_jobs_of_the_called_workflow() {
    let plan = called(
        "",
        "outputs: {v: {value: \"${{ jobs.j.outputs.a }}-${{ jobs.j.result }}\"}}",
    );
    let outputs = Object::from_iter([("a", "x")]);
    let done = JobOutcome {
        result: JobResult::Success,
        outputs,
    };
    let outcomes = Outcomes::from([
        ("j".to_owned(), done),
        ("k".to_owned(), JobOutcome::skipped()),
    ]);
    let outputs = plan.call_outputs(&outcomes).unwrap();
    assert_eq!(outputs.get("v"), Some(&Value::string("x-success")));
    assert_eq!(Plan::call_result(&outcomes), JobResult::Success);
    let all_skipped = Outcomes::from([("j".to_owned(), outcome(JobResult::Skipped))]);
    assert_eq!(Plan::call_result(&all_skipped), JobResult::Skipped);
}

#[test]
fn a_matrix_of_calls_nests_names() {
    let call = "    name: build\n    strategy: {matrix: {v: [1, 2]}}\n    with: {v: \"${{ matrix.v }}\"}\n";
    let middle = "on: {workflow_call: {inputs: {v: {type: number}}}}\njobs:\n  m: {uses: ./.github/workflows/g.yml}\n";
    let loaded = checkout(&[
        ("ci.yml", &caller(call)),
        ("f.yml", middle),
        ("g.yml", &callee("")),
    ]);
    let plan = Plan::new(loaded.unwrap().workflow, inputs());
    let calls = run(plan.prepare("c", &Outcomes::new(), false).unwrap()).calls;
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[1].inputs().inputs.get("v"), Some(&Value::Number(2.0)));
    let inner = run(calls[1].prepare("m", &Outcomes::new(), false).unwrap())
        .calls
        .remove(0);
    assert!(inner.inputs().inputs.is_empty());
    let request = run(inner.prepare("j", &Outcomes::new(), false).unwrap())
        .runs
        .remove(0)
        .request;
    assert_eq!(request.job_display_name, "build (2) / m / j");
}

#[test]
fn what_is_wrong_in_a_called_file_is_told_with_its_place_beside_the_rest() {
    let broken =
        "on: workflow_call\njobs:\n  j:\n    runs-on: x\n    stesp: []\n    steps: [{run: a}]\n";
    let own = caller("  d:\n    uses: o/r/.github/workflows/x.yml@v1\n");
    let said = checkout(&[("ci.yml", &own), ("f.yml", broken)]).unwrap_err();
    for part in [
        "--> .github/workflows/f.yml:5:5",
        "there is nothing behind the action o/r@v1 on this machine",
        "ci.yml:6:11",
        "2 errors; nothing was run",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
}

#[test]
fn only_workflow_files_of_the_checkout_can_be_called() {
    let part = |uses: &str, part: &str| {
        let text = format!("on: push\njobs: {{c: {{uses: {uses}}}}}\n");
        let said = checkout(&[
            ("ci.yml", &text),
            ("f.yml", &format!("on: push\njobs: {{j: {JOB}}}\n")),
        ]);
        let said = said.unwrap_err();
        assert!(said.contains(part), "{said}");
    };
    part("./.github/workflows/none.yml", "none.yml` cannot be read");
    part(
        "./.github/workflows/../../f.yml",
        "is no file of `.github/workflows`",
    );
    part("./f.yml", "is no file of `.github/workflows`");
    for uses in ["o/r/f.yml@v1", "o/r/.github/workflows/f.yml", "docker://x"] {
        part(uses, "names no reusable workflow");
    }
    part(
        "./.github/workflows/f.yml@v1",
        "names a version of a local workflow",
    );
    part(
        "./.github/workflows/f.yml",
        "its `on` has no `workflow_call`",
    );
}

#[test]
fn a_workflow_of_another_repository_is_called_and_calls_files_of_that_repository() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str, text: &str| {
        let path = folder.path().join(path).join(".github/workflows");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("f.yml"), text).unwrap();
        path
    };
    let theirs = at(
        "other",
        "on: {workflow_call: {inputs: {n: {type: number, required: true}}}}\njobs:\n  far:\n    \
         uses: ./.github/workflows/g.yml\n",
    );
    fs::write(theirs.join("g.yml"), callee("")).unwrap();
    // The checkout's own file of that name is another one, and no workflow at all.
    let own = at("own", "on: push\njobs:\n");
    let run_with = |text: &str| {
        let file = own.join("ci.yml");
        fs::write(&file, text).unwrap();
        let argument = format!("O/r@v1={}", folder.path().join("other").display());
        let folders = Folders::new(&[argument.parse().unwrap()]).unwrap();
        load(&file)
            .and_then(|loaded| loaded.runnable_with(&sources(&folders, &folder.path().join("own"))))
            .map_err(|error| error.to_string())
    };
    let call = |name: &str, n: &str| {
        format!(
            "on: push\njobs: {{c: {{uses: o/R/.github/workflows/{name}@v1, with: {{n: {n}}}}}}}\n"
        )
    };
    let plan = Plan::new(run_with(&call("f.yml", "3")).unwrap().workflow, inputs());
    let far = run(plan.prepare("c", &Outcomes::new(), false).unwrap())
        .calls
        .remove(0);
    let inner = run(far.prepare("far", &Outcomes::new(), false).unwrap())
        .calls
        .remove(0);
    let request = run(inner.prepare("j", &Outcomes::new(), false).unwrap())
        .runs
        .remove(0)
        .request;
    assert_eq!(request.job_display_name, "c / far / j");
    assert_eq!(request.file_table, ["o/r/.github/workflows/g.yml@v1"]);

    for (text, part) in [
        (call("f.yml", "x"), "must be a number"),
        (
            call("none.yml", "3"),
            "`o/R/.github/workflows/none.yml@v1` is not in folder",
        ),
    ] {
        let said = run_with(&text).unwrap_err();
        assert!(said.contains(part), "{said}");
    }
    fs::write(
        theirs.join("g.yml"),
        "on: workflow_call\njobs: {x: {uses: o/r/.github/workflows/f.yml@v1}}\n",
    )
    .unwrap();
    let said = run_with(&call("f.yml", "3")).unwrap_err();
    assert!(
        said.contains("calls itself by way of 1 more files"),
        "{said}"
    );
    assert!(
        said.contains("--> o/r/.github/workflows/g.yml@v1:2:"),
        "{said}"
    );
}

#[test]
fn a_link_out_of_the_checkout_is_not_followed() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), callee("")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let workflows = folder.path().join(".github/workflows");
    fs::create_dir_all(&workflows).unwrap();
    fs::write(workflows.join("ci.yml"), caller("")).unwrap();
    std::os::unix::fs::symlink(outside.path(), workflows.join("f.yml")).unwrap();
    let said = loaded(&workflows.join("ci.yml"), folder.path()).unwrap_err();
    assert!(said.contains("is a link out of the checkout"), "{said}");
}

/// `n0.yml` calls `n1.yml` and so on; the last has a job of its own, or calls `back`.
fn chain(length: usize, back: Option<&str>, width: usize) -> Result<Loaded, String> {
    let mut files = Vec::new();
    for at in 0..=length {
        let uses = match back {
            _ if at < length => Some(format!("n{}.yml", at + 1)),
            back => back.map(str::to_owned),
        };
        let job = uses.map_or(JOB.to_owned(), |name| {
            format!("{{uses: ./.github/workflows/{name}}}")
        });
        let jobs: String = (0..width)
            .map(|job_at| format!("  j{job_at}: {job}\n"))
            .collect();
        files.push((
            format!("n{at}.yml"),
            format!("on: [push, workflow_call]\njobs:\n{jobs}"),
        ));
    }
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    checkout(&files)
}

#[test]
fn calls_nest_ten_deep_and_never_in_a_loop() {
    assert!(chain(10, None, 1).is_ok());
    let said = chain(11, None, 1).unwrap_err();
    let part = "job \"j0\" calls workflow \"./.github/workflows/n11.yml\", but doing so would exceed \
                the limit on called workflow depth of 10";
    assert!(said.contains(part), "{said}");
    let said = chain(2, Some("n0.yml"), 1).unwrap_err();
    assert!(
        said.contains("n0.yml` calls itself by way of 2 more files"),
        "{said}"
    );
    let said = chain(1, Some("n1.yml"), 1).unwrap_err();
    assert!(said.contains("n1.yml` calls itself"), "{said}");
}

#[test]
fn calls_that_multiply_are_bounded() {
    assert!(chain(3, None, 4).is_ok());
    let said = chain(10, None, 9).unwrap_err();
    assert!(said.contains("more than 1000 jobs"), "{said}");
}

#[test]
fn a_called_workflow_asks_for_no_more_than_its_caller_has() {
    let call = "jobs:\n  c:\n    uses: ./.github/workflows/f.yml\n";
    let check = |head: &str, own: &str, callee: &str| {
        let caller = format!("on: push\n{head}{call}{own}");
        checkout(&[("ci.yml", &caller), ("f.yml", callee)]).map(|_| ())
    };
    let callee = |workflow: &str, job: &str| {
        format!(
            "on: {{workflow_call: }}\n{workflow}jobs:\n  j: {{runs-on: x, {job}steps: [{{run: a}}]}}\n"
        )
    };
    let read = "permissions: {contents: read}\n";
    let write = "permissions: {issues: write, contents: write}, ";
    let error = check(read, "", &callee("", write)).unwrap_err();
    let expected = "Error calling workflow './.github/workflows/f.yml'. The nested job 'j' is requesting \
                    'contents: write, issues: write', but is only allowed 'contents: read, issues: none'.";
    assert!(error.contains(expected), "{error}");
    assert!(error.contains("ci.yml:5:11"), "{error}");
    let own = "    permissions: {contents: write, issues: write}\n";
    assert_eq!(check(read, own, &callee("", write)), Ok(()));
    assert_eq!(check("", "", &callee("", write)), Ok(()));
    let error = check(
        "permissions: read-all\n",
        "",
        &callee("permissions: write-all\n", ""),
    )
    .unwrap_err();
    let expected = "The workflow is requesting 'actions: write, artifact-metadata: write,";
    assert!(error.contains(expected), "{error}");
    assert!(error.contains("id-token: none"), "{error}");
    let nested = "on: {workflow_call: }\njobs:\n  n: {uses: ./.github/workflows/g.yml}\n";
    let files = [
        ("ci.yml", &*format!("on: push\n{read}{call}")),
        ("f.yml", nested),
        ("g.yml", &*callee("", write)),
    ];
    let error = checkout(&files).unwrap_err();
    assert!(
        error.contains("Error calling workflow './.github/workflows/g.yml'. The nested job 'j'"),
        "{error}"
    );
}
