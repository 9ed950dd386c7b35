//! A guest for tests: busybox as PID 1 that counts aloud, in a VMM process of its own.

// Clippy takes only `#[test]` functions for tests; this whole file is one's helper.
#![allow(clippy::unwrap_used)]

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::{fd::AsFd, unix::net::UnixListener},
    path::Path,
    time::{Duration, Instant},
};

use mayfly_vmm::{
    config::{
        CONFIG_VERSION, ConsoleConfig, DiskConfig, JailConfig, MachineConfig, NetConfig, Start,
        VmmConfig, VsockConfig,
    },
    control::{Command, Outcome, SnapshotParts},
    process::{Descriptors, Ended, VmmProcess},
    snapshot::digest::digest_file,
};

/// How long an emulated machine may take for anything.
pub const PATIENCE: Duration = Duration::from_secs(240);
const DISK_BYTES: u64 = 1 << 20;
const INIT: &str = "#!/bin/busybox sh
B=/bin/busybox
$B mkdir -p /proc
$B mount -t proc proc /proc
echo cpus $($B grep -c ^processor /proc/cpuinfo)
$B grep MemTotal /proc/meminfo
$B grep -q mayfly.panic /proc/cmdline && echo c > /proc/sysrq-trigger
i=0
while [ $i -lt 12 ]; do i=$((i+1)); echo tick $i; $B sleep 0.3; done
echo OFF
$B poweroff -f
";

/// The files of a snapshot and what the VMM said of them.
#[derive(Debug)]
pub struct Files {
    memory: File,
    state: File,
    disk: File,
    parts: SnapshotParts,
}

impl Files {
    pub fn assert_unchanged(&self) {
        for (file, digest) in [
            (&self.memory, &self.parts.memory),
            (&self.state, &self.parts.state),
            (&self.disk, &self.parts.disk),
        ] {
            assert_eq!(&digest_file(file, &mut |_| ()).unwrap(), digest);
        }
    }

    pub fn damage_state(&self) {
        self.state.set_len(self.parts.state.length / 2).unwrap();
    }

    pub fn truncate_memory(&self) {
        self.memory.set_len(self.parts.memory.length / 2).unwrap();
    }
}

/// A running test guest.
pub struct Guest {
    vmm: VmmProcess,
    console: File,
    // Keeps the socket's path until the guest is gone.
    _directory: tempfile::TempDir,
}

impl Guest {
    pub fn boot(machine: MachineConfig, cmdline: &str) -> Self {
        let kernel = std::env::var_os("MAYFLY_TEST_VMLINUX")
            .expect("MAYFLY_TEST_VMLINUX names an extracted x86-64 kernel");
        let kernel = File::open(kernel).unwrap();
        let mut initramfs = tempfile::tempfile().unwrap();
        let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
        initramfs.write_all(&busybox_guest(&busybox)).unwrap();
        let mut descriptors = Descriptors::default();
        let start = Start::Boot {
            kernel_fd: descriptors.pass(kernel),
            initramfs_fd: descriptors.pass(initramfs),
            cmdline: format!("console=ttyS0 quiet pci=off {cmdline}"),
        };
        let base = tempfile::tempfile().unwrap();
        base.set_len(DISK_BYTES).unwrap();
        Self::spawn(machine, start, base, descriptors)
    }

    pub fn restore(machine: MachineConfig, files: &Files) -> Self {
        let mut descriptors = Descriptors::default();
        let start = Start::Restore {
            state_fd: descriptors.pass(files.state.try_clone().unwrap()),
            memory_fd: descriptors.pass(files.memory.try_clone().unwrap()),
        };
        let base = files.disk.try_clone().unwrap();
        Self::spawn(machine, start, base, descriptors)
    }

