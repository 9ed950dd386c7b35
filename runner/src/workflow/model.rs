//! The model of a workflow: jobs and steps, with their places, and all that is checked once the
//! shape of the file is known: ids, `needs`, what a step does.

use std::collections::{HashMap, HashSet};

use super::check::MAX_FINDINGS;
use super::diagnostic::{Diagnostic, Severity, nearest};
use super::source::Place;
use super::token::{Position, TemplateToken, TokenKind};
use super::triggers::{self, Input, Trigger};
use super::uses;
use crate::expression::is_name;
use crate::job::request::StepAction;

/// A workflow.
#[derive(Clone, Debug)]
pub struct Workflow {
    /// Its path as it was given.
    pub path: String,
    /// `name`.
    pub name: Option<String>,
    /// `run-name`.
    pub run_name: Option<TemplateToken>,
    /// The events of `on`.
    pub triggers: Vec<Trigger>,
    /// The inputs of `workflow_dispatch`.
    pub dispatch_inputs: Vec<Input>,
    /// The inputs of `workflow_call`.
    pub call_inputs: Vec<Input>,
    /// `env`.
    pub env: Option<TemplateToken>,
    /// `defaults`.
    pub defaults: Option<TemplateToken>,
    /// `jobs`, in the order of the file.
    pub jobs: Vec<Job>,
}

/// A job.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its key.
    pub id: String,
    /// Where the key stands.
    pub place: Place,
    /// `name`.
    pub name: Option<TemplateToken>,
    /// The jobs it needs.
    pub needs: Vec<String>,
    /// `if`, with its implied `success()`.
    pub condition: String,
    /// `strategy`.
    pub strategy: Option<TemplateToken>,
    /// `timeout-minutes`.
    pub timeout_minutes: Option<TemplateToken>,
    /// `continue-on-error`.
    pub continue_on_error: Option<TemplateToken>,
    /// `env`.
    pub env: Option<TemplateToken>,
    /// `outputs`.
    pub outputs: Option<TemplateToken>,
    /// `defaults`.
    pub defaults: Option<TemplateToken>,
    /// `container`.
    pub container: Option<TemplateToken>,
    /// `services`.
    pub services: Option<TemplateToken>,
    /// `environment`.
    pub environment: Option<TemplateToken>,
    /// `uses`: the reusable workflow that the job calls instead of having steps.
    pub uses: Option<TemplateToken>,
    /// `steps`, those of parallel groups one after the other.
    pub steps: Vec<Step>,
}

