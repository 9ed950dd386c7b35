//! The root of the command: the host's tree under an overlay, with the real folders in it.
//!
//! At the start the root is the host's own tree, with the machine's own `/proc`, `/sys` and `/dev`
//! and an empty tmpfs in a corner. The new root is built there and then put over the old one.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::{InsideError, prepare_error};

/// The tmpfs that holds what will be thrown away; init mounts it.
const SCRATCH: &str = "/sys/kernel/debug";
/// File systems that are the machine's own, and where they go.
const OWN: [(&str, &str); 3] = [("proc", "proc"), ("sysfs", "sys"), ("devtmpfs", "dev")];

/// Builds the root and makes it that of this process.
pub(super) fn enter(real_folders: &[PathBuf], in_user_namespace: bool) -> Result<(), InsideError> {
    let scratch = Path::new(SCRATCH);
    let new = scratch.join("root");
    for name in ["files", "work", "root", "readable", "empty"] {
        fs::create_dir(scratch.join(name)).map_err(prepare_error(name))?;
    }
    let host = if in_user_namespace {
        let readable = scratch.join("readable");
        mount_without_ownership(&readable).map_err(prepare_error("the host's files"))?;
        readable
    } else {
        PathBuf::from("/")
    };
    let options = format!(
        "lowerdir={},upperdir={SCRATCH}/files,workdir={SCRATCH}/work",
        host.display()
    );
    mount_typed("overlay", &new, &options).map_err(prepare_error("the overlay"))?;
    for folder in real_folders {
        let place = new.join(folder.strip_prefix("/").unwrap_or(folder));
        let bound = mount_bind(folder, &place).map_err(io::Error::from);
        bound.map_err(prepare_error(folder.display()))?;
    }
    for (kind, name) in OWN {
        mount_typed(kind, &new.join(name), "").map_err(prepare_error(name))?;
    }
    switch(&new).map_err(prepare_error("the new root"))?;
    mount_own_trees().map_err(prepare_error("/dev and /sys"))
}

/// A read-only view that opens files of other users without `O_NOATIME`.
///
/// An overlay asks for it on whatever its mounter owns or has `CAP_FOWNER` over; a virtiofsd that
/// is not root is refused it for every file that is not its user's own. The writable overlay
/// cannot do without the capability, so it gets a read-only one below it that has none.
fn mount_without_ownership(target: &Path) -> io::Result<()> {
    let all = capabilities(None)?;
    let mut fewer = all;
    fewer.effective.remove(CapabilitySet::FOWNER);
    set_capabilities(None, fewer)?;
    let mounted = mount_typed("overlay", target, &format!("lowerdir=/:{SCRATCH}/empty"));
    set_capabilities(None, all)?;
    mounted
}

fn mount_typed(kind: &str, target: &Path, options: &str) -> io::Result<()> {
    let options = CString::new(options)?;
    Ok(mount(
        kind,
        target,
        kind,
        MountFlags::empty(),
        options.as_c_str(),
    )?)
}

/// What `switch_root` does: the first file system of a machine cannot be swapped by pivot_root.
fn switch(new: &Path) -> io::Result<()> {
    std::env::set_current_dir(new)?;
    mount_move(".", "/")?;
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")
}

fn mount_own_trees() -> io::Result<()> {
    let dev = Path::new("/dev");
    for name in ["pts", "shm"] {
        match fs::create_dir(dev.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    mount_typed("devpts", &dev.join("pts"), "mode=620,ptmxmode=666,gid=5")?;
    mount_typed("tmpfs", &dev.join("shm"), "mode=1777")?;
    mount_typed("cgroup2", Path::new("/sys/fs/cgroup"), "")?;
    let links = [
        ("fd", ""),
        ("stdin", "/0"),
        ("stdout", "/1"),
        ("stderr", "/2"),
    ];
    for (name, end) in links {
        symlink(format!("/proc/self/fd{end}"), dev.join(name))?;
    }
    // As udev's rules would have it, with no group to tell users apart by.
    fs::set_permissions(dev.join("kvm"), fs::Permissions::from_mode(0o666))
}
