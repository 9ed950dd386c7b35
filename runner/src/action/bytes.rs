//! Where the bytes of actions come from.
//!
//! An action's manifest is read on the host from the same bytes that the sandbox gets as a tar
//! stream: what an earlier step does to its copy in the sandbox changes no plan. The bytes are never
//! unpacked on the host.

use std::{
    fmt::Debug,
    io::{self, Write},
    pin::Pin,
    sync::Arc,
};

use crate::job::request::StepAction;

use super::enforce::ImageRefused;
use super::reference::{Reference, ReferenceError, RepositoryReference};

/// Finds actions by reference: in folders of this machine, in the store of pinned actions.
pub trait ActionSource: Debug + Send + Sync {
    /// The bytes behind a reference; the path in it is no matter here.
    ///
    /// # Errors
    /// [`SourceError`] when there are none, or none that may be used.
    fn find(&self, reference: &RepositoryReference) -> Result<Arc<dyn ActionBytes>, SourceError>;

    /// The bytes of the workflow's own repository at its own commit (`$/path`), where they are at
    /// hand.
    fn own(&self) -> Option<Arc<dyn ActionBytes>> {
        None
    }

    /// Makes references known that a job is about to use, all that one file names at once. A source that
    /// knew them before has nothing to do.
    ///
    /// # Errors
    /// [`SourceError`] when none of them may be used.
    fn prepare<'a>(&'a self, references: &'a [RepositoryReference]) -> Preparing<'a> {
        let _ = references;
        Box::pin(async { Ok(Prepared::default()) })
    }

    /// The name under which a container image is pulled: by its digest where images are pinned.
    ///
    /// # Errors
    /// [`ImageRefused`] when nothing pins it and it may not be pulled.
    fn image(&self, image: &str) -> Result<String, ImageRefused> {
        Ok(image.to_owned())
    }

    /// Whether an image that nothing pins is not pulled, so that what cannot be known is not built on.
    fn refuses_unpinned(&self) -> bool {
        false
    }
}

/// [`ActionSource::prepare`] on its way.
pub type Preparing<'a> = Pin<Box<dyn Future<Output = Result<Prepared, SourceError>> + Send + 'a>>;

/// What the job's log says of references that became known.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Lines.
    pub lines: Vec<String>,
    /// What is wrong and stops nothing.
    pub warnings: Vec<String>,
}

/// The bytes of a repository at a ref.
pub trait ActionBytes: Debug + Send + Sync {
    /// Where they are from, for the log.
    fn origin(&self) -> String;

    /// A file of at most `limit` bytes by its path in the repository; `None` if there is none.
    ///
    /// # Errors
    /// Whatever keeps it from being read.
    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>>;

    /// Writes everything as a tar stream with names relative to the top of the repository.
    ///
    /// # Errors
    /// Whatever keeps it from being read or written.
    fn write_tar(&self, sink: &mut dyn Write) -> io::Result<()>;
}

/// Why there is no action behind a reference.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing is known of it.
    #[error(
        "there is nothing behind the action {0} on this machine; give a folder for it with `--action {0}=FOLDER`"
    )]
    Unknown(String),
    /// It became known while the job ran.
    #[error(
        "the action {0} was not known before the job began, so nothing tells which commit is meant; name it \
         in the workflow or in an action of the checkout, or give a folder for it with `--action {0}=FOLDER`"
    )]
    Late(String),
    /// Something that the job uses may not run, so nothing of it is prepared.
    #[error("{0}")]
    Policy(String),
    /// It is not what may run, which was told with all other pins.
    #[error("the action {reference} may not run: {why}")]
    Refused {
        /// The reference.
        reference: String,
        /// The cause, and what to do.
        why: String,
    },
}

/// Knows no actions.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoActions;

impl ActionSource for NoActions {
    fn find(&self, reference: &RepositoryReference) -> Result<Arc<dyn ActionBytes>, SourceError> {
        Err(SourceError::Unknown(bundle(reference)))
    }
}

/// Knows no actions, and why.
#[derive(Debug, Clone)]
pub struct NoSource(pub String);

impl ActionSource for NoSource {
    fn find(&self, _: &RepositoryReference) -> Result<Arc<dyn ActionBytes>, SourceError> {
        Err(SourceError::Policy(self.0.clone()))
    }

    fn image(&self, _: &str) -> Result<String, ImageRefused> {
        Err(ImageRefused::Unknown(self.0.clone()))
    }

    fn refuses_unpinned(&self) -> bool {
        true
    }
}

/// `owner/repo@ref`: what is fetched as a whole.
#[must_use]
pub fn bundle(reference: &RepositoryReference) -> String {
    let repository = &reference.repository;
    format!(
        "{}/{}@{}",
        repository.owner, repository.name, reference.reference
    )
}

/// `$/path` in a file of `parent` spelled out: the same repository at the same commit. Any other action
/// is as it was.
pub fn spell_out(action: &mut StepAction, parent: &RepositoryReference) {
    if let StepAction::Repository {
        name,
        reference,
        repository_type,
        ..
    } = action
        && is_own(repository_type)
    {
        *name = format!("{}/{}", parent.repository.owner, parent.repository.name);
        reference.clone_from(&parent.reference);
        "GitHub".clone_into(repository_type);
    }
}

/// Whether an action belongs to the repository of the file that names it (`$/path`).
pub fn is_own(repository_type: &str) -> bool {
    repository_type.eq_ignore_ascii_case("SelfRepository")
}

/// The reference of a step that uses an action of another repository.
///
/// # Errors
/// [`ReferenceError`] for a message from elsewhere that holds none.
pub fn reference_of(action: &StepAction) -> Result<Option<RepositoryReference>, ReferenceError> {
    let StepAction::Repository {
        name,
        reference,
        repository_type,
        path,
    } = action
    else {
        return Ok(None);
    };
    if !repository_type.eq_ignore_ascii_case("GitHub") {
        return Ok(None);
    }
    let slash = if path.is_empty() { "" } else { "/" };
    let text = format!("{name}{slash}{path}@{reference}");
    match Reference::parse(&text)? {
        Reference::Repository(reference) => Ok(Some(reference)),
        _ => {
            let why = "it names no repository";
            Err(ReferenceError::Shape { text, why })
        }
    }
}
