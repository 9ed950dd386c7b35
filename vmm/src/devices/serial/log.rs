//! A file that takes guest output up to a limit.

use std::{
    fs::File,
    io::{self, Write},
};

/// Buffered bytes before they are written without a newline.
const BUFFER: usize = 512;
const NOTE: &[u8] = b"\n[mayfly: the console reached its limit, the rest is dropped]\n";

/// Guest output, written line by line; what passes the limit is dropped with one note.
///
/// Errors of the file (a full disk) drop output too: the guest must not notice.
#[derive(Debug)]
pub struct BoundedLog {
    file: Option<File>,
    left: u64,
    buffer: Vec<u8>,
}

impl BoundedLog {
    /// A log of at most `limit` bytes, the note not counted; without a file all is dropped.
    #[must_use]
    pub fn new(file: Option<File>, limit: u64) -> Self {
        Self {
            file,
            left: limit,
            buffer: Vec::with_capacity(BUFFER),
        }
    }

    /// Writes out what is buffered.
    pub fn write_out(&mut self) {
        let Some(file) = &mut self.file else {
            self.buffer.clear();
            return;
        };
        let length = self.buffer.len() as u64;
        let taken = usize::try_from(length.min(self.left)).unwrap_or(usize::MAX);
        let mut written = file.write_all(&self.buffer[..taken]);
        self.left -= taken as u64;
        if length > taken as u64 {
            written = written.and_then(|()| file.write_all(NOTE));
            self.file = None;
        }
        if written.is_err() {
            self.file = None;
        }
        self.buffer.clear();
    }
}

impl Write for BoundedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER || bytes.contains(&b'\n') {
            self.write_out();
        }
        Ok(bytes.len())
    }

    /// Does nothing: the UART asks for it after every byte.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
