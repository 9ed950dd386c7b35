//! What `mayfly pin` writes: workflow files with commit ids, and the lock files.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::files::{File, folder_of};
use crate::action::find::Target;
use crate::action::lockfile::{ACTIONS_LOCK, ActionsLock, Companion, MAYFLY_LOCK};
use crate::action::reference::Reference;
use crate::action::resolve::{Graph, Locks};
use crate::action::rewrite::{Rewrite, rewrite};
use crate::cli::Failure;

/// The files that change when tags and branches become commit ids, with their new texts.
pub(super) fn rewritten(files: &[File], graph: &Graph) -> Result<Vec<(PathBuf, String)>, Failure> {
    let mut changed = Vec::new();
    for file in files {
        let mut rewrites = Vec::new();
        for found in &file.found {
            let (Ok(Target::Use(reference) | Target::Call(reference)), Some(span)) =
                (&found.target, &found.span)
            else {
                continue;
            };
            let Reference::Repository(action) = reference else {
                continue;
            };
            if let (None, Some(pin)) = (action.commit(), graph.action(&action.key())) {
                rewrites.push(Rewrite {
                    span: span.clone(),
                    commit: pin.commit.hex(),
                    version: pin.version.clone(),
                });
            }
        }
        let new = rewrite(&file.name, &file.text, &rewrites).map_err(Failure::usage)?;
        if new != file.text {
            changed.push((file.path.clone(), new));
        }
    }
    Ok(changed)
}

pub(super) fn replace_all(files: &[(PathBuf, String)]) -> Result<(), Failure> {
    files
        .iter()
        .try_for_each(|(path, text)| replace(path, text))
}

/// Writes the lock files that are not as they should be, and tells which.
pub(super) fn lock_files(root: &Path, locks: &Locks) -> Result<Vec<PathBuf>, Failure> {
    let texts = [
        (
            ACTIONS_LOCK,
            locks.actions.as_ref().map(ActionsLock::to_text),
        ),
        (
            MAYFLY_LOCK,
            locks.companion.as_ref().map(Companion::to_text),
        ),
    ];
    let mut written = Vec::new();
    for (name, text) in texts {
        let Some(text) = text else { continue };
        let path = root.join(name);
        if std::fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
            std::fs::create_dir_all(folder_of(&path))?;
            replace(&path, &text)?;
            written.push(PathBuf::from(name));
        }
    }
    Ok(written)
}

/// Puts a file's new text in its place whole, with the permissions that it had.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let folder = folder_of(path);
    let mut file = tempfile::NamedTempFile::new_in(&folder)?;
    file.write_all(text.as_bytes())?;
    let permissions = match std::fs::metadata(path) {
        Ok(old) => old.permissions(),
        Err(_) => std::os::unix::fs::PermissionsExt::from_mode(0o644),
    };
    file.as_file().set_permissions(permissions)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(&folder)?.sync_all()?;
    Ok(())
}
