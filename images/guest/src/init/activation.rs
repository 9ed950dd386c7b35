//! A socket whose program starts with its first client, so that a job without Docker does not pay
//! for the engine.
//!
//! PID 1 has the socket from boot on: whoever comes while the program starts is served later and not
//! refused. The program takes the listening socket over as systemd hands it over (`LISTEN_FDS`).

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{PermissionsExt, chown},
            net::UnixListener,
        },
    },
    path::Path,
    process::{Command, Stdio},
};

use crate::agent::{Cgroup, Context, ExecError, group_id, start_service};

/// How often the program is started in one sandbox: one that does not stay is not started for ever.
const MAX_STARTS: u32 = 5;

/// Makes standard input descriptor 3, as the program expects its socket, and becomes the program:
/// so the shell's number is the program's.
const HAND_OVER: &str = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";

/// Search path of the program.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the command line says of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Socket {
    /// Where it is.
    pub(super) path: String,
    /// Whose members may use it, beside root.
    pub(super) group: String,
    /// The program and its arguments.
    pub(super) argv: Vec<String>,
}

impl Socket {
    /// `/path,group,/program,argument…`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(',').map(str::to_owned);
        let plain = |path: &String| path.starts_with('/') && !path.contains("..");
        let socket = Self {
            path: parts.next().filter(plain)?,
            group: parts.next().filter(|group| !group.is_empty())?,
            argv: parts.collect(),
        };
        let program = socket.argv.first().filter(|program| plain(program));
        program.is_some().then_some(socket)
    }
}

/// A socket that is waited on, or was handed over.
#[derive(Debug)]
pub(super) struct Activation {
    listener: UnixListener,
    socket: Socket,
    /// Where the program's output goes.
    log: File,
    running: Option<u32>,
    starts: u32,
}

impl Activation {
    /// Makes the socket.
    pub(super) fn bind(socket: &Socket, log: &Path, context: &Context) -> io::Result<Self> {
        let group = group_id(&context.root, &socket.group).map_err(io::Error::other)?;
        let listener = UnixListener::bind(&socket.path)?;
        chown(&socket.path, None, Some(group))?;
        fs::set_permissions(&socket.path, fs::Permissions::from_mode(0o660))?;
        listener.set_nonblocking(true)?;
        let log = File::options().create(true).append(true).open(log)?;
        Ok(Self {
            listener,
            socket: socket.clone(),
            log,
            running: None,
            starts: 0,
        })
    }

