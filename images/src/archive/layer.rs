//! One layer: decompressed within bounds, applied, and checked against its digest.

use std::{
    cell::Cell,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    rc::Rc,
};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

use super::{
    ArchiveError,
    blob::{Blob, Section},
};
use crate::{
    digest::{Digest, Hashing},
    progress::Progress,
    tree::{Layer, Limits, Spool, Tree},
};

/// A layer that unpacks to less than this is taken whatever its ratio is.
const HARMLESS: u64 = 256 << 20;
/// How many bytes a compressed one may become beyond that. Real layers stay below 30.
const RATIO: u64 = 300;
/// Largest window of a zstd frame, in bytes: what one layer may ask of our memory.
const WINDOW: u64 = 128 << 20;

/// A layer of an archive.
#[derive(Debug)]
pub(super) struct LayerBlob {
    blob: Blob,
}

/// Where layers go.
pub(super) struct Target<'a> {
    pub(super) tree: &'a mut Tree,
    pub(super) spool: &'a mut Spool,
    pub(super) limits: &'a Limits,
    pub(super) epoch: u64,
    /// Bytes of content and entries so far.
    pub(super) bytes: u64,
    pub(super) entries: usize,
}

impl LayerBlob {
    pub(super) fn new(blob: Blob) -> Self {
        Self { blob }
    }

    /// Applies the layer as number `number` (from 0) and proves that it unpacked to `diff_id`.
    pub(super) fn apply(
        &self,
        archive: &File,
        number: usize,
        diff_id: &Digest,
        target: &mut Target<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<(), ArchiveError> {
        let failed = |why: String| ArchiveError::Layer {
            number: number + 1,
            name: self.blob.name.clone(),
            why,
        };
        let total = self.blob.length();
        let source = Counted {
            section: self.blob.reader(archive),
            rest: Rc::default(),
        };
        let rest = Rc::clone(&source.rest);
        rest.set(total);
        let stream = decompress(source).map_err(|error| failed(error.to_string()))?;
        let mut stream = Hashing::new(Bounded {
            stream,
            rest: Rc::clone(&rest),
            total,
            written: 0,
            limit: target.limits.bytes,
        });
        let layer = Layer {
            tree: &mut *target.tree,
            spool: &mut *target.spool,
            limits: target.limits,
            // Number 0 has no whiteouts: that is for roots that are no layers.
            number: u32::try_from(number + 1).map_err(|_| failed("too many layers".to_owned()))?,
            epoch: target.epoch,
            // Times are part of what people built; some files are checked against them.
            latest: i64::MAX as u64,
            bytes: &mut target.bytes,
            entries: &mut target.entries,
        };
        layer
            .apply(&mut stream, &mut |_| {
                progress.done(total - rest.get(), Some(total));
            })
            .map_err(|error| failed(error.to_string()))?;
        // What follows the end of the tar archive counts for the digest.
        io::copy(&mut stream, &mut io::sink()).map_err(|error| failed(error.to_string()))?;
        let (_, found, _) = stream.finish();
        if found == *diff_id {
            return Ok(());
        }
        let name = self.blob.name.clone();
        Err(ArchiveError::Digest {
            name,
            expected: *diff_id,
            found,
        })
    }
}

/// Tells how much of a section is still to be read while others own it.
struct Counted<'a> {
    section: Section<'a>,
    rest: Rc<Cell<u64>>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.section.read(buffer)?;
        self.rest.set(self.section.rest());
        Ok(count)
    }
}

/// Unpacks by what the first bytes are: media types are not always right.
fn decompress<'a>(source: Counted<'a>) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = BufReader::with_capacity(1 << 16, source);
    let start = source.fill_buf()?;
    if start.starts_with(b"\x1f\x8b") {
        return Ok(Box::new(MultiGzDecoder::new(source)));
    }
    if start.starts_with(b"\x28\xb5\x2f\xfd") {
        return Ok(Box::new(Zstd::new(source)));
    }
    for (magic, name) in [(&b"\xfd7zXZ"[..], "xz"), (b"BZh", "bzip2")] {
        if start.starts_with(magic) {
            let message = format!("compressed with {name}; only gzip and zstd are understood");
            return Err(io::Error::other(message));
        }
    }
    Ok(Box::new(source))
}

/// Cuts off what unpacks to far more than it can rightly be.
struct Bounded<'a> {
    stream: Box<dyn Read + 'a>,
    rest: Rc<Cell<u64>>,
    total: u64,
    written: u64,
    limit: u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.written += count as u64;
        let read = self.total - self.rest.get();
        if self.written > self.limit {
            let message = format!("unpacks to more than {} bytes", self.limit);
            return Err(io::Error::other(message));
        }
        if self.written > HARMLESS && self.written / RATIO > read {
            let message = format!("a compression bomb: {read} bytes became {}", self.written);
            return Err(io::Error::other(message));
        }
        Ok(count)
    }
}

/// A zstd stream of several frames, some of which may be skippable.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    /// Whether a frame is being decoded.
    inside: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW);
        Self {
            source,
            decoder,
            inside: false,
        }
    }

    /// Begins the next frame; false at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.inside = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let skipped = io::copy(&mut (&mut self.source).take(length), &mut io::sink())?;
                    if skipped != length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if buffer.is_empty() || (!self.inside && !self.next_frame()?) {
                return Ok(0);
            }
            while self.decoder.can_collect() < buffer.len() && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(
                        &mut self.source,
                        BlockDecodingStrategy::UptoBytes(buffer.len()),
                    )
                    .map_err(io::Error::other)?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            if let (Some(expected), Some(found)) = (
                self.decoder.get_checksum_from_data(),
                self.decoder.get_calculated_checksum(),
            ) && expected != found
            {
                return Err(io::Error::other("a zstd frame with a wrong checksum"));
            }
            self.inside = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounded(stream: impl Read + 'static, total: u64, rest: u64, limit: u64) -> Bounded<'static> {
        let rest = Rc::new(Cell::new(rest));
        Bounded {
            stream: Box::new(stream),
            rest,
            total,
            written: 0,
            limit,
        }
    }

    fn error(mut stream: impl Read) -> String {
        io::copy(&mut stream, &mut io::sink())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn what_unpacks_without_end_is_cut_off() {
        let message = error(bounded(io::repeat(0), 1000, 0, u64::MAX));
        assert!(message.contains("a compression bomb"), "{message}");
        let message = error(bounded(io::repeat(0), 1 << 40, 0, 1 << 20));
        assert!(message.contains("more than 1048576 bytes"), "{message}");
    }

    #[test]
    fn what_is_merely_large_is_not() {
        let mut stream = bounded(io::repeat(0).take(HARMLESS), 1000, 0, u64::MAX);
        assert_eq!(io::copy(&mut stream, &mut io::sink()).unwrap(), HARMLESS);
    }

    #[test]
    fn every_frame_of_a_zstd_stream_counts_and_skippable_ones_do_not() {
        let frame = |bytes: &[u8]| {
            ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
        };
        let large = vec![b'x'; 300_000];
        let skippable = [
            &0x184d_2a53_u32.to_le_bytes()[..],
            &5_u32.to_le_bytes(),
            b"notes",
        ];
        let stream = [&frame(&large)[..], &skippable.concat(), &frame(b"end")].concat();
        let mut unpacked = Vec::new();
        Zstd::new(&stream[..]).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == [&large[..], b"end"].concat());
        for end in [1, 7, stream.len() - 1, stream.len() - 14] {
            assert!(
                Zstd::new(&stream[..end])
                    .read_to_end(&mut Vec::new())
                    .is_err(),
                "{end}"
            );
        }
    }
}
