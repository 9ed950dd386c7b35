//! The contexts of a job and how they change from step to step.

use std::{collections::HashMap, sync::Arc};

use indexmap::IndexMap;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    egress::intercept::secrets::Placeholders,
    expression::{
        json::to_json,
        value::{Object, Value},
    },
    sandbox::Sandbox,
};

use super::{
    Options,
    env_files::EnvFile,
    files::StepFiles,
    hash_files::{self, WorkspaceFiles},
    layout::Layout,
    outcome::Conclusion,
    output::Changes,
    request::{JobRequest, Variable},
    step::Ended,
    task::{Stage, Task},
    template::{Evaluator, TemplateError},
};

/// Variables that are secret but not part of the `secrets` context.
const INTERNAL_SECRETS: [&str; 2] = ["system.accessToken", "system.github.token"];

/// The `secrets` context. Values are wiped when dropped and never shown.
#[derive(Default)]
pub struct Secrets {
    entries: Vec<(String, SecretString)>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.entries.iter().map(|(name, _)| name);
        f.debug_list().entries(names).finish()
    }
}

impl Secrets {
    /// Secrets by name.
    pub fn new(entries: impl IntoIterator<Item = (String, SecretString)>) -> Self {
        Self {
            entries: entries.into_iter().collect(),
        }
    }

    /// The secrets that a request brings, with `github_token`: what steps may know of them.
    #[must_use]
    pub fn of(request: &JobRequest, placeholders: &Placeholders) -> Self {
        let mut entries = Vec::new();
        for (name, variable) in request.variables.iter() {
            if let Variable::Secret(value) = variable
                && !INTERNAL_SECRETS
                    .iter()
                    .any(|internal| internal.eq_ignore_ascii_case(name))
            {
                let value = placeholders.apply(value.expose_secret());
                entries.push((name.to_owned(), value.into_owned().into()));
            }
        }
        let has_token = entries
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("github_token"));
        if !has_token && let Some(token) = request.variables.get("system.github.token") {
            let token = placeholders.apply(token.expose());
            entries.push(("github_token".to_owned(), token.into_owned().into()));
        }
        Self { entries }
    }

    /// The context as an object, for one evaluation.
    #[must_use]
    pub fn to_object(&self) -> Object {
        let entries = self.entries.iter();
        Object::from_iter(entries.map(|(name, value)| (name, value.expose_secret())))
    }
}

/// Everything that steps see of a job and change in it.
///
/// Each step gets a copy, and so do all steps of a composite action together: what they change is
/// entered into the original afterwards.
#[derive(Clone)]
pub struct JobContext<'a> {
    request: &'a JobRequest,
    secrets: Arc<Secrets>,
    /// Contexts that are the same for all steps.
    fixed: Object,
    github: Object,
    steps: Object,
    job: Object,
    /// `env` of the workflow and the job, and what `GITHUB_ENV` added.
    pub env: IndexMap<String, String>,
    /// Directories that `GITHUB_PATH` added; the first is searched first.
    pub path: Vec<String>,
    /// How the job stands: success, failure or cancelled.
    pub status: Conclusion,
    /// `defaults.run` by key in lower case.
    pub defaults: IndexMap<String, String>,
    /// Where things are in the sandbox.
    pub layout: Layout,
    /// `env` of the steps around, which wins over that of the job.
    pub(super) overrides: IndexMap<String, String>,
    /// What `GITHUB_STATE` kept, by step.
    pub(super) states: HashMap<String, IndexMap<String, String>>,
    /// How the composite action stands whose main steps see these contexts.
    pub(super) action_status: Option<Conclusion>,
    /// Files that places of tokens refer to.
    pub(super) files: Arc<[String]>,
    /// Files of the workspace as the step at hand found them, if it asks for their hash.
    workspace: Option<Arc<WorkspaceFiles>>,
}

/// What the steps of a composite action see that the step around them does not.
pub(super) struct ActionScope {
    /// The action's inputs.
    pub(super) inputs: Object,
    /// Its steps that are done.
    pub(super) steps: Object,
    /// The folder of the action.
    pub(super) path: String,
    /// `env` of the step around.
    pub(super) env: IndexMap<String, String>,
    /// Files that places of tokens refer to.
    pub(super) files: Arc<[String]>,
    /// Whether they are main steps, whose `success()` is about the action instead of the job.
    pub(super) main: bool,
}

