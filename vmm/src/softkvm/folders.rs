//! Which folders the command writes for real.

use std::path::{Path, PathBuf};

/// Trees that the machine has of its own, so that no folder below them can be the host's.
const OWN_TREES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Why a folder cannot be written for real.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It does not exist or is not a folder.
    #[error("cannot write {path} for real: {cause}; name a folder that exists")]
    Unusable {
        /// As it was given.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// It is the root, or below `/proc`, `/sys` or `/dev`.
    #[error(
        "cannot write {0} for real: the root and the machine's own /proc, /sys and /dev never are"
    )]
    Own(PathBuf),
}

/// Where the folders come from.
#[derive(Debug)]
pub(super) struct Sources<'a> {
    pub(super) cwd: &'a Path,
    pub(super) home: Option<PathBuf>,
    pub(super) state: Option<PathBuf>,
    pub(super) named: &'a [PathBuf],
}

/// The folders in the order in which they have to be bound: outer ones first, none twice.
///
/// The usual folders are left out when they are missing or may not be real (a working directory of
/// `/` would make the whole file system real); a folder that was named must be right.
pub(super) fn real_folders(sources: &Sources<'_>) -> Result<Vec<PathBuf>, FolderError> {
    let mut folders = Vec::new();
    let usual = [
        Some(sources.cwd),
        sources.home.as_deref(),
        sources.state.as_deref(),
    ];
    for folder in usual.into_iter().flatten() {
        folders.extend(resolve(folder).ok());
    }
    for folder in sources.named {
        folders.push(resolve(folder)?);
    }
    folders.sort();
    // A folder inside another real one is real already.
    folders.dedup_by(|inner, outer| inner.starts_with(outer));
    Ok(folders)
}

fn resolve(folder: &Path) -> Result<PathBuf, FolderError> {
    let unusable = |cause| FolderError::Unusable {
        path: folder.to_owned(),
        cause,
    };
    let path = folder.canonicalize().map_err(unusable)?;
    if !path.is_dir() {
        return Err(unusable(std::io::Error::from(
            std::io::ErrorKind::NotADirectory,
        )));
    }
    if path == Path::new("/") || OWN_TREES.iter().any(|tree| path.starts_with(tree)) {
        return Err(FolderError::Own(folder.to_owned()));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(
        cwd: &Path,
        home: Option<&Path>,
        named: &[PathBuf],
    ) -> Result<Vec<PathBuf>, FolderError> {
        let home = home.map(Path::to_owned);
        real_folders(&Sources {
            cwd,
            home,
            state: Some("/does/not/exist".into()),
            named,
        })
    }

    #[test]
    fn a_folder_inside_another_is_bound_once() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let cwd = home.join("project");
        std::fs::create_dir_all(cwd.join("out")).unwrap();
        let sibling = home.with_extension("sibling");
        std::fs::create_dir(&sibling).unwrap();
        let found = folders(&cwd, Some(&home), &[cwd.join("out"), sibling.clone()]);
        std::fs::remove_dir(&sibling).unwrap();
        assert_eq!(found.unwrap(), [home, sibling]);
    }

    #[test]
    fn a_root_working_directory_does_not_make_everything_real() {
        assert!(folders(Path::new("/"), None, &[]).unwrap().is_empty());
        assert!(
            folders(Path::new("/proc/self"), None, &[])
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn a_named_folder_that_cannot_be_real_is_refused() {
        for name in ["/", "/sys/fs", "/does/not/exist", "/etc/passwd"] {
            let refused = folders(Path::new("/"), None, &[PathBuf::from(name)]);
            assert!(refused.unwrap_err().to_string().contains(name));
        }
    }
}
