//! A writer for `newc` cpio archives, the format of an initramfs.
//!
//! Inode numbers count up and times are zero: the same entries give the same bytes.

use std::io::{self, Write};

/// Writes entries to `out`; [`Archive::finish`] closes the archive.
pub(super) struct Archive<W: Write> {
    out: W,
    next_inode: u32,
}

impl<W: Write> Archive<W> {
    /// Starts an empty archive.
    pub(super) fn new(out: W) -> Self {
        Archive { out, next_inode: 1 }
    }

    /// Adds a folder with mode 0755.
    pub(super) fn folder(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, 0o040_755, &[])
    }

    /// Adds a regular file; `mode` holds the permission bits only.
    pub(super) fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(name, 0o100_000 | mode, content)
    }

    /// Writes the trailer and gives the output back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.next_inode = 0;
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other(format!("{name} is too large for a cpio archive")))?;
        let name_size = name.len() as u32 + 1;
        let inode = self.next_inode;
        self.next_inode += 1;
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(header.len() + name.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    /// Both the name and the content end on a multiple of four bytes.
    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..(4 - written % 4) % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_starts_at_a_multiple_of_four() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("bin").unwrap();
        archive.file("bin/five", 0o644, b"12345").unwrap();
        let bytes = archive.finish().unwrap();
        let starts: Vec<usize> = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, window)| window == b"070701")
            .map(|(at, _)| at)
            .collect();
        assert_eq!(starts.len(), 3);
        assert!(starts.iter().all(|at| at % 4 == 0), "{starts:?}");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn a_file_carries_its_mode_and_content() {
        let mut archive = Archive::new(Vec::new());
        archive.file("init", 0o755, b"#!").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(&bytes[14..22], b"000081ed");
        assert_eq!(&bytes[110..115], b"init\0");
        assert_eq!(&bytes[116..118], b"#!");
    }
}
