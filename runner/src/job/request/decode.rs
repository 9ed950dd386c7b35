//! Reading a job message from JSON.

use serde_json::Value as Json;

use crate::{
    expression::value::{Object, Value},
    tolerant::{FieldError, Fields},
};

use super::{
    Endpoint, JobRequest, MaskHint, Plan, StepAction, StepRequest, Timeline, Variable, Variables,
};

/// Why a job message could not be read. Values of the message are not part of it.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The text is no JSON. The parser's message names line and column only.
    #[error("the job message is not valid JSON (line {line}, column {column})")]
    Json {
        /// 1-based line.
        line: usize,
        /// 1-based column.
        column: usize,
    },
    /// A field has another type or value than it can have.
    #[error("the job message's {0}")]
    Field(#[from] FieldError),
}

/// Reads a job message.
///
/// # Errors
/// [`DecodeError`] names the first field that cannot be understood.
pub fn decode(message: &[u8]) -> Result<JobRequest, DecodeError> {
    let message = message.strip_prefix(b"\xef\xbb\xbf").unwrap_or(message);
    let json: Json = serde_json::from_slice(message).map_err(|error| DecodeError::Json {
        line: error.line(),
        column: error.column(),
    })?;
    Ok(job_request(Fields::new(json, String::new())?)?)
}

fn job_request(mut f: Fields) -> Result<JobRequest, FieldError> {
    Ok(JobRequest {
        message_type: f.text("messageType")?.unwrap_or_default(),
        plan: f.object("plan", plan)?.unwrap_or_default(),
        timeline: f.object("timeline", timeline)?.unwrap_or_default(),
        job_id: f.required("jobId")?,
        job_display_name: f.text("jobDisplayName")?.unwrap_or_default(),
        job_name: f.text("jobName")?.unwrap_or_default(),
        request_id: f.integer("requestId")?.unwrap_or_default(),
        locked_until: f.text("lockedUntil")?,
        steps: f.objects("steps", step)?,
        variables: variables(&mut f)?,
        mask: f.objects("mask", mask_hint)?,
        masked: Vec::new(),
        endpoints: f
            .object("resources", |mut r| r.objects("endpoints", endpoint))?
            .unwrap_or_default(),
        context_data: context_data(&mut f)?,
        environment_variables: f.tokens("environmentVariables")?,
        defaults: f.tokens("defaults")?,
        job_outputs: f.token("jobOutputs")?,
        job_container: f.token("jobContainer")?,
        job_service_containers: f.token("jobServiceContainers")?,
        snapshot: f.token("snapshot")?,
        actions_environment: f.token("actionsEnvironment")?,
        file_table: f.texts("fileTable")?,
        workspace_clean: f.object("workspace", |mut w| w.text("clean"))?.flatten(),
        billing_owner_id: f.text("billingOwnerId")?,
        dependencies: f.texts("dependencies")?,
        enable_debugger: f.boolean("enableDebugger")?.unwrap_or_default(),
    })
}

fn plan(mut f: Fields) -> Result<Plan, FieldError> {
    Ok(Plan {
        plan_type: f.text("planType")?.unwrap_or_default(),
        plan_id: f.required("planId")?,
        version: f.integer("version")?.unwrap_or_default(),
        scope_identifier: f.text("scopeIdentifier")?,
    })
}

fn timeline(mut f: Fields) -> Result<Timeline, FieldError> {
    Ok(Timeline {
        id: f.text("id")?.unwrap_or_default(),
        change_id: f.integer("changeId")?.unwrap_or_default(),
    })
}

