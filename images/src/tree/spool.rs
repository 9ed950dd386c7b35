//! File contents on their way from an archive into an image: one anonymous temporary file.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::FileExt as _,
    path::Path,
};

/// Where a file's bytes are in the [`Spool`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    offset: u64,
    length: u64,
}

impl Content {
    /// Length in bytes.
    pub(crate) fn length(self) -> u64 {
        self.length
    }
}

/// An append-only temporary file that has no name, so nothing of it outlives the process.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    length: u64,
}

impl Spool {
    /// An empty one in a directory with enough room.
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            file: tempfile::tempfile_in(directory)?,
            length: 0,
        })
    }

    /// Keeps exactly `length` bytes of a stream.
    pub(crate) fn append(&mut self, from: impl Read, length: u64) -> io::Result<Content> {
        let offset = self.length;
        let copied = io::copy(&mut from.take(length), &mut self.file)?;
        self.length += copied;
        if copied != length {
            let message = format!("the archive ends {} bytes too early", length - copied);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        Ok(Content { offset, length })
    }

    /// Keeps bytes.
    pub(crate) fn store(&mut self, bytes: &[u8]) -> io::Result<Content> {
        let offset = self.length;
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(Content {
            offset,
            length: bytes.len() as u64,
        })
    }

    /// The bytes of a small file.
    ///
    /// # Errors
    /// `FileTooLarge` above `limit` bytes.
    pub(crate) fn read(&self, content: Content, limit: u64) -> io::Result<Vec<u8>> {
        if content.length > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = Vec::new();
        self.reader(content).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A stream of a file's bytes.
    pub(crate) fn reader(&self, content: Content) -> impl Read {
        Reader {
            file: &self.file,
            content,
        }
    }
}

struct Reader<'a> {
    file: &'a File,
    content: Content,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer
            .len()
            .min(usize::try_from(self.content.length).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(0);
        }
        let count = self
            .file
            .read_at(&mut buffer[..length], self.content.offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content.offset += count as u64;
        self.content.length -= count as u64;
        Ok(count)
    }
}
