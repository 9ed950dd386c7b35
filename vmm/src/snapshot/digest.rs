//! Digest of a large sparse file: of its content, not of its layout on disk.
//!
//! The file is cut into chunks of 2 MiB (the last one may be short). The digest is SHA-256 over the
//! SHA-256 of every chunk, in order. The digest of a chunk of zeros is a constant, so a hole costs
//! nothing, neither when it is written nor when it is checked.

use std::{fs::File, io, os::unix::fs::FileExt, sync::OnceLock};

use rustix::fs::{SeekFrom, seek};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Bytes in a chunk.
pub const CHUNK: usize = 2 << 20;
/// Pieces in which zeros inside a chunk are looked for, the page size.
const PAGE: usize = 4096;

/// Length and digest of a file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContentDigest {
    /// Length in bytes, holes included.
    pub length: u64,
    /// `chunked-sha256:<64 hex digits>`.
    pub digest: String,
}

/// Collects the digests of a file's chunks in order.
#[derive(Debug, Default)]
pub struct ChunkHasher {
    chunks: Sha256,
    length: u64,
}

impl ChunkHasher {
    /// Adds the next chunk; only the last one may be shorter than [`CHUNK`].
    pub fn add(&mut self, chunk: &[u8]) {
        if chunk.len() == CHUNK && is_zero(chunk) {
            return self.add_zeros();
        }
        self.chunks.update(Sha256::digest(chunk));
        self.length += chunk.len() as u64;
    }

    /// Adds a whole chunk of zeros without looking at one.
    pub fn add_zeros(&mut self) {
        self.chunks.update(zero_chunk());
        self.length += CHUNK as u64;
    }

    /// The digest of all chunks added.
    #[must_use]
    pub fn finish(self) -> ContentDigest {
        ContentDigest {
            length: self.length,
            digest: format!("chunked-sha256:{}", hex::encode(self.chunks.finalize())),
        }
    }
}

fn zero_chunk() -> &'static [u8; 32] {
    static DIGEST: OnceLock<[u8; 32]> = OnceLock::new();
    DIGEST.get_or_init(|| Sha256::digest(vec![0; CHUNK]).into())
}

/// Whether all bytes are zero, in pieces that the compiler turns into vector instructions.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(256)
        .all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Writes content into an empty file, zero pages as holes, and digests it on the way.
#[derive(Debug)]
pub struct SparseWriter<'a> {
    file: &'a File,
    hasher: ChunkHasher,
}

impl<'a> SparseWriter<'a> {
    /// Writes from the beginning of `file`, which must be empty.
    #[must_use]
    pub fn new(file: &'a File) -> Self {
        Self {
            file,
            hasher: ChunkHasher::default(),
        }
    }

    /// Writes the next chunk; only the last one may be shorter than [`CHUNK`].
    ///
    /// # Errors
    /// Passes on what the write said, `ENOSPC` for example.
    pub fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        let start = self.hasher.length;
        let mut run: Option<usize> = None;
        for (index, page) in chunk.chunks(PAGE).enumerate() {
            let offset = index * PAGE;
            match (is_zero(page), run) {
                (false, None) => run = Some(offset),
                (true, Some(begin)) => {
                    self.file
                        .write_all_at(&chunk[begin..offset], start + begin as u64)?;
                    run = None;
                }
                _ => {}
            }
        }
        if let Some(begin) = run {
            self.file
                .write_all_at(&chunk[begin..], start + begin as u64)?;
        }
        self.hasher.add(chunk);
        Ok(())
    }

    /// Sets the file's length, makes it durable, and tells its digest.
    ///
    /// # Errors
    /// Passes on what truncation or fsync said.
    pub fn finish(self) -> io::Result<ContentDigest> {
        self.file.set_len(self.hasher.length)?;
        self.file.sync_all()?;
        Ok(self.hasher.finish())
    }
}

