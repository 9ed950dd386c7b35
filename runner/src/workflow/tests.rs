//! Whole workflow files: plans, job requests and diagnostics.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::model::{Job, Workflow};
use super::plan::{
    JobOutcome, JobResult, Outcomes, Plan, PrepareError, Prepared, PreparedJob, RunInputs,
};
use super::source::{MAX_FILE_BYTES, Source};
use super::token::{TemplateToken, TokenKind};
use super::{LoadError, Loaded, parse};
use crate::expression::value::{Object, Value};

fn load(text: &str) -> Loaded {
    parse(Source::new(".github/workflows/ci.yml", text)).unwrap_or_else(|error| panic!("{error}"))
}

fn refuse(text: &str) -> super::Findings {
    match parse(Source::new(".github/workflows/ci.yml", text)).and_then(Loaded::runnable) {
        Err(LoadError::Rejected { findings }) => *findings,
        other => panic!("{text}\nis not refused: {other:?}"),
    }
}

fn inputs() -> RunInputs {
    RunInputs {
        github: Object::from_iter([("ref", "refs/heads/main"), ("event_name", "push")]),
        secrets: vec![("TOKEN".to_owned(), "hunter2".to_owned().into())],
        ..RunInputs::default()
    }
}

fn plan(text: &str) -> Plan {
    Plan::new(load(text).workflow, inputs())
}

fn outcome(result: JobResult) -> JobOutcome {
    JobOutcome {
        result,
        outputs: Object::new(),
    }
}

fn run(prepared: Prepared) -> PreparedJob {
    match prepared {
        Prepared::Run(job) => job,
        Prepared::Skipped => panic!("the job is skipped"),
    }
}

/// The request of the first combination of a job that needs nothing.
fn request(text: &str, job: &str) -> crate::job::request::JobRequest {
    run(plan(text).prepare(job, &Outcomes::new(), false).unwrap())
        .runs
        .remove(0)
        .request
}

fn json(token: &TemplateToken) -> String {
    serde_json::to_string(token).unwrap()
}

#[test]
fn broken_files_are_told_with_place_and_mend() {
    let mut shown = String::new();
    let mut count = 0;
    for case in include_str!("fixtures/broken.txt").split("=== ").skip(1) {
        let (name, text) = case.split_once('\n').unwrap();
        let findings = refuse(text);
        assert!(findings.errors() > 0, "{name}");
        for finding in &findings.diagnostics {
            let whole_file = matches!(name, "empty file" | "only a comment");
            assert!(finding.place.is_some() || whole_file, "{name}: {finding:?}");
            let notice = finding.severity == super::diagnostic::Severity::Notice;
            assert!(notice || !finding.help.is_empty(), "{name}: {finding:?}");
        }
        shown += &format!("=== {name}\n{findings}");
        count += 1;
    }
    assert!(count >= 100, "{count}");
    insta::assert_snapshot!("broken_files", shown);
}

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

    notice: `concurrency` of a workflow has no effect here: a local run waits for no other run
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

const CHAIN: &str = r"on: push
jobs:
  last: {needs: [middle], runs-on: x, steps: [{run: a}]}
  middle: {needs: first, runs-on: x, steps: [{run: a}]}
  first: {runs-on: x, steps: [{run: a}]}
  cleanup: {needs: [middle], if: always(), runs-on: x, steps: [{run: a}]}
  alarm: {needs: [last], if: failure(), runs-on: x, steps: [{run: a}]}
  named: {needs: [first, middle], if: success('first'), runs-on: x, steps: [{run: a}]}
  ask: {needs: [first], if: needs.first.outputs.go == 'yes', runs-on: x, steps: [{run: a}]}
";

fn runs(plan: &Plan, job: &str, outcomes: &[(&str, JobResult)], cancelled: bool) -> bool {
    let outcomes = outcomes
        .iter()
        .map(|(id, result)| ((*id).to_owned(), outcome(*result)))
        .collect();
    matches!(
        plan.prepare(job, &outcomes, cancelled).unwrap(),
        Prepared::Run(_)
    )
}

