//! Jobs become the requests that GitHub would send; keys without effect are told.

use super::super::plan::Outcomes;
use super::super::token::TokenKind;
use super::{json, load, plan, request, run};
use crate::expression::value::Value;

const FULL: &str = r#"name: CI
run-name: Build ${{ github.ref }}
on:
  push:
    branches: [main]
  workflow_dispatch:
    inputs:
      level: {type: choice, options: [a, b], default: a}
permissions: read-all
concurrency: {group: ci, cancel-in-progress: true}
env:
  A: 1.10
  B: ${{ github.ref }}
defaults:
  run: {shell: bash}
jobs:
  build:
    name: Build
    runs-on: [self-hosted, linux]
    timeout-minutes: 5
    continue-on-error: ${{ github.event_name == 'push' }}
    env: {C: "x ${{ secrets.TOKEN }}"}
    outputs:
      v: ${{ steps.one.outputs.v }}
    defaults: {run: {working-directory: sub}}
    steps:
      - run: echo hi
      - id: one
        name: Say ${{ env.A }}
        if: github.ref == 'refs/heads/main'
        run: |
          echo ${{ github.ref }}
        shell: python
        working-directory: x
        env: {D: true}
        continue-on-error: true
        timeout-minutes: 1.5
      - if: ${{ always() }}
        run: echo
"#;