    /// What is readable when a client waits and there is no program that serves it.
    pub(super) fn waits(&self) -> Option<BorrowedFd<'_>> {
        let waits = self.running.is_none() && self.starts < MAX_STARTS;
        waits.then(|| self.listener.as_fd())
    }

    /// Starts the program for the client that waits.
    pub(super) fn start(&mut self, context: &Context) {
        self.starts += 1;
        match self.launch(context.steps.as_ref()) {
            Ok(pid) => self.running = Some(pid),
            Err(error) => {
                eprintln!("mayfly-guest: starting {}: {error}", self.socket.argv[0]);
                self.give_up_if_due();
            }
        }
    }

    /// A child of PID 1 ended; if it is the program, the next client starts it again.
    pub(super) fn ended(&mut self, pid: u32) {
        if self.running == Some(pid) {
            self.running = None;
            self.give_up_if_due();
        }
    }

    fn launch(&self, steps: Option<&Cgroup>) -> Result<u32, ExecError> {
        let failed = |error| ExecError::Program(self.socket.argv[0].clone(), error);
        let copy = |log: &File| log.try_clone().map(Stdio::from).map_err(failed);
        let listener = OwnedFd::from(self.listener.try_clone().map_err(failed)?);
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", HAND_OVER])
            .args(&self.socket.argv)
            .env_clear()
            .env("PATH", PATH)
            .current_dir("/")
            .stdin(listener)
            .stdout(copy(&self.log)?)
            .stderr(copy(&self.log)?);
        start_service(command, "on-demand", steps)
    }

    /// After the last start nobody waits in vain: those who do are sent away, and others find that
    /// there is nothing.
    fn give_up_if_due(&self) {
        if self.starts < MAX_STARTS {
            return;
        }
        let program = &self.socket.argv[0];
        eprintln!("mayfly-guest: {program} does not stay and is not started any more");
        // A step may have removed it, or put its own there: that goes with the sandbox.
        let _ = fs::remove_file(&self.socket.path);
        while self.listener.accept().is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::net::UnixStream};

    use rustix::{
        event::{PollFd, PollFlags, poll},
        process::{Pid, WaitOptions, waitpid},
    };

    use super::*;
    use crate::agent::Root;

    fn at(folder: &Path, script: &str) -> (Activation, Context) {
        let etc = folder.join("etc");
        fs::create_dir(&etc).expect("etc");
        let group = format!("staff:x:{}:\n", rustix::process::getgid().as_raw());
        fs::write(etc.join("group"), group).expect("group");
        let context = Context {
            root: Root::open(folder).expect("opens"),
            steps: None,
            forward: None,
        };
        let path = folder.join("socket").display().to_string();
        let socket = Socket::parse(&format!("{path},staff,/bin/sh,-c")).map(|mut socket| {
            socket.argv.push(script.to_owned());
            socket
        });
        let socket = socket.expect("well formed");
        let activation = Activation::bind(&socket, &folder.join("log"), &context);
        (activation.expect("binds"), context)
    }

    fn has_client(activation: &Activation) -> bool {
        let waits = activation.waits().expect("waits");
        let mut fds = [PollFd::new(&waits, PollFlags::IN)];
        let now = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)).expect("polls") == 1
    }

    /// Waits for the program's end, as PID 1 does.
    fn bury(activation: &mut Activation) {
        let pid = activation.running.expect("runs");
        let child = Pid::from_raw(pid.cast_signed());
        waitpid(child, WaitOptions::empty()).expect("a child");
        activation.ended(pid);
    }

    #[test]
    fn the_program_starts_with_the_first_client_and_has_the_socket_as_systemd_gives_it() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let script = "[ \"$LISTEN_PID $LISTEN_FDS\" = \"$$ 1\" ] && readlink /proc/self/fd/3 && \
                      readlink /proc/self/fd/0";
        let (mut activation, context) = at(folder.path(), script);
        assert!(!has_client(&activation));
        let socket = fs::metadata(folder.path().join("socket")).expect("is there");
        assert_eq!(socket.permissions().mode() & 0o777, 0o660);
        let _client = UnixStream::connect(folder.path().join("socket")).expect("connects");
        assert!(has_client(&activation));
        activation.start(&context);
        assert!(activation.waits().is_none(), "the program serves it");
        bury(&mut activation);
        let log = fs::read_to_string(folder.path().join("log")).expect("log");
        let lines: Vec<_> = log.lines().collect();
        assert!(lines[0].starts_with("socket:"), "{log}");
        assert_eq!(lines[1], "/dev/null");
        assert!(has_client(&activation), "who still waits starts it again");
    }

    #[test]
    fn a_program_that_does_not_stay_is_given_up_and_its_clients_are_sent_away() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (mut activation, context) = at(folder.path(), "exit 1");
        let path = folder.path().join("socket");
        let mut client = UnixStream::connect(&path).expect("connects");
        for _ in 0..MAX_STARTS {
            assert!(has_client(&activation));
            activation.start(&context);
            bury(&mut activation);
        }
        assert!(activation.waits().is_none());
        assert_eq!(client.read(&mut [0]).expect("the end"), 0);
        assert!(UnixStream::connect(&path).is_err());
    }

    #[test]
    fn a_socket_has_a_path_a_group_and_a_program() {
        let good = Socket::parse("/run/d.sock,docker,/usr/sbin/dockerd,--host=fd://");
        let good = good.expect("well formed");
        assert_eq!(good.argv, ["/usr/sbin/dockerd", "--host=fd://"]);
        for bad in ["", "/a,g", "/a,,/p", "a,g,/p", "/a,g,p", "/../a,g,/p"] {
            assert_eq!(Socket::parse(bad), None, "{bad}");
        }
    }
}
