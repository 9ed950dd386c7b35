//! Workflows as a GitHub serves them: planned by Mayfly's own planner into messages of the captured shape,
//! job after job as their needs are done.

use std::path::Path;

use anyhow::{Context, bail};
use mayfly::{
    expression::value::{Object, Value},
    job::request::{JobRequest, MaskHint, StepAction, StepRequest, Variable},
    workflow::{
        self,
        plan::{JobOutcome, JobResult, Outcomes, Plan, Prepared, RunInputs},
    },
};
use serde_json::{Value as Json, json};

use crate::github::{FakeGitHub, FakeJob};

/// A run of one workflow.
#[derive(Debug)]
pub struct PlannedRun {
    plan: Plan,
    /// Keys of jobs that have not begun.
    waiting: Vec<String>,
    running: Vec<Running>,
    outcomes: Outcomes,
}

#[derive(Debug)]
struct Running {
    key: String,
    /// Identities at the fake, of all combinations of a matrix.
    ids: Vec<String>,
}

/// What a run is started with.
#[derive(Debug, Default)]
pub struct Started {
    /// The event's name.
    pub event: String,
    /// The commit that is checked out.
    pub commit: String,
    /// Secrets by name.
    pub secrets: Vec<(String, String)>,
}

impl PlannedRun {
    /// Plans a workflow file.
    ///
    /// # Errors
    /// It is wrong, or calls other workflows, which are not served.
    pub fn new(
        github: &FakeGitHub,
        file: &Path,
        inside: &str,
        started: &Started,
    ) -> anyhow::Result<Self> {
        let loaded = workflow::load(file)?;
        if let Some(job) = loaded.workflow.jobs.iter().find(|job| job.call.is_some()) {
            bail!(
                "{inside}: job {} calls a workflow, which is not served here; run the called one",
                job.id
            );
        }
        let secrets = started.secrets.iter().cloned();
        let inputs = RunInputs {
            github: context(github, inside, started),
            secrets: secrets.map(|(name, value)| (name, value.into())).collect(),
            ..RunInputs::default()
        };
        let plan = Plan::new(loaded.workflow, inputs);
        let waiting = plan.jobs().map(|job| job.id.clone()).collect();
        Ok(Self {
            plan,
            waiting,
            running: Vec::new(),
            outcomes: Outcomes::new(),
        })
    }

    /// Queues every job whose needs are done; gives the names and identities of new ones.
    ///
    /// # Errors
    /// A job cannot be prepared.
    pub fn queue_ready(&mut self, github: &FakeGitHub) -> anyhow::Result<Vec<(String, String)>> {
        self.take_ended(github);
        let mut queued = Vec::new();
        while let Some(key) = self.next_ready()? {
            self.waiting.retain(|other| *other != key);
            let prepared = self.plan.prepare(&key, &self.outcomes, false);
            let Prepared::Run(job) = prepared.with_context(|| format!("job {key}"))? else {
                self.outcomes.insert(key, JobOutcome::skipped());
                continue;
            };
            let mut ids = Vec::new();
            for run in job.runs {
                let name = run.request.job_display_name.clone();
                let shape = FakeJob {
                    name: name.clone(),
                    scripts: Vec::new(),
                    secrets: Vec::new(),
                };
                let id = github.queue_with(&shape, |message| fill(message, &run.request));
                ids.push(id.clone());
                queued.push((name, id));
            }
            self.running.push(Running { key, ids });
        }
        Ok(queued)
    }

    /// Whether all jobs are over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Whether a job failed, and was not meant to.
    #[must_use]
    pub fn failed(&self) -> bool {
        let mut outcomes = self.outcomes.values();
        outcomes.any(|outcome| outcome.result > JobResult::Success)
    }

    fn next_ready(&self) -> anyhow::Result<Option<String>> {
        for key in &self.waiting {
            let job = self.plan.job(key)?;
            if job
                .needs
                .iter()
                .all(|need| self.outcomes.contains_key(need))
            {
                return Ok(Some(key.clone()));
            }
        }
        Ok(None)
    }

    fn take_ended(&mut self, github: &FakeGitHub) {
        let outcomes = &mut self.outcomes;
        self.running.retain(|running| {
            let ended: Option<Vec<_>> = running.ids.iter().map(|id| outcome(github, id)).collect();
            let Some(ended) = ended else { return true };
            outcomes.insert(running.key.clone(), JobOutcome::merge(ended));
            false
        });
    }
}

