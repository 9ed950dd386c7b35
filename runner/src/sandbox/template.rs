//! Templates: the snapshot of an image booted up to "agent ready", made once per image, machine size,
//! host CPU and VMM version, and shared by every sandbox restored from it.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mayfly_images::{
    progress::Progress,
    store::{Image, ImageGuard, StoreError, VerifyError},
};
use mayfly_vmm::{
    config::MachineConfig,
    control::{Command, Outcome, SnapshotParts},
    process::CommandVmmError,
    snapshot::{
        directory::{OpenSnapshotError, Snapshot, SnapshotDraft, Verify, WriteSnapshotError},
        manifest::SnapshotKey,
    },
};

use super::{
    SandboxError,
    identity::Uniqueness,
    machine::{Disks, Machine, StartFrom, StartMachineError, remove_abandoned},
};
use crate::config::Installation;

/// How long a guest may take from power-on to a ready agent; emulated machines are slow.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// How long writing a snapshot may take.
const SAVE_LIMIT: Duration = Duration::from_secs(180);
/// How long a command that only touches memory may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// A checked snapshot with the image that it was booted from; cheap to clone.
#[derive(Debug, Clone)]
pub struct Template {
    /// The snapshot, its files open.
    pub snapshot: Arc<Snapshot>,
    /// The image.
    pub image: Arc<Image>,
    /// Keeps the image from being removed.
    _guard: Arc<ImageGuard>,
}

