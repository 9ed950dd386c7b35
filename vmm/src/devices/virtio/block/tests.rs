//! Reads, writes, copy-on-write, ranges and refusals, with a driver's chains.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use super::super::testing::Guest;
use super::{Block, BlockState, MergeDiskError, OpenBlockError, RestoreBlockError, merge};
use crate::config::DiskConfig;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPPORTED: u8 = 2;
const SIZE: u64 = 256 << 10;

/// Byte of the base image at `position`.
fn pattern(position: u64) -> u8 {
    (position / 512 + position % 251) as u8 | 1
}

fn base(len: u64) -> File {
    let mut file = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..len).map(pattern).collect();
    file.write_all(&content).unwrap();
    file
}

/// A disk and a second handle on its private file.
fn disk(base: &File, writable: bool) -> (Guest, File) {
    let private = tempfile::tempfile().unwrap();
    let config = DiskConfig {
        id: "vdb".into(),
        base_fd: base.try_clone().unwrap().into_raw_fd(),
        size: SIZE,
        private_fd: writable.then(|| private.try_clone().unwrap().into_raw_fd()),
    };
    (
        Guest::start(Box::new(Block::new(&config).unwrap())),
        private,
    )
}

/// One request; returns status, length in the used ring, and the writable data.
fn request(guest: &mut Guest, kind: u32, sector: u64, out: &[u8], room: u32) -> (u8, u32, Vec<u8>) {
    guest.recycle();
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    let header = guest.place(&header);
    let status = guest.place(&[0xee]);
    let mut parts = vec![(header, 16, false)];
    if !out.is_empty() {
        // In two segments that fall apart inside of a sector.
        let (first, second) = out.split_at(out.len().min(100));
        for part in [first, second].into_iter().filter(|part| !part.is_empty()) {
            parts.push((guest.place(part), part.len() as u32, false));
        }
    }
    let target = guest.allocate(u64::from(room));
    if room > 0 {
        parts.push((target, room, true));
    }
    parts.push((status, 1, true));
    guest.chain(0, 0, &parts);
    guest.notify(0);
    let (_, len) = guest.take_used(0).unwrap();
    assert_eq!(guest.interrupt(), 1);
    (
        guest.bytes(status, 1)[0],
        len,
        guest.bytes(target, room as usize),
    )
}

fn read(guest: &mut Guest, sector: u64, len: u32) -> Vec<u8> {
    let (status, used, data) = request(guest, 0, sector, &[], len);
    assert_eq!((status, used), (OK, len + 1));
    data
}

