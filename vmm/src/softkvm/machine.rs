//! The emulated machine: QEMU, and the virtiofsd that gives it this machine's file system.
//!
//! Both get their sockets as inherited descriptors, so that nothing has to be cleaned up in the
//! file system, and both die with the thread that started them.

use std::fmt::Write as _;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use command_fds::{CommandFdExt, FdMapping};

use super::kernel::Kernel;
use super::tail::Tail;
use super::wire::PORT_NAMES;

/// Descriptor numbers in the children; below them are the standard streams.
const FIRST_FD: i32 = 3;

/// All that QEMU emulates, an AMD CPU with SVM, without the promise that REP MOVSB is fast: here it
/// goes byte by byte, and without the promise kernel and libc copy by words (measured: 15 % less
/// CPU time for starting programs and copying files).
const CPU: &str = "max,-erms,-fsrm";

/// A tick on each CPU that the emulated timer repeats by itself, whether or not the last one arrived.
///
/// QEMU 7.2 changes a CPU's set of pending interrupts without a lock when a nested guest is entered
/// or left (`helper_vmrun`, `do_vmexit`), so that an interrupt raised at that moment by another
/// thread is lost: it waits in the emulated APIC until the next one. A CPU that sleeps without a tick
/// then sleeps for ever, and the other one spins for its answer. The next tick wakes it.
const PERIODIC_TICK: &str = "nohz=off highres=off";

/// Why the emulated machine cannot run.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A program is not installed.
    #[error("{program} is not installed: install it with `apt-get install {package}`")]
    Missing {
        /// Name of the program.
        program: &'static str,
        /// Debian package that holds it.
        package: &'static str,
    },
    /// A program did not start.
    #[error("cannot start {program}: {cause}")]
    Start {
        /// Path of the program.
        program: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A socket between this process and the machine could not be made.
    #[error("cannot make a socket for the emulated machine: {0}")]
    Socket(io::Error),
    /// The supervisor's path does not fit the kernel command line.
    #[error("the path {0} is too long for the emulated machine; move the program to a shorter one")]
    LongPath(PathBuf),
}

/// The programs that make up the machine.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) qemu: PathBuf,
    pub(super) virtiofsd: PathBuf,
    pub(super) busybox: PathBuf,
}

impl Tools {
    /// Finds the programs in `PATH` and where Debian puts those that are not meant for it.
    pub(super) fn find() -> Result<Self, MachineError> {
        let search = |program, extra: &[&str]| find_program(program, extra);
        let missing = |program, package| MachineError::Missing { program, package };
        let qemu = search("qemu-system-x86_64", &[])
            .ok_or_else(|| missing("qemu-system-x86_64", "qemu-system-x86"))?;
        let virtiofsd =
            search("virtiofsd", &["/usr/libexec", "/usr/lib/qemu"]).ok_or_else(|| {
                missing(
                    "virtiofsd",
                    "qemu-system-common (Debian 12) or virtiofsd (Debian 13)",
                )
            })?;
        let busybox = search("busybox", &[]).ok_or_else(|| missing("busybox", "busybox-static"))?;
        Ok(Tools {
            qemu,
            virtiofsd,
            busybox,
        })
    }
}

fn find_program(program: &str, extra: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/bin", "/usr/sbin"]
        .iter()
        .chain(extra)
        .map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|folder| folder.join(program))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
}

/// Size and shape of the machine.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) memory_mib: u64,
    pub(super) cpus: u32,
    pub(super) network: bool,
}

/// A running machine. Dropping it ends it.
pub(super) struct Machine {
    qemu: Child,
    virtiofsd: Child,
    /// Control, stdin, stdout, stderr, as in [`PORT_NAMES`]; taken by the session.
    pub(super) ports: Option<[UnixStream; 4]>,
    /// What the kernel, QEMU and virtiofsd say.
    tails: Vec<Tail>,
}

