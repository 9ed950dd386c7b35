//! Writes a tree as an EROFS image: the read-only root that all sandboxes share.
//!
//! The same tree gives the same bytes. Nothing is compressed, so the host's page cache holds file
//! contents as they are and the guest spends no time on them. Layout, in blocks of 4 KiB:
//! superblock, then all metadata (inodes, extended attributes, small files, link targets and
//! directories inline), then large directories, then file contents in the order of their paths.

mod format;
mod layout;
mod xattr;

use std::io::{self, Read, Write};

use format::{BLOCK, SUPERBLOCK_OFFSET, SuperBlock};
use layout::{Layout, Stored};

use crate::{
    digest::Digest,
    tree::{Content, Spool, Tree},
};

/// Why a tree cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ErofsError {
    #[error("cannot write the root image: {0}")]
    Write(#[from] io::Error),
    #[error("cannot read back file contents: {0}")]
    Read(io::Error),
    #[error("{path:?} cannot be stored in EROFS: {why}")]
    Unsupported { path: String, why: &'static str },
}

/// Writes the image; `epoch` is the time (seconds since 1970) that costs no space per file.
/// `progress` hears bytes written of all bytes.
pub(crate) fn write(
    tree: &Tree,
    spool: &Spool,
    epoch: u64,
    out: &mut impl Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), ErofsError> {
    let layout = Layout::plan(tree, epoch)?;
    let metadata = layout.metadata(tree, spool)?;
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&Digest::of(&metadata).bytes()[..16]);
    // Version 8 (custom), so that no tool takes it for a random one.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let superblock = SuperBlock {
        root_nid: layout.root_nid(),
        inodes: layout.inodes(),
        build_time: epoch,
        blocks: layout.blocks(),
        meta_block: 1,
        uuid,
    };
    let mut block = [0; BLOCK];
    superblock.encode(&mut block[SUPERBLOCK_OFFSET..]);
    out.write_all(&block)?;
    out.write_all(&metadata)?;
    let total = u64::from(layout.blocks()) * BLOCK as u64;
    let mut done = (BLOCK + metadata.len()) as u64;
    for stored in layout.contents(tree) {
        let length = match stored {
            Stored::Directory(entries) => whole(out, &entries)?,
            Stored::Link(target) => whole(out, target)?,
            Stored::File(content) => copy(&mut spool.reader(content), out, content)?,
        };
        let padding = length.next_multiple_of(BLOCK as u64) - length;
        out.write_all(&[0; BLOCK][..padding as usize])?;
        done += length + padding;
        progress(done, total);
    }
    debug_assert_eq!(done, total);
    Ok(())
}

fn whole(out: &mut impl Write, bytes: &[u8]) -> io::Result<u64> {
    out.write_all(bytes)?;
    Ok(bytes.len() as u64)
}

fn copy(from: &mut impl Read, out: &mut impl Write, content: Content) -> Result<u64, ErofsError> {
    let copied = io::copy(from, out)?;
    if copied == content.length() {
        Ok(copied)
    } else {
        Err(ErofsError::Read(io::ErrorKind::UnexpectedEof.into()))
    }
}

#[cfg(test)]
mod tests;
