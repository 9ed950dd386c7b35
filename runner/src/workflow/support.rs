//! What of a workflow that GitHub would run cannot be run here yet: told by name, file and line
//! before anything runs.

use super::diagnostic::Diagnostic;
use super::model::{Job, Workflow, place_of};

/// All that the executor would refuse in a file; what its jobs call is looked at where that is read.
pub fn unsupported(workflow: &Workflow) -> Vec<Diagnostic> {
    workflow.jobs.iter().filter_map(containers).collect()
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
