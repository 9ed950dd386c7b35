//! What the supervisor sets up before the command: real folders, host name, limits, name servers.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::process::{Resource, Rlimit};

use super::super::wire::Start;
use super::InsideError;

/// Where init has put the host's own tree, under the overlay that covers it.
const LOWER: &str = "/.softkvm";
/// Where QEMU's user network answers name queries.
const NAME_SERVER: &str = "nameserver 10.0.2.3\n";

/// Makes this machine look to the command like the host does.
pub(super) fn prepare(start: &Start) -> Result<(), InsideError> {
    let folders = start
        .real_folders
        .iter()
        .map(|path| PathBuf::from(OsString::from_vec(path.clone())));
    let folders: Vec<PathBuf> = folders.collect();
    for folder in &folders {
        bind(folder).map_err(failed(folder.display()))?;
    }
    // What is bound stays; what is not must be out of reach.
    unmount(LOWER, UnmountFlags::DETACH)
        .map_err(io::Error::from)
        .map_err(failed(LOWER))?;
    fs::remove_dir(LOWER).map_err(failed(LOWER))?;
    rustix::system::sethostname(&start.hostname)
        .map_err(io::Error::from)
        .map_err(failed("the host name"))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(start.umask));
    set_open_files(start.open_files);
    enable_controllers().map_err(failed("the cgroup controllers"))?;
    let resolv = Path::new("/etc/resolv.conf");
    if start.network && !folders.iter().any(|folder| resolv.starts_with(folder)) {
        // It may be a link to a file of a name server that does not run here.
        let _ = fs::remove_file(resolv);
        fs::write(resolv, NAME_SERVER).map_err(failed(resolv.display()))?;
    }
    Ok(())
}

fn failed(what: impl ToString) -> impl FnOnce(io::Error) -> InsideError {
    move |cause| InsideError::Prepare {
        what: what.to_string(),
        cause,
    }
}

/// Puts the host's own folder in the place where the overlay shows it.
fn bind(folder: &Path) -> io::Result<()> {
    let relative = folder.strip_prefix("/").unwrap_or(folder);
    let lower = Path::new(LOWER).join(relative);
    Ok(mount_bind(&lower, folder)?)
}

/// The host's limit, as far as this kernel allows one so high.
fn set_open_files((soft, hard): (u64, u64)) {
    let most = fs::read_to_string("/proc/sys/fs/nr_open").ok();
    let most = most
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1 << 20);
    let limit = Rlimit {
        current: Some(soft.min(most)),
        maximum: Some(hard.min(most)),
    };
    // The default limit is a poorer match, not a failure.
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
}

/// Lets the command make cgroups with every controller there is.
fn enable_controllers() -> io::Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    for controller in fs::read_to_string(root.join("cgroup.controllers"))?.split_whitespace() {
        fs::write(
            root.join("cgroup.subtree_control"),
            format!("+{controller}"),
        )?;
    }
    Ok(())
}

/// A path as it came over the wire.
pub(super) fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
