//! The bytes of a tar stream, gzip or plain, counted on both sides of the compression.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use flate2::bufread::GzDecoder;

use super::{ArchiveError, Limits, pace::TooSlow};

/// Bytes unpacked before their proportion to what came matters.
const SMALL: u64 = 64 << 20;

/// Counts what comes, and ends with an error beyond the limit.
struct Packed<R> {
    input: R,
    read: u64,
    limit: u64,
}

impl<R: Read> Read for Packed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.read += read as u64;
        if self.read > self.limit {
            return Err(io::Error::from(ErrorKind::FileTooLarge));
        }
        Ok(read)
    }
}

enum Stream<R: Read> {
    Plain(BufReader<Packed<R>>),
    Gzip(Box<GzDecoder<BufReader<Packed<R>>>>),
}

/// A tar stream within its limits.
pub(super) struct Source<R: Read> {
    stream: Stream<R>,
    unpacked: u64,
    limits: Limits,
}

impl<R: Read> Source<R> {
    pub(super) fn open(input: R, limits: Limits) -> Result<Self, ArchiveError> {
        let packed = Packed {
            input,
            read: 0,
            limit: limits.packed,
        };
        let mut input = BufReader::with_capacity(64 << 10, packed);
        let start = input
            .fill_buf()
            .map_err(|error| failure(error, 0, limits))?;
        let stream = if start.starts_with(&[0x1f, 0x8b]) {
            Stream::Gzip(Box::new(GzDecoder::new(input)))
        } else {
            Stream::Plain(input)
        };
        Ok(Self {
            stream,
            unpacked: 0,
            limits,
        })
    }

    /// Bytes read so far, unpacked.
    pub(super) fn unpacked(&self) -> u64 {
        self.unpacked
    }

    /// Fills the buffer.
    pub(super) fn exact(&mut self, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.some(&mut buffer[filled..])? {
                0 => return Err(self.ended()),
                read => filled += read,
            }
        }
        Ok(())
    }

    /// Why there is no more.
    fn ended(&self) -> ArchiveError {
        match &self.stream {
            Stream::Plain(_) => ArchiveError::Truncated(self.unpacked),
            // Its own end was found, or this would be an error of the stream.
            Stream::Gzip(_) => ArchiveError::Incomplete(self.unpacked),
        }
    }

    /// Reads what is left, which must be zeros and, compressed, the end of the only gzip stream.
    pub(super) fn finish(&mut self) -> Result<(), ArchiveError> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = self.some(&mut buffer)?;
            if read == 0 {
                break;
            }
            if buffer[..read].iter().any(|&byte| byte != 0) {
                return Err(ArchiveError::Trailing("after its end"));
            }
        }
        if let Stream::Gzip(gzip) = &mut self.stream
            && !gzip
                .get_mut()
                .fill_buf()
                .map_err(|error| failure(error, self.unpacked, self.limits))?
                .is_empty()
        {
            return Err(ArchiveError::Trailing("after its gzip stream"));
        }
        Ok(())
    }

    fn some(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let (read, packed) = match &mut self.stream {
            Stream::Plain(plain) => (plain.read(buffer), None),
            Stream::Gzip(gzip) => (gzip.read(buffer), Some(gzip.get_ref().get_ref().read)),
        };
        let read = read.map_err(|error| failure(error, self.unpacked, self.limits))?;
        self.unpacked += read as u64;
        if self.unpacked > self.limits.unpacked {
            return Err(ArchiveError::Unpacked(self.limits.unpacked));
        }
        let ratio = self.limits.ratio;
        match packed {
            Some(packed) if self.unpacked > SMALL.max(packed.saturating_mul(ratio)) => {
                Err(ArchiveError::Bomb { ratio, packed })
            }
            _ => Ok(read),
        }
    }
}

fn failure(error: io::Error, unpacked: u64, limits: Limits) -> ArchiveError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    if let Some(&TooSlow(pace)) = inner {
        return ArchiveError::Slow(pace);
    }
    match error.kind() {
        ErrorKind::UnexpectedEof => ArchiveError::TruncatedGzip(unpacked),
        ErrorKind::FileTooLarge => ArchiveError::Packed(limits.packed),
        ErrorKind::InvalidData | ErrorKind::InvalidInput => ArchiveError::Gzip(error),
        _ => ArchiveError::Read(error),
    }
}
