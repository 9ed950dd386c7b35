//! One file inside an archive.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
};

use super::ArchiveError;
use crate::digest::{Digest, Hashing};

/// Where a file of the archive is.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    /// Its name, for errors.
    pub(super) name: String,
    offset: u64,
    length: u64,
}

impl Blob {
    pub(super) fn new(name: String, offset: u64, length: u64) -> Self {
        Self {
            name,
            offset,
            length,
        }
    }

    /// Length in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The whole content.
    pub(super) fn bytes(&self, archive: &File, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        if self.length > limit {
            return Err(ArchiveError::TooLarge {
                name: self.name.clone(),
                limit,
            });
        }
        let mut bytes = Vec::new();
        self.reader(archive)
            .read_to_end(&mut bytes)
            .map_err(ArchiveError::Read)?;
        Ok(bytes)
    }

    /// The content as a stream.
    pub(super) fn reader<'a>(&self, archive: &'a File) -> Section<'a> {
        Section {
            archive,
            offset: self.offset,
            rest: self.length,
        }
    }

    /// Proves that the content is what `expected` names.
    pub(super) fn check(&self, archive: &File, expected: &Digest) -> Result<(), ArchiveError> {
        let mut stream = Hashing::new(self.reader(archive));
        io::copy(&mut stream, &mut io::sink()).map_err(ArchiveError::Read)?;
        let (_, found, _) = stream.finish();
        if found == *expected {
            return Ok(());
        }
        Err(ArchiveError::Digest {
            name: self.name.clone(),
            expected: *expected,
            found,
        })
    }
}

/// A part of the archive as a stream.
#[derive(Debug)]
pub(super) struct Section<'a> {
    archive: &'a File,
    offset: u64,
    rest: u64,
}

impl Section<'_> {
    /// Bytes not read yet.
    pub(super) fn rest(&self) -> u64 {
        self.rest
    }
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer
            .len()
            .min(usize::try_from(self.rest).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(0);
        }
        let count = self.archive.read_at(&mut buffer[..length], self.offset)?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it is cut short",
            ));
        }
        self.offset += count as u64;
        self.rest -= count as u64;
        Ok(count)
    }
}
