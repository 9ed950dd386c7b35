//! The actions of one job: found, read on the host, and copied into the sandbox once.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::io::SyncIoBridge;

use crate::{
    action::{
        bytes::{ActionBytes, Prepared, SourceError, bundle, is_own, reference_of},
        manifest::{MANIFEST_NAMES, MAX_MANIFEST, Manifest, ManifestError},
        reference::{Reference, ReferenceError, RepositoryReference, local_path},
    },
    sandbox::{Sandbox, SandboxError},
};

use super::{
    Options,
    contexts::JobContext,
    files::bounded,
    request::{JobRequest, StepAction},
    setup::{OwnerError, own},
    steps::MAX_PRES,
};

/// Deepest nesting of composite actions, as the official runner has it.
pub(crate) const MAX_DEPTH: usize = 9;

/// Most actions by reference of one job.
const MAX_ACTIONS: usize = 1000;

/// Bytes that may wait between packing and unpacking.
const PIPE_BYTES: usize = 256 << 10;

/// How long copying one action may take.
const COPY: Duration = Duration::from_secs(10 * 60);

/// An action, ready to run.
#[derive(Debug)]
pub(super) struct Action {
    /// What messages call it: `./path` or `owner/repo/path@ref`.
    pub(super) name: String,
    /// Its folder in the sandbox.
    pub(super) directory: String,
    /// What it says of itself.
    pub(super) manifest: Manifest,
    /// The manifest's file, for places in messages.
    pub(super) files: Arc<[String]>,
    /// The reference; none for one of the workspace.
    pub(super) reference: Option<RepositoryReference>,
}

