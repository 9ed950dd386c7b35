//! What of a workflow that GitHub would run cannot be run here yet: told by name, file and line
//! before anything runs.

use super::diagnostic::Diagnostic;
use super::model::{Action, Job, Step, Workflow, place_of};
use super::request::step_request;
use crate::job::{request::JobRequest, request::StepAction, unsupported as refused};

/// All that the executor would refuse in a file; what its jobs call is looked at where that is read.
pub fn unsupported(workflow: &Workflow) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    for job in &workflow.jobs {
        findings.extend(containers(job));
        findings.extend(job.steps.iter().filter_map(step));
    }
    findings
}

fn containers(job: &Job) -> Option<Diagnostic> {
    let (token, key) = match (&job.container, &job.services) {
        (Some(token), _) => (token, "container"),
        (None, Some(token)) => (token, "services"),
        (None, None) => return None,
    };
    let message =
        format!("This job uses `{key}`, which this version of Mayfly does not support yet.");
    let help = "the job already runs in a machine of its own; start services in a step with `run:`";
    Some(Diagnostic::error(place_of(token), message, help))
}

fn step(step: &Step) -> Option<Diagnostic> {
    let request = JobRequest {
        steps: vec![step_request(step)],
        ..JobRequest::default()
    };
    let message = refused(&request)?;
    let help = match &step.action {
        Action::Uses {
            reference: StepAction::Repository { name, .. },
            ..
        } if name.eq_ignore_ascii_case("actions/checkout") => {
            "remove the step: the checkout is in the workspace already"
        }
        _ => "do the work in a script with `run:`",
    };
    Some(Diagnostic::error(step.place, message, help))
}