impl std::fmt::Debug for JobContext<'_> {
    /// Leaves out contexts and environment: secrets went into them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobContext")
            .field("status", &self.status)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

impl<'a> JobContext<'a> {
    /// The contexts at the beginning of a job, without its `env` and `defaults`.
    #[must_use]
    pub fn new(request: &'a JobRequest, options: &Options) -> Self {
        let mut fixed = Object::new();
        for name in ["inputs", "matrix", "needs", "strategy", "vars"] {
            let value = request.context_data.get(name).cloned();
            fixed.insert(name, value.unwrap_or_default());
        }
        let object = |name: &str| {
            let value = request.context_data.get(name).and_then(Value::as_object);
            value.cloned().unwrap_or_default()
        };
        let mut github = object("github");
        let repository = github.get("repository").and_then(Value::as_str);
        let layout = Layout::new(&options.work, repository.unwrap_or_default());
        github.insert("workspace", layout.workspace.as_str());
        github.insert("event_path", layout.event_path());
        github.insert("job", request.job_key());
        if let Some(token) = request.variables.get("system.github.token") {
            github.insert("token", &*options.placeholders.apply(token.expose()));
        }
        fixed.insert("runner", runner(request, options, &layout));
        Self {
            request,
            secrets: Arc::new(Secrets::of(request, &options.placeholders)),
            fixed,
            github,
            steps: Object::new(),
            job: object("job"),
            env: IndexMap::new(),
            path: Vec::new(),
            status: Conclusion::Success,
            defaults: IndexMap::new(),
            layout,
            overrides: IndexMap::new(),
            states: HashMap::new(),
            action_status: None,
            files: request.file_table.as_slice().into(),
            workspace: None,
        }
    }

    /// The contexts for one step, whose environment files these are.
    pub(super) fn for_step(&self, files: &StepFiles) -> Self {
        let mut context = self.clone();
        context.workspace = None;
        for file in EnvFile::ALL {
            context.set_github(file.context_name(), &files.path(file));
        }
        context
    }

    /// The contexts for the steps of a composite action: it sees no secrets but those that it is
    /// given as inputs.
    pub(super) fn inside(&self, scope: ActionScope) -> Self {
        let mut context = self.clone();
        context.workspace = None;
        context.secrets = Arc::default();
        for name in ["needs", "vars"] {
            context.fixed.insert(name, Value::Null);
        }
        context.fixed.insert("inputs", scope.inputs);
        context.steps = scope.steps;
        context.set_github("action_path", &scope.path);
        context.overrides.extend(scope.env);
        context.files = scope.files;
        context.action_status = None;
        if scope.main {
            context.set_action_status(Conclusion::Success);
        }
        context
    }

    /// How the composite action stands whose main steps see these contexts.
    pub(super) fn set_action_status(&mut self, status: Conclusion) {
        self.action_status = Some(status);
        self.set_github("action_status", status.as_str());
    }

    /// Reads what `hashFiles()` needs.
    pub(super) async fn index_workspace<S: Sandbox>(&mut self, sandbox: &S) {
        if self.workspace.is_none() {
            let index = hash_files::index(sandbox, &self.layout.workspace).await;
            self.workspace = Some(Arc::new(index));
        }
    }

    /// Enters what a step left.
    pub(super) fn enter(&mut self, task: &Task, changes: &Changes, ended: Ended) {
        let own = |(name, value): (&String, &String)| (name.clone(), value.clone());
        self.env.extend(changes.env.iter().map(own));
        for directory in &changes.path {
            self.prepend_path(directory.clone());
        }
        for (id, state) in &changes.states {
            let known = self.states.entry(id.clone()).or_default();
            known.extend(state.iter().map(own));
        }
        let known = self.states.entry(task.id.clone()).or_default();
        known.extend(changes.state.iter().map(own));
        if task.stage == Stage::Main {
            let key = &task.step.context_name;
            self.finish_step(key, &changes.outputs, ended.outcome, ended.conclusion);
        }
    }

