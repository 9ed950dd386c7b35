//! Where things are: the state folder and the programs that `mayfly` starts.

mod reader;
mod secret_file;
mod serve;
#[cfg(test)]
mod serve_tests;
mod settings;
pub mod size;

use std::{
    env,
    path::{Path, PathBuf},
};

pub use reader::Problem;
pub use secret_file::{SecretFileError, read_secret};
pub use serve::{CredentialFiles, DEFAULT_GROUP, GitHubConfig, Limits, Mode, Pool, ServeConfig};
pub use settings::{ActionSettings, EgressSettings, Settings, SettingsError, file};

/// Folders and programs of this installation.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Images, snapshots and run-time sockets: `$MAYFLY_STATE`, else `$XDG_STATE_HOME/mayfly`,
    /// else `~/.local/state/mayfly`.
    pub state: PathBuf,
    /// Folder of the running executable, in which its companions lie.
    programs: PathBuf,
}

/// Why the installation could not be located.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// No variable names a place for state.
    #[error("no folder for state and cache: set HOME, or MAYFLY_STATE and XDG_CACHE_HOME")]
    NoHome,
    /// The executable's own path is unknown.
    #[error("the path of the running executable cannot be read: {0}; is /proc mounted?")]
    NoExecutable(#[source] std::io::Error),
    /// A program that belongs to the installation is missing.
    #[error("{program} is not beside mayfly in {folder}; build it with `cargo build --release`")]
    NoProgram {
        /// Name of the program.
        program: &'static str,
        /// Where it was looked for.
        folder: PathBuf,
    },
}

impl Installation {
    /// Locates state and programs from the environment and the running executable.
    ///
    /// # Errors
    /// [`LocateError`] when no variable names a home or `/proc` is not mounted.
    pub fn locate() -> Result<Self, LocateError> {
        let executable = env::current_exe().map_err(LocateError::NoExecutable)?;
        let programs = executable.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self {
            state: state_folder()?,
            programs,
        })
    }

    /// An installation with explicit folders, for tests and benches.
    #[must_use]
    pub fn at(state: PathBuf, programs: PathBuf) -> Self {
        Self { state, programs }
    }

    /// The VMM's executable.
    ///
    /// # Errors
    /// [`LocateError::NoProgram`] when it is not there.
    pub fn vmm(&self) -> Result<PathBuf, LocateError> {
        self.program("mayfly-vmm")
    }

    /// The guest agent's static executable, which image builds put into the initramfs.
    ///
    /// # Errors
    /// [`LocateError::NoProgram`] when it is not there.
    pub fn agent(&self) -> Result<PathBuf, LocateError> {
        self.program("mayfly-guest")
    }

    /// The emulator wrapper for hosts without usable KVM.
    ///
    /// # Errors
    /// [`LocateError::NoProgram`] when it is not there.
    pub fn softkvm(&self) -> Result<PathBuf, LocateError> {
        self.program("softkvm")
    }

    /// Folder of downloads that can be made again: `$XDG_CACHE_HOME/mayfly`, else `~/.cache/mayfly`.
    ///
    /// # Errors
    /// [`LocateError::NoHome`] when no variable names a place.
    pub fn cache() -> Result<PathBuf, LocateError> {
        set("XDG_CACHE_HOME")
            .map(|path| path.join("mayfly"))
            .or_else(|| set("HOME").map(|path| path.join(".cache/mayfly")))
            .ok_or(LocateError::NoHome)
    }

    /// Folder of snapshots.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.state.join("snapshots")
    }

    /// Folder of actions, each under the digest of its content.
    #[must_use]
    pub fn actions(&self) -> PathBuf {
        self.state.join("actions")
    }

    /// Folder of this host's keys.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.state.join("keys")
    }

    /// Folder of what references stood for when they were seen.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.state.join("pins")
    }

    /// Folder of caches that jobs saved.
    #[must_use]
    pub fn caches(&self) -> PathBuf {
        self.state.join("caches")
    }

    /// Folder of the supervisor: its lock and the records of its workers.
    #[must_use]
    pub fn serve_folder(&self) -> PathBuf {
        Self::serve_folder_of(&self.state)
    }

    /// Folder of the supervisor whose state folder is `state`.
    #[must_use]
    pub fn serve_folder_of(state: &Path) -> PathBuf {
        state.join("serve")
    }

    /// Folder of unnamed files of running sandboxes, on the state folder's disk.
    #[must_use]
    pub fn run_folder(&self) -> PathBuf {
        self.state.join("run")
    }

    fn program(&self, program: &'static str) -> Result<PathBuf, LocateError> {
        let path = self.programs.join(program);
        if path.is_file() {
            return Ok(path);
        }
        Err(LocateError::NoProgram {
            program,
            folder: self.programs.clone(),
        })
    }
}

fn state_folder() -> Result<PathBuf, LocateError> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("MAYFLY_STATE")
        .or_else(|| set("XDG_STATE_HOME").map(|path| path.join("mayfly")))
        .or_else(|| set("HOME").map(|path| path.join(".local/state/mayfly")))
        .ok_or(LocateError::NoHome)
}

fn set(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}
