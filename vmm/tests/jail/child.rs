//! Forked children: how they start and how they end.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// The id of `nobody`.
const NOBODY: u32 = 65534;

/// What a case inside the jail returns: `Err` says what was not as it should be.
pub(crate) type Case = Result<(), String>;

/// How a child starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// As the user who runs the tests.
    AsIs,
    /// As `nobody`, without groups and capabilities.
    Nobody,
    /// As `nobody` on a host that forbids user namespaces.
    #[allow(dead_code, reason = "one of the two test programs does without")]
    NoUserNamespaces,
}

impl Start {
    /// The ways to start that the tests' own user has.
    pub(crate) fn possible() -> Vec<Self> {
        if rustix::process::geteuid().is_root() {
            vec![Self::AsIs, Self::Nobody]
        } else {
            vec![Self::AsIs]
        }
    }

    fn prepare(self) -> Case {
        match self {
            Self::AsIs => Ok(()),
            Self::Nobody => become_nobody().map_err(|error| error.to_string()),
            Self::NoUserNamespaces => {
                become_nobody().map_err(|error| error.to_string())?;
                forbid_user_namespaces()
            }
        }
    }
}

fn become_nobody() -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// The limit of user namespaces is one of the namespace itself, so it can be set without root. A
/// host that refuses the user namespace for it (from a chroot, for instance) forbids them already.
fn forbid_user_namespaces() -> Case {
    // SAFETY: CLONE_FILES is not among the flags.
    match unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUSER) } {
        Err(rustix::io::Errno::PERM | rustix::io::Errno::NOSPC) => return Ok(()),
        other => other.map_err(|error| error.to_string())?,
    }
    std::fs::write("/proc/sys/user/max_user_namespaces", "0").map_err(|e| e.to_string())?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    rustix::thread::set_capabilities(None, sets).map_err(|error| error.to_string())
}

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The case held.
    Well,
    /// The case did not hold, or the child failed otherwise.
    Badly(String),
    /// By this signal.
    BySignal(i32),
}

/// Runs `case` in a child that has one thread; it gets the descriptor by which it reports, which
/// it must keep.
pub(crate) fn in_child(start: Start, case: impl FnOnce(RawFd) -> Case) -> Ended {
    let (child, mut from_child) = fork(start, case);
    let mut text = String::new();
    from_child
        .read_to_string(&mut text)
        .expect("the pipe is readable");
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    match (libc::WIFSIGNALED(status), libc::WEXITSTATUS(status)) {
        (true, _) => Ended::BySignal(libc::WTERMSIG(status)),
        (false, 0) => Ended::Well,
        (false, code) => Ended::Badly(if text.is_empty() {
            code.to_string()
        } else {
            text
        }),
    }
}

pub(crate) fn fork(start: Start, case: impl FnOnce(RawFd) -> Case) -> (libc::pid_t, PipeReader) {
    let (from_child, mut to_parent) = std::io::pipe().expect("pipe");
    // SAFETY: the child may allocate, since the C library's fork holds malloc's locks; no other
    // lock that a thread of another test may hold is taken before the child ends.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork failed");
    if child == 0 {
        let fd = to_parent.as_raw_fd();
        // A panic must not unwind into the test harness, of which only this thread is left.
        let case = AssertUnwindSafe(|| start.prepare().and_then(|()| case(fd)));
        let result = catch_unwind(case).unwrap_or_else(|_| Err("panicked".into()));
        let code = result.map_or_else(|text| report(&mut to_parent, &text), |()| 0);
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(code) };
    }
    (child, from_child)
}

/// Returns the exit code for a failed case, which says the same if the pipe does not take it.
fn report(pipe: &mut PipeWriter, text: &str) -> i32 {
    if pipe.write_all(text.as_bytes()).is_ok() {
        1
    } else {
        2
    }
}