    fn spawn(
        machine: MachineConfig,
        start: Start,
        base: File,
        mut descriptors: Descriptors,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("vsock")).unwrap();
        let console = tempfile::NamedTempFile::new().unwrap();
        let config = VmmConfig {
            version: CONFIG_VERSION,
            start,
            machine,
            disks: vec![DiskConfig {
                id: "data".into(),
                base_fd: descriptors.pass(base),
                size: DISK_BYTES,
                private_fd: Some(descriptors.pass(tempfile::tempfile().unwrap())),
            }],
            vsock: VsockConfig {
                cid: 3,
                listener_fd: descriptors.pass(listener),
            },
            net: NetConfig {
                mac: "02:00:00:00:00:01".into(),
                socket_fd: None,
            },
            console: ConsoleConfig {
                log_fd: Some(descriptors.pass(console.reopen().unwrap())),
                limit_bytes: 1 << 20,
            },
            control_fd: -1,
            generation_id: "00112233445566778899aabbccddeeff".into(),
            jail: JailConfig { enabled: true },
        };
        let program = Path::new(env!("CARGO_BIN_EXE_mayfly-vmm"));
        Self {
            vmm: VmmProcess::spawn(program, config, descriptors).unwrap(),
            console: console.into_file(),
            _directory: directory,
        }
    }

    pub fn console(&mut self) -> String {
        let mut bytes = Vec::new();
        self.console.rewind().unwrap();
        self.console.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    pub fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.console().contains(text) {
            assert!(
                self.vmm.is_running() && Instant::now() < deadline,
                "no {text:?} in:\n{}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn last_tick(&mut self) -> u32 {
        let console = self.console();
        let mut ticks = console
            .lines()
            .rev()
            .filter_map(|line| line.strip_prefix("tick "));
        ticks.next().unwrap().parse().unwrap()
    }

    pub fn command(&mut self, command: Command) -> Outcome {
        self.vmm.command(command, &[], PATIENCE).unwrap()
    }

    pub fn snapshot(&mut self) -> Files {
        self.try_snapshot().unwrap()
    }

    pub fn try_snapshot(&mut self) -> Result<Files, String> {
        let [memory, state, disk] = [(); 3].map(|()| tempfile::tempfile().unwrap());
        let descriptors = [memory.as_fd(), state.as_fd(), disk.as_fd()];
        let outcome = self
            .vmm
            .command(Command::Snapshot, &descriptors, PATIENCE)
            .map_err(|error| error.to_string())?;
        let Outcome::Snapshot(parts) = outcome else {
            return Err(format!("{outcome:?}"));
        };
        Ok(Files {
            memory,
            state,
            disk,
            parts,
        })
    }

    pub fn end(mut self, command: Command) -> Ended {
        self.command(command);
        self.wait()
    }

    pub fn wait(self) -> Ended {
        self.vmm.wait(PATIENCE).unwrap()
    }
}

/// The number behind `name` in `text`.
pub fn field(text: &str, name: &str) -> u64 {
    let rest = text.split(name).nth(1).unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// An initramfs (cpio, format newc) with busybox and a PID 1 that counts aloud.
pub fn busybox_guest(busybox: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    append(&mut archive, "dev", 0o40755, (0, 0), b"");
    append(&mut archive, "dev/console", 0o20600, (5, 1), b"");
    append(&mut archive, "bin", 0o40755, (0, 0), b"");
    append(&mut archive, "bin/busybox", 0o100_755, (0, 0), busybox);
    append(&mut archive, "init", 0o100_755, (0, 0), INIT.as_bytes());
    append(&mut archive, "TRAILER!!!", 0, (0, 0), b"");
    archive
}

fn append(archive: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
    let fields = [
        archive.len() as u32,
        mode,
        0,
        0,
        1,
        0,
        content.len() as u32,
        0,
        0,
        device.0,
        device.1,
        name.len() as u32 + 1,
        0,
    ];
    archive.extend(b"070701");
    fields
        .iter()
        .for_each(|field| archive.extend(format!("{field:08X}").bytes()));
    archive.extend(name.bytes().chain([0]));
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
