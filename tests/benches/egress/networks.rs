//! The networks that are compared, each in a process of its own behind a socket of frames.

use std::env;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mayfly::egress::dns::Names;
use mayfly::egress::stack::{Addresses, Limits, Stack, StackConfig, forward};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socketpair};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::card::{Framing, GATEWAY, MAC, MTU};

/// Says that this process is to be a stack, and where connections go.
const ROLE: &str = "MAYFLY_BENCH_STACK";

/// A network and its process.
#[derive(Debug)]
pub struct Network {
    /// Its name.
    pub name: &'static str,
    /// Its process, and where the guest's card ends.
    pub process: Child,
    /// The card's socket.
    pub socket: Option<OwnedFd>,
    /// How frames lie in it.
    pub framing: Framing,
    _folder: TempDir,
}

impl Drop for Network {
    fn drop(&mut self) {
        // The one that works first: a parent that is gone would leave it.
        if let Some(worker) = i32::try_from(self.worker()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(worker, Signal::KILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Network {
    /// The process that carries frames: slirp4netns is three, of which the last does.
    fn worker(&self) -> u32 {
        let mut process = self.process.id();
        loop {
            let path = format!("/proc/{process}/task/{process}/children");
            let children = std::fs::read_to_string(path).unwrap_or_default();
            match children
                .split_whitespace()
                .next()
                .and_then(|child| child.parse().ok())
            {
                Some(child) => process = child,
                None => return process,
            }
        }
    }

    /// Memory of its own that the process has, in KiB.
    ///
    /// # Errors
    /// The process is gone.
    pub fn private_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.worker()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.context("RssAnon in status")?.parse()?)
    }

    /// Seconds of processor that the process took so far.
    ///
    /// # Errors
    /// The process is gone.
    pub fn processor(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.worker()))?;
        let after = stat.rsplit(')').next().context("stat")?;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        Ok((ticks(11).context("utime")? + ticks(12).context("stime")?) / per_second)
    }
}

/// Mayfly's stack, whose connections all go to `to`.
///
/// # Errors
/// It does not start.
pub fn mayfly(to: SocketAddr) -> Result<Network> {
    let kind = SocketType::SEQPACKET;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    let process = Command::new(env::current_exe()?)
        .env(ROLE, to.to_string())
        .stdin(Stdio::from(theirs))
        .spawn()?;
    Ok(Network {
        name: "mayfly",
        process,
        socket: Some(ours),
        framing: Framing::Messages,
        _folder: tempfile::tempdir()?,
    })
}

/// Becomes the stack, if this process is to be it.
///
/// # Errors
/// Those of the stack.
pub fn become_stack() -> Result<bool> {
    let Ok(to) = env::var(ROLE) else {
        return Ok(false);
    };
    let to: SocketAddr = to.parse()?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let config = StackConfig {
            addresses: Addresses::of(MAC),
            limits: Limits {
                new_flows_per_second: 1_000_000,
                ..Limits::default()
            },
            names: Arc::new(Names::default()),
        };
        let (_stack, mut incoming) = Stack::start(socket, config)?;
        while let Some(incoming) = incoming.recv().await {
            tokio::spawn(forward(incoming, Some(to)));
        }
        Ok(true)
    })
}

/// slirp4netns in the mode in which frames are messages.
///
/// # Errors
/// It does not start.
pub fn slirp4netns() -> Result<Network> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("frames");
    let mut command = Command::new("slirp4netns");
    command
        .arg(format!("--mtu={MTU}"))
        .arg("--target-type=bess");
    let mut network = Network {
        name: "slirp4netns",
        process: quiet(command.arg(&path)).context("slirp4netns (a Debian package)")?,
        socket: None,
        framing: Framing::Messages,
        _folder: folder,
    };
    network.socket = Some(connected(&path, SocketType::SEQPACKET)?);
    Ok(network)
}

/// passt with its socket for virtual machines.
///
/// # Errors
/// It does not start.
pub fn passt() -> Result<Network> {
    let folder = tempfile::tempdir()?;
    // passt gives up root for a user who must reach the folder.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder.path(), open)?;
    let path = folder.path().join("frames");
    let mut command = Command::new("passt");
    command
        .args([
            "--foreground",
            "--ipv4-only",
            "--address",
            "10.0.2.15",
            "--netmask",
            "24",
        ])
        .args([
            "--gateway",
            &GATEWAY.to_string(),
            "--mtu",
            &MTU.to_string(),
            "--quiet",
        ])
        .arg("--socket");
    let mut network = Network {
        name: "passt",
        process: quiet(command.arg(&path)).context("passt (a Debian package)")?,
        socket: None,
        framing: Framing::Lengths,
        _folder: folder,
    };
    network.socket = Some(connected(&path, SocketType::STREAM)?);
    Ok(network)
}

fn quiet(command: &mut Command) -> std::io::Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// Connects to a socket that is soon there.
fn connected(path: &Path, kind: SocketType) -> Result<OwnedFd> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let socket = unix(kind)?;
        if connect(&socket, &SocketAddrUnix::new(path)?).is_ok() {
            return Ok(socket);
        }
        if Instant::now() > end {
            bail!("nobody listens at {}", path.display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn unix(kind: SocketType) -> Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Where the guest connects to for a port of the host's loopback.
#[must_use]
pub fn outside(port: u16) -> SocketAddr {
    (GATEWAY, port).into()
}