/// Digests a file's whole content; holes are not read. `progress` hears bytes done.
///
/// # Errors
/// Passes on what reading said.
pub fn digest_file(file: &File, progress: &mut dyn FnMut(u64)) -> io::Result<ContentDigest> {
    let length = file.metadata()?.len();
    let mut hasher = ChunkHasher::default();
    let mut buffer = vec![0; CHUNK];
    let mut data = next_data(file, 0, length)?;
    while hasher.length < length {
        let offset = hasher.length;
        if data < offset {
            data = next_data(file, offset, length)?;
        }
        let size = usize::try_from(length - offset).unwrap_or(CHUNK).min(CHUNK);
        if size == CHUNK && data >= offset + CHUNK as u64 {
            hasher.add_zeros();
        } else {
            file.read_exact_at(&mut buffer[..size], offset)?;
            hasher.add(&buffer[..size]);
        }
        progress(hasher.length);
    }
    Ok(hasher.finish())
}

/// Where data begins at or after `offset`; the file's length when only holes follow. A file system
/// without holes answers with `offset`, which is right too.
fn next_data(file: &File, offset: u64, length: u64) -> io::Result<u64> {
    match seek(file, SeekFrom::Data(offset)) {
        Ok(data) => Ok(data),
        Err(rustix::io::Errno::NXIO) => Ok(length),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(offset),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::{CHUNK, ChunkHasher, SparseWriter, digest_file};

    fn written(chunks: &[Vec<u8>]) -> (std::fs::File, super::ContentDigest) {
        let file = tempfile::tempfile().unwrap();
        let mut writer = SparseWriter::new(&file);
        for chunk in chunks {
            writer.write(chunk).unwrap();
        }
        let digest = writer.finish().unwrap();
        (file, digest)
    }

    #[test]
    fn what_was_written_reads_back_and_zero_pages_are_holes() {
        let mut first = vec![0; CHUNK];
        first[10 * 4096] = 7;
        let (file, digest) = written(&[first.clone(), vec![0; CHUNK], vec![5; 4096]]);
        assert_eq!(digest.length, 2 * CHUNK as u64 + 4096);
        let mut back = vec![0; CHUNK];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(back, first);
        let blocks = file.metadata().unwrap().blocks() * 512;
        assert!(blocks <= 64 * 1024, "{blocks} bytes on disk");
        assert_eq!(digest_file(&file, &mut |_| ()).unwrap(), digest);
    }

    #[test]
    fn the_digest_is_of_content_and_not_of_layout() {
        let (_, sparse) = written(&[vec![0; CHUNK]]);
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![0; CHUNK], 0).unwrap();
        assert_eq!(digest_file(&file, &mut |_| ()).unwrap(), sparse);
    }

    #[test]
    fn one_flipped_bit_changes_the_digest_wherever_it_is() {
        let (file, digest) = written(&[vec![0; CHUNK], vec![1; CHUNK]]);
        for offset in [0, CHUNK as u64 - 1, CHUNK as u64, 2 * CHUNK as u64 - 1] {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
            assert_ne!(digest_file(&file, &mut |_| ()).unwrap(), digest, "{offset}");
            file.write_all_at(&byte, offset).unwrap();
        }
        assert_eq!(digest_file(&file, &mut |_| ()).unwrap(), digest);
    }

    #[test]
    fn a_truncated_file_has_another_digest_and_length() {
        let (file, digest) = written(&[vec![3; CHUNK], vec![4; 100]]);
        file.set_len(CHUNK as u64).unwrap();
        let shorter = digest_file(&file, &mut |_| ()).unwrap();
        assert_ne!(shorter.digest, digest.digest);
        assert_eq!(shorter.length, CHUNK as u64);
    }

    #[test]
    fn chunks_cannot_be_swapped() {
        let digest = |order: [u8; 2]| {
            let mut hasher = ChunkHasher::default();
            for byte in order {
                hasher.add(&vec![byte; CHUNK]);
            }
            hasher.finish().digest
        };
        assert_ne!(digest([1, 2]), digest([2, 1]));
    }
}
