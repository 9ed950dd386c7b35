//! What the supervisor sets before the command: clock, host name, limits, cgroups, name servers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit};

use super::super::wire::Start;
use super::{InsideError, prepare_error};

/// Where QEMU's user network answers name queries.
const NAME_SERVER: &str = "nameserver 10.0.2.3\n";

/// Makes this machine look to the command like the host does.
pub(super) fn apply(start: &Start, real_folders: &[PathBuf]) -> Result<(), InsideError> {
    set_clock(start.clock).map_err(prepare_error("the clock"))?;
    let named = rustix::system::sethostname(&start.hostname).map_err(io::Error::from);
    named.map_err(prepare_error("the host name"))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(start.umask));
    set_open_files(start.open_files);
    enable_controllers().map_err(prepare_error("the cgroup controllers"))?;
    let resolv = Path::new("/etc/resolv.conf");
    if start.network && !real_folders.iter().any(|folder| resolv.starts_with(folder)) {
        // It may be a link to a file of a name server that does not run here.
        let _ = fs::remove_file(resolv);
        fs::write(resolv, NAME_SERVER).map_err(prepare_error(resolv.display()))?;
    }
    Ok(())
}

/// The emulated clock starts up to a second off: it is read from a chip that counts seconds.
fn set_clock((seconds, nanoseconds): (u64, u32)) -> io::Result<()> {
    let now = rustix::time::Timespec {
        tv_sec: seconds as i64,
        tv_nsec: i64::from(nanoseconds),
    };
    Ok(rustix::time::clock_settime(
        rustix::time::ClockId::Realtime,
        now,
    )?)
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
