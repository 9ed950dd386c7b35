//! The files of one step in its sandbox: the script and the environment files.

use std::{
    future::Future,
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::sandbox::{Sandbox, SandboxError};

use super::env_files::{DIRECTORY, EnvFile};

/// How long the sandbox may take for a small request, before it is taken for lost: step code may
/// have taken it over, and must not hold up the job forever.
const ANSWER: Duration = Duration::from_secs(60);

/// Names of the files of one step.
#[derive(Debug)]
pub(super) struct StepFiles {
    temp: String,
    id: Uuid,
    /// The script, once it is written.
    script: OnceLock<String>,
    /// Set once the files were written.
    written: OnceLock<()>,
}

impl StepFiles {
    /// New names below the temporary directory of the job.
    pub(super) fn new(temp: &str) -> Self {
        Self {
            temp: temp.to_owned(),
            id: Uuid::new_v4(),
            script: OnceLock::new(),
            written: OnceLock::new(),
        }
    }

    /// What the environment of this step's processes holds and that of no other step's.
    pub(super) fn mark(&self) -> String {
        self.id.to_string()
    }

    /// The path of an environment file.
    pub(super) fn path(&self, file: EnvFile) -> String {
        format!("{}/{}", self.temp, self.name(file))
    }

    /// The path of the script.
    pub(super) fn script_path(&self, extension: &str) -> String {
        format!("{}/{}{extension}", self.temp, self.id)
    }

    /// The folder of the environment files.
    pub(super) fn directory(&self) -> String {
        format!("{}/{DIRECTORY}", self.temp)
    }

    /// Whether there are files to read and to remove.
    pub(super) fn are_written(&self) -> bool {
        self.written.get().is_some()
    }

    /// Writes the environment files, empty, and the script in one go.
    pub(super) async fn write<S: Sandbox>(
        &self,
        sandbox: &S,
        script: Option<(&str, &[u8])>,
    ) -> Result<(), SandboxError> {
        let mut archive = Archive::new();
        archive.directory(DIRECTORY, 0o777)?;
        for file in EnvFile::ALL {
            // The step's user need not be the one who makes the files.
            archive.file(&self.name(file), 0o666, b"")?;
        }
        if let Some((path, content)) = script {
            let name = path.strip_prefix(&self.temp).unwrap_or(path);
            archive.file(name.trim_start_matches('/'), 0o644, content)?;
            self.script.get_or_init(|| path.to_owned());
        }
        let bytes = archive.finish()?;
        self.written.get_or_init(|| ());
        let copy = sandbox.copy_in(&self.temp, &bytes[..]);
        bounded("writing the step's files", copy).await
    }

    /// Reads an environment file; `None` if the step removed it.
    pub(super) async fn read<S: Sandbox>(
        &self,
        sandbox: &S,
        file: EnvFile,
    ) -> Result<Option<Vec<u8>>, SandboxError> {
        let path = self.path(file);
        let read = sandbox.read_file(&path, file.limit());
        bounded("reading the step's files", read).await
    }

    /// Removes the script and the environment files: they may hold secrets of this step. With
    /// `others`, other steps of the job may have theirs in the same directory.
    pub(super) async fn remove<S: Sandbox>(
        &self,
        sandbox: &S,
        others: bool,
    ) -> Result<(), SandboxError> {
        let mut paths: Vec<String> = self.script.get().cloned().into_iter().collect();
        if others {
            paths.extend(EnvFile::ALL.map(|file| self.path(file)));
        } else {
            paths.push(self.directory());
        }
        let removals = paths.iter().map(|path| sandbox.remove(path));
        let all = async {
            let removed = join_all(removals).await;
            removed.into_iter().collect::<Result<(), _>>()
        };
        bounded("removing the step's files", all).await
    }

    fn name(&self, file: EnvFile) -> String {
        format!("{DIRECTORY}/{}{}", file.prefix(), self.id)
    }
}

/// Waits for the sandbox, but not forever.
///
/// # Errors
/// [`SandboxError::Lost`] when it did not answer in time.
pub(super) async fn bounded<T>(
    what: &str,
    request: impl Future<Output = Result<T, SandboxError>>,
) -> Result<T, SandboxError> {
    let seconds = ANSWER.as_secs();
    let lost = || SandboxError::Lost(format!("no answer for {seconds} seconds while {what}"));
    tokio::time::timeout(ANSWER, request)
        .await
        .map_err(|_| lost())?
}

/// A small tar archive in memory, wiped afterwards.
pub(super) struct Archive {
    builder: tar::Builder<Vec<u8>>,
    /// Seconds since 1970.
    now: u64,
}

impl Archive {
    pub(super) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            builder: tar::Builder::new(Vec::new()),
            now: now.map_or(0, |now| now.as_secs()),
        }
    }

    /// Adds a file.
    pub(super) fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> std::io::Result<()> {
        self.entry(name, mode, tar::EntryType::Regular, content)
    }

    /// Adds a directory.
    pub(super) fn directory(&mut self, name: &str, mode: u32) -> std::io::Result<()> {
        self.entry(name, mode, tar::EntryType::Directory, b"")
    }

    /// The archive.
    pub(super) fn finish(self) -> std::io::Result<Zeroizing<Vec<u8>>> {
        self.builder.into_inner().map(Zeroizing::new)
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        kind: tar::EntryType,
        content: &[u8],
    ) -> std::io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(self.now);
        header.set_size(content.len() as u64);
        self.builder.append_data(&mut header, name, content)
    }
}
