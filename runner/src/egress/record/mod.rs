//! What a job reached, or did not: a line of JSON for each connection, a table, and counts.

mod file;
mod line;
mod read;
mod table;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::notice::Notice;

use super::policy::Verdict;

pub use file::{RecordError, RecordFile};
pub use line::{Answer, Line};
pub use read::{ReadError, read};
pub use table::Table;

/// Hides secrets in what is written down.
pub type Hide = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Where [`Notice`]s go.
pub type Tell = Arc<dyn Fn(Notice) + Send + Sync>;

/// Connections between two notices.
const NOTICE_EVERY: u64 = 64;

/// The record of one job.
pub struct Record {
    state: Mutex<State>,
    tell: Option<Tell>,
}

struct State {
    file: Option<RecordFile>,
    /// Why nothing more can be written.
    broken: Option<String>,
    table: Table,
    hide: Option<Hide>,
    allowed: Counts,
    denied: Counts,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    connections: u64,
    sent: u64,
    received: u64,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

impl Record {
    /// A record in `file`, or one that only counts.
    #[must_use]
    pub fn new(file: Option<RecordFile>, tell: Option<Tell>) -> Self {
        Self {
            state: Mutex::new(State {
                file,
                broken: None,
                table: Table::default(),
                hide: None,
                allowed: Counts::default(),
                denied: Counts::default(),
            }),
            tell,
        }
    }

    /// From now on `hide` is applied to all that the sandbox chose.
    pub fn hide_with(&self, hide: Hide) {
        self.with(|state| state.hide = Some(hide));
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        self.with(|state| state.file.as_ref().map(|file| file.path().to_owned()))
    }

    /// Writes a line down.
    pub fn add(&self, mut line: Line) {
        let due = self.with(|state| {
            if let Some(hide) = &state.hide {
                line.hide(&**hide);
            }
            state.table.add(&line);
            state.count(&line);
            state.write(&line);
            state.allowed.connections + state.denied.connections >= NOTICE_EVERY
        });
        if due {
            self.tell();
        }
    }

    /// What was reached so far.
    #[must_use]
    pub fn table(&self) -> Table {
        self.with(|state| state.table.clone())
    }

    /// Tells the counts and brings the file to the disk.
    ///
    /// # Errors
    /// [`RecordError`] if a line could not be written.
    pub fn finish(&self) -> Result<(), RecordError> {
        self.tell();
        self.with(|state| {
            if let Some(file) = &mut state.file {
                file.sync()?;
            }
            match state.broken.take() {
                Some(why) => Err(RecordError::Lines(why)),
                None => Ok(()),
            }
        })
    }

    fn tell(&self) {
        let Some(tell) = &self.tell else {
            return;
        };
        let counts = self.with(|state| {
            let taken = [
                (Verdict::Allow, state.allowed),
                (Verdict::Deny, state.denied),
            ];
            state.allowed = Counts::default();
            state.denied = Counts::default();
            taken
        });
        for (verdict, counts) in counts {
            if counts.connections > 0 {
                tell(Notice::Egress {
                    verdict: verdict.word().into(),
                    connections: counts.connections,
                    sent: counts.sent,
                    received: counts.received,
                });
            }
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn count(&mut self, line: &Line) {
        // Requests within a connection are not connections.
        if line.within.is_some() {
            return;
        }
        let counts = match line.verdict {
            Verdict::Deny => &mut self.denied,
            Verdict::Allow | Verdict::Audit => &mut self.allowed,
        };
        counts.connections += 1;
        counts.sent += line.sent;
        counts.received += line.received;
    }

    fn write(&mut self, line: &Line) {
        let Some(file) = self.file.as_mut().filter(|_| self.broken.is_none()) else {
            return;
        };
        if let Err(error) = file.write(line) {
            self.broken = Some(error.to_string());
        }
    }
}

/// The folder of records below the state folder.
#[must_use]
pub fn folder(state: &Path) -> PathBuf {
    state.join("egress")
}