fn write(guest: &mut Guest, sector: u64, data: &[u8]) {
    assert_eq!(request(guest, 1, sector, data, 0).0, OK);
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

fn expected(from: u64, len: u64) -> Vec<u8> {
    (from..from + len).map(pattern).collect()
}

#[test]
fn a_read_gives_the_image_and_zeroes_past_its_end() {
    let image = base(10_000);
    let (mut guest, _) = disk(&image, false);
    assert_eq!(read(&mut guest, 3, 2048), expected(1536, 2048));
    let tail = read(&mut guest, 16, 4096);
    assert_eq!(tail[..10_000 - 8192], expected(8192, 10_000 - 8192));
    assert!(tail[10_000 - 8192..].iter().all(|&byte| byte == 0));
}

#[test]
fn configuration_tells_size_access_and_serial() {
    let image = base(512);
    for (writable, read_only_bit, discard) in [(false, 1 << 5, 0), (true, 0, 1 << 21)] {
        let (mut guest, _) = disk(&image, writable);
        assert_eq!(guest.config(0, 8), (SIZE / 512).to_le_bytes());
        assert_eq!(guest.config(12, 4), 254_u32.to_le_bytes());
        assert_eq!(guest.config(36, 4), u32::to_le_bytes(discard));
        assert_eq!(guest.config(58, 8), [0; 8], "past the end");
        guest.set(0x14, 0);
        assert_eq!(guest.register(0x10) & 1 << 5, read_only_bit);
        let (status, _, id) = request(&mut guest, 8, 0, &[], 20);
        assert_eq!(
            (status, id),
            (OK, b"vdb\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec())
        );
    }
}

#[test]
fn writes_go_to_the_private_file_and_never_to_the_base() {
    let image = base(SIZE);
    let (mut guest, private) = disk(&image, true);
    // One sector inside a block; two blocks and a bit, misaligned; whole blocks; across the end.
    let mut shadow = expected(0, SIZE);
    for (sector, len) in [
        (9_u64, 512_usize),
        (21, 9216),
        (8, 4096),
        (128, 40_960),
        (500, 6144),
    ] {
        let data: Vec<u8> = (0..len)
            .map(|at| (at * 7 + sector as usize) as u8)
            .collect();
        write(&mut guest, sector, &data);
        shadow[sector as usize * 512..][..len].copy_from_slice(&data);
        assert_eq!(read(&mut guest, 0, SIZE as u32), shadow);
    }
    let mut now = vec![0; SIZE as usize];
    image.read_exact_at(&mut now, 0).unwrap();
    assert_eq!(now, expected(0, SIZE));
    assert!(
        private.metadata().unwrap().blocks() * 512 < SIZE,
        "private file is sparse"
    );
}

#[test]
fn two_disks_over_one_image_do_not_see_each_other() {
    let image = base(SIZE);
    let ((mut one, _), (mut two, _)) = (disk(&image, true), disk(&image, true));
    write(&mut one, 0, &[1; 512]);
    write(&mut two, 0, &[2; 4096]);
    assert_eq!(
        read(&mut one, 0, 1024),
        [vec![1; 512], expected(512, 512)].concat()
    );
    assert_eq!(read(&mut two, 0, 1024), [2; 1024]);
}

#[test]
fn a_read_only_disk_refuses_writes_and_ranges() {
    let image = base(SIZE);
    let (mut guest, _) = disk(&image, false);
    assert_eq!(request(&mut guest, 1, 0, &[1; 512], 0).0, IOERR);
    assert_eq!(
        request(&mut guest, 11, 0, &range(0, 8, 0), 0).0,
        UNSUPPORTED
    );
    assert_eq!(
        request(&mut guest, 13, 0, &range(0, 8, 0), 0).0,
        UNSUPPORTED
    );
    assert_eq!(request(&mut guest, 4, 0, &[], 0).0, OK);
    assert_eq!(read(&mut guest, 0, 512), expected(0, 512));
}

#[test]
fn requests_out_of_bounds_or_unknown_are_refused() {
    let image = base(SIZE);
    let (mut guest, _) = disk(&image, true);
    let last = SIZE / 512;
    for (kind, sector, out, room, status) in [
        (0, last, 0, 512, IOERR),
        (0, last - 1, 0, 1024, IOERR),
        (0, u64::MAX, 0, 512, IOERR),
        (0, u64::MAX / 512, 0, 512, IOERR),
        (0, 0, 0, 511, IOERR),
        (1, last, 512, 0, IOERR),
        (1, last - 1, 1024, 0, IOERR),
        (1, 0, 100, 0, IOERR),
        (5, 0, 0, 512, UNSUPPORTED),
        (14, 0, 0, 0, UNSUPPORTED),
        (u32::MAX, 0, 0, 0, UNSUPPORTED),
    ] {
        let answer = request(&mut guest, kind, sector, &vec![9; out], room);
        assert_eq!(
            answer.0, status,
            "kind {kind} sector {sector} out {out} room {room}"
        );
    }
    assert_eq!(read(&mut guest, 0, SIZE as u32), expected(0, SIZE));
}

#[test]
fn a_request_without_header_or_status_is_survived() {
    let image = base(SIZE);
    let (mut guest, _) = disk(&image, true);
    let buffer = guest.place(&[0; 16]);
    for parts in [
        vec![(buffer, 16, false)],
        vec![(buffer, 8, false), (buffer, 1, true)],
        vec![(buffer, 1, true)],
    ] {
        guest.chain(0, 0, &parts);
        guest.notify(0);
        assert!(guest.take_used(0).is_some_and(|(_, len)| len <= 1));
    }
}

#[test]
fn zeroed_ranges_read_as_zero_up_to_the_sector() {
    let image = base(SIZE);
    let (mut guest, _) = disk(&image, true);
    let mut shadow = expected(0, SIZE);
    for (sector, sectors) in [(3_u64, 2_u32), (15, 40), (64, 8), (500, 12)] {
        assert_eq!(
            request(&mut guest, 13, 0, &range(sector, sectors, 1), 0).0,
            OK
        );
        shadow[sector as usize * 512..][..sectors as usize * 512].fill(0);
        assert_eq!(read(&mut guest, 0, SIZE as u32), shadow);
    }
}

#[test]
fn discard_gives_space_back() {
    let image = base(SIZE);
    let (mut guest, private) = disk(&image, true);
    write(&mut guest, 0, &vec![1; 128 << 10]);
    let full = private.metadata().unwrap().blocks();
    assert_eq!(request(&mut guest, 11, 0, &range(0, 256, 0), 0).0, OK);
    assert!(private.metadata().unwrap().blocks() < full);
    assert_eq!(read(&mut guest, 0, 4096), [0; 4096]);
    assert_eq!(
        read(&mut guest, 256, 512),
        expected(256 * 512, 512),
        "the rest stays"
    );
}

#[test]
fn ranges_out_of_bounds_are_refused() {
    let image = base(SIZE);
    let (mut guest, _) = disk(&image, true);
    for (bytes, status) in [
        (range(512, 1, 0), IOERR),
        (range(u64::MAX, 1, 0), IOERR),
        (range(0, u32::MAX, 0), IOERR),
        (range(0, 1, 2), UNSUPPORTED),
        (range(0, 8, 0)[..12].to_vec(), IOERR),
        ([range(0, 8, 0), range(8, 8, 0)].concat(), IOERR),
    ] {
        assert_eq!(request(&mut guest, 13, 0, &bytes, 0).0, status, "{bytes:?}");
    }
    assert_eq!(
        request(&mut guest, 11, 0, &range(0, 8, 1), 0).0,
        UNSUPPORTED
    );
    assert_eq!(read(&mut guest, 0, SIZE as u32), expected(0, SIZE));
}

#[test]
fn a_full_host_disk_is_an_error_and_leaves_the_block() {
    let image = base(SIZE);
    let mut guest = {
        let private = File::options().read(true).open("/dev/null").unwrap();
        let mut block = block_over(&image);
        // Writing to a descriptor opened for reading fails as a full disk does.
        block.disk.private.as_mut().unwrap().file = private;
        Guest::start(Box::new(block))
    };
    assert_eq!(request(&mut guest, 1, 0, &[1; 4096], 0).0, IOERR);
    assert_eq!(request(&mut guest, 1, 8, &[1; 512], 0).0, IOERR);
    assert_eq!(request(&mut guest, 13, 0, &range(0, 8, 0), 0).0, IOERR);
    assert_eq!(read(&mut guest, 0, 8192), expected(0, 8192));
}

fn block_over(image: &File) -> Block {
    let config = DiskConfig {
        id: "vdb".into(),
        base_fd: image.try_clone().unwrap().into_raw_fd(),
        size: SIZE,
        private_fd: Some(tempfile::tempfile().unwrap().into_raw_fd()),
    };
    Block::new(&config).unwrap()
}

#[test]
fn a_merged_disk_restores_with_what_was_written() {
    let image = base(100_000);
    let (mut guest, _) = disk(&image, true);
    write(&mut guest, 33, &[5; 5120]);
    assert_eq!(request(&mut guest, 13, 0, &range(0, 16, 0), 0).0, OK);
    let before = read(&mut guest, 0, SIZE as u32);

    let merged = tempfile::tempfile().unwrap();
    guest
        .transport
        .device()
        .as_block()
        .unwrap()
        .write_merged(&merged)
        .unwrap();
    assert_eq!(merged.metadata().unwrap().len(), SIZE);
    assert!(
        merged.metadata().unwrap().blocks() * 512 < 120_000,
        "holes stay holes"
    );

    let state = guest.transport.save();
    let super::super::persist::VirtioDeviceState::Block(ref saved) = state.device else {
        panic!("not a disk: {state:?}");
    };
    let config = DiskConfig {
        id: "vdb".into(),
        base_fd: merged.into_raw_fd(),
        size: SIZE,
        private_fd: Some(tempfile::tempfile().unwrap().into_raw_fd()),
    };
    let restored = Block::restore(&config, saved).unwrap();
    let mut guest = guest.restore(Box::new(restored), &state);
    guest.interrupt();
    assert_eq!(read(&mut guest, 0, SIZE as u32), before);
    write(&mut guest, 1, &[8; 512]);
    assert_eq!(read(&mut guest, 1, 512), [8; 512]);
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let image = base(SIZE);
    let config = |private: bool| DiskConfig {
        id: "vdb".into(),
        base_fd: image.as_raw_fd(),
        size: SIZE,
        private_fd: private.then_some(-1),
    };
    let state = BlockState {
        size: SIZE,
        read_only: false,
        private_blocks: vec![],
    };
    let other = BlockState {
        size: SIZE + 512,
        ..state.clone()
    };
    assert!(matches!(
        Block::restore(&config(true), &other),
        Err(RestoreBlockError::Size { .. })
    ));
    assert!(matches!(
        Block::restore(&config(false), &state),
        Err(RestoreBlockError::Access { .. })
    ));

    let out = tempfile::tempfile().unwrap();
    for runs in [
        vec![(0, 65)],
        vec![(u64::MAX, 1)],
        vec![(1 << 52, 1)],
        vec![(4, 2), (3, 1)],
    ] {
        let state = BlockState {
            private_blocks: runs,
            ..state.clone()
        };
        assert!(matches!(
            merge(&image, Some(&image), &state, &out),
            Err(MergeDiskError::Runs { .. })
        ));
    }
}

#[test]
fn a_configuration_that_cannot_be_is_refused_by_name() {
    let image = base(SIZE);
    let good = || DiskConfig {
        id: "vdb".into(),
        base_fd: image.try_clone().unwrap().into_raw_fd(),
        size: SIZE,
        private_fd: None,
    };
    let open = |config: &DiskConfig| Block::new(config).unwrap_err();
    let bad = DiskConfig {
        size: 513,
        ..good()
    };
    assert!(matches!(open(&bad), OpenBlockError::Size { size: 513, .. }));
    let bad = DiskConfig {
        id: "a".repeat(21),
        ..good()
    };
    assert!(matches!(open(&bad), OpenBlockError::Name { .. }));
    let bad = DiskConfig {
        base_fd: 1_000_000,
        ..good()
    };
    assert!(matches!(
        open(&bad),
        OpenBlockError::File {
            part: "base image",
            ..
        }
    ));
    let bad = DiskConfig {
        private_fd: Some(base(1).into_raw_fd()),
        ..good()
    };
    assert!(matches!(
        open(&bad),
        OpenBlockError::PrivateNotEmpty { len: 1, .. }
    ));
}