/// A step.
#[derive(Clone, Debug)]
pub struct Step {
    /// `id`, or a made-up one that begins with `__`.
    pub context_name: String,
    /// Where the step begins.
    pub place: Place,
    /// `name`.
    pub name: Option<TemplateToken>,
    /// `if`, with its implied `success()`.
    pub condition: String,
    /// What it does.
    pub action: Action,
    /// Whether the job goes on while it runs.
    pub background: bool,
    /// The number of its parallel group in the job, if it is in one.
    pub group: Option<usize>,
    /// `env`.
    pub env: Option<TemplateToken>,
    /// `continue-on-error`.
    pub continue_on_error: Option<TemplateToken>,
    /// `timeout-minutes`.
    pub timeout_minutes: Option<TemplateToken>,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum Action {
    /// `run`, with `shell` and `working-directory`.
    Run {
        /// The script.
        script: TemplateToken,
        /// `shell`.
        shell: Option<TemplateToken>,
        /// `working-directory`.
        working_directory: Option<TemplateToken>,
    },
    /// `uses`, with `with`.
    Uses {
        /// What the reference stands for.
        reference: StepAction,
        /// `with`.
        with: Option<TemplateToken>,
    },
    /// `wait`, `wait-all` or `cancel`, and the steps that are meant.
    Control {
        /// The key.
        kind: &'static str,
        /// Ids of steps.
        steps: Vec<String>,
    },
}

/// Builds the model of a checked file; what is wrong is added to `findings`.
pub(super) fn build(path: &str, root: &TemplateToken, findings: &mut Vec<Diagnostic>) -> Workflow {
    let mut builder = Builder { findings };
    let jobs = builder.jobs(root);
    builder.check_needs(&jobs, root);
    triggers::check(root, builder.findings);
    let text = |key: &str| {
        root.get(key)
            .and_then(TemplateToken::as_str)
            .map(str::to_owned)
    };
    Workflow {
        path: path.to_owned(),
        name: text("name").filter(|name| !name.is_empty()),
        run_name: value(root, "run-name"),
        triggers: triggers::triggers(root),
        dispatch_inputs: triggers::inputs(root, "workflow_dispatch"),
        call_inputs: triggers::inputs(root, "workflow_call"),
        env: value(root, "env"),
        defaults: value(root, "defaults"),
        jobs,
    }
}

/// A place for messages: that of a token, as long as its text.
pub(super) fn place_of(token: &TemplateToken) -> Place {
    let Position { line, column, .. } = token.at;
    let length = token
        .as_str()
        .map_or(1, |text| text.lines().next().unwrap_or("").chars().count());
    Place {
        line: line.unwrap_or(1),
        column: column.unwrap_or(1),
        length: u32::try_from(length).unwrap_or(1).max(1),
    }
}

/// The value of a key, unless it is nothing.
fn value(token: &TemplateToken, key: &str) -> Option<TemplateToken> {
    token.get(key).filter(|value| !value.is_null()).cloned()
}

fn condition(token: &TemplateToken) -> String {
    let text = token.get("if").and_then(TemplateToken::as_str);
    text.unwrap_or("success()").to_owned()
}

struct Builder<'a> {
    findings: &'a mut Vec<Diagnostic>,
}

