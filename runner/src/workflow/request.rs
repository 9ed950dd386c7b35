//! A planned job as the job request that GitHub would have sent.

use uuid::Uuid;

use super::model::{Action, Job, Step};
use super::plan::Plan;
use super::token::{Position, TemplateToken, TokenKind};
use crate::expression::coerce::to_text;
use crate::expression::value::{Object, Value};
use crate::job::request::{self, JobRequest, StepAction, StepRequest, Variable, Variables};

/// The request of one combination of a job; `contexts` are those that the service makes.
pub(super) fn job_request(plan: &Plan, job: &Job, name: String, contexts: &Object) -> JobRequest {
    let workflow = plan.workflow();
    let present =
        |tokens: [&Option<TemplateToken>; 2]| tokens.into_iter().flatten().cloned().collect();
    let mut context_data = contexts.clone();
    if let Some(Value::Object(github)) = contexts.get("github") {
        let mut github = (**github).clone();
        context_data.insert("job", job_context(&github));
        github.insert("job", job.id.as_str());
        context_data.insert("github", github);
    }
    JobRequest {
        message_type: "RunnerJobRequest".to_owned(),
        plan: request::Plan {
            plan_type: "actions".to_owned(),
            plan_id: plan.run_id.clone(),
            ..request::Plan::default()
        },
        timeline: request::Timeline {
            id: plan.run_id.clone(),
            change_id: 0,
        },
        job_id: Uuid::new_v4().to_string(),
        job_display_name: name,
        job_name: job.id.clone(),
        steps: job.steps.iter().map(step_request).collect(),
        variables: variables(plan, job),
        masked: plan.inputs().masked.clone(),
        context_data,
        environment_variables: present([&workflow.env, &job.env]),
        defaults: present([&workflow.defaults, &job.defaults]),
        job_outputs: job.outputs.clone(),
        job_container: job.container.clone(),
        job_service_containers: job.services.clone(),
        actions_environment: job.environment.clone(),
        file_table: vec![workflow.path.clone()],
        ..JobRequest::default()
    }
}

/// The `job` context: which workflow file the job is written in. The number of a check run is left
/// out; only GitHub's service has one.
fn job_context(github: &Object) -> Object {
    let text = |key: &str| github.get(key).map(to_text).unwrap_or_default();
    let (workflow, repository) = (text("workflow_ref"), text("repository"));
    let path = workflow.strip_suffix(&format!("@{}", text("ref")));
    let path = path.and_then(|path| path.strip_prefix(&repository)?.strip_prefix('/'));
    let path = path.unwrap_or_default().to_owned();
    Object::from_iter([
        ("workflow_ref", workflow),
        ("workflow_sha", text("workflow_sha")),
        ("workflow_repository", repository),
        ("workflow_file_path", path),
    ])
}

fn variables(plan: &Plan, job: &Job) -> Variables {
    let mut variables = Variables::default();
    variables.insert("system.github.job", Variable::Plain(job.id.clone()));
    for (name, value) in &plan.inputs().secrets {
        variables.insert(name.clone(), Variable::Secret(value.clone()));
    }
    variables
}

/// The request of a step.
pub(super) fn step_request(step: &Step) -> StepRequest {
    let (action, inputs) = match &step.action {
        Action::Run {
            script,
            shell,
            working_directory,
        } => {
            let inputs = script_inputs(script, shell.as_ref(), working_directory.as_ref());
            (StepAction::Script, Some(inputs))
        }
        Action::Uses { reference, with } => (reference.clone(), with.clone()),
        Action::Control { kind, steps } => {
            let control = StepAction::BackgroundControl {
                control_type: (*kind).to_owned(),
                step_ids: steps.clone(),
            };
            (control, None)
        }
    };
    StepRequest {
        id: Uuid::new_v4().to_string(),
        name: step.context_name.clone(),
        context_name: step.context_name.clone(),
        action,
        display_name: step.name.clone(),
        condition: step.condition.clone(),
        continue_on_error: step.continue_on_error.clone(),
        timeout_in_minutes: step.timeout_minutes.clone(),
        environment: step.env.clone(),
        inputs,
        background: step.background,
        parallel_group_id: step.group.map(|group| group.to_string()),
    }
}

/// The inputs of a script: `script`, and if the step says so `shell` and `workingDirectory`.
fn script_inputs(
    script: &TemplateToken,
    shell: Option<&TemplateToken>,
    working_directory: Option<&TemplateToken>,
) -> TemplateToken {
    let entry = |key: &str, value: &TemplateToken| (TemplateToken::string(key), value.clone());
    let mut entries = vec![entry("script", script)];
    entries.extend(shell.map(|shell| entry("shell", shell)));
    entries.extend(working_directory.map(|folder| entry("workingDirectory", folder)));
    TemplateToken::new(Position::default(), TokenKind::Mapping(entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_knows_the_file_that_it_is_written_in() {
        let github = Object::from_iter([
            ("repository", "octo/hello"),
            ("ref", "refs/heads/a@b"),
            ("workflow_sha", "abc"),
            (
                "workflow_ref",
                "octo/hello/.github/workflows/c@i.yml@refs/heads/a@b",
            ),
        ]);
        let job = job_context(&github);
        let text = |key: &str| job.get(key).map(to_text).unwrap_or_default();
        assert_eq!(text("workflow_file_path"), ".github/workflows/c@i.yml");
        assert_eq!(text("workflow_repository"), "octo/hello");
        assert_eq!(text("workflow_sha"), "abc");
        assert_eq!(
            text("workflow_ref"),
            "octo/hello/.github/workflows/c@i.yml@refs/heads/a@b"
        );
    }
}
