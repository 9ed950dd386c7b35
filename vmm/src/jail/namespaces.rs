//! Own namespaces, an empty root, an identity that owns nothing.
//!
//! Root uses its power first and then gives it up: namespaces, empty root, a uid of its own, and at
//! last a user namespace. A plain user needs the user namespace first to be allowed the others.
//! Either way the process ends in a user namespace in which no id is mapped.
//!
//! The network namespace is the dearest (0.2 to 0.4 ms and 220 KiB of kernel memory, its end is
//! asynchronous; `benches/jail.rs`) and taken all the same: it is empty even where landlock does
//! not know TCP or abstract sockets, and does not depend on the seccomp tables. A PID namespace is
//! not taken: it would hold children only, and this process has none; the filters allow signals to
//! this process alone. Cgroup and time namespaces hide nothing from a process without `/proc`.

use std::io;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, UnshareFlags};

use super::{Journal, Layer, privileges};

/// First of the uids that VMMs started by root take, one per process id; systemd's list of uid
/// ranges assigns it to nobody. Process ids end at 2^22.
const FIRST_UID: u32 = 0x7000_0000;

/// Where a uid of one's own cannot be had (inside a container with few mapped ids).
const NOBODY: u32 = 65534;

/// Where the empty root is mounted before it becomes the root. It exists: `/dev/kvm` is open.
const MOUNT_POINT: &str = "/dev";

/// Enters namespaces, empties the root and changes identity, as far as the host allows. Tells
/// whether this process has a uid that no other process has.
pub(super) fn isolate(journal: &mut Journal) -> bool {
    let administrator = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    if administrator {
        enter_namespaces_and_root(journal);
        let own_uid = change_identity(journal);
        enter_user_namespace(journal);
        return own_uid;
    }
    // Container root without CAP_SYS_ADMIN can still change its uid.
    let own_uid = change_identity(journal);
    enter_user_namespace(journal);
    enter_namespaces_and_root(journal);
    own_uid
}

fn enter_user_namespace(journal: &mut Journal) {
    match unshare(UnshareFlags::NEWUSER) {
        Ok(()) => journal.applied(Layer::UserNamespace, "no ids mapped"),
        Err(error) => journal.unavailable(
            Layer::UserNamespace,
            format!(
                "unshare(CLONE_NEWUSER): {error}; see user.max_user_namespaces, \
                 kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns"
            ),
        ),
    }
}

fn enter_namespaces_and_root(journal: &mut Journal) {
    let wanted = [
        ("mount", UnshareFlags::NEWNS),
        ("ipc", UnshareFlags::NEWIPC),
        ("uts", UnshareFlags::NEWUTS),
        ("network", UnshareFlags::NEWNET),
    ];
    // One call is cheaper than four; after a refusal each is tried alone.
    let all = wanted
        .iter()
        .fold(UnshareFlags::empty(), |all, (_, flag)| all | *flag);
    let refused: Vec<String> = match unshare(all) {
        Ok(()) => Vec::new(),
        Err(_) => wanted
            .iter()
            .filter_map(|(name, flag)| unshare(*flag).err().map(|error| format!("{name}: {error}")))
            .collect(),
    };
    if refused.is_empty() {
        journal.applied(Layer::Namespaces, wanted.map(|(name, _)| name).join(", "));
    } else {
        journal.unavailable(Layer::Namespaces, refused.join("; "));
    }
    // Without an own mount namespace the next step would change the host's mounts.
    if refused.iter().any(|refusal| refusal.starts_with("mount")) {
        journal.unavailable(Layer::EmptyRoot, "no own mount namespace");
        return;
    }
    match empty_root() {
        Ok(()) => journal.applied(Layer::EmptyRoot, "tmpfs, read-only, no inode to spare"),
        Err((call, error)) => journal.unavailable(Layer::EmptyRoot, format!("{call}: {error}")),
    }
}

/// Mounts an empty file system, makes it the root and lets the old root go.
fn empty_root() -> Result<(), (&'static str, rustix::io::Errno)> {
    // Nothing may reach the host's mount namespace, and pivot_root refuses shared mounts.
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(|error| ("making mounts private", error))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(
        "jail",
        MOUNT_POINT,
        "tmpfs",
        flags,
        c"size=4k,nr_inodes=1,mode=0555",
    )
    .map_err(|error| ("mounting tmpfs", error))?;
    rustix::process::chdir(MOUNT_POINT).map_err(|error| ("chdir to the new root", error))?;
    // With both arguments the same directory the old root comes to lie on top of the new one, from
    // where it is taken off (pivot_root(2), NOTES).
    rustix::process::pivot_root(".", ".").map_err(|error| ("pivot_root", error))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)
        .map_err(|error| ("detaching the old root", error))?;
    rustix::process::chdir("/").map_err(|error| ("chdir /", error))
}

/// Stops being root. A uid that no other process has keeps one VMM from signalling or tracing
/// another, and makes the limit of processes count this VMM alone. Returns whether it got one.
fn change_identity(journal: &mut Journal) -> bool {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if !uid.is_root() {
        journal.applied(
            Layer::Identity,
            format!("uid {} and groups as started", uid.as_raw()),
        );
        return false;
    }
    privileges::empty_bounding_set();
    let own = FIRST_UID + std::process::id();
    let mut why = String::new();
    for id in [own, NOBODY] {
        match become_user(id) {
            Ok(()) => {
                journal.applied(Layer::Identity, format!("uid and gid {id}, no groups"));
                return id == own;
            }
            Err(error) => why = format!("{error}; stays uid {uid:?}, gid {gid:?}"),
        }
    }
    journal.unavailable(Layer::Identity, why);
    false
}

/// Takes `id` as uid and gid; the capabilities of root go with the uid.
fn become_user(id: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: no flag splits off the descriptor table (CLONE_FILES), which is what the function's
    // contract is about.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}
