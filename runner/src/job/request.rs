//! The decoded job message: what a job is, whether GitHub sent it or the planner made it.
//!
//! The shape is that of GitHub's message (`acquirejob`). Reading it is in [`decode()`]: tolerant in
//! form (case of keys, numbers and bools as text, a byte order mark), exact in meaning.

mod decode;

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

use crate::{expression::value::Object, workflow::token::TemplateToken};

pub use decode::{DecodeError, decode};

/// One job: its steps and all that they need.
#[derive(Debug, Default)]
pub struct JobRequest {
    /// `RunnerJobRequest`, or `PipelineAgentJobRequest` from an old service.
    pub message_type: String,
    /// The run this job belongs to.
    pub plan: Plan,
    /// The record of the run's progress.
    pub timeline: Timeline,
    /// Identity of the job (a GUID).
    pub job_id: String,
    /// The job's name as people see it, matrix values included.
    pub job_display_name: String,
    /// The job's name for the service; not its key in the workflow (see [`Self::job_key`]).
    pub job_name: String,
    /// Number of the request; 0 from the run service.
    pub request_id: i64,
    /// Until when the job is reserved, as the service wrote it.
    pub locked_until: Option<String>,
    /// What to do, in order.
    pub steps: Vec<StepRequest>,
    /// Settings and secrets.
    pub variables: Variables,
    /// What to hide in logs besides the secrets.
    pub mask: Vec<MaskHint>,
    /// Secrets of the workflows that call this job's: hidden too, and not given to it.
    pub masked: Vec<SecretString>,
    /// Services that the job may call.
    pub endpoints: Vec<Endpoint>,
    /// Contexts made by the service: `github`, `needs`, `strategy`, `matrix`, `inputs`, `vars`, `job`.
    pub context_data: Object,
    /// `env` of the workflow, then of the job; the later wins.
    pub environment_variables: Vec<TemplateToken>,
    /// `defaults` of the workflow, then of the job; the later wins.
    pub defaults: Vec<TemplateToken>,
    /// `outputs` of the job.
    pub job_outputs: Option<TemplateToken>,
    /// `container` of the job.
    pub job_container: Option<TemplateToken>,
    /// `services` of the job.
    pub job_service_containers: Option<TemplateToken>,
    /// A request to keep the machine as an image (hosted runners only).
    pub snapshot: Option<TemplateToken>,
    /// `environment` of the job.
    pub actions_environment: Option<TemplateToken>,
    /// Workflow files that places of tokens refer to, 1-based.
    pub file_table: Vec<String>,
    /// What to clean before the job: `outputs`, `resources` or `all`.
    pub workspace_clean: Option<String>,
    /// Whom the service bills; passed back when the job completes.
    pub billing_owner_id: Option<String>,
    /// Entries of the workflow's lockfile.
    pub dependencies: Vec<String>,
    /// Whether the person asked for a debugger to attach.
    pub enable_debugger: bool,
}

impl JobRequest {
    /// The key of the job in the workflow file (`github.job`).
    #[must_use]
    pub fn job_key(&self) -> &str {
        let key = self.variables.get("system.github.job");
        key.map_or(&self.job_name, Variable::expose)
    }

    /// The endpoint that holds the job's own token, if there is one.
    #[must_use]
    pub fn system_connection(&self) -> Option<&Endpoint> {
        let is_system = |e: &&Endpoint| e.name.eq_ignore_ascii_case("SystemVssConnection");
        self.endpoints.iter().find(is_system)
    }
}

/// The run that a job belongs to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Kind of the plan; `actions`.
    pub plan_type: String,
    /// Identity of the run at the service (a GUID).
    pub plan_id: String,
    /// Version of the plan.
    pub version: i64,
    /// Scope at an old service.
    pub scope_identifier: Option<String>,
}

/// The record of a run's progress.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// Its identity; that of the plan in the run service.
    pub id: String,
    /// Its version.
    pub change_id: i64,
}

/// One step.
#[derive(Debug, Default, Clone)]
pub struct StepRequest {
    /// Identity of the step (a GUID).
    pub id: String,
    /// Name for `github.action`.
    pub name: String,
    /// Key in the `steps` context; one that begins with `__` was made up and stays out of it.
    pub context_name: String,
    /// What the step runs.
    pub action: StepAction,
    /// The name people see; without one it is made from the action.
    pub display_name: Option<TemplateToken>,
    /// The step's `if`, already with its implied `success()`; empty stands for `success()`.
    pub condition: String,
    /// `continue-on-error`.
    pub continue_on_error: Option<TemplateToken>,
    /// `timeout-minutes`.
    pub timeout_in_minutes: Option<TemplateToken>,
    /// `env`.
    pub environment: Option<TemplateToken>,
    /// `with`, or for a script `script`, `shell` and `workingDirectory`.
    pub inputs: Option<TemplateToken>,
    /// Whether the job goes on while the step runs.
    pub background: bool,
    /// The group of steps that run at the same time, if it is in one.
    pub parallel_group_id: Option<String>,
}

