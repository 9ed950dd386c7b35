//! Actions of a workflow that can be read on this machine, checked before anything runs.

use std::{fs, io::Read, path::Path};

use super::calls::Sources;
use super::diagnostic::Diagnostic;
use super::model::{Action, Job, Workflow, place_of};
use super::token::TemplateToken;
use crate::action::bytes::{SourceError, is_own, reference_of};
use crate::action::dockerfile::bases;
use crate::action::image::ImageReference;
use crate::action::manifest::{DockerImage, MANIFEST_NAMES, MAX_MANIFEST, Manifest, Runs};
use crate::action::reference::local_path;
use crate::job::actions::{ActionError, MAX_DEPTH, read_manifest};
use crate::job::request::StepAction;

/// Most actions that are looked at for one workflow.
const MAX_LOOKS: usize = 10_000;

/// All steps whose action, or one that it uses, cannot be run. An action of the workspace that is
/// not in the checkout at hand may be made by an earlier step: its time comes when it runs.
pub(super) fn refused(workflow: &Workflow, sources: &Sources<'_>) -> Vec<Diagnostic> {
    let mut look = Look { sources, looks: 0 };
    let steps = workflow.jobs.iter().flat_map(|job| &job.steps);
    let mut findings = Vec::new();
    for step in steps {
        if let Action::Uses { reference, .. } = &step.action
            && let Err(Refusal { why, help }) = look.at(reference, 0)
        {
            let help = help.unwrap_or_else(|| default_help(reference).to_owned());
            findings.push(Diagnostic::error(step.place, why, help));
        }
        if look.looks > MAX_LOOKS {
            break;
        }
    }
    for (token, what) in workflow.jobs.iter().flat_map(containers) {
        let text = token.as_str().unwrap_or_default().trim();
        let image = text.strip_prefix("docker://").unwrap_or(text);
        if !image.is_empty()
            && let Err(Refusal { why, help }) = look.image(image, &what)
        {
            let help = help.unwrap_or_else(|| "write NAME:TAG or NAME@DIGEST".to_owned());
            findings.push(Diagnostic::error(place_of(token), why, help));
        }
    }
    findings
}

/// The images of a job's container and services, and what wants them. What expressions name is known
/// when the job runs.
fn containers(job: &Job) -> Vec<(&TemplateToken, String)> {
    let image = |token| TemplateToken::get(token, "image").unwrap_or(token);
    let container = job
        .container
        .as_ref()
        .map(|token| (image(token), "the job runs in".to_owned()));
    let services = job.services.as_ref().and_then(TemplateToken::as_mapping);
    let services = services.unwrap_or_default().iter().map(|(alias, token)| {
        let alias = alias.as_str().unwrap_or_default();
        (image(token), format!("the service {alias} runs"))
    });
    container.into_iter().chain(services).collect()
}

fn default_help(reference: &StepAction) -> &'static str {
    match reference {
        StepAction::Repository { name, .. } if name.eq_ignore_ascii_case("actions/checkout") => {
            "remove the step: the checkout is in the workspace already"
        }
        _ => "mend the action, or do the work in a script with `run:`",
    }
}

/// Why an action cannot be run, and what else can be done than what is done mostly.
struct Refusal {
    why: String,
    help: Option<String>,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self { why, help: None }
    }
}

/// The text of a file of an action's folder; nothing if it cannot be read now.
type ReadFile = dyn Fn(&str) -> Option<String>;

/// An action's manifest and what is read beside it.
struct Found {
    name: String,
    manifest: Manifest,
    file: Box<ReadFile>,
}

struct Look<'a> {
    sources: &'a Sources<'a>,
    looks: usize,
}

