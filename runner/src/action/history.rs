//! What references stood for when they were seen: a small file of the state folder that only grows, one
//! JSON object a line, each written through to the disk.
//!
//! It is the trip-wire: a tag that stands for another commit than at last sight is told, and never
//! becomes what is known. Only the end of the file can be damaged by a crash, and that is cut off.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::digest::ContentDigest;

/// Name of the file in its folder.
const FILE: &str = "history.jsonl";
/// Held alone by who writes.
const LOCK: &str = ".lock";
/// From this length on the file is written anew with one line for what many lines say.
const COMPACT_AT: u64 = 1 << 20;
/// Longest file that is read.
const MAX_BYTES: u64 = 64 << 20;
/// Most values that are remembered; those seen last stay.
const MAX_VALUES: usize = 50_000;
/// A value seen again within this time is not written again.
const FRESH: Duration = Duration::from_secs(60 * 60);

/// Why the history cannot be used. Nothing runs without it: what was seen before would not be known.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// A line in the middle says nothing.
    #[error(
        "line {line} of {} is damaged: {why}; if you know why, remove that line: \
         what it says of its reference is forgotten then", .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The file is longer than any that Mayfly writes.
    #[error("{} is longer than {MAX_BYTES} bytes: Mayfly did not write it; move it away", .0.display())]
    TooLong(PathBuf),
    /// The machine failed.
    #[error("cannot {step} {}: {cause}; is there room, and does the state folder belong to you?", .path.display())]
    Host {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
}

/// What a reference stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// A commit id, or the digest of an image.
    pub commit: String,
    /// The digest of an action's content, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentDigest>,
}

/// A value with the times when it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The value.
    pub value: Value,
    /// When first.
    pub first: Timestamp,
    /// When last.
    pub last: Timestamp,
    /// Where it was last.
    pub from: String,
}

/// A reference as it is seen now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// `owner/repo@ref`, or `docker://` and an image's full name.
    pub reference: String,
    /// What it stands for.
    pub value: Value,
    /// Where it was looked up.
    pub from: String,
    /// Whether it is to be known from now on even if it was another before, because a lock file says so.
    pub locked: bool,
    /// When it was seen, if not now.
    pub at: Option<Timestamp>,
}

/// A reference that stands for something else than at last sight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The reference.
    pub reference: String,
    /// What it was.
    pub before: Seen,
    /// What it is now, with the time when that was seen first.
    pub now: Seen,
}

/// What is known of references.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    values: BTreeMap<String, Vec<Remembered>>,
}

#[derive(Clone, Debug)]
struct Remembered {
    seen: Seen,
    /// Where in the order of all it was accepted last; nothing for one that was only refused.
    accepted: Option<u64>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    reference: String,
    #[serde(flatten)]
    value: Value,
    first: String,
    last: String,
    from: String,
    /// Whether the value was refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    refused: bool,
}

impl Memory {
    /// What a reference is known to stand for.
    #[must_use]
    pub fn known(&self, reference: &str) -> Option<&Seen> {
        let values = self.values.get(reference)?.iter();
        let accepted = values.filter(|value| value.accepted.is_some());
        accepted
            .max_by_key(|value| value.accepted)
            .map(|value| &value.seen)
    }

