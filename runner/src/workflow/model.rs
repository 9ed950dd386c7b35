//! The model of a workflow: jobs and steps, with their places, and all that is checked once the
//! shape of the file is known: ids, `needs`, what a step does.

use std::collections::{HashMap, HashSet};

use super::check::MAX_FINDINGS;
use super::diagnostic::{Diagnostic, Severity, nearest};
use super::source::Place;
use super::token::{Position, TemplateToken, TokenKind};
use crate::expression::is_name;

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
    pub events: Vec<String>,
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
    /// `steps`.
    pub steps: Vec<Step>,
}

/// A step that runs a script.
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
    /// `run`.
    pub run: TemplateToken,
    /// `shell`.
    pub shell: Option<TemplateToken>,
    /// `working-directory`.
    pub working_directory: Option<TemplateToken>,
    /// `env`.
    pub env: Option<TemplateToken>,
    /// `continue-on-error`.
    pub continue_on_error: Option<TemplateToken>,
    /// `timeout-minutes`.
    pub timeout_minutes: Option<TemplateToken>,
}

/// Builds the model of a checked file; what is wrong is added to `findings`.
pub(super) fn build(path: &str, root: &TemplateToken, findings: &mut Vec<Diagnostic>) -> Workflow {
    let mut builder = Builder { findings };
    let jobs = builder.jobs(root);
    builder.check_needs(&jobs, root);
    let text = |key: &str| {
        root.get(key)
            .and_then(TemplateToken::as_str)
            .map(str::to_owned)
    };
    Workflow {
        path: path.to_owned(),
        name: text("name").filter(|name| !name.is_empty()),
        run_name: value(root, "run-name"),
        events: builder.events(root),
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
        for key in ["runs-on", "steps"] {
            if !has(key) && !has("uses") {
                let message = format!("the job `{id}` needs the key `{key}`");
                let example = if key == "steps" {
                    "a list of steps"
                } else {
                    "ubuntu-latest"
                };
                self.error(place, message, format!("add `{key}:` ({example})"));
            }
        }
        self.check_timeout(job);
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
            let finding =
                Diagnostic::error(place, "this job has no steps", "add one under `steps:`");
            self.findings.push(finding.with_severity(Severity::Warning));
        }
        let mut ids = StepIds::default();
        for step in items {
            self.reserve_id(step, &mut ids);
        }
        items
            .iter()
            .filter_map(|step| self.step(step, &mut ids))
            .collect()
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

    fn step(&mut self, step: &TemplateToken, ids: &mut StepIds) -> Option<Step> {
        step.as_mapping()?;
        self.check_timeout(step);
        self.check_shell(step.get("shell"));
        let id = step.get("id").and_then(TemplateToken::as_str);
        let Some(run) = step.get("run") else {
            // A step of a kind that is refused was told already.
            let others = ["uses", "wait", "wait-all", "cancel", "parallel"];
            if others.iter().all(|key| step.get(key).is_none()) {
                self.error(
                    place_of(step),
                    "a step needs the key `run`",
                    "add `run:` and a script",
                );
            }
            return None;
        };
        Some(Step {
            context_name: id.map_or_else(|| ids.made_up("__run"), str::to_owned),
            place: place_of(step),
            name: value(step, "name"),
            condition: condition(step),
            run: run.clone(),
            shell: value(step, "shell"),
            working_directory: value(step, "working-directory"),
            env: value(step, "env"),
            continue_on_error: value(step, "continue-on-error"),
            timeout_minutes: value(step, "timeout-minutes"),
        })
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

    fn events(&self, root: &TemplateToken) -> Vec<String> {
        let Some(on) = root.get("on") else {
            return Vec::new();
        };
        let name = |token: &TemplateToken| token.as_str().map(str::to_owned);
        match &on.kind {
            TokenKind::Sequence(items) => items.iter().filter_map(name).collect(),
            TokenKind::Mapping(entries) => {
                entries.iter().filter_map(|(key, _)| name(key)).collect()
            }
            _ => name(on).into_iter().collect(),
        }
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

/// The ids of a job's steps.
#[derive(Default)]
struct StepIds {
    taken: HashSet<String>,
    /// How many were made up.
    made_up: usize,
}

impl StepIds {
    /// A new id: the name, or the name and a number.
    fn made_up(&mut self, name: &str) -> String {
        loop {
            self.made_up += 1;
            let id = match self.made_up {
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
