//! Compressed bodies, decoded for the search only: what is decoded is looked at and dropped at once.

use std::io::{self, Write};

use flate2::write::{MultiGzDecoder, ZlibDecoder};

use super::super::{
    echo::EchoError,
    leak::{Leak, Scanner},
};

/// Decoded bytes for which no ratio is asked.
const FREE: u64 = 1 << 20;
/// Most decoded bytes for one of a body, beyond that. Text reaches 20, zeros 1030.
const MAX_RATIO: u64 = 250;

/// Why a body does not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum InflateError {
    /// A secret was found.
    #[error(transparent)]
    Leak(Leak),
    /// A value came back.
    #[error(transparent)]
    Echo(EchoError),
    /// It grows too much.
    #[error("a compressed body is more than {MAX_RATIO} times as large when it is decoded")]
    Bomb,
    /// It is not what it says.
    #[error("a body that says it is compressed cannot be decoded: {0}")]
    Broken(#[source] io::Error),
}

/// A decoder whose output is searched.
pub(super) struct Inflate {
    decoder: Decoder,
    input: u64,
}

enum Decoder {
    Gzip(Box<MultiGzDecoder<Look>>),
    Zlib(Box<ZlibDecoder<Look>>),
}

/// Where decoded bytes go.
struct Look {
    scanner: Scanner,
    found: Option<Leak>,
    total: u64,
    most: u64,
}

impl Write for Look {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.total += bytes.len() as u64;
        if self.total > self.most {
            return Err(io::Error::other("too much"));
        }
        if let Err(leak) = self.scanner.scan(bytes) {
            self.found = Some(leak);
            return Err(io::Error::other("found"));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Inflate {
    /// A decoder for `encoding`; `None` for one that is not known.
    pub(super) fn new(encoding: &str, scanner: Scanner) -> Option<Self> {
        let look = Look {
            scanner,
            found: None,
            total: 0,
            most: FREE,
        };
        let decoder = match encoding.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Decoder::Gzip(Box::new(MultiGzDecoder::new(look))),
            "deflate" => Decoder::Zlib(Box::new(ZlibDecoder::new(look))),
            _ => return None,
        };
        Some(Self { decoder, input: 0 })
    }

    /// Looks at the next bytes of the body.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), InflateError> {
        self.input += bytes.len() as u64;
        let most = FREE.saturating_add(self.input.saturating_mul(MAX_RATIO));
        self.look().most = most;
        let written = match &mut self.decoder {
            // What is decoded so far must be seen before the bytes go on.
            Decoder::Gzip(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Decoder::Zlib(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
        };
        let Err(cause) = written else {
            return Ok(());
        };
        let look = self.look();
        Err(match look.found.take() {
            Some(leak) => InflateError::Leak(leak),
            None if look.total > look.most => InflateError::Bomb,
            None => InflateError::Broken(cause),
        })
    }

    fn look(&mut self) -> &mut Look {
        match &mut self.decoder {
            Decoder::Gzip(decoder) => decoder.get_mut(),
            Decoder::Zlib(decoder) => decoder.get_mut(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flate2::{
        Compression,
        write::{GzEncoder, ZlibEncoder},
    };

    use super::*;
    use crate::egress::intercept::leak::{Watch, Watched};

    const VALUE: &str = "value-of-a-secret-in-a-body";

    fn inflate(encoding: &str) -> Inflate {
        let secret = Watched {
            name: "S",
            value: VALUE,
            placeholder: None,
        };
        let watch = Arc::new(Watch::new(&[secret]).unwrap());
        Inflate::new(encoding, watch.scanner(&[].into())).unwrap()
    }

    fn text() -> String {
        let noise: Vec<String> = (0..5000).map(|n| format!("{n} ")).collect();
        format!("{}{VALUE}{}", noise.concat(), noise.concat())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_secret_is_found_in_compressed_bodies_before_their_last_byte() {
        let second = [gzip(b"a first member"), gzip(text().as_bytes())].concat();
        for (encoding, body) in [
            ("gzip", gzip(text().as_bytes())),
            ("X-GZIP ", gzip(text().as_bytes())),
            ("deflate", zlib(text().as_bytes())),
            ("gzip", second),
        ] {
            for chunk in [1, 100, 1 << 20] {
                let mut inflate = inflate(encoding);
                let found = body
                    .chunks(chunk)
                    .map(|part| inflate.push(part))
                    .find(Result::is_err);
                assert!(
                    matches!(found, Some(Err(InflateError::Leak(_)))),
                    "{encoding} {chunk} {found:?}"
                );
            }
        }
    }

    #[test]
    fn innocent_bodies_pass_bombs_and_broken_ones_do_not() {
        for chunk in [1, 1000] {
            let body = gzip(text().replace(VALUE, "").as_bytes());
            let mut inflate = inflate("gzip");
            assert!(body.chunks(chunk).all(|part| inflate.push(part).is_ok()));
        }
        let bomb = gzip(&vec![0; 8 << 20]);
        let bombed = inflate("gzip").push(&bomb);
        assert!(matches!(bombed, Err(InflateError::Bomb)), "{bombed:?}");
        let broken = inflate("gzip").push(b"no gzip at all, this is");
        assert!(matches!(broken, Err(InflateError::Broken(_))), "{broken:?}");
        let watch = Arc::new(Watch::new(&[]).unwrap());
        assert!(Inflate::new("zstd", watch.scanner(&[].into())).is_none());
    }
}
