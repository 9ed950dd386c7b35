//! Real git repositories for tests, as a mirror, as a checkout, and as GitHub's API tells them.

mod github;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use super::{source::GitMirror, store::ActionStore};
use crate::checkout::Checkout;

pub(crate) use github::FakeGitHub;

/// An action that JavaScript runs.
pub(crate) const NODE: &str = "runs: {using: node20, main: x.js}\n";

/// What git prints, run as somebody whose configuration does not matter.
pub(crate) fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=a", "-c", "user.email=a@example.com"])
        .args(["-c", "init.defaultBranch=main"])
        .args(["-c", "protocol.file.allow=always"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Writes files below a folder.
pub(crate) fn write(folder: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// Repositories below one folder, a checkout, and a store of actions.
pub(crate) struct Repositories {
    pub(crate) folder: tempfile::TempDir,
}

impl Repositories {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self { folder };
        std::fs::create_dir_all(world.work()).unwrap();
        std::fs::create_dir_all(world.base()).unwrap();
        git(&world.work(), &["init", "-q"]);
        world
    }

    /// The folder of all repositories: a mirror.
    pub(crate) fn base(&self) -> PathBuf {
        self.folder.path().join("git")
    }

    /// A checkout.
    pub(crate) fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        self.base().join(name)
    }

    /// A commit of a repository, which is made if need be, with tags that stand for it.
    pub(crate) fn commit(&self, name: &str, files: &[(&str, &str)], tags: &[&str]) -> String {
        let folder = self.repository(name);
        if !folder.exists() {
            std::fs::create_dir_all(&folder).unwrap();
            git(&folder, &["init", "-q"]);
        }
        write(&folder, files);
        git(&folder, &["add", "."]);
        git(&folder, &["commit", "-q", "--allow-empty", "-m", "x"]);
        for tag in tags {
            git(&folder, &["tag", "-f", tag]);
        }
        git(&folder, &["rev-parse", "HEAD"])
    }

    pub(crate) fn mirror(&self) -> GitMirror {
        GitMirror::open(self.base().to_str().unwrap()).unwrap()
    }

    pub(crate) fn checkout(&self) -> Arc<Checkout> {
        Arc::new(Checkout::containing(&self.work()).unwrap())
    }

    pub(crate) fn store(&self) -> ActionStore {
        ActionStore::at(self.folder.path().join("actions"))
    }
}