impl Machine {
    /// Starts both programs. Must be called on the thread that outlives the machine.
    pub(super) fn start(
        tools: &Tools,
        kernel: &Kernel,
        shape: &Shape,
        supervisor: &Path,
        verbose: bool,
    ) -> Result<Self, MachineError> {
        let append = kernel_command_line(supervisor)?;
        let (listener, to_virtiofsd) = private_listener().map_err(MachineError::Socket)?;
        let mut virtiofsd = start_virtiofsd(&tools.virtiofsd, listener)?;
        let pair = || UnixStream::pair().map_err(MachineError::Socket);
        let (console, console_end) = pair()?;
        let (control, control_end) = pair()?;
        let (stdin, stdin_end) = pair()?;
        let (stdout, stdout_end) = pair()?;
        let (stderr, stderr_end) = pair()?;
        let ends = [
            to_virtiofsd,
            console_end,
            control_end,
            stdin_end,
            stdout_end,
            stderr_end,
        ];
        let mut command = Command::new(&tools.qemu);
        command
            .args(qemu_arguments(shape))
            .arg("-kernel")
            .arg(&kernel.vmlinuz);
        command
            .arg("-initrd")
            .arg(&kernel.initramfs)
            .arg("-append")
            .arg(append);
        let qemu = match spawn(&mut command, ends.map(OwnedFd::from).into(), &tools.qemu) {
            Ok(qemu) => qemu,
            Err(error) => {
                end(&mut virtiofsd);
                return Err(error);
            }
        };
        let mut machine = Machine {
            qemu,
            virtiofsd,
            ports: Some([control, stdin, stdout, stderr]),
            tails: vec![Tail::follow(console, verbose)],
        };
        let said = [machine.virtiofsd.stderr.take(), machine.qemu.stderr.take()];
        machine.tails.extend(
            said.into_iter()
                .flatten()
                .map(|pipe| Tail::follow(pipe, verbose)),
        );
        Ok(machine)
    }

    /// What the machine said last, as an ending of a message. Ends the machine.
    pub(super) fn last_words(&mut self) -> String {
        end(&mut self.qemu);
        end(&mut self.virtiofsd);
        let words: String = self.tails.iter().map(Tail::last_words).collect();
        if words.is_empty() {
            words
        } else {
            format!(":\n{}", words.trim_end())
        }
    }

    /// Whether QEMU or virtiofsd has ended, and how.
    pub(super) fn ended(&mut self) -> Option<(&'static str, ExitStatus)> {
        let of = |child: &mut Child| child.try_wait().ok().flatten();
        of(&mut self.qemu)
            .map(|status| ("QEMU", status))
            .or_else(|| of(&mut self.virtiofsd).map(|status| ("virtiofsd", status)))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // QEMU first: virtiofsd then has no requests under way.
        end(&mut self.qemu);
        end(&mut self.virtiofsd);
    }
}