/// Why there is no action to run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActionError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(
        "Can't find 'action.yml', 'action.yaml' or 'Dockerfile' under '{0}'. Did you forget to run \
         actions/checkout before running your local action?"
    )]
    NoLocal(String),
    #[error("Can't find 'action.yml', 'action.yaml' or 'Dockerfile' for action '{0}'.")]
    NoManifest(String),
    #[error("reading the action {name}: {cause}")]
    Read { name: String, cause: std::io::Error },
    #[error("copying the action {name} into the sandbox: {cause}")]
    Copy { name: String, cause: SandboxError },
    #[error("packing the action {name}: {cause}")]
    Pack { name: String, cause: std::io::Error },
    #[error("Composite action depth exceeded max depth {MAX_DEPTH}")]
    Depth,
    #[error("this job uses more than {MAX_ACTIONS} actions")]
    TooMany,
    #[error(
        "the action {0} has, with the actions inside of it, more than {MAX_PRES} steps; use fewer"
    )]
    TooManyStages(String),
    #[error(
        "the action $/{0} cannot be found: the run does not tell the workflow's own repository; write \
         `./` and its path instead"
    )]
    Own(String),
    #[error("giving the action to the steps' user: {0}")]
    Owner(#[from] OwnerError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

impl ActionError {
    /// The loss of the sandbox, if it is that.
    pub(super) fn lost(self) -> Result<SandboxError, Self> {
        match self {
            Self::Sandbox(error @ SandboxError::Lost(_))
            | Self::Owner(OwnerError::Sandbox(error @ SandboxError::Lost(_)))
            | Self::Copy {
                cause: error @ SandboxError::Lost(_),
                ..
            } => Ok(error),
            other => Err(other),
        }
    }
}

/// Actions by reference that are in the sandbox already.
#[derive(Debug, Default)]
pub(super) struct Actions {
    /// The workflow's own repository at its own commit.
    own: Option<RepositoryReference>,
    known: Mutex<HashMap<String, Arc<Action>>>,
    copied: tokio::sync::Mutex<HashMap<String, Arc<dyn ActionBytes>>>,
}

impl Actions {
    /// None yet, for a job of this request.
    pub(super) fn of(request: &JobRequest) -> Self {
        let github = request.context_data.get("github");
        let text = |key: &str| {
            let value = github.and_then(|github| github.get(key)?.as_str());
            value.filter(|text| !text.is_empty())
        };
        let commit = text("workflow_sha").or_else(|| text("sha"));
        let own = text("repository").and_then(|repository| {
            let reference = format!("{repository}@{}", commit.unwrap_or("HEAD"));
            match Reference::parse(&reference).ok()? {
                Reference::Repository(reference) => Some(reference),
                _ => None,
            }
        });
        Self {
            own,
            ..Self::default()
        }
    }

    /// The reference of an action that is not of the workspace.
    ///
    /// # Errors
    /// It is none, or `$/path` and the own repository is not known.
    pub(super) fn reference_of(
        &self,
        action: &StepAction,
    ) -> Result<Option<RepositoryReference>, ActionError> {
        match action {
            StepAction::Repository {
                repository_type,
                path,
                ..
            } if is_own(repository_type) => {
                let wrong = || ActionError::Own(path.clone());
                let own = self.own.as_ref().ok_or_else(wrong)?;
                let inside = local_path(&path.replace('\\', "/"));
                Ok(Some(RepositoryReference {
                    path: inside.ok_or_else(wrong)?,
                    ..own.clone()
                }))
            }
            other => Ok(reference_of(other)?),
        }
    }

    /// Whether a reference is of the workflow's own repository at its own commit.
    fn is_own(&self, reference: &RepositoryReference) -> bool {
        let is_same = |own: &RepositoryReference| own.key() == reference.key();
        self.own.as_ref().is_some_and(is_same)
    }

    /// The action of a step; one by reference is copied into the sandbox first, once.
    pub(super) async fn load<S: Sandbox>(
        &self,
        sandbox: &S,
        options: &Options,
        context: &JobContext<'_>,
        action: &StepAction,
    ) -> Result<Arc<Action>, ActionError> {
        if let Some(reference) = self.reference_of(action)? {
            return self.by_reference(sandbox, options, &reference).await;
        }
        match action {
            StepAction::Repository {
                repository_type,
                path,
                ..
            } if repository_type.eq_ignore_ascii_case("self") => {
                local(sandbox, &context.layout.workspace, path).await
            }
            _ => Err(ActionError::NoManifest(String::new())),
        }
    }

    async fn by_reference<S: Sandbox>(
        &self,
        sandbox: &S,
        options: &Options,
        reference: &RepositoryReference,
    ) -> Result<Arc<Action>, ActionError> {
        let name = reference.to_string();
        if let Some(known) = self.lock().get(&name) {
            return Ok(Arc::clone(known));
        }
        if self.lock().len() >= MAX_ACTIONS {
            return Err(ActionError::TooMany);
        }
        let root = format!("{}/_actions/{}", options.work, folder(reference));
        let mut copied = self.copied.lock().await;
        let key = reference.key().as_str().to_owned();
        let bytes = match copied.get(&key) {
            Some(bytes) => Arc::clone(bytes),
            None => {
                // What names the own repository's commit is that commit where it is known; the checkout may
                // hold other files.
                let own = || options.actions.own().filter(|_| self.is_own(reference));
                let bytes = match options.actions.find(reference) {
                    Ok(bytes) => bytes,
                    Err(error) => own().ok_or(error)?,
                };
                copy(sandbox, options, &bundle(reference), &root, &bytes).await?;
                copied.insert(key, Arc::clone(&bytes));
                bytes
            }
        };
        drop(copied);
        let (mut manifest, file) = read_manifest(bytes.as_ref(), reference)?;
        manifest.belong_to(reference);
        let slash = if reference.path.is_empty() { "" } else { "/" };
        let action = Arc::new(Action {
            name: name.clone(),
            directory: format!("{root}{slash}{}", reference.path),
            manifest,
            files: [file].into(),
            reference: Some(reference.clone()),
        });
        self.lock().insert(name, Arc::clone(&action));
        Ok(action)
    }

    /// The action of a reference that was loaded already.
    pub(super) fn known(&self, action: &StepAction) -> Option<Arc<Action>> {
        let reference = self.reference_of(action).ok()??;
        self.lock().get(&reference.to_string()).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Action>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads what the composite actions among `steps` use in turn, all that is used by reference, level by
    /// level: the source is asked for those of a level at once. Gives what the log says of it.
    pub(super) async fn load_all<S: Sandbox>(
        &self,
        sandbox: &S,
        options: &Options,
        context: &JobContext<'_>,
        steps: Vec<StepAction>,
        depth: usize,
    ) -> Result<Prepared, ActionError> {
        let mut said = Prepared::default();
        let mut level = steps;
        // A circle ends at the limit.
        for depth in depth.. {
            let level_now = self.each_once(std::mem::take(&mut level))?;
            if level_now.is_empty() {
                break;
            }
            if depth > MAX_DEPTH {
                return Err(ActionError::Depth);
            }
            let is_asked = |reference: &RepositoryReference| {
                options.actions.own().is_none() || !self.is_own(reference)
            };
            let references = level_now.iter().map(|(_, reference)| reference);
            let references: Vec<_> = references.filter(|of| is_asked(of)).cloned().collect();
            let prepared = options.actions.prepare(&references).await?;
            said.lines.extend(prepared.lines);
            said.warnings.extend(prepared.warnings);
            for (step, _) in level_now {
                let action = self.load(sandbox, options, context, &step).await?;
                let inner = action.manifest.steps().iter();
                level.extend(inner.map(|inner| inner.request.action.clone()));
            }
        }
        Ok(said)
    }

    /// Those of some steps that run an action by reference, each action once.
    fn each_once(
        &self,
        steps: Vec<StepAction>,
    ) -> Result<Vec<(StepAction, RepositoryReference)>, ActionError> {
        let mut seen = HashSet::new();
        let mut once = Vec::new();
        for step in steps {
            if let Some(reference) = self.reference_of(&step)?
                && seen.insert(reference.to_string())
            {
                once.push((step, reference));
            }
        }
        Ok(once)
    }
}

/// `owner/repo/ref`.
fn folder(reference: &RepositoryReference) -> String {
    let repository = &reference.repository;
    format!(
        "{}/{}/{}",
        repository.owner, repository.name, reference.reference
    )
}

/// Hands the bytes to the sandbox, to the steps' user.
async fn copy<S: Sandbox>(
    sandbox: &S,
    options: &Options,
    name: &str,
    directory: &str,
    bytes: &Arc<dyn ActionBytes>,
) -> Result<(), ActionError> {
    let (writer, reader) = tokio::io::duplex(PIPE_BYTES);
    let mut writer = SyncIoBridge::new(writer);
    let packed = Arc::clone(bytes);
    let packer = tokio::task::spawn_blocking(move || packed.write_tar(&mut writer));
    let copying = async {
        tokio::time::timeout(COPY, sandbox.copy_in(directory, reader))
            .await
            .unwrap_or_else(|_| Err(SandboxError::Lost(format!("copying {name} took too long"))))
    };
    let copied = copying.await;
    let name = name.to_owned();
    match packer.await {
        // The sandbox hung up first: its words are the cause.
        Ok(Err(cause)) if copied.is_ok() || cause.kind() != std::io::ErrorKind::BrokenPipe => {
            return Err(ActionError::Pack { name, cause });
        }
        Err(panicked) => {
            let cause = std::io::Error::other(panicked);
            return Err(ActionError::Pack { name, cause });
        }
        Ok(_) => {}
    }
    copied.map_err(|cause| ActionError::Copy { name, cause })?;
    Ok(own(sandbox, options, directory).await?)
}

/// The manifest of an action by reference, and what messages call its file.
pub(crate) fn read_manifest(
    bytes: &dyn ActionBytes,
    reference: &RepositoryReference,
) -> Result<(Manifest, String), ActionError> {
    let inside = |name: &str| match reference.path.as_str() {
        "" => name.to_owned(),
        path => format!("{path}/{name}"),
    };
    let read = |name: &str| {
        bytes
            .read(&inside(name), MAX_MANIFEST)
            .map_err(|cause| ActionError::Read {
                name: reference.to_string(),
                cause,
            })
    };
    for name in MANIFEST_NAMES {
        if let Some(content) = read(name)? {
            let file = format!("{}/{}", folder(reference), inside(name));
            let manifest = Manifest::parse(&file, &String::from_utf8_lossy(&content))?;
            return Ok((manifest, file));
        }
    }
    if read("Dockerfile")?.is_some() {
        return Ok((Manifest::dockerfile(), inside("Dockerfile")));
    }
    Err(ActionError::NoManifest(reference.to_string()))
}

/// An action of the workspace as it is there now.
async fn local<S: Sandbox>(
    sandbox: &S,
    workspace: &str,
    path: &str,
) -> Result<Arc<Action>, ActionError> {
    let shown = path.replace('\\', "/");
    let inside = shown.trim_start_matches("./").trim_end_matches('/');
    let inside = if inside == "." { "" } else { inside };
    let directory = format!("{workspace}/{inside}");
    let directory = directory.trim_end_matches('/').to_owned();
    let read = async |name: &str| {
        let file = format!("{directory}/{name}");
        let read = sandbox.read_file(&file, MAX_MANIFEST);
        bounded("reading an action's manifest", read).await
    };
    let shown = |name: &str| match inside {
        "" => name.to_owned(),
        inside => format!("{inside}/{name}"),
    };
    let mut found = None;
    for name in MANIFEST_NAMES {
        if let Some(content) = read(name).await? {
            let file = shown(name);
            let manifest = Manifest::parse(&file, &String::from_utf8_lossy(&content))?;
            found = Some((manifest, file));
            break;
        }
    }
    if found.is_none() && read("Dockerfile").await?.is_some() {
        found = Some((Manifest::dockerfile(), shown("Dockerfile")));
    }
    let Some((manifest, file)) = found else {
        return Err(ActionError::NoLocal(directory));
    };
    Ok(Arc::new(Action {
        name: path.to_owned(),
        directory,
        manifest,
        files: [file].into(),
        reference: None,
    }))
}
