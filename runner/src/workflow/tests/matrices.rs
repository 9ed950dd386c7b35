//! Matrices become one run for each combination; outcomes of combinations become one.

use super::super::plan::{JobOutcome, JobResult, Outcomes, PrepareError};
use super::{plan, request, run};
use crate::expression::value::{Object, Value};

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

#[test]
fn groups_are_those_of_the_combination() {
    let text = "on: push\nconcurrency: 'ci-${{ github.event_name }}'\njobs:\n  a:\n    runs-on: x\n    \
                strategy: {matrix: {v: [1, 2]}}\n    concurrency: {group: 'g-${{ matrix.v }}', \
                cancel-in-progress: '${{ matrix.v == 2 }}', queue: max}\n    steps: [{run: a}]\n  b:\n    \
                runs-on: x\n    concurrency: '${{ vars.X }}'\n    steps: [{run: a}]\n  c:\n    runs-on: x\n    \
                concurrency: plain\n    steps: [{run: a}]\n";
    let plan = plan(text);
    let group = |job: &str| {
        let prepared = run(plan.prepare(job, &Outcomes::new(), false).unwrap());
        let groups = prepared.runs.into_iter().map(|run| {
            let group = run.concurrency?;
            Some(format!(
                "{} {} {}",
                group.group, group.cancel_in_progress, group.queue
            ))
        });
        groups.collect::<Vec<_>>()
    };
    let own = |text: &str| Some(text.to_owned());
    assert_eq!(group("a"), [own("g-1 false true"), own("g-2 true true")]);
    assert_eq!(group("b"), [None]);
    assert_eq!(group("c"), [own("plain false false")]);
    let whole = plan.concurrency().unwrap().unwrap();
    assert_eq!(whole.group, "ci-push");
}
