//! A device with its host side, and a watch on guest memory.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use vm_memory::{Bytes, GuestAddress};

use super::super::block::Block;
use super::super::device::VirtioDevice;
use super::super::net::Net;
use super::super::rng::Rng;
use super::super::testing::{
    Guest, HIGH_BASE, HIGH_LEN, INDIRECT, LOW_LEN, QUEUE_SIZE, RING_STEP, RINGS, WRITE,
};
use super::super::vsock::{Vsock, VsockState};
use crate::config::{DiskConfig, NetConfig, VsockConfig};

/// Longest that one notification may take, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);
pub(super) const VSOCK_CID: u64 = 5;
pub(super) const GUEST_PORT: u32 = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ReadOnlyDisk,
    Disk,
    Rng,
    Net,
    Vsock,
    RestoredVsock,
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [
        Self::ReadOnlyDisk,
        Self::Disk,
        Self::Rng,
        Self::Net,
        Self::Vsock,
        Self::RestoredVsock,
    ];

    pub(super) fn queues(self) -> usize {
        match self {
            Self::ReadOnlyDisk | Self::Disk | Self::Rng => 1,
            Self::Net => 2,
            Self::Vsock | Self::RestoredVsock => 3,
        }
    }
}

/// Who is on the host's side of a device.
#[derive(Debug)]
enum Peer {
    None,
    Frames(OwnedFd),
    /// A listening address, and a connection that the guest accepted.
    Stream(tempfile::TempDir, Option<UnixStream>),
}

#[derive(Debug)]
pub(super) struct Rig {
    pub(super) kind: Kind,
    pub(super) guest: Guest,
    /// The host's port of the vsock connection.
    pub(super) host_port: u32,
    peer: Peer,
}

impl Rig {
    /// A device that a driver set up in good order.
    pub(super) fn started(kind: Kind) -> Self {
        let (device, peer) = device(kind);
        Self::with(kind, Guest::start(device), peer)
    }

    /// A device after power-on.
    pub(super) fn powered_on(kind: Kind) -> Self {
        let (device, peer) = device(kind);
        Self {
            kind,
            guest: Guest::power_on(device),
            host_port: 0,
            peer,
        }
    }

    fn with(kind: Kind, guest: Guest, peer: Peer) -> Self {
        let mut this = Self {
            kind,
            guest,
            host_port: 0,
            peer,
        };
        if kind == Kind::Vsock {
            this.connect();
        }
        this
    }

    /// Brings the vsock connection to where data flows.
    fn connect(&mut self) {
        let Peer::Stream(folder, peer) = &mut self.peer else {
            unreachable!("a vsock has a stream");
        };
        let mut stream = UnixStream::connect(folder.path().join("s")).unwrap();
        stream.write_all(b"CONNECT 1024\n").unwrap();
        stream.set_nonblocking(true).unwrap();
        *peer = Some(stream);
        let buffer = self.guest.allocate(4096);
        self.guest.chain(0, 0, &[(buffer, 4096, true)]);
        for _ in 0..4 {
            self.events();
            self.guest.notify(0);
        }
        assert_eq!(self.guest.take_used(0), Some((0, 44)), "no request");
        let port = self.guest.bytes(buffer + 16, 4);
        self.host_port = u32::from_le_bytes(port.try_into().unwrap());
        let response = self.vsock_header(2, 0);
        let at = self.guest.place(&response);
        self.guest.chain(1, 0, &[(at, 44, false)]);
        self.guest.notify(1);
        assert!(self.guest.take_used(1).is_some());
        self.guest.recycle();
    }

    /// A header of the connection's packets.
    pub(super) fn vsock_header(&self, op: u16, len: u32) -> Vec<u8> {
        let mut raw = VSOCK_CID.to_le_bytes().to_vec();
        raw.extend(2_u64.to_le_bytes());
        raw.extend(GUEST_PORT.to_le_bytes());
        raw.extend(self.host_port.to_le_bytes());
        raw.extend(len.to_le_bytes());
        raw.extend(1_u16.to_le_bytes());
        raw.extend(op.to_le_bytes());
        raw.extend(0_u32.to_le_bytes());
        raw.extend((1_u32 << 18).to_le_bytes());
        raw.extend(0_u32.to_le_bytes());
        raw
    }