#[test]
fn jobs_come_after_all_that_they_need() {
    let plan = plan(CHAIN);
    let order: Vec<_> = plan.jobs().map(|job| job.id.as_str()).collect();
    assert_eq!(
        order,
        [
            "first", "middle", "last", "cleanup", "alarm", "named", "ask"
        ]
    );
    let ancestors = plan.ancestors(plan.job("alarm").unwrap());
    assert_eq!(ancestors, ["first", "last", "middle"]);
}

#[test]
fn the_result_of_any_earlier_job_decides_whether_a_job_runs() {
    use JobResult::{Failure, Skipped, Success};
    let plan = plan(CHAIN);
    let all = [("first", Success), ("middle", Success), ("last", Success)];
    assert!(runs(&plan, "last", &all[..2], false));
    assert!(!runs(&plan, "alarm", &all, false));
    // A failure two jobs back skips the middle, and so the last.
    let failed = [("first", Failure), ("middle", Skipped), ("last", Skipped)];
    assert!(!runs(&plan, "middle", &failed, false));
    assert!(!runs(&plan, "last", &failed, false));
    assert!(runs(&plan, "cleanup", &failed, false));
    assert!(runs(&plan, "alarm", &failed, false));
    // A skipped job is no success, even if the one between succeeded.
    assert!(!runs(
        &plan,
        "last",
        &[("first", Skipped), ("middle", Success)],
        false
    ));
    assert!(runs(
        &plan,
        "named",
        &[("first", Success), ("middle", Failure)],
        false
    ));
    assert!(!runs(
        &plan,
        "named",
        &[("first", Failure), ("middle", Success)],
        false
    ));
}

#[test]
fn a_cancelled_run_starts_only_what_asks_for_it() {
    let plan = plan(CHAIN);
    assert!(!runs(&plan, "first", &[], true));
    assert!(runs(
        &plan,
        "cleanup",
        &[("middle", JobResult::Success)],
        true
    ));
    assert!(!runs(&plan, "alarm", &[("last", JobResult::Failure)], true));
}

#[test]
fn outputs_of_needed_jobs_are_seen() {
    let plan = plan(CHAIN);
    let with = |go: &str| {
        let outputs = Object::from_iter([("go", go)]);
        let first = JobOutcome {
            result: JobResult::Success,
            outputs,
        };
        plan.prepare("ask", &Outcomes::from([("first".to_owned(), first)]), false)
            .unwrap()
    };
    assert!(matches!(with("no"), Prepared::Skipped));
    let request = &run(with("yes")).runs[0].request;
    let first = request
        .context_data
        .get("needs")
        .unwrap()
        .get("first")
        .unwrap();
    assert_eq!(first.get("result").unwrap().as_str(), Some("success"));
    assert_eq!(
        first.get("outputs").unwrap().get("go").unwrap().as_str(),
        Some("yes")
    );
}

#[test]
fn preparing_too_early_or_an_unknown_job_is_an_error() {
    let plan = plan(CHAIN);
    let error = plan.prepare("last", &Outcomes::new(), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the job `last` needs `middle`, which is not done"
    );
    let error = plan.prepare("nope", &Outcomes::new(), false).unwrap_err();
    assert!(
        error.to_string().contains("its jobs are last, middle"),
        "{error}"
    );
}