fn step(mut f: Fields) -> Result<StepRequest, FieldError> {
    let name = f.text("name")?.unwrap_or_default();
    Ok(StepRequest {
        id: f.required("id")?,
        context_name: f.text("contextName")?.unwrap_or_else(|| name.clone()),
        name,
        action: step_action(&mut f)?,
        display_name: match f.token("displayNameToken")? {
            None => f.token("displayName")?,
            some => some,
        },
        condition: f.text("condition")?.unwrap_or_default(),
        continue_on_error: f.token("continueOnError")?,
        timeout_in_minutes: f.token("timeoutInMinutes")?,
        environment: f.token("environment")?,
        inputs: f.token("inputs")?,
        background: f.boolean("background")?.unwrap_or_default(),
        parallel_group_id: f.text("parallelGroupId")?,
    })
}

fn step_action(f: &mut Fields) -> Result<StepAction, FieldError> {
    let kind = f.text("type")?.unwrap_or_else(|| "action".to_owned());
    match kind.to_ascii_lowercase().as_str() {
        "action" | "4" => {}
        "backgroundstepcontrol" | "5" => {
            return Ok(StepAction::BackgroundControl {
                control_type: f.text("controlType")?.unwrap_or_default(),
                step_ids: f.texts("stepIds")?,
            });
        }
        _ => return Err(f.wrong("type", "is not a known kind of step")),
    }
    let reference = f.object("reference", reference)?;
    reference.ok_or_else(|| f.wrong("reference", "is missing"))
}

fn reference(mut f: Fields) -> Result<StepAction, FieldError> {
    let kind = f.required("type")?;
    match kind.to_ascii_lowercase().as_str() {
        "repository" | "1" => Ok(StepAction::Repository {
            name: f.text("name")?.unwrap_or_default(),
            reference: f.text("ref")?.unwrap_or_default(),
            repository_type: f.text("repositoryType")?.unwrap_or_default(),
            path: f.text("path")?.unwrap_or_default(),
        }),
        "containerregistry" | "2" => Ok(StepAction::ContainerRegistry {
            image: f.required("image")?,
        }),
        "script" | "3" => Ok(StepAction::Script),
        _ => Err(f.wrong("type", "is not a known kind of action")),
    }
}

fn variables(f: &mut Fields) -> Result<Variables, FieldError> {
    let mut variables = Variables::default();
    for (name, mut value) in f.map("variables")? {
        let text = value.text("value")?.unwrap_or_default();
        let variable = if value.boolean("isSecret")?.unwrap_or_default() {
            Variable::Secret(text.into())
        } else {
            Variable::Plain(text)
        };
        variables.insert(name, variable);
    }
    Ok(variables)
}

fn mask_hint(mut f: Fields) -> Result<MaskHint, FieldError> {
    let kind = f.text("type")?.unwrap_or_default();
    let value = f.text("value")?.unwrap_or_default();
    // An unknown kind hides its text: rather too much than too little.
    Ok(match kind.to_ascii_lowercase().as_str() {
        "regex" | "2" => MaskHint::Regex(value),
        _ => MaskHint::Literal(value),
    })
}

fn endpoint(mut f: Fields) -> Result<Endpoint, FieldError> {
    let access_token = |mut parameters: Fields| parameters.text("AccessToken");
    let authorization = |mut f: Fields| Ok(f.object("parameters", access_token)?.flatten());
    Ok(Endpoint {
        name: f.text("name")?.unwrap_or_default(),
        url: f.text("url")?.unwrap_or_default(),
        access_token: f
            .object("authorization", authorization)?
            .flatten()
            .map(Into::into),
        data: f.text_map("data")?,
    })
}

fn context_data(f: &mut Fields) -> Result<Object, FieldError> {
    let Some(json) = f.take("contextData") else {
        return Ok(Object::new());
    };
    let Json::Object(map) = json else {
        return Err(f.wrong("contextData", "is not an object"));
    };
    let mut contexts = Object::new();
    for (name, json) in map {
        let value = serde_json::from_value::<Value>(json)
            .map_err(|_| f.wrong(&format!("contextData.{name}"), "is not typed context data"))?;
        contexts.insert(name, value);
    }
    Ok(contexts)
}