    /// The host side sends, so that receive queues have something to do.
    pub(super) fn provoke(&mut self, len: usize) {
        match &mut self.peer {
            Peer::None | Peer::Stream(_, None) => {}
            Peer::Frames(socket) => {
                let _ = send(&*socket, &vec![0x5a; len], SendFlags::DONTWAIT);
            }
            Peer::Stream(_, Some(stream)) => {
                let _ = stream.write(&vec![0x5a; len]);
                let _ = stream.read(&mut [0; 4096]);
            }
        }
    }

    /// Lets the device see what its host side did.
    pub(super) fn events(&mut self) {
        for fd in self.guest.transport.event_fds() {
            self.guest.transport.event_ready(fd);
        }
    }

    /// Runs the device on a queue and checks that it kept to what it was given.
    pub(super) fn watched(&mut self, work: impl FnOnce(&mut Self)) {
        let before = Image::of(&self.guest);
        let allowed = before.writable(self.kind.queues());
        let start = Instant::now();
        work(self);
        assert!(start.elapsed() < PATIENCE, "took {:?}", start.elapsed());
        assert!(
            self.guest.guarded.canaries_intact(),
            "wrote outside guest memory"
        );
        if let Some(allowed) = allowed {
            let after = Image::of(&self.guest);
            if let Some(address) = before.stray_write(&after, &allowed) {
                panic!("wrote at {address:#x}, which the driver did not give");
            }
        }
    }

    /// After a reset the device serves a good driver.
    pub(super) fn assert_alive(&mut self) {
        self.guest.start_over();
        let guest = &mut self.guest;
        match self.kind {
            Kind::ReadOnlyDisk | Kind::Disk => {
                let header = guest.place(&[0; 16]);
                let data = guest.allocate(512);
                let status = guest.place(&[0xee]);
                guest.chain(
                    0,
                    0,
                    &[(header, 16, false), (data, 512, true), (status, 1, true)],
                );
                guest.notify(0);
                assert_eq!(guest.take_used(0), Some((0, 513)));
                assert_eq!(guest.bytes(status, 1), [0]);
            }
            Kind::Rng => {
                let data = guest.allocate(16);
                guest.chain(0, 0, &[(data, 16, true)]);
                guest.notify(0);
                assert_eq!(guest.take_used(0), Some((0, 16)));
            }
            Kind::Net => {
                let frame = guest.place(&[0; 72]);
                guest.chain(1, 0, &[(frame, 72, false)]);
                guest.notify(1);
                assert_eq!(guest.take_used(1), Some((0, 0)));
            }
            Kind::Vsock | Kind::RestoredVsock => self.assert_vsock_alive(),
        }
    }

    fn assert_vsock_alive(&mut self) {
        // A request of the guest is answered with a reset.
        let request = self.vsock_header(1, 0);
        let guest = &mut self.guest;
        let (packet, buffer) = (guest.place(&request), guest.allocate(4096));
        guest.chain(0, 0, &[(buffer, 4096, true)]);
        guest.chain(1, 0, &[(packet, 44, false)]);
        guest.notify(1);
        assert_eq!(guest.take_used(0), Some((0, 44)));
        assert_eq!(guest.bytes(buffer + 30, 2), [3, 0]);
    }
}

fn device(kind: Kind) -> (Box<dyn VirtioDevice>, Peer) {
    match kind {
        Kind::ReadOnlyDisk | Kind::Disk => {
            let base = tempfile::tempfile().unwrap();
            base.set_len(1 << 20).unwrap();
            let private = (kind == Kind::Disk).then(|| file().into_raw_fd());
            let base_fd = base.into_raw_fd();
            let config = DiskConfig {
                id: "vda".into(),
                base_fd,
                size: 1 << 20,
                private_fd: private,
            };
            (Box::new(Block::new(&config).unwrap()), Peer::None)
        }
        Kind::Rng => (Box::new(Rng::new()), Peer::None),
        Kind::Net => {
            let (ours, theirs) = socketpair(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )
            .unwrap();
            let mac = "02:00:00:00:00:01".into();
            let config = NetConfig {
                mac,
                socket_fd: Some(ours.into_raw_fd()),
            };
            (Box::new(Net::new(&config).unwrap()), Peer::Frames(theirs))
        }
        Kind::Vsock | Kind::RestoredVsock => {
            let folder = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(folder.path().join("s")).unwrap();
            let config = VsockConfig {
                cid: VSOCK_CID,
                listener_fd: listener.into_raw_fd(),
            };
            let device = if kind == Kind::Vsock {
                Vsock::new(&config)
            } else {
                Vsock::restore(&config, &VsockState { cid: 9 })
            };
            (Box::new(device.unwrap()), Peer::Stream(folder, None))
        }
    }
}