#[test]
fn a_job_becomes_the_request_that_github_would_send() {
    let plan = plan(FULL);
    let prepared = run(plan.prepare("build", &Outcomes::new(), false).unwrap());
    assert_eq!(
        (
            prepared.runs.len(),
            prepared.fail_fast,
            prepared.max_parallel
        ),
        (1, true, None)
    );
    let run = &prepared.runs[0];
    assert_eq!((run.timeout_minutes, run.continue_on_error), (5.0, true));
    let request = &run.request;
    assert_eq!(request.message_type, "RunnerJobRequest");
    assert_eq!(request.job_key(), "build");
    assert_eq!(request.job_display_name, "Build");
    assert_eq!(request.file_table, [".github/workflows/ci.yml"]);
    assert_eq!(request.plan.plan_id, request.timeline.id);
    assert!(request.variables.get("token").unwrap().is_secret());
    let environment: Vec<_> = request.environment_variables.iter().map(json).collect();
    insta::assert_snapshot!(environment.join("\n"), @r#"
    {"type":2,"file":1,"line":12,"col":3,"map":[{"Key":{"type":0,"file":1,"line":12,"col":3,"lit":"A"},"Value":{"type":0,"file":1,"line":12,"col":6,"lit":"1.1"}},{"Key":{"type":0,"file":1,"line":13,"col":3,"lit":"B"},"Value":{"type":3,"file":1,"line":13,"col":6,"expr":"github.ref"}}]}
    {"type":2,"file":1,"line":22,"col":10,"map":[{"Key":{"type":0,"file":1,"line":22,"col":11,"lit":"C"},"Value":{"type":3,"file":1,"line":22,"col":14,"expr":"format('x {0}', secrets.TOKEN)"}}]}
    "#);
    assert_eq!(request.defaults.len(), 2);
    let outputs = request.job_outputs.as_ref().unwrap();
    assert_eq!(
        outputs.get("v").unwrap().kind,
        TokenKind::Expression("steps.one.outputs.v".into())
    );
}

#[test]
fn steps_have_conditions_names_and_inputs_as_github_sends_them() {
    let request = request(FULL, "build");
    let names: Vec<_> = request
        .steps
        .iter()
        .map(|step| step.context_name.as_str())
        .collect();
    assert_eq!(names, ["__run", "one", "__run_2"]);
    let conditions: Vec<_> = request
        .steps
        .iter()
        .map(|step| step.condition.as_str())
        .collect();
    assert_eq!(
        conditions,
        [
            "success()",
            "success() && (github.ref == 'refs/heads/main')",
            "always()"
        ]
    );
    let step = &request.steps[1];
    insta::assert_snapshot!(json(step.inputs.as_ref().unwrap()), @r#"{"type":2,"map":[{"Key":{"type":0,"lit":"script"},"Value":{"type":3,"file":1,"line":31,"col":14,"expr":"format('echo {0}\n', github.ref)"}},{"Key":{"type":0,"lit":"shell"},"Value":{"type":0,"file":1,"line":33,"col":16,"lit":"python"}},{"Key":{"type":0,"lit":"workingDirectory"},"Value":{"type":0,"file":1,"line":34,"col":28,"lit":"x"}}]}"#);
    insta::assert_snapshot!(json(step.display_name.as_ref().unwrap()), @r#"{"type":3,"file":1,"line":29,"col":15,"expr":"format('Say {0}', env.A)"}"#);
    assert_eq!(
        step.continue_on_error.as_ref().unwrap().kind,
        TokenKind::Bool(true)
    );
    assert_eq!(
        step.timeout_in_minutes.as_ref().unwrap().kind,
        TokenKind::Number(1.5)
    );
    let environment = step.environment.as_ref().unwrap();
    assert_eq!(environment.get("D").unwrap().as_str(), Some("true"));
    assert!(request.steps[0].display_name.is_none());
}

#[test]
fn contexts_of_the_service_are_in_the_request() {
    let request = request(FULL, "build");
    let context = |name: &str| request.context_data.get(name).cloned();
    assert_eq!(
        context("github").unwrap().get("job").unwrap().as_str(),
        Some("build")
    );
    assert_eq!(context("matrix"), Some(Value::Null));
    assert_eq!(context("needs").unwrap().as_object().unwrap().len(), 0);
    let strategy = context("strategy").unwrap();
    assert_eq!(strategy.get("job-total"), Some(&Value::Number(1.0)));
    let shown = format!("{request:?}");
    assert!(!shown.contains("hunter2"));
}

#[test]
fn keys_without_effect_are_told() {
    let findings = load(FULL).findings;
    insta::assert_snapshot!(findings, @r"
    notice: `permissions` has no effect here: a local run has no GitHub token
      --> .github/workflows/ci.yml:9:1
       |
     9 | permissions: read-all
       | ^^^^^^^^^^^

    notice: `concurrency` holds within this run here: a local run waits for no other run
       --> .github/workflows/ci.yml:10:1
        |
     10 | concurrency: {group: ci, cancel-in-progress: true}
        | ^^^^^^^^^^^
    ");
}

#[test]
fn a_condition_that_is_text_is_warned_about() {
    let text = "on: push\njobs:\n  a:\n    runs-on: x\n    if: ${{ github.ref }} == 'x'\n    steps: [{run: a}]\n";
    let findings = load(text).findings;
    assert_eq!(findings.diagnostics.len(), 1);
    assert!(
        findings
            .to_string()
            .starts_with("warning: this condition always holds")
    );
}

#[test]
fn a_job_without_steps_is_warned_about() {
    let findings = load("on: push\njobs: {a: {runs-on: x, steps: []}}\n").findings;
    assert!(
        findings
            .to_string()
            .starts_with("warning: this job has no steps")
    );
}

#[test]
fn every_form_of_on_is_read() {
    for (on, events) in [
        ("push", "push"),
        ("[push, pull_request]", "push pull_request"),
        (
            "{push: {branches: main}, pull_request: }",
            "push pull_request",
        ),
        ("{schedule: [{cron: '0 0 * * *'}]}", "schedule"),
        (
            "{workflow_call: {inputs: {a: {type: string}}, outputs: {b: {value: x}}}}",
            "workflow_call",
        ),
    ] {
        let loaded = load(&format!(
            "on: {on}\njobs: {{a: {{runs-on: x, steps: [{{run: a}}]}}}}\n"
        ));
        let names = loaded.workflow.triggers.iter();
        let names: Vec<_> = names.map(|trigger| trigger.event.as_str()).collect();
        assert_eq!(names.join(" "), events);
    }
}

#[test]
fn anchors_stand_for_their_values() {
    let text = "on: push\njobs:\n  a: &job\n    runs-on: x\n    env: &env {A: b}\n    steps: &steps\n      - run: a\n  b:\n    runs-on: y\n    env: *env\n    steps: *steps\n  c: *job\n";
    let workflow = load(text).workflow;
    assert_eq!(workflow.jobs.len(), 3);
    assert_eq!(workflow.jobs[1].env, workflow.jobs[0].env);
    assert_eq!(workflow.jobs[2].steps.len(), 1);
}