/// How a job ended, if it did.
fn outcome(github: &FakeGitHub, id: &str) -> Option<JobOutcome> {
    let job = github.job(id);
    if job.lost {
        return Some(JobOutcome::failed());
    }
    let done = job.completed?;
    let result = match done["conclusion"].as_str() {
        Some("succeeded" | "succeededWithIssues") => JobResult::Success,
        Some("canceled") => JobResult::Cancelled,
        Some("skipped") => JobResult::Skipped,
        _ => JobResult::Failure,
    };
    let mut outputs = Object::new();
    for (name, output) in done["outputs"].as_object().into_iter().flatten() {
        outputs.insert(name, output["value"].as_str().unwrap_or_default());
    }
    Some(JobOutcome { result, outputs })
}

/// The `github` context, as far as the fake has what is behind it.
fn context(github: &FakeGitHub, file: &str, started: &Started) -> Object {
    let (base, commit) = (github.base(), started.commit.as_str());
    let server = base.trim_end_matches('/');
    let text = [
        ("repository", "octo/hello"),
        ("repository_owner", "octo"),
        ("ref", "refs/heads/main"),
        ("ref_name", "main"),
        ("ref_type", "branch"),
        ("sha", commit),
        ("workflow_sha", commit),
        ("workflow", file),
        (
            "workflow_ref",
            &format!("octo/hello/{file}@refs/heads/main"),
        ),
        ("event_name", &started.event),
        ("actor", "octocat"),
        ("triggering_actor", "octocat"),
        ("run_id", "1"),
        ("run_number", "1"),
        ("run_attempt", "1"),
        ("server_url", server),
        ("api_url", &format!("{base}contents")),
        ("secret_source", "Actions"),
    ];
    let mut context = Object::from_iter(text.map(|(name, value)| (name, value.to_owned())));
    let repository = Object::from_iter([("full_name", "octo/hello"), ("default_branch", "main")]);
    let mut event = Object::new();
    event.insert("repository", repository);
    context.insert("event", event);
    context
}

/// Makes a message of the fake that of a planned job.
fn fill(message: &mut Json, job: &JobRequest) {
    message["jobDisplayName"] = json!(job.job_display_name);
    message["fileTable"] = json!(job.file_table);
    message["steps"] = job.steps.iter().map(step).collect();
    for (name, variable) in job.variables.iter() {
        message["variables"][name] = match variable {
            Variable::Plain(text) => json!({"value": text}),
            Variable::Secret(_) => json!({"value": variable.expose(), "isSecret": true}),
        };
    }
    message["mask"] = job.mask.iter().map(mask).collect();
    for (name, value) in job.context_data.iter() {
        message["contextData"][name] = data(value);
    }
    message["environmentVariables"] = json!(job.environment_variables);
    message["defaults"] = json!(job.defaults);
    message["jobOutputs"] = json!(job.job_outputs);
    message["jobContainer"] = json!(job.job_container);
    message["jobServiceContainers"] = json!(job.job_service_containers);
    message["actionsEnvironment"] = json!(job.actions_environment);
}

fn mask(hint: &MaskHint) -> Json {
    match hint {
        MaskHint::Regex(value) => json!({"type": "regex", "value": value}),
        MaskHint::Literal(value) => json!({"type": "variable", "value": value}),
    }
}

fn data(value: &Value) -> Json {
    serde_json::to_value(value).unwrap_or_default()
}

fn step(step: &StepRequest) -> Json {
    let mut json = json!({
        "type": "action", "id": step.id, "name": step.name, "contextName": step.context_name,
        "displayNameToken": step.display_name, "condition": step.condition,
        "continueOnError": step.continue_on_error, "timeoutInMinutes": step.timeout_in_minutes,
        "environment": step.environment, "inputs": step.inputs, "background": step.background,
        "parallelGroupId": step.parallel_group_id,
    });
    json["reference"] = match &step.action {
        StepAction::Script => json!({"type": "script"}),
        StepAction::ContainerRegistry { image } => {
            json!({"type": "containerRegistry", "image": image})
        }
        StepAction::Repository {
            name,
            reference,
            repository_type,
            path,
        } => json!({
            "type": "repository", "name": name, "ref": reference, "repositoryType": repository_type,
            "path": path,
        }),
        StepAction::BackgroundControl {
            control_type,
            step_ids,
        } => {
            json["type"] = json!("backgroundStepControl");
            json["controlType"] = json!(control_type);
            json["stepIds"] = json!(step_ids);
            json!(null)
        }
    };
    json
}
