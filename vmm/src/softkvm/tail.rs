//! The last lines of a program or a console, for the message that says why it ended.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How much is kept.
const KEPT_BYTES: usize = 16 << 10;
const KEPT_LINES: usize = 40;
/// How long to wait for the last words of something that has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Reads a source to its end on a thread of its own, so that nobody waits for a full pipe.
pub(super) struct Tail {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Tail {
    /// Follows `source`; `show` copies it to stderr.
    pub(super) fn follow(mut source: impl Read + Send + 'static, show: bool) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&kept);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = source.read(&mut buffer) {
                if show {
                    // What cannot be shown is still kept.
                    let _ = std::io::stderr().write_all(&buffer[..length]);
                }
                let mut kept = keep.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..length]);
                let excess = kept.len().saturating_sub(KEPT_BYTES);
                kept.drain(..excess);
            }
        });
        Tail { kept, reader }
    }

    /// The last lines, without the carriage returns of a serial line.
    pub(super) fn last_words(&self) -> String {
        let deadline = Instant::now() + LAST_WORDS;
        while !self.reader.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept).replace('\r', "");
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        lines[lines.len().saturating_sub(KEPT_LINES)..]
            .iter()
            .map(|line| format!("{line}\n"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_kept_without_blank_ones() {
        let text: String = (0..5000)
            .map(|line| format!("line {line}\r\n\r\n"))
            .collect();
        let tail = Tail::follow(std::io::Cursor::new(text.into_bytes()), false);
        let words = tail.last_words();
        assert_eq!(words.lines().count(), KEPT_LINES);
        assert!(words.ends_with("line 4998\nline 4999\n"), "{words}");
    }
}