/// What a step runs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub enum StepAction {
    /// `run:`.
    #[default]
    Script,
    /// `uses: owner/repo/path@ref`, or a path in a repository at hand.
    Repository {
        /// `owner/repo`; empty for a path in the workspace.
        name: String,
        /// Branch, tag or commit.
        reference: String,
        /// `GitHub`, `self` (the workspace) or `SelfRepository` (the workflow's own repository).
        repository_type: String,
        /// Folder inside the repository.
        path: String,
    },
    /// `uses: docker://image`.
    ContainerRegistry {
        /// The image.
        image: String,
    },
    /// Waits for background steps or cancels one.
    BackgroundControl {
        /// `wait`, `wait-all` or `cancel`.
        control_type: String,
        /// The steps it is about.
        step_ids: Vec<String>,
    },
}

/// A setting or a secret of the job.
pub enum Variable {
    /// Not secret.
    Plain(String),
    /// Never shown.
    Secret(SecretString),
}

impl Variable {
    /// The value, secret or not.
    #[must_use]
    pub fn expose(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Secret(text) => text.expose_secret(),
        }
    }

    /// Whether it is a secret.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        matches!(self, Self::Secret(_))
    }
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(text) => text.fmt(f),
            Self::Secret(_) => f.write_str("[secret]"),
        }
    }
}

/// The variables of a job, by name without regard to case, in the order of the message.
#[derive(Debug, Default)]
pub struct Variables {
    entries: Vec<(String, Variable)>,
}

impl Variables {
    /// Sets a variable; one of the same name is replaced.
    pub fn insert(&mut self, name: impl Into<String>, value: Variable) {
        let name = name.into();
        let known = self.entries.iter_mut();
        match known
            .into_iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(&name))
        {
            Some(entry) => entry.1 = value,
            None => self.entries.push((name, value)),
        }
    }

    /// A variable by name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Variable> {
        let found = self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }

    /// Whether the variable is `true` in any spelling.
    #[must_use]
    pub fn is_true(&self, name: &str) -> bool {
        let value = self.get(name).map(Variable::expose);
        value.is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
    }

    /// All variables in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Variable)> {
        self.entries
            .iter()
            .map(|(name, value)| (name.as_str(), value))
    }
}

/// Something to hide in logs.
#[derive(Clone, PartialEq, Eq)]
pub enum MaskHint {
    /// A regular expression.
    Regex(String),
    /// A text.
    Literal(String),
}

impl fmt::Debug for MaskHint {
    /// Names the kind only: what is to be hidden is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Regex(_) => "Regex",
            Self::Literal(_) => "Literal",
        })
    }
}

/// A service that the job may call.
#[derive(Debug, Default)]
pub struct Endpoint {
    /// Its name; the job's own is `SystemVssConnection`.
    pub name: String,
    /// Its base address.
    pub url: String,
    /// The token that it takes.
    pub access_token: Option<SecretString>,
    /// Further addresses and settings, by name.
    pub data: Vec<(String, String)>,
}

