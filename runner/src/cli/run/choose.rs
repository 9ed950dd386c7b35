//! Which workflow file and which of its jobs are run.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::workflow::plan::{Plan, PrepareError};

/// Why no workflow was chosen.
#[derive(Debug, thiserror::Error)]
pub enum ChooseError {
    /// There is none.
    #[error("no workflow file in {0}; name one: mayfly run PATH")]
    None(PathBuf),
    /// There are several.
    #[error("several workflow files in {folder}: {names}; name one: mayfly run PATH")]
    Several {
        /// Where they are.
        folder: PathBuf,
        /// Their names.
        names: String,
    },
}

/// The only workflow file in a folder.
pub fn only_workflow(folder: &Path) -> Result<PathBuf, ChooseError> {
    let entries = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let mut found: Vec<PathBuf> = entries
        .filter(|path| {
            path.extension()
                .is_some_and(|end| end == "yml" || end == "yaml")
        })
        .collect();
    found.sort();
    match found.as_slice() {
        [] => Err(ChooseError::None(folder.to_owned())),
        [one] => Ok(one.clone()),
        several => {
            let names = several.iter().filter_map(|path| path.file_name()?.to_str());
            Err(ChooseError::Several {
                folder: folder.to_owned(),
                names: names.collect::<Vec<_>>().join(", "),
            })
        }
    }
}

/// Ids of the jobs to run in order: all, or one with all that it needs.
pub fn selected(plan: &Plan, job: Option<&str>) -> Result<Vec<String>, PrepareError> {
    let Some(id) = job else {
        return Ok(plan.jobs().map(|job| job.id.clone()).collect());
    };
    let job = plan.job(id)?;
    let ancestors = plan.ancestors(job);
    let wanted = |other: &str| other == job.id || ancestors.contains(&other);
    Ok(plan
        .jobs()
        .map(|job| job.id.clone())
        .filter(|id| wanted(id))
        .collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{ChooseError, only_workflow};

    #[test]
    fn one_workflow_is_taken_none_and_several_are_errors_that_name_them() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            only_workflow(folder.path()),
            Err(ChooseError::None(_))
        ));
        fs::write(folder.path().join("a.yml"), "").unwrap();
        fs::write(folder.path().join("notes.txt"), "").unwrap();
        assert!(only_workflow(folder.path()).unwrap().ends_with("a.yml"));
        fs::write(folder.path().join("b.yaml"), "").unwrap();
        assert!(
            only_workflow(folder.path())
                .unwrap_err()
                .to_string()
                .contains("a.yml, b.yaml")
        );
    }
}
