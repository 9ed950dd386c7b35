//! Content on its way: an upload is one unnamed file, its blocks are ranges of it, and what was
//! committed is a list of ranges, so that nothing is copied and nothing is left behind.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Most blocks of an upload, as at Azure.
const MAX_BLOCKS: usize = 50_000;
/// Longest name of a block, in bytes.
const MAX_BLOCK_NAME: usize = 128;

/// A range of a file.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// Where it begins.
    pub offset: u64,
    /// Its length.
    pub length: u64,
}

/// Content that does not change any more.
#[derive(Debug)]
pub struct Blob {
    file: Arc<File>,
    ranges: Vec<Range>,
    size: u64,
}

/// Why an upload was not taken.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// More than is taken.
    #[error("an upload may have {0} bytes at most")]
    TooLarge(u64),
    /// More blocks than are taken.
    #[error("an upload may have {MAX_BLOCKS} blocks at most, with names of {MAX_BLOCK_NAME} bytes")]
    Blocks,
    /// A block that was not sent.
    #[error("the block list names a block that was not sent")]
    UnknownBlock,
    /// No list of blocks.
    #[error("the body is no block list")]
    NoBlockList,
}

/// Content that is being sent.
#[derive(Debug)]
pub struct Upload {
    file: Arc<File>,
    limit: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    end: u64,
    blocks: HashMap<String, Range>,
    content: Option<Vec<Range>>,
}

impl Upload {
    /// An upload of at most `limit` bytes into an unnamed file on the disk of `folder`.
    ///
    /// # Errors
    /// Passes on that the file could not be made.
    pub fn new(folder: &Path, limit: u64) -> io::Result<Self> {
        Ok(Self {
            file: Arc::new(tempfile::tempfile_in(folder)?),
            limit,
            state: Mutex::default(),
        })
    }

    /// The file, for writes to ranges that were reserved.
    #[must_use]
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Sets a range apart. One whose writer gave up stays unused.
    ///
    /// # Errors
    /// [`UploadError::TooLarge`].
    pub fn reserve(&self, length: u64) -> Result<Range, UploadError> {
        let mut state = self.lock();
        let offset = state.end;
        let end = offset.checked_add(length).filter(|end| *end <= self.limit);
        state.end = end.ok_or(UploadError::TooLarge(self.limit))?;
        Ok(Range { offset, length })
    }

    /// Makes a written range the whole content.
    pub fn put(&self, range: Range) {
        self.lock().content = Some(vec![range]);
    }

    /// Makes a written range a block.
    ///
    /// # Errors
    /// [`UploadError::Blocks`].
    pub fn put_block(&self, name: String, range: Range) -> Result<(), UploadError> {
        let mut state = self.lock();
        let full = state.blocks.len() >= MAX_BLOCKS && !state.blocks.contains_key(&name);
        if full || name.is_empty() || name.len() > MAX_BLOCK_NAME {
            return Err(UploadError::Blocks);
        }
        state.blocks.insert(name, range);
        Ok(())
    }

    /// Makes these blocks, in this order, the content.
    ///
    /// # Errors
    /// [`UploadError::Blocks`] or [`UploadError::UnknownBlock`].
    pub fn commit(&self, names: &[&str]) -> Result<(), UploadError> {
        let mut state = self.lock();
        if names.len() > MAX_BLOCKS {
            return Err(UploadError::Blocks);
        }
        let ranges = names.iter().map(|name| state.blocks.get(*name).copied());
        let ranges = ranges.collect::<Option<Vec<_>>>();
        let ranges = ranges.ok_or(UploadError::UnknownBlock)?;
        // A block may be named more than once.
        let size = size(&ranges).filter(|size| *size <= self.limit);
        size.ok_or(UploadError::TooLarge(self.limit))?;
        state.content = Some(ranges);
        Ok(())
    }

