//! File systems: from the initramfs to a writable view of the read-only image, and what a system
//! expects around it.

use std::{
    ffi::CStr,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::CWD,
    mount::{
        MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_move, move_mount,
        open_tree, unmount,
    },
};
use thiserror::Error;

/// Why a file system was not mounted.
#[derive(Debug, Error)]
pub(super) enum MountError {
    /// The kernel refused a mount.
    #[error("mounting {what} on {target}: {source}")]
    Mount {
        /// Device or kind of file system.
        what: &'static str,
        /// Mount point.
        target: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A disk did not appear.
    #[error("the disk {0} did not appear within {1} s")]
    NoDisk(&'static str, u64),
    /// A step of changing the root.
    #[error("{action} {path}: {source}")]
    Step {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// The read-only image (EROFS).
const IMAGE: &str = "/dev/vda";
/// The private writable disk (ext4).
const DISK: &str = "/dev/vdb";
const DISK_TIME: Duration = Duration::from_secs(30);
const NEW_ROOT: &str = "/sysroot";

/// No journal-like care on the disk: it ends with the machine. Barriers and the background filling
/// of inode tables would only make the private disk file grow. `discard`: what was deleted (a step's
/// script, with what it held) is gone from the disk too, and the host has its space again.
const DISK_OPTIONS: &CStr = c"nobarrier,noinit_itable,discard";
/// `volatile` takes syncs as done, for the same reason.
const OVERLAY_OPTIONS: &CStr = c"lowerdir=/image,upperdir=/disk/upper,workdir=/disk/work,volatile";

const PLAIN: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// Mounts what the agent itself needs: processes, devices, kernel objects.
pub(super) fn kernel_file_systems() -> Result<(), MountError> {
    make_mount("proc", "/proc", "proc", PLAIN, None)?;
    make_mount("sysfs", "/sys", "sysfs", PLAIN, None)?;
    let devices = MountFlags::NOSUID.union(MountFlags::NOEXEC);
    make_mount("devtmpfs", "/dev", "devtmpfs", devices, Some(c"mode=0755"))
}

/// Makes the image, with the disk over it, the root; frees the initramfs. The folders `on_disk` are
/// on the disk itself.
pub(super) fn switch_root(on_disk: &[String]) -> Result<(), MountError> {
    wait_for(IMAGE)?;
    wait_for(DISK)?;
    let read_only = MountFlags::RDONLY.union(MountFlags::NODEV);
    make_mount(IMAGE, "/image", "erofs", read_only, None)?;
    let private = MountFlags::NOATIME.union(MountFlags::NODEV);
    make_mount(DISK, "/disk", "ext4", private, Some(DISK_OPTIONS))?;
    for folder in ["/disk/upper", "/disk/work"] {
        make_folder(folder)?;
    }
    let root = MountFlags::NOATIME.union(MountFlags::NODEV);
    make_mount("overlay", NEW_ROOT, "overlay", root, Some(OVERLAY_OPTIONS))?;
    let trees: Vec<_> = (0..on_disk.len())
        .map(disk_tree)
        .collect::<Result<_, _>>()?;
    // The overlay holds both itself; steps see neither.
    for folder in ["/image", "/disk"] {
        unmount(folder, UnmountFlags::DETACH).map_err(step("hiding", folder))?;
    }
    for folder in ["/proc", "/sys", "/dev"] {
        let target = format!("{NEW_ROOT}{folder}");
        make_folder(&target)?;
        mount_move(folder, &target).map_err(step("moving", folder))?;
    }
    free_initramfs();
    rustix::process::chdir(NEW_ROOT).map_err(step("entering", NEW_ROOT))?;
    mount_move(".", "/").map_err(step("moving to /", NEW_ROOT))?;
    rustix::process::chroot(".").map_err(step("changing the root to", NEW_ROOT))?;
    rustix::process::chdir("/").map_err(step("entering", "/"))?;
    for (folder, tree) in on_disk.iter().zip(trees) {
        // Only now, so that symbolic links on the way are those of the root.
        fs::create_dir_all(folder).map_err(step("making", folder))?;
        move_mount(
            &tree,
            "",
            CWD,
            folder.as_str(),
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(step("mounting the disk on", folder))?;
    }
    around_root()
}

/// A new folder of the disk as a mount that is not anywhere yet.
fn disk_tree(number: usize) -> Result<OwnedFd, MountError> {
    let folder = format!("/disk/folder{number}");
    make_folder(&folder)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, folder.as_str(), flags).map_err(step("opening", &folder))
}

/// What a system has beside its disk.
fn around_root() -> Result<(), MountError> {
    let devpts = MountFlags::NOSUID.union(MountFlags::NOEXEC);
    let shared = MountFlags::NOSUID.union(MountFlags::NODEV);
    let pts = c"gid=5,mode=620,ptmxmode=666";
    make_mount("devpts", "/dev/pts", "devpts", devpts, Some(pts))?;
    make_mount("tmpfs", "/dev/shm", "tmpfs", shared, Some(c"mode=1777"))?;
    make_mount("mqueue", "/dev/mqueue", "mqueue", PLAIN, None)?;
    make_mount(
        "tmpfs",
        "/run",
        "tmpfs",
        shared,
        Some(c"mode=0755,size=25%"),
    )?;
    make_mount("cgroup2", "/sys/fs/cgroup", "cgroup2", PLAIN, None)?;
    make_folder("/run/lock")?;
    // A root that was brought along may lack these: the identity is written to the one, and a
    // command starts in the other.
    for folder in ["/etc", "/root"] {
        make_folder(folder)?;
    }
    // /tmp stays on the disk: builds put more there than there is memory.
    make_folder("/tmp")?;
    for folder in ["/tmp", "/run/lock"] {
        let mode = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(folder, mode).map_err(step("opening to all", folder))?;
    }
    let links = [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ];
    for (target, link) in links {
        symlink(target, link).map_err(step("linking", link))?;
    }
    Ok(())
}

fn wait_for(disk: &'static str) -> Result<(), MountError> {
    let deadline = Instant::now() + DISK_TIME;
    while !Path::new(disk).exists() {
        if Instant::now() > deadline {
            return Err(MountError::NoDisk(disk, DISK_TIME.as_secs()));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn make_mount(
    what: &'static str,
    target: &str,
    kind: &str,
    flags: MountFlags,
    options: Option<&CStr>,
) -> Result<(), MountError> {
    make_folder(target)?;
    mount(what, target, kind, flags, options).map_err(|errno| MountError::Mount {
        what,
        target: target.to_owned(),
        source: errno.into(),
    })
}

fn make_folder(path: &str) -> Result<(), MountError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(step("making", path)(error))
        }
        _ => Ok(()),
    }
}

fn step<E: Into<io::Error>>(action: &'static str, path: &str) -> impl FnOnce(E) -> MountError {
    let path = path.to_owned();
    move |source| MountError::Step {
        action,
        path,
        source: source.into(),
    }
}

/// Removes everything in the initramfs, which is memory; other file systems are left alone.
fn free_initramfs() {
    let Ok(root) = fs::metadata("/") else { return };
    remove_below(Path::new("/"), root.dev());
}

fn remove_below(folder: &Path, device: u64) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // Does not follow symbolic links.
        match entry.metadata() {
            Ok(meta) if meta.dev() != device => {}
            Ok(meta) if meta.is_dir() => {
                remove_below(&path, device);
                // Fails for a mount point's parent, which stays.
                let _ = fs::remove_dir(&path);
            }
            // What cannot be removed costs memory and nothing else.
            _ => drop(fs::remove_file(&path)),
        }
    }
}
