//! The files whose references are pinned.

use std::path::{Path, PathBuf};

use crate::action::find::{self, Found};
use crate::action::manifest::MANIFEST_NAMES;
use crate::action::resolve::Root;
use crate::cli::Failure;
use crate::workflow::source::{MAX_FILE_BYTES, Source};

/// A workflow, or the manifest of an action.
pub(super) struct File {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its path in the checkout; as it was given outside of one.
    pub(super) name: String,
    pub(super) text: String,
    pub(super) found: Vec<Found>,
}

/// The folder that holds a file.
pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => ".".into(),
    }
}

/// The files that were named, or all workflows of the checkout.
pub(super) fn read(paths: &[PathBuf], root: Option<&Path>) -> Result<Vec<File>, Failure> {
    if !paths.is_empty() {
        return paths.iter().map(|path| file(path, root)).collect();
    }
    let folder = root.unwrap_or(Path::new("")).join(".github/workflows");
    let listed = std::fs::read_dir(&folder).map_err(|error| {
        let folder = folder.display();
        Failure::usage(anyhow::anyhow!(
            "cannot list {folder}: {error}; name workflow files"
        ))
    })?;
    let workflow = |path: &PathBuf| {
        path.extension()
            .is_some_and(|extension| extension == "yml" || extension == "yaml")
    };
    let mut paths: Vec<PathBuf> = listed
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(workflow)
        .collect();
    paths.sort();
    paths.iter().map(|path| file(path, root)).collect()
}

fn file(path: &Path, root: Option<&Path>) -> Result<File, Failure> {
    let failed =
        |why: String| Failure::usage(anyhow::anyhow!("cannot read {}: {why}", path.display()));
    let length = std::fs::metadata(path)
        .map_err(|error| failed(error.to_string()))?
        .len();
    if length > MAX_FILE_BYTES as u64 {
        let why = format!("it is longer than the {MAX_FILE_BYTES} bytes a workflow may have");
        return Err(failed(why));
    }
    let name = match root {
        None => path.display().to_string(),
        Some(root) => {
            let full = path
                .canonicalize()
                .map_err(|error| failed(error.to_string()))?;
            let below = full.strip_prefix(root).map_err(|_| {
                failed(format!(
                    "it is not in the checkout {}; run the command there",
                    root.display()
                ))
            })?;
            below.display().to_string()
        }
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let manifest = path
        .file_name()
        .is_some_and(|name| MANIFEST_NAMES.iter().any(|known| name == *known));
    let source = Source::new(&name, text.as_str());
    let found = match manifest {
        true => find::in_action(&source),
        false => find::in_workflow(&source),
    };
    Ok(File {
        path: path.to_owned(),
        name,
        text,
        found: found.map_err(Failure::usage)?,
    })
}

/// The files with what they say, to be followed.
pub(super) fn roots(files: &[File]) -> Vec<Root> {
    let root = |file: &File| Root {
        file: file.name.clone(),
        found: file.found.clone(),
    };
    files.iter().map(root).collect()
}
