//! Control groups (v2): what a process started, however it hides, is limited and can be killed.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

/// A control group's directory.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes a group, or takes over the one that is there.
    ///
    /// # Errors
    /// The kernel's, with the path.
    pub fn create(path: &Path) -> io::Result<Self> {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(at(path, &error));
            }
            _ => {}
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Makes a group below this one.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn child(&self, name: &str) -> io::Result<Self> {
        Self::create(&self.path.join(name))
    }

    /// Writes one of the group's files.
    ///
    /// # Errors
    /// The kernel's, with the path.
    pub fn set(&self, file: &str, value: &str) -> io::Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).map_err(|error| at(&path, &error))
    }

    /// The file into which a process writes `0` to join.
    ///
    /// # Errors
    /// The kernel's, with the path.
    pub fn procs(&self) -> io::Result<File> {
        let path = self.path.join("cgroup.procs");
        let opened = OpenOptions::new().write(true).open(&path);
        opened.map_err(|error| at(&path, &error))
    }

    /// Kills every process in the group and below; one that is gone already is no error.
    pub fn kill(&self) {
        // The group may have been removed; nothing can be in it then.
        let _ = self.set("cgroup.kill", "1");
    }

    /// Removes the group if nothing is left in it: a daemon that a step left running keeps it.
    pub fn remove_if_empty(&self) {
        let _ = fs::remove_dir(&self.path);
    }
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
