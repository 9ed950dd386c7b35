//! Reads a workflow file: text to tree, tree to tokens, tokens to model, with all that is wrong.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Severity};
use super::model::{self, Workflow};
use super::source::{MAX_FILE_BYTES, Place, Source};
use super::token::TemplateToken;
use super::{check, plan, request, schema, yaml};
use crate::job::request::StepRequest;

/// A workflow that may be run.
#[derive(Debug)]
pub struct Loaded {
    /// The workflow.
    pub workflow: Workflow,
    /// Notices and warnings, in the order of the file.
    pub findings: Findings,
}

/// What was found in a file.
#[derive(Debug)]
pub struct Findings {
    /// The file.
    pub source: Source,
    /// The findings, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
    /// What was found in the workflows that it calls, directly or not.
    pub called: Vec<Findings>,
}

impl Findings {
    /// How many errors there are.
    pub fn errors(&self) -> usize {
        let own = self
            .diagnostics
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
            .count();
        own + self.called.iter().map(Findings::errors).sum::<usize>()
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty() && self.called.iter().all(Findings::is_empty)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.diagnostics {
            writeln!(f, "{}", diagnostic.render(&self.source))?;
        }
        self.called.iter().try_for_each(|called| called.fmt(f))
    }
}

/// Why a workflow file cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the workflow {path}: {source}; give the path of a workflow file")]
    Read {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is wrong.
    #[error("{findings}{}", summary(findings))]
    Rejected {
        /// All that is wrong with it.
        findings: Box<Findings>,
    },
}

fn summary(findings: &Findings) -> String {
    let errors = findings.errors();
    let (noun, path) = (
        if errors == 1 { "error" } else { "errors" },
        findings.source.path(),
    );
    format!("{}: {errors} {noun}; nothing was run", path.display())
}

/// Reads a workflow file.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    load_as(path, path)
}

/// Reads a workflow file that messages call by another path.
pub(super) fn load_as(path: &Path, shown: &Path) -> Result<Loaded, LoadError> {
    let failed = |source| LoadError::Read {
        path: shown.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    // One byte more than may be, to tell a file that is too long.
    file.take(MAX_FILE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    load_bytes(bytes, shown)
}

/// Reads the content of a workflow file.
pub(super) fn load_bytes(bytes: Vec<u8>, shown: &Path) -> Result<Loaded, LoadError> {
    match String::from_utf8(bytes) {
        Ok(text) => parse(Source::new(shown, text)),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let line = text.as_bytes()[..valid]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1;
            let message =
                format!("the file is not UTF-8: line {line} has a byte that does not belong");
            let findings = vec![Diagnostic::file(message, "save the file as UTF-8")];
            Err(rejected(Source::new(shown, text), findings))
        }
    }
}

/// Reads the text of a workflow file.
pub fn parse(source: Source) -> Result<Loaded, LoadError> {
    let mut findings = Vec::new();
    let Some(tokens) = tokens(&source, &schema::WORKFLOW, &mut findings) else {
        return Err(rejected(source, findings));
    };
    let path = source.path().display().to_string();
    let workflow = model::build(&path, &tokens, &mut findings);
    plan::check_matrices(&workflow, &mut findings);
    findings.sort_by_key(|finding| finding.place);
    findings.dedup();
    bound(&mut findings);
    let findings = Findings {
        source,
        diagnostics: findings,
        called: Vec::new(),
    };
    if findings.errors() > 0 {
        return Err(LoadError::Rejected {
            findings: Box::new(findings),
        });
    }
    Ok(Loaded { workflow, findings })
}

/// A manifest of an action: its tokens, and the steps of a composite action with their places.
pub(crate) struct ActionFile {
    /// The whole file.
    pub root: TemplateToken,
    /// The steps under `runs`.
    pub steps: Vec<(Place, StepRequest)>,
}

/// Reads the text of an action's manifest (`action.yml`).
pub(crate) fn parse_action(source: Source) -> Result<ActionFile, LoadError> {
    let mut findings = Vec::new();
    let Some(tokens) = tokens(&source, &schema::ACTION, &mut findings) else {
        return Err(rejected(source, findings));
    };
    let runs = tokens
        .get("runs")
        .filter(|runs| runs.get("steps").is_some());
    let steps = runs.map(|runs| model::composite_steps(runs, &mut findings));
    findings.retain(|finding| finding.severity == Severity::Error);
    findings.sort_by_key(|finding| finding.place);
    bound(&mut findings);
    if findings.is_empty() {
        let steps = steps.unwrap_or_default();
        let with_place = |step: &model::Step| (step.place, request::step_request(step));
        return Ok(ActionFile {
            steps: steps.iter().map(with_place).collect(),
            root: tokens,
        });
    }
    Err(rejected(source, findings))
}

/// The tokens of a text, checked against a schema; nothing where it is no YAML.
fn tokens(
    source: &Source,
    shape: &schema::Shape,
    findings: &mut Vec<Diagnostic>,
) -> Option<TemplateToken> {
    match yaml::read(source, findings) {
        Ok(root) => Some(check::check(source, &root, shape, findings)),
        Err(finding) => {
            findings.push(finding);
            None
        }
    }
}

/// Keeps what a person can read: the first findings, errors before others if there are too many.
pub(super) fn bound(findings: &mut Vec<Diagnostic>) {
    let all = findings.len();
    if all <= check::MAX_FINDINGS {
        return;
    }
    findings.sort_by_key(|finding| finding.severity);
    findings.truncate(check::MAX_FINDINGS);
    findings.sort_by_key(|finding| finding.place);
    let message = format!("{} more findings are not shown", all - findings.len());
    let rest = Diagnostic::file(message, "mend those above first");
    findings.push(rest.with_severity(Severity::Notice));
}

pub(super) fn rejected(source: Source, diagnostics: Vec<Diagnostic>) -> LoadError {
    LoadError::Rejected {
        findings: Box::new(Findings {
            source,
            diagnostics,
            called: Vec::new(),
        }),
    }
}