/// Why there is no template to restore.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The image is not what its manifest says.
    #[error(transparent)]
    Image(#[from] VerifyError),
    /// The image's files or the snapshot folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The snapshot is there and cannot be used.
    #[error(transparent)]
    Open(#[from] OpenSnapshotError),
    /// The snapshot could not be written.
    #[error(transparent)]
    Write(#[from] WriteSnapshotError),
    /// The machine could not be started.
    #[error(transparent)]
    Start(#[from] StartMachineError),
    /// The guest did not come up.
    #[error("image {image} did not come up: {how}; its console ended with:\n{console}")]
    Boot {
        /// The image.
        image: String,
        /// What the agent or the VMM said.
        how: String,
        /// The end of the console.
        console: String,
    },
    /// The VMM could not pause or save the machine.
    #[error("saving the machine: {0}")]
    Save(#[from] CommandVmmError),
    /// A file or folder on the host.
    #[error("{step} {path}: {cause}")]
    Host {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
}

impl Template {
    /// The template of an image for a machine size: opened if there is one, made otherwise.
    ///
    /// Processes that want the same one wait for each other, and only the first makes it.
    ///
    /// # Errors
    /// [`TemplateError`]. A damaged snapshot is an error and is not replaced silently.
    pub async fn ensure(
        installation: &Installation,
        image: Image,
        size: MachineConfig,
        progress: &mut Progress<'_>,
    ) -> Result<Self, TemplateError> {
        remove_abandoned(&std::env::temp_dir());
        let guard = Arc::new(image.hold()?);
        image.verify(&mut |_, _| ())?;
        let key = SnapshotKey::here(&image.digest.to_string(), size)
            .map_err(|cause| host("read", Path::new("/proc/cpuinfo"), cause))?;
        let directory = installation.snapshots().join(key.name());
        let _lock = lock(&installation.snapshots(), &key.name())?;
        let image = Arc::new(image);
        let open = |progress: &mut Progress<'_>| {
            Snapshot::open(&directory, &key, Verify::Changed, &mut |bytes| {
                progress.done(bytes, None);
            })
        };
        let snapshot = match open(progress) {
            Err(OpenSnapshotError::Missing(_)) => {
                make(installation, &image, &key, progress).await?;
                open(progress)?
            }
            other => other?,
        };
        Ok(Self {
            snapshot: Arc::new(snapshot),
            image,
            _guard: guard,
        })
    }

    /// The files to start a sandbox from.
    pub(super) fn files(&self) -> io::Result<(StartFrom, Disks)> {
        let from = StartFrom::Restore {
            state: self.snapshot.state.try_clone()?,
            memory: self.snapshot.memory.try_clone()?,
        };
        let base = (
            self.snapshot.disk.try_clone()?,
            self.snapshot.manifest.disk.length,
        );
        let root = (
            File::open(self.image.root())?,
            self.image.manifest.parts.root.size,
        );
        Ok((from, Disks { root, base }))
    }

    /// Size of the machine.
    #[must_use]
    pub fn size(&self) -> MachineConfig {
        self.snapshot.manifest.key.machine
    }
}

/// Boots the image, waits for its agent, saves the machine.
async fn make(
    installation: &Installation,
    image: &Image,
    key: &SnapshotKey,
    progress: &mut Progress<'_>,
) -> Result<(), TemplateError> {
    progress.step(format!(
        "Booting image {} for its snapshot (once)",
        image.label()
    ));
    let open = |path: PathBuf| File::open(&path).map_err(|cause| host("open", &path, cause));
    let parts = &image.manifest.parts;
    let from = StartFrom::Boot {
        kernel: open(image.kernel())?,
        initramfs: open(image.initramfs())?,
        command_line: image.manifest.kernel.command_line.clone(),
    };
    let disks = Disks {
        root: (open(image.root())?, parts.root.size),
        base: (open(image.disk())?, parts.disk.size),
    };
    // The template's own values are in the snapshot; every sandbox replaces them before it is used.
    let unique = Uniqueness::draw().map_err(|cause| host("read", Path::new("getrandom"), cause))?;
    let mut machine = Machine::start(installation, key.machine, from, disks, &unique, None)?;
    if let Err(error) = ready(&mut machine).await {
        return Err(boot_failed(image, machine, &error));
    }
    progress.step("Writing the snapshot");
    let draft = SnapshotDraft::create(&installation.snapshots())?;
    let parts = save(&mut machine, &draft)?;
    draft.commit(key.clone(), parts.memory, parts.state, parts.disk)?;
    drop(machine);
    Ok(())
}

/// Waits for the agent, but not for one whose machine has ended.
async fn ready(machine: &mut Machine) -> Result<(), SandboxError> {
    let agent = machine.agent.clone();
    let mut waiting = std::pin::pin!(agent.wait_ready(BOOT_LIMIT));
    loop {
        match tokio::time::timeout(Duration::from_millis(100), &mut waiting).await {
            Ok(answer) => return answer.map(|_| ()),
            Err(_) if machine.vmm.is_running() => {}
            Err(_) => return Err(SandboxError::Lost("the machine ended".to_owned())),
        }
    }
}

fn boot_failed(image: &Image, machine: Machine, error: &SandboxError) -> TemplateError {
    let (how, console) = match machine.end() {
        Ok((ended, console)) => (format!("{error}; {ended}"), console),
        Err(cause) => (format!("{error}; {cause}"), String::new()),
    };
    TemplateError::Boot {
        image: image.label(),
        how,
        console,
    }
}

fn save(machine: &mut Machine, draft: &SnapshotDraft) -> Result<SnapshotParts, TemplateError> {
    machine.vmm.command(Command::Pause, &[], COMMAND_LIMIT)?;
    let files = [
        draft.memory.as_fd(),
        draft.state.as_fd(),
        draft.disk.as_fd(),
    ];
    match machine.vmm.command(Command::Snapshot, &files, SAVE_LIMIT)? {
        Outcome::Snapshot(parts) => Ok(parts),
        other => Err(CommandVmmError::Refused {
            command: Command::Snapshot,
            message: format!("it answered {other:?}"),
        }
        .into()),
    }
}

/// One snapshot in the state folder.
#[derive(Debug, serde::Serialize)]
pub struct Listed {
    /// Name of its directory.
    pub name: String,
    /// Digest of the image.
    pub image: String,
    /// vCPUs of the machine.
    pub vcpus: u8,
    /// Memory of the machine in MiB.
    pub memory_mib: u64,
    /// Whether this host and this VMM can restore it.
    pub usable_here: bool,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
}

/// All snapshots of the state folder, newest first; directories that are none are left out.
///
/// # Errors
/// When the folder is there and cannot be read.
pub fn list(installation: &Installation) -> Result<Vec<Listed>, TemplateError> {
    let mut listed = Vec::new();
    for directory in directories(&installation.snapshots())? {
        let Ok(snapshot) = Snapshot::open_unchecked(&directory) else {
            continue;
        };
        let manifest = &snapshot.manifest;
        let here = SnapshotKey::here(&manifest.key.image, manifest.key.machine)
            .map_err(|cause| host("read", Path::new("/proc/cpuinfo"), cause))?;
        listed.push(Listed {
            name: directory
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            image: manifest.key.image.clone(),
            vcpus: manifest.key.machine.vcpus,
            memory_mib: manifest.key.machine.memory_mib,
            usable_here: here == manifest.key,
            created: manifest.created,
            disk_bytes: snapshot.disk_bytes(),
        });
    }
    listed.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.created));
    Ok(listed)
}

/// Names of all directories in the snapshot folder, damaged snapshots included.
///
/// # Errors
/// When the folder is there and cannot be read.
pub fn names(installation: &Installation) -> Result<Vec<String>, TemplateError> {
    let name = |path: &PathBuf| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    Ok(directories(&installation.snapshots())?
        .iter()
        .map(name)
        .collect())
}

/// Removes a snapshot; sandboxes that run from it keep its files open and go on.
///
/// # Errors
/// When it is not there or cannot be removed.
pub fn remove(installation: &Installation, name: &str) -> Result<(), TemplateError> {
    let directory = named(installation, name)?;
    let gone = directory.with_file_name(format!(".removed-{name}"));
    fs::rename(&directory, &gone)
        .and_then(|()| fs::remove_dir_all(&gone))
        .map_err(|cause| host("remove", &directory, cause))
}

/// Reads a whole snapshot and compares it with its manifest.
///
/// # Errors
/// [`OpenSnapshotError`] names the file that differs.
pub fn verify(installation: &Installation, name: &str) -> Result<(), TemplateError> {
    let directory = named(installation, name)?;
    Ok(Snapshot::open_unchecked(&directory)?.verify(Verify::Full, &mut |_| ())?)
}

fn named(installation: &Installation, name: &str) -> Result<PathBuf, TemplateError> {
    let all = directories(&installation.snapshots())?;
    all.into_iter()
        .find(|directory| directory.file_name() == Some(OsStr::new(name)))
        .ok_or_else(|| OpenSnapshotError::Missing(installation.snapshots().join(name)).into())
}

fn directories(folder: &Path) -> Result<Vec<PathBuf>, TemplateError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(host("read", folder, cause)),
    };
    let visible = |path: &PathBuf| {
        path.is_dir()
            && !path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .starts_with('.')
    };
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(visible)
        .collect())
}