    /// All references with what they are known to stand for.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Seen)> {
        let references = self.values.keys();
        references.filter_map(|reference| Some((reference.as_str(), self.known(reference)?)))
    }

    fn seen(&self, reference: &str, value: &Value) -> Option<&Remembered> {
        let values = self.values.get(reference)?.iter();
        values
            .into_iter()
            .find(|known| same(&known.seen.value, value))
    }

    fn add(&mut self, reference: String, seen: Seen, accepted: Option<u64>) {
        let values = self.values.entry(reference).or_default();
        match values
            .iter_mut()
            .find(|known| same(&known.seen.value, &seen.value))
        {
            Some(known) => {
                known.seen.first = known.seen.first.min(seen.first);
                known.seen.last = known.seen.last.max(seen.last);
                known.seen.from = seen.from;
                known.seen.value.content = seen.value.content.or(known.seen.value.content);
                known.accepted = known.accepted.max(accepted);
            }
            None => values.push(Remembered { seen, accepted }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, HistoryError> {
        let mut memory = Self::default();
        for (at, line) in text.lines().enumerate() {
            let damaged = |why: String| HistoryError::Damaged {
                path: path.to_owned(),
                line: at + 1,
                why,
            };
            let line: Line = serde_json::from_str(line).map_err(|why| damaged(why.to_string()))?;
            let time = |text: &str| {
                text.parse()
                    .map_err(|why: jiff::Error| damaged(why.to_string()))
            };
            let seen = Seen {
                value: line.value,
                first: time(&line.first)?,
                last: time(&line.last)?,
                from: line.from,
            };
            memory.add(line.reference, seen, (!line.refused).then_some(at as u64));
        }
        Ok(memory)
    }

    /// One line for each value, in the order in which they were accepted.
    fn lines(&self) -> Vec<Line> {
        let mut all: Vec<_> = self
            .values
            .iter()
            .flat_map(|(reference, values)| values.iter().map(move |value| (reference, value)))
            .collect();
        if all.len() > MAX_VALUES {
            all.sort_by_key(|(_, value)| std::cmp::Reverse(value.seen.last));
            all.truncate(MAX_VALUES);
        }
        all.sort_by_key(|(_, value)| value.accepted);
        let line = |(reference, known): (&String, &Remembered)| {
            line(reference, &known.seen, known.accepted.is_none())
        };
        all.into_iter().map(line).collect()
    }
}

fn line(reference: &str, seen: &Seen, refused: bool) -> Line {
    Line {
        reference: reference.to_owned(),
        value: seen.value.clone(),
        first: seen.first.to_string(),
        last: seen.last.to_string(),
        from: seen.from.clone(),
        refused,
    }
}

/// The history of one state folder; processes share it.
#[derive(Clone, Debug)]
pub struct History {
    folder: PathBuf,
}

impl History {
    /// The history in this folder, which is made when the first reference is seen.
    #[must_use]
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// What is known now.
    ///
    /// # Errors
    /// [`HistoryError`] if the file cannot be read or is damaged.
    pub fn read(&self) -> Result<Memory, HistoryError> {
        match File::open(self.path()) {
            Ok(mut file) => Ok(self.load(&mut file)?.0),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Memory::default()),
            Err(cause) => Err(self.failed("read", cause)),
        }
    }

    /// Writes down what is seen now, and returns what moved: that is written down as refused, and what
    /// was known before stays known. What others saw meanwhile counts.
    ///
    /// # Errors
    /// [`HistoryError`]; nothing is known then that was not before.
    pub fn record(
        &self,
        sightings: &[Sighting],
        now: Timestamp,
    ) -> Result<Vec<Moved>, HistoryError> {
        if sightings.is_empty() {
            return Ok(Vec::new());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(|cause| self.failed("make the folder of", cause))?;
        let _lock = self.lock()?;
        let mut file = options()
            .open(self.path())
            .map_err(|cause| self.failed("write", cause))?;
        let (mut memory, whole) = self.load(&mut file)?;
        let (lines, moved) = compare(&mut memory, sightings, now);
        if lines.is_empty() {
            return Ok(moved);
        }
        let text = text(&lines);
        if whole + text.len() as u64 > COMPACT_AT {
            let anew = self::text(&memory.lines());
            self.replace(&anew)
                .map_err(|cause| self.failed("write", cause))?;
            return Ok(moved);
        }
        append(&mut file, whole, &text, &self.folder)
            .map_err(|cause| self.failed("write", cause))?;
        Ok(moved)
    }

    /// What the file says, and the length of its whole lines.
    fn load(&self, file: &mut File) -> Result<(Memory, u64), HistoryError> {
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|cause| self.failed("read", cause))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(HistoryError::TooLong(self.path()));
        }
        // A line without an end was being written when the machine stopped: nobody went by it.
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let text = String::from_utf8_lossy(&bytes[..whole]);
        Ok((Memory::parse(&self.path(), &text)?, whole as u64))
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(self.path())?;
        File::open(&self.folder)?.sync_all()
    }

    fn lock(&self) -> Result<File, HistoryError> {
        let failed = |cause| self.failed("lock", cause);
        let file = options().open(self.folder.join(LOCK)).map_err(failed)?;
        file.lock().map_err(failed)?;
        Ok(file)
    }

    fn failed(&self, step: &'static str, cause: io::Error) -> HistoryError {
        let path = self.path();
        HistoryError::Host { step, path, cause }
    }
}

/// For files that nobody else may open: whoever can could lock them, and so hold up everybody else.
fn options() -> fs::OpenOptions {
    let mut options = File::options();
    options
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600);
    options
}

fn append(file: &mut File, whole: u64, text: &str, folder: &Path) -> io::Result<()> {
    file.set_len(whole)?;
    file.seek(SeekFrom::Start(whole))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    if whole == 0 {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn text(lines: &[Line]) -> String {
    let json = lines
        .iter()
        .filter_map(|line| serde_json::to_string(line).ok());
    json.map(|line| line + "\n").collect()
}

/// The lines to be written for what is seen now, and what moved.
fn compare(memory: &mut Memory, sightings: &[Sighting], now: Timestamp) -> (Vec<Line>, Vec<Moved>) {
    let (mut lines, mut moved) = (Vec::new(), Vec::new());
    // Behind all lines of the file.
    let mut order = u64::MAX / 2;
    for sighting in sightings {
        let Sighting {
            reference, value, ..
        } = sighting;
        let before = memory.known(reference).cloned();
        let current = before
            .as_ref()
            .is_some_and(|before| same(&before.value, value));
        let refused = before.filter(|_| !current && !sighting.locked);
        let fresh = memory.seen(reference, value).is_some_and(|known| {
            let recent = now.duration_since(known.seen.last).unsigned_abs() < FRESH;
            let told = known.seen.value.content.is_some() || value.content.is_none();
            recent && told && (current || refused.is_some())
        });
        let at = sighting.at.unwrap_or(now);
        let seen = Seen {
            value: value.clone(),
            first: at,
            last: at,
            from: sighting.from.clone(),
        };
        if !fresh {
            lines.push(line(reference, &seen, refused.is_some()));
        }
        order += 1;
        memory.add(reference.clone(), seen, refused.is_none().then_some(order));
        let now = memory
            .seen(reference, value)
            .map(|known| known.seen.clone());
        moved.extend(refused.zip(now).map(|(before, now)| Moved {
            reference: reference.clone(),
            before,
            now,
        }));
    }
    (lines, moved)
}

/// Whether two values are one: a content that is not known on one side says nothing.
fn same(known: &Value, now: &Value) -> bool {
    let contents = known.content.zip(now.content);
    known.commit == now.commit && contents.is_none_or(|(known, now)| known == now)
}

#[cfg(test)]
mod tests;