impl Builder<'_> {
    fn error(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.findings.push(Diagnostic::error(place, message, help));
    }

    fn jobs(&mut self, root: &TemplateToken) -> Vec<Job> {
        let Some(jobs) = root.get("jobs") else {
            return Vec::new();
        };
        let entries = jobs.as_mapping().unwrap_or_default();
        if entries.is_empty() && matches!(jobs.kind, TokenKind::Mapping(_)) {
            self.error(
                place_of(jobs),
                "a workflow needs at least one job",
                "add one under `jobs:`",
            );
        }
        entries
            .iter()
            .filter_map(|(key, job)| self.job(key, job))
            .collect()
    }

    fn job(&mut self, key: &TemplateToken, job: &TemplateToken) -> Option<Job> {
        let id = key.as_str()?.to_owned();
        let place = place_of(key);
        self.check_id(&id, place, "job");
        let fields = job.as_mapping()?;
        let has = |key: &str| fields.iter().any(|(name, _)| name.as_str() == Some(key));
        if !has("steps") && !has("uses") {
            self.no_steps(place);
        }
        self.check_timeout(job);
        self.check_images(job);
        self.check_group(job);
        Some(Job {
            needs: self.needs(job),
            steps: self.steps(job, place),
            id,
            place,
            name: value(job, "name"),
            condition: condition(job),
            strategy: value(job, "strategy"),
            timeout_minutes: value(job, "timeout-minutes"),
            continue_on_error: value(job, "continue-on-error"),
            env: value(job, "env"),
            outputs: value(job, "outputs"),
            defaults: value(job, "defaults"),
            container: value(job, "container"),
            services: value(job, "services"),
            environment: value(job, "environment"),
            uses: value(job, "uses"),
        })
    }

    fn check_id(&mut self, id: &str, place: Place, of: &str) {
        if !is_name(id) || id.len() >= 100 {
            self.error(
                place,
                format!("`{id}` cannot be the id of a {of}"),
                "an id begins with a letter or `_`, has letters, digits, `-` and `_`, and fewer than \
                 100 characters",
            );
        } else if id.starts_with("__") {
            self.error(
                place,
                format!("the id `{id}` is reserved"),
                "begin it with another sign than `__`",
            );
        }
    }

    /// Containers have an image, unless expressions make them.
    fn check_images(&mut self, job: &TemplateToken) {
        let services = job.get("services").and_then(TemplateToken::as_mapping);
        let services = services
            .unwrap_or_default()
            .iter()
            .map(|(_, service)| service);
        for container in job.get("container").into_iter().chain(services) {
            let is_mapping = container.as_mapping().is_some();
            if is_mapping && container.get("image").is_none() && !container.has_expression() {
                let help = "add `image:`";
                self.error(
                    place_of(container),
                    "a container needs the key `image`",
                    help,
                );
            }
        }
    }

    /// The group of `runs-on` may name the organization or the enterprise that it belongs to.
    fn check_group(&mut self, job: &TemplateToken) {
        let group = job.get("runs-on").and_then(|runs_on| runs_on.get("group"));
        let Some(token) = group else { return };
        let Some((owner, name)) = token.as_str().and_then(|group| group.split_once('/')) else {
            return;
        };
        let known = ["org", "organization", "ent", "enterprise"].contains(&owner);
        if !known || name.is_empty() || name.contains('/') {
            let message = format!("`{owner}/{name}` is no group of runners");
            let help = "write its name alone, or after `organization/` or `enterprise/`";
            self.error(place_of(token), message, help);
        }
    }

    fn check_timeout(&mut self, of: &TemplateToken) {
        let Some(timeout) = of.get("timeout-minutes") else {
            return;
        };
        if let TokenKind::Number(minutes) = timeout.kind
            && !(minutes > 0.0 && minutes.is_finite())
        {
            let place = place_of(timeout);
            self.error(
                place,
                "a timeout must be more than 0 minutes",
                "write a positive number",
            );
        }
    }

    fn needs(&mut self, job: &TemplateToken) -> Vec<String> {
        let Some(needs) = job.get("needs") else {
            return Vec::new();
        };
        let items = needs.as_sequence().unwrap_or(std::slice::from_ref(needs));
        let mut names: Vec<String> = Vec::new();
        for name in items.iter().filter_map(TemplateToken::as_str) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names
    }

    fn steps(&mut self, job: &TemplateToken, place: Place) -> Vec<Step> {
        let Some(steps) = job.get("steps") else {
            return Vec::new();
        };
        let items = steps.as_sequence().unwrap_or_default();
        if items.is_empty() && matches!(steps.kind, TokenKind::Sequence(_)) {
            self.no_steps(place);
        }
        let mut ids = StepIds::default();
        let mut read = Vec::new();
        let mut groups = 0;
        // Ids that the author gave are taken before others are made up.
        for step in items.iter().flat_map(with_inner) {
            self.reserve_id(step, &mut ids);
        }
        let mut known = HashSet::new();
        for step in items {
            if let Some(parallel) = step.get("parallel") {
                groups += 1;
                let inner = parallel.as_sequence().unwrap_or_default();
                read.extend(self.parallel(inner, groups, place_of(step), &mut ids));
            } else {
                read.extend(self.step(step, &mut ids, &known));
            }
            known.extend(with_inner(step).filter_map(id_of));
        }
        read
    }

    fn no_steps(&mut self, place: Place) {
        let finding = Diagnostic::error(place, "this job has no steps", "add one under `steps:`");
        self.findings.push(finding.with_severity(Severity::Warning));
    }

    /// The steps of a `parallel` group, and the step that waits for them.
    fn parallel(
        &mut self,
        inner: &[TemplateToken],
        group: usize,
        place: Place,
        ids: &mut StepIds,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        for step in inner {
            for key in ["background", "wait", "wait-all", "cancel", "parallel"] {
                if step.get(key).is_some() {
                    let message = format!("`{key}` cannot stand inside of `parallel`");
                    let help = "`parallel` runs its steps at the same time and waits for them";
                    self.error(place_of(step), message, help);
                }
            }
            steps.extend(self.step(step, ids, &HashSet::new()));
        }
        for step in &mut steps {
            step.background = true;
            step.group = Some(group);
        }
        let wait = Action::Control {
            kind: "wait",
            steps: steps.iter().map(|step| step.context_name.clone()).collect(),
        };
        steps.push(Step {
            context_name: ids.made_up("__parallel"),
            place,
            name: Some(TemplateToken::string("Parallel group")),
            condition: "success()".to_owned(),
            action: wait,
            background: false,
            group: Some(group),
            env: None,
            continue_on_error: None,
            timeout_minutes: None,
        });
        steps
    }

    fn reserve_id(&mut self, step: &TemplateToken, ids: &mut StepIds) {
        let Some(id) = step.get("id") else { return };
        let Some(text) = id.as_str() else { return };
        let place = place_of(id);
        self.check_id(text, place, "step");
        if !ids.taken.insert(text.to_ascii_lowercase()) {
            let message = format!("the step id `{text}` is used twice in this job");
            self.error(place, message, "rename one of the two steps");
        }
    }

    fn step(
        &mut self,
        step: &TemplateToken,
        ids: &mut StepIds,
        known: &HashSet<String>,
    ) -> Option<Step> {
        step.as_mapping()?;
        let (action, made_up) = self.action(step, known)?;
        let background = step.get("background").map(|token| &token.kind);
        Some(Step {
            context_name: id_of(step).unwrap_or_else(|| ids.made_up(&format!("__{made_up}"))),
            place: place_of(step),
            name: value(step, "name"),
            condition: condition(step),
            action,
            background: background == Some(&TokenKind::Bool(true)),
            group: None,
            env: value(step, "env"),
            continue_on_error: value(step, "continue-on-error"),
            timeout_minutes: value(step, "timeout-minutes"),
        })
    }

    /// What a step does, and the id that one like it gets; nothing if that was told to be wrong.
    fn action(
        &mut self,
        step: &TemplateToken,
        known: &HashSet<String>,
    ) -> Option<(Action, String)> {
        if let Some(script) = step.get("run") {
            self.check_shell(step.get("shell"));
            let run = Action::Run {
                script: script.clone(),
                shell: value(step, "shell"),
                working_directory: value(step, "working-directory"),
            };
            return Some((run, "run".to_owned()));
        }
        if let Some(uses) = step.get("uses") {
            let text = uses.as_str()?;
            let Some((reference, made_up)) = uses::read(text) else {
                let message = format!("`{text}` names no action");
                self.error(place_of(uses), message, uses::HELP);
                return None;
            };
            let with = value(step, "with");
            return Some((Action::Uses { reference, with }, made_up));
        }
        for kind in ["wait", "wait-all", "cancel"] {
            if let Some(target) = step.get(kind) {
                let steps = self.targets(step, target, known);
                return Some((Action::Control { kind, steps }, kind.to_owned()));
            }
        }
        None
    }

    /// The steps that `wait` or `cancel` is about: all must stand before.
    fn targets(
        &mut self,
        step: &TemplateToken,
        target: &TemplateToken,
        known: &HashSet<String>,
    ) -> Vec<String> {
        if target.kind == TokenKind::Bool(false) {
            let help = "write `wait-all:` alone, or remove the step";
            self.error(place_of(target), "`wait-all` can only be `true`", help);
        }
        let items = target.as_sequence().unwrap_or(std::slice::from_ref(target));
        let mut steps = Vec::new();
        for item in items {
            let Some(name) = item.as_str() else { continue };
            let own = id_of(step).is_some_and(|id| id.eq_ignore_ascii_case(name));
            if own || !known.contains(name) {
                let message = format!("`{name}` is no step before this one");
                let help = "name the `id` of an earlier step of this job";
                self.error(place_of(item), message, help);
            }
            steps.push(name.to_owned());
        }
        steps
    }

    fn check_shell(&mut self, shell: Option<&TemplateToken>) {
        const SHELLS: &[&str] = &["bash", "sh", "python", "pwsh", "powershell", "cmd"];
        let Some(token) = shell else { return };
        let Some(shell) = token.as_str() else { return };
        if SHELLS.contains(&shell) || shell.contains("{0}") {
            return;
        }
        let message = format!("`{shell}` is not a shell");
        let custom =
            format!("a command needs `{{0}}` in place of the script's path: `{shell} {{0}}`");
        let help = match nearest(shell, SHELLS.iter().copied()) {
            Some(near) => format!("did you mean `{near}`? {custom}"),
            None => format!("use one of {}; {custom}", SHELLS.join(", ")),
        };
        self.error(place_of(token), message, help);
    }

    /// Every needed job exists, and no jobs wait for each other.
    fn check_needs(&mut self, jobs: &[Job], root: &TemplateToken) {
        // A job that could not be read is still a job that may be needed.
        let entries = root
            .get("jobs")
            .and_then(TemplateToken::as_mapping)
            .unwrap_or_default();
        let ids: Vec<&str> = entries.iter().filter_map(|(key, _)| key.as_str()).collect();
        let known: HashSet<&str> = ids.iter().copied().collect();
        for (key, job) in entries {
            let Some(needs) = job.get("needs") else {
                continue;
            };
            let id = key.as_str().unwrap_or_default();
            for need in needs.as_sequence().unwrap_or(std::slice::from_ref(needs)) {
                let Some(name) = need.as_str() else { continue };
                if known.contains(name) || self.findings.len() >= 2 * MAX_FINDINGS {
                    continue;
                }
                let help = match nearest(name, ids.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "name a job of this file, by its key".to_owned(),
                };
                let message =
                    format!("the job `{id}` needs `{name}`, which is no job of this file");
                self.error(place_of(need), message, help);
            }
        }
        for cycle in cycles(jobs) {
            let names: Vec<_> = cycle.iter().map(|job| job.id.as_str()).collect();
            let message = match names.as_slice() {
                [own] => format!("the job `{own}` needs itself"),
                names => {
                    format!(
                        "jobs wait for each other: {} -> {}",
                        names.join(" -> "),
                        names[0]
                    )
                }
            };
            let help = "take one of these out of the other's `needs`";
            self.error(cycle[0].place, message, help);
        }
    }
}

