//! Steps: their kinds and ids, and groups of steps that run at the same time.

use std::collections::{HashMap, HashSet};

use super::super::diagnostic::{Diagnostic, Severity, nearest};
use super::super::source::Place;
use super::super::token::{TemplateToken, TokenKind};
use super::super::uses;
use super::{Action, Builder, Step, condition, place_of, value};

impl Builder<'_> {
    pub(super) fn steps(&mut self, job: &TemplateToken, place: Place) -> Vec<Step> {
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

    pub(super) fn no_steps(&mut self, place: Place) {
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
            condition: "always()".to_owned(),
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
            condition: match action {
                // These run whatever came before them, and know no `if`.
                Action::Control { .. } => "always()".to_owned(),
                _ => condition(step),
            },
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