    /// Evaluates `env` and `defaults` of the workflow and of the job.
    ///
    /// # Errors
    /// [`TemplateError`] of the first that cannot be evaluated.
    pub fn evaluate_job(&mut self) -> Result<(), TemplateError> {
        for token in &self.request.environment_variables {
            // Each sees the ones before it.
            let found = self.evaluator(&self.env).strings(token)?;
            self.env.extend(found);
        }
        for token in &self.request.defaults {
            let Some(run) = token.get("run") else {
                continue;
            };
            let found = self.evaluator(&self.env).strings(run)?;
            let given = found.into_iter().filter(|(_, value)| !value.is_empty());
            self.defaults
                .extend(given.map(|(key, value)| (key.to_ascii_lowercase(), value)));
        }
        Ok(())
    }

    /// An evaluator that sees this `env`.
    #[must_use]
    pub fn evaluator(&self, env: &IndexMap<String, String>) -> Evaluator<'_> {
        let mut values = self.fixed.clone();
        let mut env_object = Object::case_sensitive();
        for (name, value) in env {
            env_object.insert(name, value.as_str());
        }
        let mut job = self.job.clone();
        job.insert("status", self.status.as_str());
        values.insert("env", env_object);
        values.insert("github", self.github.clone());
        values.insert("job", job);
        values.insert("steps", self.steps.clone());
        Evaluator {
            values,
            secrets: &self.secrets,
            status: self.status,
            action_status: self.action_status,
            workspace: self.workspace.as_deref(),
            files: &self.files,
        }
    }

    /// Sets a key of the `github` context, such as `action` or the path of an environment file.
    pub fn set_github(&mut self, key: &str, value: &str) {
        self.github.insert(key, value);
    }

    /// Sets a key of the `job` context.
    pub(super) fn set_job(&mut self, key: &str, value: Object) {
        self.job.insert(key, value);
    }

    /// Takes a key out of the `github` context.
    pub(super) fn unset_github(&mut self, key: &str) {
        self.github.insert(key, Value::Null);
    }

    /// The job.
    pub(super) fn request(&self) -> &JobRequest {
        self.request
    }

    /// The `steps` context.
    pub(super) fn steps_object(&self) -> &Object {
        &self.steps
    }

    /// A text of the `github` context; empty if there is none.
    #[must_use]
    pub fn github(&self, key: &str) -> &str {
        self.github
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// The `github` context.
    #[must_use]
    pub fn github_object(&self) -> &Object {
        &self.github
    }

    /// What tells the processes of this job from others; GitHub's runner ends what has it.
    #[must_use]
    pub fn tracking_id(&self) -> String {
        format!("github_{}", self.request.job_id)
    }

    /// The `runner` context.
    #[must_use]
    pub fn runner_object(&self) -> Option<&Object> {
        self.fixed.get("runner").and_then(Value::as_object)
    }

    /// The payload of the event that started the run, as JSON.
    #[must_use]
    pub fn event_json(&self) -> String {
        match self.github.get("event") {
            None | Some(Value::Null) => "{}".to_owned(),
            Some(event) => to_json(event),
        }
    }

    /// Enters a step into the `steps` context, unless its key was made up.
    pub fn finish_step(
        &mut self,
        key: &str,
        outputs: &IndexMap<String, String>,
        outcome: Conclusion,
        conclusion: Conclusion,
    ) {
        if key.is_empty() || key.starts_with("__") {
            return;
        }
        let mut step = Object::new();
        step.insert(
            "outputs",
            Object::from_iter(outputs.iter().map(|(k, v)| (k, v.as_str()))),
        );
        step.insert("outcome", outcome.as_str());
        step.insert("conclusion", conclusion.as_str());
        self.steps.insert(key, step);
    }

    /// Puts a directory before all others; one that is known moves there.
    pub fn prepend_path(&mut self, directory: String) {
        self.path.retain(|known| *known != directory);
        self.path.insert(0, directory);
    }
}

