//! The initramfs: the guest agent as `/init`, kernel modules, and nothing else.
//!
//! ```text
//! /init             the guest agent
//! /modules/*.ko     what it loads
//! /modules/load     file names in load order, one per line
//! /dev /proc /sys   where it mounts them; /dev/console, because the kernel opens it before
//! ```
//!
//! Format: "newc" cpio, Linux `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::io::{self, Write};

use flate2::{Compression, GzBuilder, write::GzEncoder};

/// Ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// Writes the archive; `modules` are file names and contents in load order.
pub(crate) fn write<W: Write>(
    agent: &[u8],
    modules: &[(String, Vec<u8>)],
    out: W,
) -> io::Result<W> {
    // No name and no time in the gzip header: the same content gives the same bytes.
    let gzip = GzBuilder::new().write(out, Compression::default());
    let mut archive = Archive {
        out: gzip,
        number: 0,
    };
    for directory in ["dev", "modules", "proc", "sys"] {
        archive.entry(directory, 0o040_755, (0, 0), b"")?;
    }
    archive.entry("dev/console", 0o020_600, (5, 1), b"")?;
    archive.entry("init", 0o100_755, (0, 0), agent)?;
    let mut list = String::new();
    for (file, bytes) in modules {
        archive.entry(&format!("modules/{file}"), 0o100_644, (0, 0), bytes)?;
        list.push_str(file);
        list.push('\n');
    }
    archive.entry("modules/load", 0o100_644, (0, 0), list.as_bytes())?;
    archive.entry(TRAILER, 0, (0, 0), b"")?;
    archive.out.finish()
}

struct Archive<W: Write> {
    out: GzEncoder<W>,
    number: u32,
}

impl<W: Write> Archive<W> {
    /// Writes one entry, owned by root, with modification time zero.
    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        self.number += 1;
        let length = u32::try_from(content.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        let fields = [
            self.number,
            mode,
            0,
            0,
            links,
            0,
            length,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        write!(self.out, "070701")?;
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        write!(self.out, "{name}\0")?;
        self.pad(110 + name.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    /// Headers and contents begin at multiples of four.
    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.out
            .write_all(&[0; 3][..length.next_multiple_of(4) - length])
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, process::Command, process::Stdio};

    use super::*;

    fn modules() -> Vec<(String, Vec<u8>)> {
        vec![
            ("b.ko".to_owned(), vec![1; 1001]),
            ("a.ko".to_owned(), vec![2; 4]),
        ]
    }

    fn unpack(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes)
            .read_to_end(&mut plain)
            .unwrap();
        plain
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let write = || write(b"agent", &modules(), Vec::new()).unwrap();
        assert_eq!(write(), write());
    }

    #[test]
    fn another_implementation_of_cpio_reads_it() {
        let archive = unpack(&write(b"agent", &modules(), Vec::new()).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new("busybox")
            .args(["cpio", "-i", "-d", "init", "modules/*"])
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .spawn()
            .expect("busybox comes with the Debian package busybox-static");
        child.stdin.take().unwrap().write_all(&archive).unwrap();
        assert!(child.wait().unwrap().success());
        let read = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
        assert_eq!(read("init"), b"agent");
        assert_eq!(read("modules/b.ko"), vec![1; 1001]);
        assert_eq!(read("modules/load"), b"b.ko\na.ko\n");
    }

    #[test]
    fn the_console_is_there_before_anything_is_mounted() {
        let archive = unpack(&write(b"", &[], Vec::new()).unwrap());
        let at = archive
            .windows(12)
            .position(|bytes| bytes == b"dev/console\0")
            .unwrap();
        let header = std::str::from_utf8(&archive[at - 110..at]).unwrap();
        assert_eq!(&header[14..22], "00002180", "mode 020600");
        assert_eq!(&header[78..94], "0000000500000001", "device 5:1");
    }
}
