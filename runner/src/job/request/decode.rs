//! Reading a job message from JSON.

use serde_json::{Map, Value as Json};

use crate::{
    expression::value::{Object, Value},
    workflow::token::TemplateToken,
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
    #[error("the job message's {path} {problem}")]
    Field {
        /// The field, as a path from the top: `steps[2].reference.type`.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
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
    job_request(Fields::new(json, String::new())?)
}

fn job_request(mut f: Fields) -> Result<JobRequest, DecodeError> {
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

fn plan(mut f: Fields) -> Result<Plan, DecodeError> {
    Ok(Plan {
        plan_type: f.text("planType")?.unwrap_or_default(),
        plan_id: f.required("planId")?,
        version: f.integer("version")?.unwrap_or_default(),
        scope_identifier: f.text("scopeIdentifier")?,
    })
}

fn timeline(mut f: Fields) -> Result<Timeline, DecodeError> {
    Ok(Timeline {
        id: f.text("id")?.unwrap_or_default(),
        change_id: f.integer("changeId")?.unwrap_or_default(),
    })
}

fn step(mut f: Fields) -> Result<StepRequest, DecodeError> {
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

fn step_action(f: &mut Fields) -> Result<StepAction, DecodeError> {
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

fn reference(mut f: Fields) -> Result<StepAction, DecodeError> {
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

fn variables(f: &mut Fields) -> Result<Variables, DecodeError> {
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

fn mask_hint(mut f: Fields) -> Result<MaskHint, DecodeError> {
    let kind = f.text("type")?.unwrap_or_default();
    let value = f.text("value")?.unwrap_or_default();
    // An unknown kind hides its text: rather too much than too little.
    Ok(match kind.to_ascii_lowercase().as_str() {
        "regex" | "2" => MaskHint::Regex(value),
        _ => MaskHint::Literal(value),
    })
}

fn endpoint(mut f: Fields) -> Result<Endpoint, DecodeError> {
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

fn context_data(f: &mut Fields) -> Result<Object, DecodeError> {
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

/// The fields of one JSON object, found without regard to case; `null` is as good as absent.
struct Fields {
    path: String,
    map: Map<String, Json>,
}

impl Fields {
    fn new(json: Json, path: String) -> Result<Self, DecodeError> {
        match json {
            Json::Object(map) => Ok(Self { path, map }),
            _ => Err(DecodeError::Field {
                path: if path.is_empty() {
                    "top level".to_owned()
                } else {
                    path
                },
                problem: "is not an object".to_owned(),
            }),
        }
    }

    fn path(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    fn wrong(&self, name: &str, problem: impl Into<String>) -> DecodeError {
        DecodeError::Field {
            path: self.path(name),
            problem: problem.into(),
        }
    }

    fn take(&mut self, name: &str) -> Option<Json> {
        let key = if self.map.contains_key(name) {
            name.to_owned()
        } else {
            let same = |key: &&String| key.eq_ignore_ascii_case(name);
            self.map.keys().find(same)?.clone()
        };
        self.map.remove(&key).filter(|json| !json.is_null())
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, DecodeError> {
        match self.take(name) {
            None => Ok(None),
            Some(Json::String(text)) => Ok(Some(text)),
            Some(Json::Number(number)) => Ok(Some(number.to_string())),
            Some(Json::Bool(flag)) => Ok(Some(flag.to_string())),
            Some(_) => Err(self.wrong(name, "is not text")),
        }
    }

    fn required(&mut self, name: &str) -> Result<String, DecodeError> {
        self.text(name)?
            .ok_or_else(|| self.wrong(name, "is missing"))
    }

    fn boolean(&mut self, name: &str) -> Result<Option<bool>, DecodeError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(Some(true)),
            "false" | "0" | "" => Ok(Some(false)),
            _ => Err(self.wrong(name, "is neither true nor false")),
        }
    }

    fn integer(&mut self, name: &str) -> Result<Option<i64>, DecodeError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let number = text.trim().parse();
        number
            .map(Some)
            .map_err(|_| self.wrong(name, "is not a whole number"))
    }

    fn list(&mut self, name: &str) -> Result<Vec<Json>, DecodeError> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Json::Array(items)) => Ok(items),
            Some(_) => Err(self.wrong(name, "is not a list")),
        }
    }

    fn texts(&mut self, name: &str) -> Result<Vec<String>, DecodeError> {
        let mut texts = Vec::new();
        for item in self.list(name)? {
            match item {
                Json::String(text) => texts.push(text),
                _ => return Err(self.wrong(name, "holds something else than text")),
            }
        }
        Ok(texts)
    }

    fn object<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Fields) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        let path = self.path(name);
        self.take(name)
            .map(|json| read(Fields::new(json, path)?))
            .transpose()
    }

    fn objects<T>(
        &mut self,
        name: &str,
        read: impl Fn(Fields) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let path = self.path(name);
        let items = self.list(name)?.into_iter().enumerate();
        items
            .map(|(i, json)| read(Fields::new(json, format!("{path}[{i}]"))?))
            .collect()
    }

    fn map(&mut self, name: &str) -> Result<Vec<(String, Fields)>, DecodeError> {
        let Some(fields) = self.object(name, Ok)? else {
            return Ok(Vec::new());
        };
        let Fields { path, map } = fields;
        let entry = |(key, json): (String, Json)| {
            let path = format!("{path}.{key}");
            Ok((key, Fields::new(json, path)?))
        };
        map.into_iter().map(entry).collect()
    }

    fn text_map(&mut self, name: &str) -> Result<Vec<(String, String)>, DecodeError> {
        let Some(mut fields) = self.object(name, Ok)? else {
            return Ok(Vec::new());
        };
        let keys: Vec<String> = fields.map.keys().cloned().collect();
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let text = fields.text(&key)?.unwrap_or_default();
            found.push((key, text));
        }
        Ok(found)
    }

    fn token(&mut self, name: &str) -> Result<Option<TemplateToken>, DecodeError> {
        let Some(json) = self.take(name) else {
            return Ok(None);
        };
        let token = serde_json::from_value::<TemplateToken>(json);
        let token = token.map_err(|error| self.wrong(name, format!("cannot be read: {error}")))?;
        Ok(Some(token).filter(|token| !token.is_null()))
    }

    fn tokens(&mut self, name: &str) -> Result<Vec<TemplateToken>, DecodeError> {
        let mut found = Vec::new();
        for (index, json) in self.list(name)?.into_iter().enumerate() {
            let token = serde_json::from_value::<TemplateToken>(json).map_err(|error| {
                self.wrong(
                    &format!("{name}[{index}]"),
                    format!("cannot be read: {error}"),
                )
            })?;
            found.push(token);
        }
        Ok(found)
    }
}
