//! The order of jobs, and whether each runs after those that it needs.

use super::super::plan::{JobOutcome, JobResult, Outcomes, Plan, Prepared};
use super::{outcome, plan, run};
use crate::expression::value::Object;

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
