//! Artifacts of one run: kept as long as the run, seen by all of its jobs.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::blobs::Blob;

/// Most artifacts of a run.
const MAX_ARTIFACTS: usize = 500;
/// Most bytes of all artifacts of a run.
pub const MAX_BYTES: u64 = 10 << 30;
/// Longest name, in characters.
const MAX_NAME: usize = 256;
/// What a name must not hold: GitHub leaves out what some file system does not have.
const NOT_IN_NAMES: [char; 9] = ['"', ':', '<', '>', '|', '*', '?', '\\', '/'];
/// The type of an archive, which most artifacts are.
pub const ZIP: &str = "application/zip";

/// An artifact.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// Its number in this run.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its type of content.
    pub mime: String,
    /// The job that made it.
    pub job: Uuid,
    /// When it was made.
    pub created: Timestamp,
    /// `sha256:` and the digest of its content.
    pub digest: String,
    /// Its content.
    pub content: Arc<Blob>,
}

/// Why an artifact was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The name is none.
    #[error(
        "an artifact's name must have 1 to {MAX_NAME} characters, no control character and none of \
         \" : < > | * ? \\ /"
    )]
    Name,
    /// There is such an artifact.
    #[error("an artifact with this name already exists on the workflow run")]
    Exists,
    /// Too many.
    #[error("a run may have {MAX_ARTIFACTS} artifacts and {MAX_BYTES} bytes in them")]
    TooMany,
    /// Another content than announced.
    #[error("the content that arrived has not the digest that was announced")]
    Digest,
    /// The disk.
    #[error("reading the artifact: {0}")]
    Io(#[source] io::Error),
}

/// The artifacts of one run.
#[derive(Debug, Default)]
pub struct Artifacts {
    known: Mutex<(u64, Vec<Artifact>)>,
}

impl Artifacts {
    /// Whether an artifact of this name may be made.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn check(&self, name: &str) -> Result<(), ArtifactError> {
        if !is_name(name) {
            return Err(ArtifactError::Name);
        }
        let known = self.lock();
        if known.1.iter().any(|artifact| artifact.name == name) {
            return Err(ArtifactError::Exists);
        }
        match known.1.len() < MAX_ARTIFACTS {
            true => Ok(()),
            false => Err(ArtifactError::TooMany),
        }
    }

    /// Adds an artifact; reads all of its content. Gives its number.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub fn add(
        &self,
        name: &str,
        mime: String,
        job: Uuid,
        content: Blob,
        announced: Option<&str>,
    ) -> Result<u64, ArtifactError> {
        let digest = digest(&content).map_err(ArtifactError::Io)?;
        if announced.is_some_and(|announced| announced != digest) {
            return Err(ArtifactError::Digest);
        }
        self.check(name)?;
        let mut known = self.lock();
        let kept: u64 = known.1.iter().map(|a| a.content.size()).sum();
        if kept.saturating_add(content.size()) > MAX_BYTES || known.1.len() >= MAX_ARTIFACTS {
            return Err(ArtifactError::TooMany);
        }
        if known.1.iter().any(|artifact| artifact.name == name) {
            return Err(ArtifactError::Exists);
        }
        known.0 += 1;
        let id = known.0;
        known.1.push(Artifact {
            id,
            name: name.to_owned(),
            mime,
            job,
            created: Timestamp::now(),
            digest,
            content: Arc::new(content),
        });
        Ok(id)
    }

    /// Those with this name and number, where one is asked for; the newest first.
    #[must_use]
    pub fn list(&self, name: Option<&str>, id: Option<u64>) -> Vec<Artifact> {
        let known = self.lock();
        let asked = |artifact: &&Artifact| {
            name.is_none_or(|name| name == artifact.name) && id.is_none_or(|id| id == artifact.id)
        };
        known.1.iter().rev().filter(asked).cloned().collect()
    }

    /// Removes one; gives its number.
    #[must_use]
    pub fn remove(&self, name: &str) -> Option<u64> {
        let mut known = self.lock();
        let at = known.1.iter().position(|artifact| artifact.name == name)?;
        Some(known.1.remove(at).id)
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Vec<Artifact>)> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an artifact may have this name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let wrong = |c: char| c.is_control() || NOT_IN_NAMES.contains(&c);
    !name.is_empty() && name.chars().count() <= MAX_NAME && !name.contains(wrong)
}

fn digest(content: &Blob) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut reader = content.reader(0, content.size());
    let mut piece = vec![0; 256 << 10];
    loop {
        match io::Read::read(&mut reader, &mut piece)? {
            0 => break,
            read => digest.update(&piece[..read]),
        }
    }
    Ok(format!("sha256:{}", hex::encode(digest.finalize())))
}