/// A step, and those of its parallel group.
fn with_inner(step: &TemplateToken) -> impl Iterator<Item = &TemplateToken> {
    let inner = step.get("parallel").and_then(TemplateToken::as_sequence);
    std::iter::once(step).chain(inner.unwrap_or_default())
}

/// The id that the author gave to a step.
fn id_of(step: &TemplateToken) -> Option<String> {
    step.get("id")
        .and_then(TemplateToken::as_str)
        .map(str::to_owned)
}

/// The ids of a job's steps.
#[derive(Default)]
struct StepIds {
    taken: HashSet<String>,
    /// How many were made up, by name.
    made_up: HashMap<String, usize>,
}

impl StepIds {
    /// A new id: the name, or the name and a number.
    fn made_up(&mut self, name: &str) -> String {
        let count = self.made_up.entry(name.to_owned()).or_default();
        loop {
            *count += 1;
            let id = match *count {
                1 => name.to_owned(),
                number => format!("{name}_{number}"),
            };
            if self.taken.insert(id.clone()) {
                return id;
            }
        }
    }
}

/// Each circle of jobs that need each other, found once.
fn cycles(jobs: &[Job]) -> Vec<Vec<&Job>> {
    let by_id: HashMap<&str, &Job> = jobs.iter().map(|job| (job.id.as_str(), job)).collect();
    let mut found = Vec::new();
    // Where a job is on the way at hand; `None` once all behind it was looked at.
    let mut seen: HashMap<&str, Option<usize>> = HashMap::new();
    for start in jobs {
        let mut way: Vec<(&Job, usize)> = Vec::new();
        let mut entered = Some(start).filter(|job| !seen.contains_key(job.id.as_str()));
        loop {
            if let Some(job) = entered.take() {
                seen.insert(&job.id, Some(way.len()));
                way.push((job, 0));
            }
            let Some((job, next)) = way.last_mut() else {
                break;
            };
            let Some(need) = job.needs.get(*next) else {
                seen.insert(&job.id, None);
                way.pop();
                continue;
            };
            *next += 1;
            let Some(&needed) = by_id.get(need.as_str()) else {
                continue;
            };
            match seen.get(needed.id.as_str()) {
                None => entered = Some(needed),
                Some(None) => {}
                Some(Some(at)) => found.push(way[*at..].iter().map(|(job, _)| *job).collect()),
            }
        }
    }
    found
}
