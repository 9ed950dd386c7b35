//! A stream that must keep coming: one that stalls or trickles is given up.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    runtime::Handle,
    time::timeout,
};

/// How fast a stream must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Fewest bytes that must come in each span of waiting, but for the last one.
    pub bytes: u64,
    /// How long a span of waiting is. Only the time counts in which bytes are waited for.
    pub within: Duration,
}

impl Default for Pace {
    /// As git is told for its own downloads: 1000 bytes a second, over 30 seconds.
    fn default() -> Self {
        Self {
            bytes: 30_000,
            within: Duration::from_secs(30),
        }
    }
}

/// Marks the failure of a stream that is too slow.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("fewer than {} bytes came in {:?}", .0.bytes, .0.within)]
pub(super) struct TooSlow(pub(super) Pace);

/// Reads an asynchronous stream from a thread that may block, at no less than a pace.
#[derive(Debug)]
pub struct Paced<R> {
    input: R,
    runtime: Handle,
    pace: Pace,
    /// Time waited and bytes that came in this span.
    waited: Duration,
    came: u64,
}

impl<R: AsyncRead + Unpin> Paced<R> {
    /// A stream that `runtime` drives. Reads must be made outside of its asynchronous tasks, as
    /// `spawn_blocking` does.
    pub fn new(input: R, runtime: Handle, pace: Pace) -> Self {
        Self {
            input,
            runtime,
            pace,
            waited: Duration::ZERO,
            came: 0,
        }
    }
}

impl<R: AsyncRead + Unpin> io::Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.pace.within.saturating_sub(self.waited);
        let start = Instant::now();
        let read = async { timeout(left, self.input.read(buffer)).await };
        let Ok(read) = self.runtime.block_on(read) else {
            return Err(io::Error::new(io::ErrorKind::TimedOut, TooSlow(self.pace)));
        };
        let read = read?;
        self.waited += start.elapsed();
        self.came += read as u64;
        if self.came >= self.pace.bytes {
            self.waited = Duration::ZERO;
            self.came = 0;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, task::spawn_blocking};

    use super::super::{samples, *};
    use super::*;

    const PACE: Pace = Pace {
        bytes: 1000,
        within: Duration::from_millis(500),
    };

    fn verified(input: impl Read) -> Result<Verified, ArchiveError> {
        let (layout, expected) = (Layout::TopFolder, samples::expected());
        verify(input, layout, &expected, Limits::default(), io::sink())
    }

    #[tokio::test]
    async fn a_stream_that_stalls_or_trickles_is_given_up_in_words_of_its_own() {
        let honest = samples::gzip(&samples::ended(samples::honest()));
        for (start, pause) in [(0, None), (100, None), (0, Some(Duration::from_millis(10)))] {
            let (reader, mut writer) = tokio::io::duplex(64);
            let archive = honest.clone();
            let sender = tokio::spawn(async move {
                writer.write_all(&archive[..start]).await?;
                for byte in &archive[start..] {
                    match pause {
                        Some(pause) => tokio::time::sleep(pause).await,
                        None => std::future::pending().await,
                    }
                    writer.write_all(&[*byte]).await?;
                }
                Ok::<_, io::Error>(())
            });
            let paced = Paced::new(reader, Handle::current(), PACE);
            let start = Instant::now();
            let error = spawn_blocking(|| verified(paced)).await.unwrap();
            let error = error.unwrap_err();
            assert!(matches!(error, ArchiveError::Slow(_)), "{error}");
            assert!(
                error.to_string().contains("fewer than 1000 bytes in 500ms"),
                "{error}"
            );
            assert!(start.elapsed() >= PACE.within);
            sender.abort();
        }
    }

    #[tokio::test]
    async fn a_stream_that_keeps_its_pace_is_read_however_long_it_takes() {
        let mut tar = samples::ended(samples::honest());
        // Zeros at the end are padding.
        tar.resize(20_000, 0);
        let (reader, mut writer) = tokio::io::duplex(64);
        let sender = tokio::spawn(async move {
            for part in tar.chunks(2000) {
                tokio::time::sleep(PACE.within / 5).await;
                writer.write_all(part).await.unwrap();
            }
        });
        let start = Instant::now();
        let paced = Paced::new(reader, Handle::current(), PACE);
        let found = spawn_blocking(|| verified(paced)).await.unwrap();
        assert_eq!(found.unwrap().files, 3);
        assert!(start.elapsed() > PACE.within);
        sender.await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_takes_its_time_is_not_held_against_the_stream() {
        static BYTES: [u8; 900] = [1; 900];
        let mut paced = Paced::new(&BYTES[..], Handle::current(), PACE);
        let read = spawn_blocking(move || {
            let mut buffer = [0; 100];
            for _ in 0..9 {
                std::thread::sleep(PACE.within / 5);
                paced.read_exact(&mut buffer)?;
            }
            paced.read(&mut buffer)
        });
        assert_eq!(read.await.unwrap().unwrap(), 0);
    }
}