impl Endpoint {
    /// A setting that is not empty, by name without regard to case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut data = self.data.iter();
        let found = data.find(|(n, value)| n.eq_ignore_ascii_case(name) && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::token::TokenKind;

    /// A message in the captured shape, with the liberties that services take.
    const MESSAGE: &str = include_str!("request/fixture.json");

    #[test]
    fn a_message_is_read_whatever_the_case_of_its_keys_and_the_form_of_its_scalars() {
        let text = format!("\u{feff}{MESSAGE}");
        let request = decode(text.as_bytes()).unwrap();
        assert_eq!(request.job_id, "8e3faf38-534e-5b05-9cf9-da9360891e1f");
        assert_eq!(request.job_key(), "build");
        assert_eq!(request.request_id, 9_007_199_254_740_993);
        assert!(request.enable_debugger);
        assert!(request.variables.is_true("SYSTEM.From_Run_Service"));
        assert_eq!(request.plan.plan_id, "0b7eb6b1-ab3c-46bc-a6e9-21298ec14671");
        assert_eq!(request.workspace_clean.as_deref(), Some("all"));
        assert_eq!(request.job_outputs, None);
        let github = request.context_data.get("GitHub").unwrap();
        assert_eq!(
            github.get("repository").unwrap().as_str(),
            Some("octo/hello")
        );
        let mask = [
            MaskHint::Regex(r"\bBearer\s+\S+".into()),
            MaskHint::Literal("x".into()),
        ];
        assert_eq!(request.mask, mask);
    }

    #[test]
    fn every_kind_of_step_is_told_apart() {
        let request = decode(MESSAGE.as_bytes()).unwrap();
        let actions: Vec<_> = request.steps.iter().map(|s| s.action.clone()).collect();
        let repository = StepAction::Repository {
            name: "actions/checkout".into(),
            reference: "v4".into(),
            repository_type: "GitHub".into(),
            path: String::new(),
        };
        let container = StepAction::ContainerRegistry {
            image: "alpine:3".into(),
        };
        let wait = StepAction::BackgroundControl {
            control_type: "wait".into(),
            step_ids: vec!["a".into()],
        };
        assert_eq!(actions, [StepAction::Script, repository, container, wait]);
        let script = request.steps[0]
            .inputs
            .as_ref()
            .unwrap()
            .get("script")
            .unwrap();
        assert_eq!(script.as_str(), Some("echo hi"));
        assert_eq!(request.steps[0].condition, "success()");
        let timeout = request.steps[0].timeout_in_minutes.as_ref().unwrap();
        assert_eq!(timeout.kind, TokenKind::Number(5.0));
    }

    #[test]
    fn secrets_of_a_message_are_never_shown() {
        let request = decode(MESSAGE.as_bytes()).unwrap();
        let token = request.variables.get("github_token").unwrap();
        assert!(token.is_secret());
        assert_eq!(token.expose(), "s3cr3t-token");
        let connection = request.system_connection().unwrap();
        let access = connection.access_token.as_ref().unwrap();
        assert_eq!(access.expose_secret(), "job-t0ken");
        assert_eq!(connection.get("GenerateIdTokenUrl"), None);
        assert_eq!(
            connection.get("resultsserviceurl"),
            Some("https://results.example/")
        );
        let shown = format!("{request:?}");
        assert!(
            !shown.contains("s3cr3t-token") && !shown.contains("job-t0ken"),
            "{shown}"
        );
    }

    #[test]
    fn a_wrong_field_is_named_by_its_path() {
        for (from, to, message) in [
            (
                "\"script\"}",
                "\"magic\"}",
                "steps[0].reference.type is not a known kind of action",
            ),
            (
                "\"requestId\": \"9007",
                "\"requestId\": \"x9007",
                "requestId is not a whole number",
            ),
            ("\"jobId\"", "\"jobIdx\"", "jobId is missing"),
            (
                "{\"value\": \"build\"}",
                "7",
                "variables.system.github.job is not an object",
            ),
        ] {
            let broken = MESSAGE.replacen(from, to, 1);
            assert_ne!(broken, MESSAGE, "{from}");
            let error = decode(broken.as_bytes()).unwrap_err().to_string();
            assert!(error.ends_with(message), "{error}");
        }
        let error = decode(b"{\n  7}").unwrap_err().to_string();
        assert_eq!(
            error,
            "the job message is not valid JSON (line 2, column 3)"
        );
    }

    #[test]
    fn the_message_captured_from_github_is_read() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../shared/data/job_payload.json"
        );
        let Ok(message) = std::fs::read(path) else {
            eprintln!("SKIPPED: {path} is not there");
            return;
        };
        let request = decode(&message).unwrap();
        assert_eq!(request.steps.len(), 1);
        assert_eq!(request.mask.len(), 18);
        assert_eq!(request.job_key(), "probe-test");
        assert_eq!(request.file_table, [".github/workflows/probe-test.yml"]);
        let secrets = request.variables.iter().filter(|(_, v)| v.is_secret());
        assert_eq!(secrets.count(), 2);
        let github = request.context_data.get("github").unwrap();
        assert_eq!(
            github.get("event_name").unwrap().as_str(),
            Some("workflow_dispatch")
        );
        let masker = crate::job::masking::Masker::new();
        for (index, hint) in request.mask.iter().enumerate() {
            let MaskHint::Regex(pattern) = hint else {
                panic!("{hint:?}")
            };
            masker.add_pattern(index + 1, pattern).unwrap();
        }
        assert_eq!(masker.mask("auth: Bearer abc.def"), "auth: ***");
    }
}