#[test]
fn a_matrix_becomes_one_run_for_each_combination() {
    let text = r"on: push
jobs:
  a:
    runs-on: ${{ matrix.os }}
    continue-on-error: ${{ matrix.soft || false }}
    strategy:
      fail-fast: false
      max-parallel: 2
      matrix:
        os: [linux, windows]
        n: [1, 2]
        exclude: [{os: windows, n: 1}]
        include: [{os: linux, n: 2, soft: true}]
    steps: [{run: a}]
  named: {name: 'N ${{ matrix.x }}', strategy: {matrix: {x: [1]}}, runs-on: x, steps: [{run: a}]}
";
    let prepared = run(plan(text).prepare("a", &Outcomes::new(), false).unwrap());
    assert!(!prepared.fail_fast);
    assert_eq!(prepared.max_parallel, Some(2));
    let names: Vec<_> = prepared
        .runs
        .iter()
        .map(|run| run.request.job_display_name.clone())
        .collect();
    assert_eq!(
        names,
        ["a (linux, 1)", "a (linux, 2, true)", "a (windows, 2)"]
    );
    let soft: Vec<_> = prepared
        .runs
        .iter()
        .map(|run| run.continue_on_error)
        .collect();
    assert_eq!(soft, [false, true, false]);
    let strategy = prepared.runs[2]
        .request
        .context_data
        .get("strategy")
        .unwrap();
    assert_eq!(strategy.get("job-index"), Some(&Value::Number(2.0)));
    assert_eq!(request(text, "named").job_display_name, "N 1");
}

