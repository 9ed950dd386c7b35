//! Where called workflows are: files of the checkout, or of another repository at a commit.
//!
//! `./` in a file of another repository means that repository at the same commit, as on GitHub.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::load::{LoadError, Loaded, load_as, load_bytes};
use super::super::source::{MAX_FILE_BYTES, Place};
use super::{Callee, Diagnostic, Resolver};
use crate::action::bytes::SourceError;
use crate::action::reference::{Reference, RepositoryReference, is_workflow_path};

/// A file that is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum FileId {
    /// Of the checkout, by its real path.
    Checkout(PathBuf),
    /// Of another repository; owner and name in lower case.
    Repository(RepositoryReference),
}

impl Resolver<'_> {
    /// The file that `uses:` of a job names in the file that is being read.
    pub(super) fn locate(&self, text: &str, place: Place) -> Result<Callee, Diagnostic> {
        if text.starts_with("./") {
            let shown = local_path(text, place)?;
            return match self.open.last() {
                Some(FileId::Repository(reader)) => Ok(callee(RepositoryReference {
                    path: shown.to_owned(),
                    ..reader.clone()
                })),
                _ => Ok(Callee {
                    id: FileId::Checkout(self.in_checkout(shown, place)?),
                    shown: shown.to_owned(),
                }),
            };
        }
        match Reference::parse(text) {
            Ok(Reference::Repository(mut reference)) if reference.is_workflow() => {
                let repository = &mut reference.repository;
                repository.owner.make_ascii_lowercase();
                repository.name.make_ascii_lowercase();
                Ok(Callee {
                    shown: text.to_owned(),
                    ..callee(reference)
                })
            }
            _ => Err(Diagnostic::error(
                place,
                format!("`{text}` names no reusable workflow"),
                "write `./.github/workflows/NAME.yml` or `owner/repository/.github/workflows/NAME.yml@ref`",
            )),
        }
    }

    /// The real path of a called file, which must be a file of the checkout.
    fn in_checkout(&self, shown: &str, place: Place) -> Result<PathBuf, Diagnostic> {
        let wrong = |why: String| {
            let message = format!("the called workflow `{shown}` {why}");
            let help = "name a file of this checkout, by its path from the top";
            Diagnostic::error(place, message, help)
        };
        let real = |path: &Path| {
            fs::canonicalize(path).map_err(|error| wrong(format!("cannot be read: {error}")))
        };
        let Some(checkout) = self.sources.checkout else {
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

    /// Reads a called file; nothing for one that may not run, which is told with the pins. What is
    /// wrong with its place is told at the call, what is wrong in it there.
    pub(super) fn read(
        &self,
        id: &FileId,
        shown: &str,
        place: Place,
    ) -> Result<Option<Result<Loaded, LoadError>>, Diagnostic> {
        let reference = match id {
            FileId::Checkout(path) => return Ok(Some(load_as(path, Path::new(shown)))),
            FileId::Repository(reference) => reference,
        };
        let wrong = |why: String, help: &str| Diagnostic::error(place, why, help);
        let bytes = match self.sources.actions.find(reference) {
            Ok(bytes) => bytes,
            Err(SourceError::Refused { .. }) => return Ok(None),
            Err(error) => {
                let help = "pin the workflow, or give a folder for it";
                return Err(wrong(error.to_string(), help));
            }
        };
        let limit = MAX_FILE_BYTES as u64 + 1;
        match bytes.read(&reference.path, limit) {
            Ok(Some(content)) => Ok(Some(load_bytes(content, Path::new(shown)))),
            Ok(None) => Err(wrong(
                format!("the called workflow `{shown}` is not in {}", bytes.origin()),
                "mend the path",
            )),
            Err(cause) => Err(wrong(
                format!("the called workflow `{shown}` cannot be read: {cause}"),
                "mend the path",
            )),
        }
    }
}

fn callee(reference: RepositoryReference) -> Callee {
    Callee {
        shown: reference.to_string(),
        id: FileId::Repository(reference),
    }
}

/// The path of a workflow file of the same repository, from its top.
fn local_path(text: &str, place: Place) -> Result<&str, Diagnostic> {
    let wrong = |message: String, help: &str| Err(Diagnostic::error(place, message, help));
    let path = text.strip_prefix("./").unwrap_or(text);
    if path.contains('@') {
        let help = "remove `@` and what follows: it is taken from the same commit";
        return wrong(
            format!("`{text}` names a version of a local workflow"),
            help,
        );
    }
    if !is_workflow_path(path) {
        let help = "write `./.github/workflows/NAME.yml`";
        return wrong(format!("`{text}` is no file of `.github/workflows`"), help);
    }
    Ok(path)
}
