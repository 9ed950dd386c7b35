//! Reusable workflows: what jobs call with `uses: ./.github/workflows/NAME.yml` is read from the
//! checkout, and `owner/repo/.github/workflows/NAME.yml@ref` from the source of actions; both are checked
//! against their callers and put into the model, before anything runs.

mod check;
mod locate;
mod permissions;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::diagnostic::Diagnostic;
use super::load::{Findings, LoadError, Loaded, bound};
use super::model::{Call, Workflow, place_of};
use super::source::Place;
use crate::action::bytes::{ActionSource, NoActions};
use crate::action::image_archives::ImageArchives;
use locate::FileId;

/// Levels of called workflows below the one that is run; GitHub allows as many.
const MAX_DEPTH: usize = 10;

/// Files that a run may call, each counted once; GitHub allows as many.
const MAX_FILES: usize = 50;

/// Jobs of a run with all that is called, matrices aside.
const MAX_JOBS: usize = 1000;

/// Where what a workflow uses is found before it runs.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// Actions by reference.
    pub actions: &'a dyn ActionSource,
    /// The top of the checkout, with its actions and the workflows that are called.
    pub checkout: Option<&'a Path>,
    /// Archives that stand for container images.
    pub images: &'a ImageArchives,
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources")
            .field("checkout", &self.checkout)
            .field("images", &self.images)
            .finish_non_exhaustive()
    }
}

impl Loaded {
    /// The workflow, if all of it can be run here without a checkout.
    ///
    /// # Errors
    /// [`LoadError::Rejected`] with all that cannot, by name and place.
    pub fn runnable(self) -> Result<Self, LoadError> {
        self.runnable_with(&Sources {
            actions: &NoActions,
            checkout: None,
            images: &ImageArchives::default(),
        })
    }

    /// The same with actions of a source, and with actions and called workflows of a checkout.
    ///
    /// # Errors
    /// [`LoadError::Rejected`] with all that cannot, by name and place.
    pub fn runnable_with(mut self, sources: &Sources<'_>) -> Result<Self, LoadError> {
        let mut resolver = Resolver {
            sources,
            files: HashMap::new(),
            findings: Vec::new(),
            open: vec![FileId::Checkout(
                fs::canonicalize(&self.workflow.path).unwrap_or_default(),
            )],
        };
        let (mut found, size) = resolver.workflow(&mut self.workflow);
        if size.jobs > MAX_JOBS {
            let message = format!("with all that it calls this run has more than {MAX_JOBS} jobs");
            found.push(Diagnostic::file(message, "call less, or make several runs"));
        } else {
            found.extend(permissions::check(&self.workflow));
        }
        self.findings.called = resolver.findings;
        add(&mut self.findings, found);
        if self.findings.errors() > 0 {
            let findings = Box::new(self.findings);
            return Err(LoadError::Rejected { findings });
        }
        Ok(self)
    }
}

fn add(findings: &mut Findings, found: Vec<Diagnostic>) {
    findings.diagnostics.extend(found);
    findings.diagnostics.sort_by_key(|finding| finding.place);
    bound(&mut findings.diagnostics);
}

/// How large a workflow is with all that it calls.
#[derive(Clone, Copy, Default)]
struct Size {
    /// Levels of calls below it.
    depth: usize,
    jobs: usize,
}

/// A called file that was read.
#[derive(Clone)]
struct Called {
    workflow: Arc<Workflow>,
    size: Size,
}

/// Reads called files, each once.
struct Resolver<'a> {
    sources: &'a Sources<'a>,
    /// Nothing for a file that is wrong, which was told then.
    files: HashMap<FileId, Option<Called>>,
    /// Findings of called files.
    findings: Vec<Findings>,
    /// The files that call each other down to the one being read, the first of all first.
    open: Vec<FileId>,
}

/// A called file on its way to being read.
struct Callee {
    id: FileId,
    /// What messages call it.
    shown: String,
}

impl Resolver<'_> {
    /// Reads all that a workflow calls; returns what is wrong in this very file.
    fn workflow(&mut self, workflow: &mut Workflow) -> (Vec<Diagnostic>, Size) {
        let mut found = super::actions::refused(workflow, self.sources);
        let mut size = Size::default();
        for job in &mut workflow.jobs {
            size.jobs = size.jobs.saturating_add(1);
            let Some(call) = &mut job.call else { continue };
            match self.call(&job.id, call) {
                Ok(Some(called)) => {
                    found.extend(check::check(call, &called.workflow));
                    size.depth = size.depth.max(called.size.depth + 1);
                    size.jobs = size.jobs.saturating_add(called.size.jobs);
                    call.workflow = Some(called.workflow);
                }
                Ok(None) => {}
                Err(finding) => found.push(finding),
            }
        }
        (found, size)
    }

    fn call(&mut self, job: &str, call: &Call) -> Result<Option<Called>, Diagnostic> {
        let (text, place) = (call.uses.as_str().unwrap_or_default(), place_of(&call.uses));
        let callee = self.locate(text, place)?;
        if let Some(from) = self.open.iter().position(|open| *open == callee.id) {
            let shown = &callee.shown;
            let length = self.open.len() - from;
            let message = match length {
                1 => format!("the workflow `{shown}` calls itself"),
                _ => format!("`{shown}` calls itself by way of {} more files", length - 1),
            };
            let help = "remove one of the calls: a workflow cannot be part of itself";
            return Err(Diagnostic::error(place, message, help));
        }
        let too_deep = || {
            let message = format!(
                "job \"{job}\" calls workflow \"{text}\", but doing so would exceed the limit on \
                 called workflow depth of {MAX_DEPTH}"
            );
            Diagnostic::error(place, message, "nest fewer calls")
        };
        if self.open.len() > MAX_DEPTH {
            return Err(too_deep());
        }
        let called = self.file(callee, place)?;
        match called {
            Some(called) if self.open.len() + called.size.depth > MAX_DEPTH => Err(too_deep()),
            called => Ok(called),
        }
    }

    fn file(&mut self, callee: Callee, place: Place) -> Result<Option<Called>, Diagnostic> {
        let Callee { id, shown } = callee;
        if let Some(known) = self.files.get(&id) {
            return Ok(known.clone());
        }
        if self.files.len() >= MAX_FILES {
            let message =
                format!("a run may call {MAX_FILES} workflow files, this one is one more");
            return Err(Diagnostic::error(
                place,
                message,
                "put some of them together",
            ));
        }
        // Counted from here on, so that files which call more files stay within the bound.
        self.files.insert(id.clone(), None);
        let called = match self.read(&id, &shown, place)? {
            None => return Ok(None),
            Some(Ok(loaded)) => self.loaded(loaded, &id),
            Some(Err(LoadError::Rejected { findings })) => {
                self.findings.push(*findings);
                return Ok(None);
            }
            Some(Err(error)) => {
                return Err(Diagnostic::error(place, error.to_string(), "mend the path"));
            }
        };
        self.files.insert(id, Some(called.clone()));
        Ok(Some(called))
    }

    fn loaded(&mut self, loaded: Loaded, id: &FileId) -> Called {
        let Loaded {
            mut workflow,
            mut findings,
        } = loaded;
        if let FileId::Repository(reference) = id {
            workflow.belong_to(reference);
        }
        self.open.push(id.clone());
        let (found, size) = self.workflow(&mut workflow);
        self.open.pop();
        add(&mut findings, found);
        if !findings.is_empty() {
            self.findings.push(findings);
        }
        let workflow = Arc::new(workflow);
        Called { workflow, size }
    }
}
