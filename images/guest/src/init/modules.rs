//! Loads the kernel modules that the initramfs carries, in the order that its list gives.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;
use thiserror::Error;

/// Why the modules were not loaded.
#[derive(Debug, Error)]
pub(super) enum ModuleError {
    /// The list is not there.
    #[error("reading the list of kernel modules {0}: {1}")]
    List(PathBuf, io::Error),
    /// A file of the list is not there.
    #[error("the kernel module {0}, which the list names, is not in the initramfs: {1}")]
    Missing(PathBuf, io::Error),
    /// The kernel refused one.
    #[error("loading the kernel module {0}: {1}")]
    Refused(PathBuf, io::Error),
}

/// Loads the files that `folder/load` names, one in each line; `#` begins a comment.
pub(super) fn load(folder: &Path) -> Result<(), ModuleError> {
    let list = folder.join("load");
    let text = fs::read_to_string(&list).map_err(|error| ModuleError::List(list, error))?;
    for name in names(&text) {
        let path = folder.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => return Err(ModuleError::Missing(path, error)),
        };
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(ModuleError::Refused(path, errno.into())),
        }
    }
    Ok(())
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    let lines = list.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_the_list_names_and_the_initramfs_lacks_is_named() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let error = load(folder.path()).expect_err("no list");
        assert!(matches!(error, ModuleError::List(..)), "{error}");
        fs::write(
            folder.path().join("load"),
            "# order matters\n\n no-such.ko\n",
        )
        .expect("list");
        let error = load(folder.path()).expect_err("no module");
        assert!(error.to_string().contains("no-such.ko"), "{error}");
    }
}