impl Look<'_> {
    /// Looks at an action and at all that it uses.
    fn at(&mut self, action: &StepAction, depth: usize) -> Result<(), Refusal> {
        self.looks += 1;
        if self.looks > MAX_LOOKS {
            let why = format!(
                "it is one more than the {MAX_LOOKS} actions that a workflow may use, those inside of \
                 actions counted"
            );
            return Err(why.into());
        }
        if depth > MAX_DEPTH {
            return Err(ActionError::Depth.to_string().into());
        }
        if let StepAction::ContainerRegistry { image } = action {
            return self.image(image, "this step runs");
        }
        let Some(Found {
            name,
            manifest,
            file,
        }) = self.manifest(action)?
        else {
            return Ok(());
        };
        if let Runs::Docker(docker) = &manifest.runs {
            self.docker(&name, &docker.image(), file.as_ref())?;
        }
        for step in manifest.steps() {
            let inner = self.at(&step.request.action, depth + 1);
            inner.map_err(|refusal| {
                let (line, column) = (step.place.line, step.place.column);
                let why = format!("{name}, line {line}, column {column}: {}", refusal.why);
                Refusal { why, ..refusal }
            })?;
        }
        Ok(())
    }

    /// Looks at the images of a Docker action, as far as they are known before it is built.
    fn docker(&self, name: &str, image: &DockerImage<'_>, file: &ReadFile) -> Result<(), Refusal> {
        match image {
            DockerImage::Registry(image) => self.image(image, &format!("the action {name} runs")),
            DockerImage::Dockerfile(path) => {
                let text = file(path);
                // What a variable names is known when it is built.
                let bases = text.and_then(|text| bases(&text).ok()).unwrap_or_default();
                for base in bases {
                    let line = base.line;
                    let what = format!("the action {name} builds on ({path}, line {line})");
                    self.image(&base.image, &what)?;
                }
                Ok(())
            }
        }
    }

    /// Whether an image can be had: a sandbox has no network to pull it from.
    fn image(&self, image: &str, what: &str) -> Result<(), Refusal> {
        let reference = ImageReference::parse(image).map_err(|error| error.to_string())?;
        if reference.is_scratch() || self.sources.images.has(&reference) {
            return Ok(());
        }
        Err(Refusal {
            why: format!(
                "{what} the container image {image}, and a sandbox has no network to pull it from"
            ),
            help: Some(format!(
                "save the image with `docker save {image} -o FILE`, and give it with \
                 `--container-image {image}=FILE`"
            )),
        })
    }

    /// The manifest of an action and its name; nothing if it is known only when it runs.
    fn manifest(&self, action: &StepAction) -> Result<Option<Found>, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        if let Some(reference) = reference_of(action).map_err(|e| text(&e))? {
            let bytes = match self.sources.actions.find(&reference) {
                Ok(bytes) => bytes,
                Err(SourceError::Refused { .. }) => return Ok(None),
                Err(error) => return Err(text(&error)),
            };
            let read = read_manifest(bytes.as_ref(), &reference).map_err(|e| text(&e))?;
            let mut manifest = read.0;
            manifest.belong_to(&reference);
            return Ok(Some(Found {
                name: reference.to_string(),
                manifest,
                file: Box::new(move |file| {
                    let path = Path::new(&reference.path).join(file);
                    let content = bytes.read(path.to_str()?, MAX_MANIFEST).ok()??;
                    Some(String::from_utf8_lossy(&content).into_owned())
                }),
            }));
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
        let (Some(root), Some(inside), true) = (self.sources.checkout, inside, readable) else {
            return Ok(None);
        };
        let path = if own { &format!("$/{path}") } else { path };
        let folder = root.join(&inside);
        let found = |manifest| Found {
            name: path.clone(),
            manifest,
            file: {
                let folder = folder.clone();
                Box::new(move |file| read(&folder.join(file)))
            },
        };
        for name in MANIFEST_NAMES {
            let file = Path::new(&inside).join(name);
            if let Some(content) = read(&root.join(&file)) {
                let shown = file.display().to_string();
                let manifest = Manifest::parse(&shown, &content).map_err(|e| text(&e))?;
                return Ok(Some(found(manifest)));
            }
        }
        let dockerfile = folder.join("Dockerfile").is_file();
        Ok(dockerfile.then(|| found(Manifest::dockerfile())))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{bytes::NoActions, image_archives::ImageArchives};

    #[test]
    fn more_actions_than_are_looked_at_are_an_error() {
        let sources = Sources {
            actions: &NoActions,
            checkout: None,
            images: &ImageArchives::default(),
        };
        let mut look = Look {
            sources: &sources,
            looks: MAX_LOOKS - 1,
        };
        assert!(look.at(&StepAction::Script, 0).is_ok());
        let refusal = look.at(&StepAction::Script, 0).err();
        let why = refusal.map(|refusal| refusal.why).unwrap_or_default();
        assert!(why.contains("one more than the 10000 actions"), "{why}");
    }
}