#[test]
fn a_matrix_may_come_from_an_expression() {
    let text = r"on: push
jobs:
  first: {runs-on: x, steps: [{run: a}]}
  a:
    needs: first
    runs-on: x
    strategy: {matrix: '${{ fromJSON(needs.first.outputs.m) }}'}
    steps: [{run: a}]
";
    let plan = plan(text);
    let with = |matrix: &str| {
        let outputs = Object::from_iter([("m", matrix)]);
        let first = JobOutcome {
            result: JobResult::Success,
            outputs,
        };
        plan.prepare("a", &Outcomes::from([("first".to_owned(), first)]), false)
    };
    assert_eq!(run(with(r#"{"v": [1, 2, 3]}"#).unwrap()).runs.len(), 3);
    let error = with(r#"{"v": 1}"#).unwrap_err();
    assert!(matches!(error, PrepareError::Matrix { .. }), "{error}");
    let error = with("oops").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("line 7, column 24: Error parsing JSON"),
        "{error}"
    );
    let many: Vec<_> = (0..257).map(|n| n.to_string()).collect();
    let error = with(&format!(r#"{{"v": [{}]}}"#, many.join(","))).unwrap_err();
    assert!(error.to_string().contains("more than 256 jobs"), "{error}");
}

#[test]
fn outcomes_of_combinations_are_merged() {
    let one = |result, v: &str| JobOutcome {
        result,
        outputs: Object::from_iter([("v", v)]),
    };
    let merged = JobOutcome::merge([
        one(JobResult::Success, "a"),
        one(JobResult::Failure, "b"),
        one(JobResult::Cancelled, ""),
    ]);
    assert_eq!(merged.result, JobResult::Failure);
    assert_eq!(merged.outputs.get("v").unwrap().as_str(), Some("b"));
    assert_eq!(JobOutcome::merge([]).result, JobResult::Skipped);
}

/// Refuses a text in a time that a quadratic reader would not keep, with a bounded message.
fn refuse_fast(text: &str, part: &str) {
    let started = Instant::now();
    let shown = refuse(text).to_string();
    assert!(
        started.elapsed() < Duration::from_secs(120),
        "{:?}",
        started.elapsed()
    );
    assert!(shown.contains(part), "{shown}");
    assert!(shown.len() < 100_000);
}

#[test]
fn files_that_are_too_much_are_refused_in_no_time() {
    let job = "{runs-on: x, steps: [{run: a}]}";
    refuse_fast(&"a".repeat(10 * MAX_FILE_BYTES), "more than the 1048576");
    let list: Vec<_> = (0..257).map(|n| n.to_string()).collect();
    let matrix = format!(
        "on: push\njobs:\n  a: {{strategy: {{matrix: {{n: [{}]}}}}, runs-on: x, steps: [{{run: a}}]}}\n",
        list.join(", ")
    );
    refuse_fast(&matrix, "more than 256 jobs");
    let deep = format!("on: push\njobs: {{a: {job}}}\nenv: {}", "[".repeat(5000));
    refuse_fast(&deep, "");
    let nested = format!(
        "on: push\njobs:\n  a:\n    if: {}1{}\n    runs-on: x\n    steps: [{{run: a}}]\n",
        "(".repeat(100),
        ")".repeat(100)
    );
    refuse_fast(&nested, "Exceeded max expression depth 50");
    let unknown: String = (0..50_000).map(|n| format!("k{n}: 1\n")).collect();
    refuse_fast(&unknown, "unknown key `k0`");
    let steps = "      - {run: '${{ nope }}'}\n".repeat(10_000);
    refuse_fast(
        &format!("on: push\njobs:\n  a:\n    runs-on: x\n    steps:\n{steps}"),
        "nope",
    );
}

#[test]
fn many_jobs_that_need_each_other_are_read_in_no_time() {
    let mut chain = "on: push\njobs:\n".to_owned();
    for job in 0..10_000 {
        chain += &format!(
            "  j{job}: {{needs: j{}, runs-on: x, steps: [{{run: a}}]}}\n",
            job + 1
        );
    }
    let started = Instant::now();
    let circle = chain.clone() + "  j10000: {needs: j0, runs-on: x, steps: [{run: a}]}\n";
    assert_eq!(refuse(&circle).errors(), 1);
    chain += "  j10000: {runs-on: x, steps: [{run: a}]}\n";
    assert_eq!(plan(&chain).jobs().next().unwrap().id, "j10000");
    assert!(
        started.elapsed() < Duration::from_secs(120),
        "{:?}",
        started.elapsed()
    );
    let started = Instant::now();
    let mut text = "on: push\njobs:\n  j0: {runs-on: x, steps: [{run: a}]}\n".to_owned();
    for job in 1..1000 {
        let needs: Vec<_> = (job.max(10) - 10..job)
            .map(|need| format!("j{need}"))
            .collect();
        text += &format!(
            "  j{job}: {{needs: [{}], runs-on: x, steps: [{{run: a}}]}}\n",
            needs.join(", ")
        );
    }
    let plan = plan(&text);
    assert_eq!(plan.jobs().count(), 1000);
    assert!(
        started.elapsed() < Duration::from_secs(120),
        "{:?}",
        started.elapsed()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_text_is_loaded_or_refused_without_panic(text in "\\PC{0,200}") {
        let _ = parse(Source::new("x.yml", text)).map_err(|error| error.to_string());
    }

    #[test]
    fn any_file_of_workflow_lines_is_loaded_or_refused_without_panic(
        lines in prop::collection::vec((0..5_usize, prop::sample::select(vec![
            "on: push", "jobs:", "a:", "b:", "runs-on: x", "steps:", "- run: |", "- uses: x", "echo ${{ github.ref }}",
            "if: ${{ success() }} x", "if: nope", "needs: [a, b]", "needs: a", "strategy:", "matrix:", "os: [1, 2]",
            "include:", "- os: 3", "env: {A: '${{ x'}", "- id: 1", "&x y: *x", "name: \"${{ é }}\"", "outputs: *x",
            "timeout-minutes: ${{ 1 }}", "permissions: {}", "- {run: >-", "}", "shell: \u{1b}",
        ])), 0..25)
    ) {
        let text: String = lines.iter().map(|(depth, line)| format!("{}{line}\n", "  ".repeat(*depth))).collect();
        let _ = parse(Source::new("x.yml", text)).map_err(|error| error.to_string());
    }
}

/// Types of the interface that callers name.
#[test]
fn a_plan_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Plan>();
    shared::<Workflow>();
    shared::<Job>();
    shared::<Value>();
}
