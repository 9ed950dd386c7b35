//! Kernel settings for a machine that runs hostile code, and the names it has before its identity.

use std::{fs, io, net::Ipv4Addr};

use super::activation::Socket;

/// Words of the kernel command line that are the agent's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// `mayfly.modules=1`: steps may load kernel modules (Docker needs them).
    pub(super) modules: bool,
    /// `mayfly.ptrace_scope=N`: Yama's scope, 0 to 3; 1 by default, so that debuggers work on
    /// their own children.
    pub(super) ptrace_scope: u8,
    /// `mayfly.disk=/a,/b`: folders that are the private disk itself and no overlay, for what
    /// cannot live on one (Docker's storage is overlays, which the kernel does not stack like that).
    pub(super) disk: Vec<String>,
    /// `mayfly.socket=/path,group,/program,argument…`: a socket whose program starts with its first
    /// client (Docker's engine).
    pub(super) socket: Option<Socket>,
}

impl Options {
    /// Reads `/proc/cmdline`; what cannot be read is the default, which is the stricter one.
    pub(super) fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    fn parse(line: &str) -> Self {
        let mut options = Self {
            modules: false,
            ptrace_scope: 1,
            disk: Vec::new(),
            socket: None,
        };
        for word in line.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("mayfly.modules", value)) => options.modules = value == "1",
                Some(("mayfly.disk", value)) => {
                    let plain = |path: &&str| path.starts_with('/') && !path.contains("..");
                    options.disk = value.split(',').filter(plain).map(str::to_owned).collect();
                }
                Some(("mayfly.socket", value)) => options.socket = Socket::parse(value),
                Some(("mayfly.ptrace_scope", value)) => {
                    let scope = value.parse().ok().filter(|scope| *scope <= 3);
                    options.ptrace_scope = scope.unwrap_or(1);
                }
                _ => {}
            }
        }
        options
    }

    /// Settings below /proc/sys, in the order in which they are written.
    fn sysctls(&self) -> Vec<(&'static str, String)> {
        let mut settings: Vec<(&str, String)> = [
            // A kernel that went wrong must not run on: the VMM sees the reset.
            ("kernel/panic", "-1"),
            ("kernel/panic_on_oops", "1"),
            ("vm/panic_on_oom", "0"),
            // Addresses and messages of the kernel are for attackers.
            ("kernel/kptr_restrict", "2"),
            ("kernel/dmesg_restrict", "1"),
            ("kernel/perf_event_paranoid", "3"),
            ("kernel/unprivileged_bpf_disabled", "1"),
            ("net/core/bpf_jit_harden", "2"),
            ("kernel/kexec_load_disabled", "1"),
            ("vm/unprivileged_userfaultfd", "0"),
            ("dev/tty/ldisc_autoload", "0"),
            ("fs/protected_fifos", "1"),
            ("fs/protected_hardlinks", "1"),
            ("fs/protected_regular", "2"),
            ("fs/protected_symlinks", "1"),
            ("fs/suid_dumpable", "0"),
            // A crashed process leaves a file beside it and starts nothing.
            ("kernel/core_pattern", "core"),
            // Addresses are given, not found: nobody else is on the link.
            ("net/ipv6/conf/all/accept_ra", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            // What builds need more of than the defaults give.
            ("fs/inotify/max_user_watches", "524288"),
            ("fs/inotify/max_user_instances", "1024"),
            ("vm/max_map_count", "262144"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .to_vec();
        settings.push(("kernel/yama/ptrace_scope", self.ptrace_scope.to_string()));
        if !self.modules {
            // Last: it cannot be taken back.
            settings.push(("kernel/modules_disabled", "1".to_owned()));
        }
        settings
    }
}

/// Writes the settings. One that this kernel does not have is passed over; one that it refuses is
/// said and passed over, as the border is the machine and not its kernel.
pub(super) fn harden(options: &Options) {
    for (name, value) in options.sysctls() {
        match fs::write(format!("/proc/sys/{name}"), &value) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                eprintln!("mayfly-guest: setting {name} to {value}: {error}");
            }
            _ => {}
        }
    }
}

/// Names of the template; each sandbox gets its own with its identity. There is no name server
/// until there is a network, and what the image's builder had in its place must not be asked.
pub(super) fn names() {
    let name = "mayfly-template";
    let result = rustix::system::sethostname(name.as_bytes())
        .map_err(io::Error::from)
        .and_then(|()| fs::write("/etc/hostname", format!("{name}\n")))
        .and_then(|()| fs::write("/etc/hosts", hosts(name)))
        .and_then(|()| replace("/etc/resolv.conf", ""));
    if let Err(error) = result {
        eprintln!("mayfly-guest: writing the names in /etc: {error}");
    }
}

/// Content of `/etc/resolv.conf`. Its address is not of loopback, so it is the containers' too.
pub(super) fn resolver(gateway: Ipv4Addr) -> String {
    format!("nameserver {gateway}\noptions edns0\n")
}

/// Content of `/etc/hosts`.
pub(super) fn hosts(name: &str) -> String {
    format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {name}\n")
}

/// Writes a file in the place of one that may be a symbolic link to nowhere.
pub(super) fn replace(path: &str, content: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write(path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strict_settings_are_the_default() {
        let options = Options::parse("console=ttyS0 quiet");
        assert_eq!((options.modules, options.ptrace_scope), (false, 1));
        let last = options.sysctls().pop();
        assert_eq!(last, Some(("kernel/modules_disabled", "1".into())));
    }

    #[test]
    fn folders_on_the_disk_are_absolute_and_plain() {
        let options = Options::parse("mayfly.disk=/var/lib/docker,etc,/a/../b,/srv");
        assert_eq!(options.disk, ["/var/lib/docker", "/srv"]);
        assert_eq!(options.socket, None);
    }

    #[test]
    fn a_socket_is_named_with_its_group_and_program() {
        let options = Options::parse("quiet mayfly.socket=/run/d.sock,docker,/usr/sbin/d,-x a=b");
        let socket = options.socket.expect("a socket");
        assert_eq!(
            (socket.path.as_str(), socket.group.as_str()),
            ("/run/d.sock", "docker")
        );
        assert_eq!(socket.argv, ["/usr/sbin/d", "-x"]);
    }

    #[test]
    fn the_command_line_opens_modules_and_closes_ptrace() {
        let options = Options::parse("mayfly.modules=1 mayfly.ptrace_scope=3\n");
        let settings = options.sysctls();
        assert!(
            settings
                .iter()
                .all(|(name, _)| *name != "kernel/modules_disabled")
        );
        assert!(settings.contains(&("kernel/yama/ptrace_scope", "3".into())));
        assert_eq!(Options::parse("mayfly.ptrace_scope=9").ptrace_scope, 1);
    }
}
