//! The tar stream that leaves: names, two modes and contents, all else always the same.

use std::io::{self, Write};

use tar::{EntryType, Header};

use super::BLOCK;

/// Time of every file, 1980-01-02: the formats that begin in 1980 can hold it in every time zone.
const TIME: u64 = 315_619_200;

/// The header of a file of `size` bytes.
pub(super) fn file(
    sink: &mut impl Write,
    path: &[u8],
    executable: bool,
    size: u64,
) -> io::Result<()> {
    let mode = if executable { 0o755 } else { 0o644 };
    header(sink, EntryType::Regular, path, b"", mode, size)
}

/// A folder.
pub(super) fn folder(sink: &mut impl Write, path: &[u8]) -> io::Result<()> {
    header(sink, EntryType::Directory, path, b"", 0o755, 0)
}

/// A symbolic link.
pub(super) fn symlink(sink: &mut impl Write, path: &[u8], target: &[u8]) -> io::Result<()> {
    header(sink, EntryType::Symlink, path, target, 0o777, 0)
}

fn header(
    sink: &mut impl Write,
    kind: EntryType,
    path: &[u8],
    link: &[u8],
    mode: u32,
    size: u64,
) -> io::Result<()> {
    let mut header = base(kind, mode, size);
    for (text, long, field) in [
        (path, EntryType::GNULongName, 0..100),
        (link, EntryType::GNULongLink, 157..257),
    ] {
        let kept = text.len().min(field.len());
        if text.len() > field.len() {
            long_text(sink, long, text)?;
        }
        header.as_mut_bytes()[field][..kept].copy_from_slice(&text[..kept]);
    }
    header.set_cksum();
    sink.write_all(header.as_bytes())
}

fn base(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(TIME);
    header.set_size(size);
    header
}

/// A name that has no room in its field, as an entry of its own before the one that it belongs to.
fn long_text(sink: &mut impl Write, kind: EntryType, text: &[u8]) -> io::Result<()> {
    let mut header = base(kind, 0o644, text.len() as u64 + 1);
    header.as_mut_bytes()[..13].copy_from_slice(b"././@LongLink");
    header.set_cksum();
    sink.write_all(header.as_bytes())?;
    sink.write_all(text)?;
    let zeros = [0; BLOCK];
    sink.write_all(&zeros[..BLOCK - text.len() % BLOCK])
}