    /// What was committed.
    #[must_use]
    pub fn content(&self) -> Option<Blob> {
        let ranges = self.lock().content.clone()?;
        Some(Blob {
            file: Arc::clone(&self.file),
            size: size(&ranges)?,
            ranges,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(ranges: &[Range]) -> Option<u64> {
    let mut lengths = ranges.iter().map(|range| range.length);
    lengths.try_fold(0_u64, u64::checked_add)
}

impl Blob {
    /// The first `size` bytes of a file.
    #[must_use]
    pub fn of(file: File, size: u64) -> Self {
        Self {
            file: Arc::new(file),
            ranges: vec![Range {
                offset: 0,
                length: size,
            }],
            size,
        }
    }

    /// Its length.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads `length` bytes from `start`; less where the content ends before.
    #[must_use]
    pub fn reader(&self, start: u64, length: u64) -> BlobReader {
        let (mut skip, mut left) = (start, length);
        let mut ranges = VecDeque::new();
        for range in &self.ranges {
            let skipped = skip.min(range.length);
            skip -= skipped;
            let length = (range.length - skipped).min(left);
            left -= length;
            if length > 0 {
                ranges.push_back(Range {
                    offset: range.offset + skipped,
                    length,
                });
            }
        }
        let file = Arc::clone(&self.file);
        BlobReader { file, ranges }
    }
}

/// Reads a part of a [`Blob`].
#[derive(Debug)]
pub struct BlobReader {
    file: Arc<File>,
    ranges: VecDeque<Range>,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(range) = self.ranges.front_mut() else {
            return Ok(0);
        };
        let wanted = usize::try_from(range.length).map_or(buffer.len(), |l| l.min(buffer.len()));
        let read = self.file.read_at(&mut buffer[..wanted], range.offset)?;
        if read == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        range.offset += read as u64;
        range.length -= read as u64;
        if range.length == 0 {
            self.ranges.pop_front();
        }
        Ok(read)
    }
}

/// Names of blocks in the XML that Azure's client writes; anything else than that is none.
///
/// # Errors
/// [`UploadError::NoBlockList`].
pub fn block_list(xml: &str) -> Result<Vec<&str>, UploadError> {
    parse_list(xml).ok_or(UploadError::NoBlockList)
}

fn parse_list(xml: &str) -> Option<Vec<&str>> {
    let mut rest = xml.trim_start_matches('\u{feff}').trim();
    if let Some(declared) = rest.strip_prefix("<?xml") {
        rest = declared.split_once("?>")?.1.trim_start();
    }
    if rest == "<BlockList/>" {
        return Some(Vec::new());
    }
    rest = rest.strip_prefix("<BlockList>")?.trim_start();
    let mut names = Vec::new();
    while rest != "</BlockList>" {
        let (tag, after) = rest.strip_prefix('<')?.split_once('>')?;
        if !["Latest", "Uncommitted", "Committed"].contains(&tag) {
            return None;
        }
        let (name, after) = after.split_once("</")?;
        let base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
        if !name.chars().all(base64) {
            return None;
        }
        rest = after.strip_prefix(tag)?.strip_prefix('>')?.trim_start();
        names.push(name);
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(upload: &Upload, text: &str) -> Range {
        let range = upload.reserve(text.len() as u64).unwrap();
        let file = upload.file();
        file.write_all_at(text.as_bytes(), range.offset).unwrap();
        range
    }

    fn text(blob: &Blob, start: u64, length: u64) -> String {
        let mut text = String::new();
        let mut reader = blob.reader(start, length);
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn blocks_are_joined_in_the_order_of_the_list_and_read_in_parts() {
        let folder = tempfile::tempdir().unwrap();
        let upload = Upload::new(folder.path(), 100).unwrap();
        for (name, content) in [("Yg==", "world"), ("YQ==", "hello "), ("Yw==", "unused")] {
            let range = write(&upload, content);
            upload.put_block(name.into(), range).unwrap();
        }
        assert!(upload.content().is_none(), "nothing was committed");
        let unknown = upload.commit(&["YQ==", "ZA=="]);
        assert!(matches!(unknown, Err(UploadError::UnknownBlock)));
        upload.commit(&["YQ==", "Yg=="]).unwrap();
        let blob = upload.content().unwrap();
        assert_eq!(blob.size(), 11);
        assert_eq!(text(&blob, 0, 11), "hello world");
        assert_eq!(text(&blob, 4, 4), "o wo");
        assert_eq!(text(&blob, 6, 99), "world");
        assert_eq!(text(&blob, 11, 1), "");
    }

    #[test]
    fn more_than_the_limit_is_not_taken_not_even_by_naming_a_block_often() {
        let folder = tempfile::tempdir().unwrap();
        let upload = Upload::new(folder.path(), 10).unwrap();
        let range = write(&upload, "123456");
        upload.put_block("YQ==".into(), range).unwrap();
        let too_large = |e| matches!(e, Err(UploadError::TooLarge(10)));
        assert!(too_large(upload.reserve(5).map(|_| ())));
        assert!(too_large(upload.reserve(u64::MAX).map(|_| ())));
        assert!(too_large(upload.commit(&["YQ==", "YQ=="])));
    }

    #[test]
    fn a_block_list_is_exactly_what_the_client_writes() {
        let list = "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\
                    <BlockList><Latest>YQ==</Latest>\n<Latest>Yg==</Latest></BlockList>";
        assert_eq!(block_list(list).unwrap(), ["YQ==", "Yg=="]);
        assert!(block_list("<BlockList/>").unwrap().is_empty());
        for wrong in [
            "",
            "<BlockList>",
            "<BlockList><Latest>YQ==</Uncommitted></BlockList>",
            "<BlockList><Latest>&a;</Latest></BlockList>",
            "<!DOCTYPE a><BlockList/>",
        ] {
            assert!(block_list(wrong).is_err(), "{wrong}");
        }
    }
}
