//! Starts a process: user, group, directory, streams, control group. [`super::pump`] then runs it.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Gid, Uid};
use thiserror::Error;

use super::{
    Cgroup, Connection, ConnectionError, Context,
    pump::Pump,
    users::{self, User, UserError},
};
use crate::wire::{Answer, ExecSpec};

/// Why a process was not started.
#[derive(Debug, Error)]
pub enum ExecError {
    /// The working directory is not there.
    #[error("the working directory {0} is not there or not a directory")]
    Directory(String),
    /// The program is not in `PATH`.
    #[error("{0}: command not found in PATH")]
    NotFound(String),
    /// The program's file cannot be run.
    #[error("{0}: {1}")]
    Program(String, io::Error),
    /// No such user.
    #[error(transparent)]
    User(#[from] UserError),
    /// The control group could not be made.
    #[error("making a control group for the process: {0}")]
    Cgroup(io::Error),
    /// The kernel refused a descriptor for the process.
    #[error("watching the process: {0}")]
    Watch(io::Error),
}

/// A process that was just started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) child: Child,
    /// Readable when the process itself ended.
    pub(super) ended: OwnedFd,
    pub(super) cgroup: Option<Cgroup>,
}

/// Serves an `Exec` request to its end.
pub(super) fn serve(
    connection: &mut Connection,
    spec: &ExecSpec,
    context: &Context,
) -> Result<(), ConnectionError> {
    let started = match start(spec, context) {
        Ok(started) => started,
        Err(error) => return connection.refuse(&error),
    };
    let pid = started.child.id();
    let mut pump = Pump::new(connection, started);
    pump.answer(&Answer::Started { pid });
    pump.run()
}

/// Runs a program without streams to its end; so the paths of starting one are warm before a
/// snapshot.
///
/// # Errors
/// It did not start, or could not be waited for.
pub fn run_once(program: &str, context: &Context) -> Result<(), ExecError> {
    let spec = ExecSpec {
        argv: vec![program.to_owned()],
        cwd: "/".to_owned(),
        ..ExecSpec::default()
    };
    let mut started = start(&spec, context)?;
    drop((started.child.stdout.take(), started.child.stderr.take()));
    started.child.wait().map_err(ExecError::Watch)?;
    if let Some(cgroup) = &started.cgroup {
        cgroup.remove_if_empty();
    }
    Ok(())
}

/// Starts a program that stays, as root, in the group `name` beside the steps' and within their limits.
/// Gives its number: whoever reaps all children, PID 1 in a sandbox, reaps it.
///
/// # Errors
/// It did not start.
pub fn start_service(
    mut command: Command,
    name: &str,
    steps: Option<&Cgroup>,
) -> Result<u32, ExecError> {
    let cgroup = steps.map(|steps| steps.child(name)).transpose();
    let procs = cgroup.and_then(|group| group.as_ref().map(Cgroup::procs).transpose());
    become_step(&mut command, None, procs.map_err(ExecError::Cgroup)?);
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command.spawn();
    child
        .map(|child| child.id())
        .map_err(|error| ExecError::Program(program, error))
}

fn start(spec: &ExecSpec, context: &Context) -> Result<Started, ExecError> {
    if !Path::new(&spec.cwd).is_dir() {
        return Err(ExecError::Directory(spec.cwd.clone()));
    }
    let user = spec.user.as_deref();
    let user = user
        .map(|user| users::lookup(&context.root, user))
        .transpose()?;
    let program = find_program(spec)?;
    // One handler process serves one request, so its number names the group and lets PID 1 find it.
    let cgroup = context.steps.as_ref();
    let cgroup = cgroup
        .map(|steps| steps.child(&std::process::id().to_string()))
        .transpose();
    let cgroup = cgroup.map_err(ExecError::Cgroup)?;
    let procs = cgroup.as_ref().map(Cgroup::procs).transpose();
    let procs = procs.map_err(ExecError::Cgroup)?;

    let mut command = Command::new(&program);
    command
        .arg0(&spec.argv[0])
        .args(&spec.argv[1..])
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&spec.cwd)
        .stdin(if spec.stdin {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    become_step(&mut command, user, procs);
    let child = command.spawn().map_err(|error| {
        cgroup.iter().for_each(Cgroup::remove_if_empty);
        ExecError::Program(program, error)
    })?;
    let pid = rustix::process::Pid::from_child(&child);
    let flags = rustix::process::PidfdFlags::empty();
    match rustix::process::pidfd_open(pid, flags) {
        Ok(ended) => Ok(Started {
            child,
            ended,
            cgroup,
        }),
        Err(errno) => {
            let mut child = child;
            // It is ours and not reaped, so the number is still its own.
            let _ = child.kill();
            let _ = child.wait();
            Err(ExecError::Watch(errno.into()))
        }
    }
}

/// Arranges what the child does between fork and exec: no signal blocked, a session and process
/// group of its own, its control group, no privilege before the out-of-memory killer, its user.
fn become_step(command: &mut Command, user: Option<User>, mut procs: Option<File>) {
    let child_side = move || {
        unblock_signals()?;
        rustix::process::setsid()?;
        if let Some(procs) = &mut procs {
            procs.write_all(b"0")?;
        }
        // PID 1 and its handlers are exempt; what they start is not. Elsewhere it stays as it is.
        if procs.is_some() {
            File::options()
                .write(true)
                .open("/proc/self/oom_score_adj")?
                .write_all(b"0")?;
        }
        if let Some(user) = &user {
            become_user(user)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec of a process that may have threads the closure must not use
    // locks or allocate: it makes only system calls (sigprocmask, setsid, open, write, setgroups,
    // setgid, setuid), on data that was allocated before; `File::open` of a literal shorter than std's
    // stack buffer for C strings does not allocate.
    unsafe { command.pre_exec(child_side) };
}

/// PID 1 blocks the signals that it reads from a descriptor; what it starts must get them.
fn unblock_signals() -> io::Result<()> {
    // SAFETY: the set is of integers, and `sigemptyset` initialises it before it is used; the
    // pointers are to it, during each call only.
    let result = unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn become_user(user: &User) -> io::Result<()> {
    // These calls are per thread, and after the fork there is just one. Groups come first: setuid
    // gives up the privilege for them.
    rustix::thread::set_thread_groups(&user.groups)?;
    let gid = Gid::from_raw(user.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(user.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// The program's path. Looked up here so that the worker reads a reason, not a number.
fn find_program(spec: &ExecSpec) -> Result<String, ExecError> {
    let name = &spec.argv[0];
    if name.contains('/') {
        return Ok(name.clone());
    }
    let path = spec.env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or("/usr/local/bin:/usr/bin:/bin", |(_, path)| path);
    for folder in path.split(':') {
        // An empty entry is the working directory, as in every shell.
        let folder = if folder.is_empty() { "." } else { folder };
        let candidate = format!("{folder}/{name}");
        let file = Path::new(&spec.cwd).join(&candidate);
        let executable = file
            .metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        if executable {
            return Ok(candidate);
        }
    }
    Err(ExecError::NotFound(name.clone()))
}