fn file() -> File {
    tempfile::tempfile().unwrap()
}

/// All guest memory at one time.
struct Image {
    low: Vec<u8>,
    high: Vec<u8>,
}

impl Image {
    fn of(guest: &Guest) -> Self {
        Self {
            low: guest.bytes(0, LOW_LEN as usize),
            high: guest.bytes(HIGH_BASE, HIGH_LEN as usize),
        }
    }

    fn descriptor(&self, at: u64) -> Option<(u64, u32, u16)> {
        let (region, at) = if at < HIGH_BASE {
            (&self.low, at)
        } else {
            (&self.high, at - HIGH_BASE)
        };
        let at = usize::try_from(at).ok()?;
        let raw = region.get(at..at.checked_add(16)?)?;
        let address = u64::from_le_bytes(raw[..8].try_into().ok()?);
        let len = u32::from_le_bytes(raw[8..12].try_into().ok()?);
        Some((address, len, u16::from_le_bytes([raw[12], raw[13]])))
    }

    /// Where the device may write: used rings, and all that any descriptor gives as writable.
    /// `None` if that covers rings or tables themselves, for then it may change while in use.
    fn writable(&self, queues: usize) -> Option<Vec<Range<u64>>> {
        let (mut data, mut tables) = (Vec::new(), Vec::new());
        for queue in 0..queues as u64 {
            let base = RINGS + queue * RING_STEP;
            tables.push(base..base + RING_STEP);
            for index in 0..u64::from(QUEUE_SIZE) {
                let Some((address, len, flags)) = self.descriptor(base + 16 * index) else {
                    continue;
                };
                if flags & INDIRECT == 0 {
                    if flags & WRITE != 0 {
                        data.push(address..address.saturating_add(len.into()));
                    }
                    continue;
                }
                tables.push(address..address.saturating_add(len.into()));
                for entry in 0..u64::from(len / 16) {
                    let at = address.checked_add(16 * entry);
                    let Some((address, len, flags)) = at.and_then(|at| self.descriptor(at)) else {
                        break;
                    };
                    if flags & WRITE != 0 {
                        data.push(address..address.saturating_add(len.into()));
                    }
                }
            }
        }
        let overlap = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
        if data
            .iter()
            .any(|range| tables.iter().any(|table| overlap(range, table)))
        {
            return None;
        }
        for queue in 0..queues as u64 {
            let used = RINGS + queue * RING_STEP + 0x2000;
            data.push(used..used + 6 + 8 * u64::from(QUEUE_SIZE));
        }
        Some(data)
    }

    /// The first byte that differs and is in none of the ranges.
    fn stray_write(&self, after: &Self, allowed: &[Range<u64>]) -> Option<u64> {
        let regions = [
            (0, &self.low, &after.low),
            (HIGH_BASE, &self.high, &after.high),
        ];
        regions.iter().find_map(|&(base, before, after)| {
            let pages = (base..)
                .step_by(4096)
                .zip(before.chunks(4096).zip(after.chunks(4096)));
            pages
                .filter(|(_, (before, after))| before != after)
                .find_map(|(start, (before, after))| {
                    (start..)
                        .zip(before.iter().zip(after))
                        .find(|(at, (before, after))| {
                            before != after && !allowed.iter().any(|range| range.contains(at))
                        })
                        .map(|(at, _)| at)
                })
        })
    }
}

/// Scribbles over rings as another vCPU would while a device works on them.
pub(super) fn scribble(memory: &vm_memory::GuestMemoryMmap, seed: &mut u64, len: u64) {
    // xorshift64: all that is asked of it is that it differs.
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    let at = RINGS + (*seed >> 16) % len;
    let _ = memory.write_slice(
        &seed.to_le_bytes()[..(*seed % 8) as usize + 1],
        GuestAddress(at),
    );
}