fn runner(request: &JobRequest, options: &Options, layout: &Layout) -> Object {
    let mut runner = Object::new();
    runner.insert("os", "Linux");
    runner.insert("arch", "X64");
    runner.insert("name", options.runner_name.as_str());
    let environment = request.variables.get("system.runnerEnvironment");
    runner.insert(
        "environment",
        environment.map_or("self-hosted", Variable::expose),
    );
    runner.insert("tool_cache", layout.tool_cache.as_str());
    runner.insert("temp", layout.temp.as_str());
    runner.insert("workspace", layout.repository.as_str());
    if request.variables.is_true("ACTIONS_STEP_DEBUG") {
        runner.insert("debug", "1");
    }
    runner
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{job::request::MaskHint, workflow::token::TemplateToken};

    fn request() -> JobRequest {
        let mut request = JobRequest::default();
        let variables = &mut request.variables;
        for (name, value) in [("MY_SECRET", "hush"), ("system.github.token", "t0ken")] {
            variables.insert(name, Variable::Secret(value.to_owned().into()));
        }
        variables.insert("system.github.job", Variable::Plain("build".to_owned()));
        let github = Object::from_iter([("repository", "octo/hello")]);
        request.context_data.insert("github", github);
        request
            .context_data
            .insert("matrix", Object::from_iter([("os", "linux")]));
        request
    }

    fn evaluate(context: &JobContext<'_>, expression: &str) -> String {
        let token = TemplateToken::expression(expression);
        context.evaluator(&context.env).string(&token).unwrap()
    }

    #[test]
    fn no_secret_is_in_what_a_developer_prints() {
        let mut request = request();
        request.mask.push(MaskHint::Literal("hush".to_owned()));
        let mut context = JobContext::new(&request, &Options::default());
        context.env.insert("COPY".to_owned(), "hush".to_owned());
        let evaluator = context.evaluator(&context.env);
        let shown = format!("{request:?} {context:?} {evaluator:?}");
        assert!(
            !shown.contains("hush") && !shown.contains("t0ken"),
            "{shown}"
        );
    }

    #[test]
    fn contexts_hold_what_the_message_and_the_runner_know() {
        let request = request();
        let context = JobContext::new(&request, &Options::default());
        for (expression, expected) in [
            ("github.repository", "octo/hello"),
            ("github.workspace", "/home/runner/work/hello/hello"),
            ("github.job", "build"),
            ("github.token", "t0ken"),
            ("secrets.GITHUB_TOKEN", "t0ken"),
            ("secrets.my_secret", "hush"),
            ("secrets['system.github.token']", ""),
            ("matrix.os", "linux"),
            ("runner.os", "Linux"),
            ("runner.temp", "/home/runner/work/_temp"),
            ("job.status", "success"),
            ("vars.missing", ""),
        ] {
            assert_eq!(evaluate(&context, expression), expected, "{expression}");
        }
        assert!(!format!("{context:?}").contains("hush"));
    }

    #[test]
    fn job_env_is_evaluated_in_order_and_differs_by_case() {
        let mut request = request();
        request.environment_variables = vec![
            TemplateToken::mapping([("A", TemplateToken::string("1"))]),
            TemplateToken::mapping([
                ("a", TemplateToken::expression("env.A")),
                ("A", TemplateToken::string("2")),
            ]),
        ];
        let run = |key: &str, value: &str| {
            let run = TemplateToken::mapping([(key, TemplateToken::string(value))]);
            TemplateToken::mapping([("run", run)])
        };
        request.defaults = vec![
            run("shell", "bash"),
            run("working-directory", "x"),
            run("shell", "sh"),
        ];
        let mut context = JobContext::new(&request, &Options::default());
        context.evaluate_job().unwrap();
        let env: Vec<_> = context
            .env
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        assert_eq!(env, ["A=2", "a=1"]);
        assert_eq!(context.defaults["shell"], "sh");
        assert_eq!(context.defaults["working-directory"], "x");
    }

    #[test]
    fn steps_appear_under_their_own_keys_only() {
        let request = request();
        let mut context = JobContext::new(&request, &Options::default());
        let outputs = IndexMap::from([("Value".to_owned(), "7".to_owned())]);
        context.finish_step("mine", &outputs, Conclusion::Failure, Conclusion::Success);
        context.finish_step("__run", &outputs, Conclusion::Success, Conclusion::Success);
        assert_eq!(evaluate(&context, "steps.mine.outputs.value"), "7");
        assert_eq!(evaluate(&context, "steps.mine.outcome"), "failure");
        assert_eq!(evaluate(&context, "steps.mine.conclusion"), "success");
        assert_eq!(evaluate(&context, "steps.__run.outcome"), "");
    }
}
