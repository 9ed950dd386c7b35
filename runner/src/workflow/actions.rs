//! Actions of a workflow that can be read on this machine, checked before anything runs.

use std::{fs, io::Read, path::Path};

use super::diagnostic::Diagnostic;
use super::model::{Action, Workflow};
use crate::action::bytes::{ActionSource, SourceError, is_own, reference_of};
use crate::action::manifest::{MANIFEST_NAMES, MAX_MANIFEST, Manifest, Runs};
use crate::action::reference::local_path;
use crate::job::actions::{ActionError, MAX_DEPTH, read_manifest};
use crate::job::request::StepAction;

/// Most actions that are looked at for one workflow.
const MAX_LOOKS: usize = 10_000;

/// All steps whose action, or one that it uses, cannot be run. An action of the workspace that is
/// not in the checkout at hand (`root`) may be made by an earlier step: its time comes when it runs.
pub(super) fn refused(
    workflow: &Workflow,
    source: &dyn ActionSource,
    root: Option<&Path>,
) -> Vec<Diagnostic> {
    let mut look = Look {
        source,
        root,
        looks: 0,
    };
    let steps = workflow.jobs.iter().flat_map(|job| &job.steps);
    let mut findings = Vec::new();
    for step in steps {
        if let Action::Uses { reference, .. } = &step.action
            && let Err(message) = look.at(reference, 0)
        {
            let help = match reference {
                StepAction::Repository { name, .. }
                    if name.eq_ignore_ascii_case("actions/checkout") =>
                {
                    "remove the step: the checkout is in the workspace already"
                }
                _ => "mend the action, or do the work in a script with `run:`",
            };
            findings.push(Diagnostic::error(step.place, message, help));
        }
        if look.looks > MAX_LOOKS {
            break;
        }
    }
    findings
}

struct Look<'a> {
    source: &'a dyn ActionSource,
    root: Option<&'a Path>,
    looks: usize,
}

impl Look<'_> {
    /// Looks at an action and at all that it uses.
    fn at(&mut self, action: &StepAction, depth: usize) -> Result<(), String> {
        self.looks += 1;
        if self.looks > MAX_LOOKS {
            return Err(format!(
                "it is one more than the {MAX_LOOKS} actions that a workflow may use, those inside of \
                 actions counted"
            ));
        }
        if depth > MAX_DEPTH {
            return Err(ActionError::Depth.to_string());
        }
        let Some((name, manifest)) = self.manifest(action)? else {
            return Ok(());
        };
        if let Runs::Docker(_) = manifest.runs {
            return Err(crate::job::docker_refused(&name));
        }
        for step in manifest.steps() {
            let inner = self.at(&step.request.action, depth + 1);
            inner.map_err(|why| {
                let (line, column) = (step.place.line, step.place.column);
                format!("{name}, line {line}, column {column}: {why}")
            })?;
        }
        Ok(())
    }

    /// The manifest of an action and its name; nothing if it is known only when it runs.
    fn manifest(&self, action: &StepAction) -> Result<Option<(String, Manifest)>, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        if let Some(reference) = reference_of(action).map_err(|e| text(&e))? {
            let bytes = match self.source.find(&reference) {
                Ok(bytes) => bytes,
                Err(SourceError::Refused { .. }) => return Ok(None),
                Err(error) => return Err(text(&error)),
            };
            let read = read_manifest(bytes.as_ref(), &reference).map_err(|e| text(&e))?;
            let mut manifest = read.0;
            manifest.belong_to(&reference);
            return Ok(Some((reference.to_string(), manifest)));
        }
        let StepAction::Repository {
            repository_type,
            path,
            ..
        } = action
        else {
            return Ok(None);
        };
        let inside = local_path(&path.replace('\\', "/"));
        let own = is_own(repository_type);
        let readable = own || repository_type == "self";
        let (Some(root), Some(inside), true) = (self.root, inside, readable) else {
            return Ok(None);
        };
        let path = if own { &format!("$/{path}") } else { path };
        for name in MANIFEST_NAMES {
            let file = Path::new(&inside).join(name);
            if let Some(content) = read(&root.join(&file)) {
                let shown = file.display().to_string();
                let manifest = Manifest::parse(&shown, &content).map_err(|e| text(&e))?;
                return Ok(Some((path.clone(), manifest)));
            }
        }
        let dockerfile = root.join(inside).join("Dockerfile").is_file();
        Ok(dockerfile.then(|| (path.clone(), Manifest::dockerfile())))
    }
}

/// A file of the checkout; nothing if there is none that can be read.
fn read(path: &Path) -> Option<String> {
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut content = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(MAX_MANIFEST).read_to_end(&mut content).ok()?;
    Some(String::from_utf8_lossy(&content).into_owned())
}