/// Held while a template is opened or made.
fn lock(folder: &Path, name: &str) -> Result<File, TemplateError> {
    let path = folder.join(format!(".{name}.lock"));
    // Whoever can open a file can lock it, and so hold up everybody else.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .and_then(|()| {
            File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)
        })
        .and_then(|file| file.lock().map(|()| file))
        .map_err(|cause| host("lock", &path, cause))
}

fn host(step: &'static str, path: &Path, cause: io::Error) -> TemplateError {
    TemplateError::Host {
        step,
        path: path.to_owned(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::{lock, named, remove};
    use crate::config::Installation;

    #[test]
    fn only_a_whole_name_is_a_snapshots_name() {
        let state = tempfile::tempdir().unwrap();
        let here = Installation::at(state.path().to_owned(), state.path().to_owned());
        let only = here.snapshots().join("0123");
        fs::create_dir_all(&only).unwrap();
        for name in ["", ".", "/", "snapshots/0123", "23"] {
            assert!(remove(&here, name).is_err(), "{name:?}");
        }
        assert_eq!(named(&here, "0123").unwrap(), only);
    }

    #[test]
    fn a_lock_cannot_be_taken_by_another_user() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("snapshots");
        let file = lock(&folder, "key").unwrap();
        let mode = |metadata: fs::Metadata| metadata.permissions().mode() & 0o777;
        assert_eq!(mode(fs::metadata(folder).unwrap()), 0o700);
        assert_eq!(mode(file.metadata().unwrap()), 0o600);
    }
}
