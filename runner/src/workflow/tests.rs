//! Whole workflow files: plans, job requests and diagnostics.

mod broken;
mod calls;
mod images;
mod limits;
mod matrices;
mod needs;
mod requests;

use super::model::{Job, Workflow};
use super::plan::{JobOutcome, JobResult, Outcomes, Plan, Prepared, PreparedJob, RunInputs};
use super::source::Source;
use super::token::TemplateToken;
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

/// Types of the interface that callers name.
#[test]
fn a_plan_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Plan>();
    shared::<Workflow>();
    shared::<Job>();
    shared::<Value>();
}
