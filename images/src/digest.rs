//! SHA-256 digests of images and their parts.
//!
//! Small and dense files carry the plain digest that `sha256sum` prints. A sparse file carries the
//! digest over its 2 MiB chunks, so that sixteen gibibytes of nothing cost nothing to check.

use std::{
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    str::FromStr,
};

use rustix::fs::SeekFrom as Position;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Length of one chunk of [`Hash::Chunked`] in bytes.
pub const CHUNK: u64 = 2 << 20;

/// A SHA-256 digest, written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Digest of bytes in memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 hex digits without the prefix.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first twelve hex digits: enough to tell images apart by eye.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }

    /// The raw 32 bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no digest.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no digest: expected `sha256:` and 64 lower-case hex digits")]
pub struct DigestSyntax(String);

impl FromStr for Digest {
    type Err = DigestSyntax;

    fn from_str(text: &str) -> Result<Self, DigestSyntax> {
        let syntax = || DigestSyntax(text.chars().take(100).collect());
        let digits = text.strip_prefix("sha256:").ok_or_else(syntax)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| syntax())?;
        let digest = Self(bytes);
        // One spelling per digest: names of directories are made from it.
        if digest.hex() == digits {
            Ok(digest)
        } else {
            Err(syntax())
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestSyntax;

    fn try_from(text: String) -> Result<Self, DigestSyntax> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// How a part's digest is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hash {
    /// SHA-256 of the content.
    #[serde(rename = "sha256")]
    Plain,
    /// SHA-256 over the SHA-256 digests of its 2 MiB chunks (the last one may be short).
    #[serde(rename = "sha256-2m")]
    Chunked,
}

impl Hash {
    /// Digest of a whole file, whatever its position; `progress` hears how many bytes are done.
    ///
    /// # Errors
    /// The file's read error.
    pub fn file(self, file: &File, progress: &mut dyn FnMut(u64)) -> io::Result<Digest> {
        match self {
            Self::Plain => plain(file, progress),
            Self::Chunked => chunked(file, progress),
        }
    }
}

fn plain(mut file: &File, progress: &mut dyn FnMut(u64)) -> io::Result<Digest> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(Digest(hasher.finalize().into()));
        }
        hasher.update(&buffer[..count]);
        done += count as u64;
        progress(done);
    }
}

fn chunked(mut file: &File, progress: &mut dyn FnMut(u64)) -> io::Result<Digest> {
    let length = file.metadata()?.len();
    let zero = Digest::of(&vec![0; CHUNK as usize]);
    let mut hasher = Sha256::new();
    let mut buffer = Vec::with_capacity(CHUNK as usize);
    let mut offset = 0;
    while offset < length {
        let size = CHUNK.min(length - offset);
        if size == CHUNK && is_hole(file, offset, offset + size) {
            hasher.update(zero.0);
        } else {
            file.seek(SeekFrom::Start(offset))?;
            buffer.clear();
            file.take(size).read_to_end(&mut buffer)?;
            if buffer.len() as u64 != size {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the file shrank",
                ));
            }
            hasher.update(Digest::of(&buffer).0);
        }
        offset += size;
        progress(offset);
    }
    Ok(Digest(hasher.finalize().into()))
}

/// Whether the file system knows that `start..end` holds no data. "No" is always a safe answer.
fn is_hole(file: &File, start: u64, end: u64) -> bool {
    match rustix::fs::seek(file, Position::Data(start)) {
        Ok(data) => data >= end,
        // No data at all from here on.
        Err(rustix::io::Errno::NXIO) => true,
        Err(_) => false,
    }
}

/// Computes the plain digest and the length of what passes through.
#[derive(Debug)]
pub struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    length: u64,
}

impl<T> Hashing<T> {
    /// Starts with nothing hashed.
    pub fn new(inner: T) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            length: 0,
        }
    }

    /// The stream, its digest and its length in bytes so far.
    pub fn finish(self) -> (T, Digest, u64) {
        (
            self.inner,
            Digest(self.hasher.finalize().into()),
            self.length,
        )
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.length += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_is_spelled_one_way_only() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::of(b""));
        let upper = EMPTY.replace("e3b0", "E3B0");
        for wrong in [upper.as_str(), "", "sha256:", "e3b0", "sha256:../../etc"] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_plain_file_hashes_like_its_bytes_and_a_stream_like_its_file() {
        let mut file = tempfile::tempfile().unwrap();
        let content = vec![7; 3_000_000];
        file.write_all(&content).unwrap();
        assert_eq!(
            Hash::Plain.file(&file, &mut |_| ()).unwrap(),
            Digest::of(&content)
        );
        let mut stream = Hashing::new(Vec::new());
        stream.write_all(&content).unwrap();
        let (written, digest, length) = stream.finish();
        assert_eq!(
            (written.len() as u64, digest),
            (length, Digest::of(&content))
        );
    }

    #[test]
    fn holes_and_written_zeros_have_one_chunked_digest() {
        let sparse = tempfile::tempfile().unwrap();
        sparse.set_len(2 * CHUNK + 5).unwrap();
        let mut dense = tempfile::tempfile().unwrap();
        dense.write_all(&vec![0; 2 * CHUNK as usize + 5]).unwrap();
        let digest = |file: &File| Hash::Chunked.file(file, &mut |_| ()).unwrap();
        assert_eq!(digest(&sparse), digest(&dense));
        let zero = Digest::of(&vec![0; CHUNK as usize]);
        let list = [&zero.0[..], &zero.0, &Digest::of(&[0; 5]).0].concat();
        assert_eq!(digest(&sparse), Digest::of(&list));
        dense.seek(SeekFrom::Start(CHUNK)).unwrap();
        dense.write_all(b"x").unwrap();
        assert_ne!(digest(&sparse), digest(&dense));
    }
}
