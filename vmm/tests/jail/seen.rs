//! What can be seen of a jailed process, from inside and from outside.

use std::io::Read;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::PathBuf;

use rustix::process::{DumpableBehavior, Resource};
use rustix::thread::CapabilitySet;

use crate::child::{Case, Start, fork};

/// What root outside sees of a child.
pub(crate) struct Seen {
    status: String,
    /// Mounts of the child's mount namespace.
    pub(crate) mounts: String,
    /// Kind, our own and the child's namespace.
    pub(crate) namespaces: Vec<(&'static str, PathBuf, PathBuf)>,
}

impl Seen {
    /// The value of a line of `/proc/PID/status`.
    pub(crate) fn line(&self, name: &str) -> &str {
        let value = self.status.lines().find_map(|line| line.strip_prefix(name));
        value
            .unwrap_or_else(|| panic!("no {name} in\n{}", self.status))
            .trim()
    }
}

/// Runs `case` in a child and looks at it from outside while it waits.
pub(crate) fn seen_from_outside(case: impl FnOnce(RawFd) -> Case) -> Seen {
    let (child, mut from_child) = fork(Start::AsIs, |fd| {
        case(fd)?;
        // SAFETY: the descriptor was kept, and the borrow ends before the process does.
        let pipe = unsafe { BorrowedFd::borrow_raw(fd) };
        rustix::io::write(pipe, b"!").map_err(|error| error.to_string())?;
        // SAFETY: waits for the signal below.
        unsafe { libc::pause() };
        Ok(())
    });
    let mut ready = [0];
    from_child
        .read_exact(&mut ready)
        .expect("the child reports");
    let mut text = String::new();
    if ready != *b"!" {
        from_child
            .read_to_string(&mut text)
            .expect("the pipe is readable");
    }
    let read = |name| std::fs::read_to_string(format!("/proc/{child}/{name}")).expect("is there");
    let link =
        |of: &str, name| std::fs::read_link(format!("/proc/{of}/ns/{name}")).expect("is there");
    let seen = Seen {
        status: read("status"),
        mounts: read("mounts"),
        namespaces: ["mnt", "net", "ipc", "uts"]
            .map(|name| (name, link("self", name), link(&child.to_string(), name)))
            .into(),
    };
    // SAFETY: `child` is our child and not yet waited for.
    unsafe { libc::kill(child, libc::SIGKILL) };
    // SAFETY: no place for the status is given.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    assert_eq!(ready, *b"!", "{text}");
    seen
}

/// What a process may do, as it sees it itself.
pub(crate) struct Credentials {
    pub(crate) capabilities_are_empty: bool,
    pub(crate) bounding_set_is_empty: bool,
    pub(crate) ids: [u32; 4],
    pub(crate) core_limit: (Option<u64>, Option<u64>),
    pub(crate) no_new_privs: bool,
    pub(crate) dumpable: bool,
}

/// The credentials of the calling thread.
pub(crate) fn credentials() -> Credentials {
    let sets = rustix::thread::capabilities(None).expect("capget");
    let core = rustix::process::getrlimit(Resource::Core);
    let in_bounding_set = |number| {
        let capability = CapabilitySet::from_bits_retain(1_u64 << number);
        rustix::thread::capability_is_in_bounding_set(capability).unwrap_or(false)
    };
    Credentials {
        capabilities_are_empty: (sets.effective | sets.permitted | sets.inheritable).is_empty(),
        bounding_set_is_empty: !(0..64).any(in_bounding_set),
        ids: [
            rustix::process::getuid().as_raw(),
            rustix::process::geteuid().as_raw(),
            rustix::process::getgid().as_raw(),
            rustix::process::getegid().as_raw(),
        ],
        core_limit: (core.current, core.maximum),
        no_new_privs: rustix::thread::no_new_privs().expect("prctl"),
        dumpable: rustix::process::dumpable_behavior() != Ok(DumpableBehavior::NotDumpable),
    }
}

/// Whether `fd` is open.
pub(crate) fn is_open(fd: RawFd) -> bool {
    device_of(fd).is_some()
}

/// The device number of the special file behind `fd`; `None` if it is not open.
pub(crate) fn device_of(fd: RawFd) -> Option<u64> {
    // SAFETY: the borrow lives for this call only, and `fstat` answers EBADF if `fd` is closed.
    rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(fd) })
        .ok()
        .map(|stat| stat.st_rdev)
}
