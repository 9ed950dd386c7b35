//! Reusable workflows of the checkout: what jobs call with `uses: ./.github/workflows/NAME.yml` is
//! read, checked against its callers and put into the model, before anything runs.

mod check;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::Diagnostic;
use super::load::{Findings, LoadError, Loaded, bound, load_as};
use super::model::{Call, Workflow, place_of};
use super::source::Place;
use crate::action::bytes::{ActionSource, NoActions};

/// Levels of called workflows below the one that is run; GitHub allows as many.
const MAX_DEPTH: usize = 10;

/// Files that a run may call, each counted once; GitHub allows as many.
const MAX_FILES: usize = 50;

/// Jobs of a run with all that is called, matrices aside.
const MAX_JOBS: usize = 1000;

impl Loaded {
    /// The workflow, if all of it can be run here without a checkout.
    ///
    /// # Errors
    /// [`LoadError::Rejected`] with all that cannot, by name and place.
    pub fn runnable(self) -> Result<Self, LoadError> {
        self.runnable_with(&NoActions, None)
    }

    /// The same with actions of a source, and with actions and called workflows of a checkout.
    ///
    /// # Errors
    /// [`LoadError::Rejected`] with all that cannot, by name and place.
    pub fn runnable_with(
        mut self,
        actions: &dyn ActionSource,
        checkout: Option<&Path>,
    ) -> Result<Self, LoadError> {
        let mut resolver = Resolver {
            actions,
            checkout,
            files: HashMap::new(),
            findings: Vec::new(),
            open: vec![fs::canonicalize(&self.workflow.path).unwrap_or_default()],
        };
        let (mut found, size) = resolver.workflow(&mut self.workflow);
        if size.jobs > MAX_JOBS {
            let message = format!("with all that it calls this run has more than {MAX_JOBS} jobs");
            found.push(Diagnostic::file(message, "call less, or make several runs"));
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
    actions: &'a dyn ActionSource,
    checkout: Option<&'a Path>,
    /// By real path; nothing for a file that is wrong, which was told then.
    files: HashMap<PathBuf, Option<Called>>,
    /// Findings of called files.
    findings: Vec<Findings>,
    /// The files that call each other down to the one being read, the first of all first.
    open: Vec<PathBuf>,
}

impl Resolver<'_> {
    /// Reads all that a workflow calls; returns what is wrong in this very file.
    fn workflow(&mut self, workflow: &mut Workflow) -> (Vec<Diagnostic>, Size) {
        let mut found = super::unsupported(workflow);
        found.extend(super::actions::refused(
            workflow,
            self.actions,
            self.checkout,
        ));
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
        let shown = local_path(text, place)?;
        let path = self.locate(shown, place)?;
        if let Some(from) = self.open.iter().position(|open| *open == path) {
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
        let called = self.file(path, shown, place)?;
        match called {
            Some(called) if self.open.len() + called.size.depth > MAX_DEPTH => Err(too_deep()),
            called => Ok(called),
        }
    }

    /// The real path of a called file, which must be a file of the checkout.
    fn locate(&self, shown: &str, place: Place) -> Result<PathBuf, Diagnostic> {
        let wrong = |why: String| {
            let message = format!("the called workflow `{shown}` {why}");
            let help = "name a file of this checkout, by its path from the top";
            Diagnostic::error(place, message, help)
        };
        let real = |path: &Path| {
            fs::canonicalize(path).map_err(|error| wrong(format!("cannot be read: {error}")))
        };
        let Some(checkout) = self.checkout else {
            return Err(wrong("needs a git checkout to be read from".to_owned()));
        };
        let (top, path) = (real(checkout)?, real(&checkout.join(shown))?);
        if !path.starts_with(&top) {
            return Err(wrong("is a link out of the checkout".to_owned()));
        }
        if !path.is_file() {
            return Err(wrong("is no file".to_owned()));
        }
        Ok(path)
    }

    fn file(
        &mut self,
        path: PathBuf,
        shown: &str,
        place: Place,
    ) -> Result<Option<Called>, Diagnostic> {
        if let Some(known) = self.files.get(&path) {
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
        self.files.insert(path.clone(), None);
        let called = match load_as(&path, Path::new(shown)) {
            Ok(loaded) => self.loaded(loaded, &path),
            Err(LoadError::Rejected { findings }) => {
                self.findings.push(*findings);
                return Ok(None);
            }
            Err(error) => {
                return Err(Diagnostic::error(place, error.to_string(), "mend the path"));
            }
        };
        self.files.insert(path, Some(called.clone()));
        Ok(Some(called))
    }

    fn loaded(&mut self, loaded: Loaded, path: &Path) -> Called {
        let Loaded {
            mut workflow,
            mut findings,
        } = loaded;
        self.open.push(path.to_owned());
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

/// The path of a workflow file of this checkout, from its top.
fn local_path(text: &str, place: Place) -> Result<&str, Diagnostic> {
    let wrong = |message: String, help: &str| Err(Diagnostic::error(place, message, help));
    let Some(path) = text.strip_prefix("./") else {
        return wrong(
            format!("the reusable workflow `{text}` cannot be run yet"),
            "copy the file into `.github/workflows/` and call it as `./.github/workflows/NAME.yml`",
        );
    };
    let name = path.strip_prefix(".github/workflows/");
    let fits = |name: &&str| {
        let end = Path::new(name).extension();
        !name.contains('/') && end.is_some_and(|end| end == "yml" || end == "yaml")
    };
    if path.contains('@') {
        let help = "remove `@` and what follows: it is taken from this checkout";
        return wrong(
            format!("`{text}` names a version of a local workflow"),
            help,
        );
    }
    if name.filter(fits).is_none() {
        let help = "write `./.github/workflows/NAME.yml`";
        return wrong(format!("`{text}` is no file of `.github/workflows`"), help);
    }
    Ok(path)
}