fn end(child: &mut Child) {
    // A failure means that the process has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

/// A listening socket and one connection to it that nobody else could make.
///
/// virtiofsd only takes a listening socket and serves the first connection with its rights, so
/// the socket lives in a folder of mode 0700, and only until the connection is queued.
fn private_listener() -> io::Result<(UnixListener, UnixStream)> {
    let folder = tempfile::Builder::new().prefix("softkvm-").tempdir()?;
    let path = folder.path().join("files");
    let listener = UnixListener::bind(&path)?;
    let connection = UnixStream::connect(&path)?;
    folder.close()?;
    Ok((listener, connection))
}

fn start_virtiofsd(program: &Path, listener: UnixListener) -> Result<Child, MachineError> {
    let root = rustix::process::geteuid().is_root();
    let mut command = if root {
        Command::new(program)
    } else {
        in_user_namespace(program)
    };
    command.arg(format!("--fd={FIRST_FD}"));
    command.args([
        "-o",
        "source=/",
        "-o",
        "cache=always",
        "-o",
        "sandbox=chroot",
    ]);
    command.args(["-o", "log_level=err"]);
    if !root {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        command.arg(format!(
            "--rlimit-nofile={}",
            limit.maximum.unwrap_or(1 << 20).min(1 << 20)
        ));
    }
    spawn(&mut command, vec![listener.into()], program)
}

/// virtiofsd takes on the identity of whoever makes a request, so it must seem to be root: the
/// user becomes root of a namespace, whose other ids are those of `/etc/subuid`.
fn in_user_namespace(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--map-auto", "--"])
        .arg(program);
    command
}

/// Starts a child with these descriptors from [`FIRST_FD`] on, out of the terminal's reach.
fn spawn(command: &mut Command, fds: Vec<OwnedFd>, program: &Path) -> Result<Child, MachineError> {
    let start = |cause| MachineError::Start {
        program: program.to_owned(),
        cause,
    };
    let mappings = fds
        .into_iter()
        .zip(FIRST_FD..)
        .map(|(parent_fd, child_fd)| FdMapping {
            parent_fd,
            child_fd,
        })
        .collect();
    command
        .fd_mappings(mappings)
        .map_err(|cause| start(io::Error::other(cause)))?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // A group of its own: Ctrl-C on the terminal is for the command, not for the machine.
    command.process_group(0);
    let parent = std::process::id() as i32;
    // SAFETY: the closure runs between fork and exec and only makes two async-signal-safe system
    // calls that take no pointers.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above.
            if libc::getppid() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
    command.spawn().map_err(start)
}

fn kernel_command_line(supervisor: &Path) -> Result<String, MachineError> {
    let path = hex::encode(supervisor.as_os_str().as_encoded_bytes());
    // x86 takes 2048 bytes.
    if path.len() > 1800 {
        return Err(MachineError::LongPath(supervisor.to_owned()));
    }
    Ok(format!(
        "console=ttyS0 panic=-1 mitigations=off tsc=reliable no_timer_check {PERIODIC_TICK} quiet \
         softkvm.supervisor={path}"
    ))
}

fn qemu_arguments(shape: &Shape) -> Vec<String> {
    let Shape {
        memory_mib,
        cpus,
        network,
    } = shape;
    let mut line = format!(
        "-accel tcg,thread=multi -cpu {CPU} -smp {cpus} -m {memory_mib}M -M q35 \
         -display none -nodefaults -no-user-config -no-reboot \
         -object memory-backend-memfd,id=mem,size={memory_mib}M,share=on -numa node,memdev=mem \
         -chardev socket,id=files,fd={FIRST_FD} -device vhost-user-fs-pci,chardev=files,tag=host \
         -chardev socket,id=console,fd={} -serial chardev:console \
         -device virtio-serial-pci,id=ports",
        FIRST_FD + 1
    );
    for (fd, name) in (FIRST_FD + 2..).zip(PORT_NAMES) {
        // Writing to a String cannot fail.
        let _ = write!(
            line,
            " -chardev socket,id={name},fd={fd} \
             -device virtserialport,bus=ports.0,chardev={name},name={name}"
        );
    }
    if *network {
        line.push_str(" -netdev user,id=net -device virtio-net-pci,netdev=net,romfile=");
    }
    line.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_supervisor_path_too_long_for_the_command_line_is_refused() {
        let path = PathBuf::from("/".repeat(1000));
        let error = kernel_command_line(&path).unwrap_err();
        assert!(matches!(error, MachineError::LongPath(_)));
    }

    #[test]
    fn each_port_of_the_protocol_is_a_device() {
        let line = qemu_arguments(&Shape {
            memory_mib: 2048,
            cpus: 2,
            network: false,
        })
        .join(" ");
        for name in PORT_NAMES {
            assert!(
                line.contains(&format!("chardev={name},name={name}")),
                "{line}"
            );
        }
        assert!(!line.contains("netdev"));
    }

    #[test]
    fn the_listener_leaves_nothing_in_the_file_system() {
        let (listener, _connection) = private_listener().unwrap();
        let address = listener.local_addr().unwrap();
        assert!(!address.as_pathname().unwrap().exists());
        assert!(listener.as_raw_fd() > 2);
        listener.accept().unwrap();
    }
}
