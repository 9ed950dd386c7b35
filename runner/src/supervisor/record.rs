//! What is on disk of each worker, so that a supervisor that is started again finds those of the one
//! before it: a record of names and numbers, and the pipe of its notices.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustix::fs::{CWD, Mode, mkfifoat};
use serde::{Deserialize, Serialize};

use super::state::WorkerState;
use crate::notice::JobNames;

/// A worker, or a runner that was about to get one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its pool.
    pub pool: String,
    /// The name of its runner.
    pub runner_name: String,
    /// The number of its runner, once it is known.
    pub runner_id: Option<u64>,
    /// Its process, once there is one.
    pub process: Option<ProcessId>,
    /// What it did last.
    pub state: WorkerState,
    /// When it was started.
    pub started: Timestamp,
    /// Its job, once it has one.
    pub job: Option<JobNames>,
    /// The cgroup of it and its sandbox.
    pub cgroup: Option<PathBuf>,
}

/// A process as no other is it: numbers come again, and times of start after a reboot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it was started, in ticks since boot.
    pub start: u64,
    /// Which boot.
    pub boot: String,
}

impl ProcessId {
    /// The process that has this number now.
    ///
    /// # Errors
    /// If there is none.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name may hold blanks and parentheses; what follows the last one are numbers.
        let fields = stat.rsplit_once(") ").map(|(_, fields)| fields);
        let start = fields.and_then(|fields| fields.split(' ').nth(19)?.parse().ok());
        let start = start.ok_or(io::ErrorKind::InvalidData)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let boot = boot.trim().to_owned();
        Ok(Self { pid, start, boot })
    }

    /// Whether it still lives.
    #[must_use]
    pub fn lives(&self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == *self)
    }
}

/// The folder of all records.
#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// Opens the folder; makes it where it is missing.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let folder = folder.join("workers");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        Ok(Self { folder })
    }

    /// The pipe of a worker.
    #[must_use]
    pub fn pipe(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.notices"))
    }

    /// Makes the pipe of a worker.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn make_pipe(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.pipe(name);
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)?;
        Ok(path)
    }

    /// Writes a record: whole, or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let path = self.path(&record.runner_name);
        let draft = path.with_extension("draft");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        fs::rename(&draft, &path)
    }

    /// Removes all of a worker that is gone.
    pub fn remove(&self, name: &str) {
        for path in [self.path(name), self.pipe(name)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove a file of a worker that is gone");
                }
                _ => {}
            }
        }
    }

    /// All records. What cannot be read is told and removed: it is of no use to anybody.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn all(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => match read(&path) {
                    Ok(record) => records.push(record),
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "a worker's record cannot be read and is removed");
                        fs::remove_file(&path)?;
                    }
                },
                Some("draft") => fs::remove_file(&path)?,
                _ => {}
            }
        }
        let known = |name: &str| {
            records
                .iter()
                .any(|record: &Record| record.runner_name == name)
        };
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_suffix(".notices"));
            if name.is_some_and(|name| !known(name)) {
                fs::remove_file(&path)?;
            }
        }
        Ok(records)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }
}

fn read(path: &Path) -> io::Result<Record> {
    let record: Record = serde_json::from_slice(&fs::read(path)?)?;
    let name = path.file_stem().and_then(|name| name.to_str());
    // It becomes part of paths again.
    if name != Some(record.runner_name.as_str()) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is of another runner",
        ));
    }
    Ok(record)
}

/// The identity of this installation, part of the names of its runners: made at the first start.
///
/// # Errors
/// If it can neither be read nor written.
pub fn installation_id(folder: &Path) -> io::Result<String> {
    let path = folder.join("id");
    let good = |id: &str| id.len() == 8 && id.bytes().all(|b| b.is_ascii_hexdigit());
    match fs::read_to_string(&path) {
        Ok(id) if good(id.trim()) => return Ok(id.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let id = random_id();
    let draft = path.with_extension("draft");
    let mut file = fs::File::create(&draft)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, &path)?;
    Ok(id)
}

/// Eight random hexadecimal digits.
#[must_use]
pub fn random_id() -> String {
    let mut id = uuid::Uuid::new_v4().simple().to_string();
    id.truncate(8);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> Record {
        Record {
            pool: "sandbox".into(),
            runner_name: name.into(),
            runner_id: Some(7),
            process: Some(ProcessId::of(std::process::id()).unwrap()),
            state: WorkerState::Idle,
            started: Timestamp::now(),
            job: None,
            cgroup: None,
        }
    }

    #[test]
    fn records_are_found_again_and_rubbish_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        let ours = record("sandbox-1");
        records.write(&ours).unwrap();
        records.make_pipe("sandbox-1").unwrap();
        records.make_pipe("nobody").unwrap();
        let inside = folder.path().join("workers");
        fs::write(inside.join("half.draft"), "{").unwrap();
        fs::write(inside.join("broken.json"), "{").unwrap();
        let foreign = serde_json::to_vec(&record("../../etc/x")).unwrap();
        fs::write(inside.join("liar.json"), foreign).unwrap();
        assert_eq!(records.all().unwrap(), std::slice::from_ref(&ours));
        assert!(ours.process.unwrap().lives());
        let left = || fs::read_dir(&inside).unwrap().count();
        assert_eq!(left(), 2, "a record and its pipe");
        records.remove("sandbox-1");
        assert_eq!(left(), 0);
    }

    #[test]
    fn a_process_number_that_came_again_is_another_process() {
        let mut process = ProcessId::of(std::process::id()).unwrap();
        assert!(process.lives());
        process.start += 1;
        assert!(!process.lives());
        process.start -= 1;
        process.boot = "another".into();
        assert!(!process.lives());
    }

    #[test]
    fn an_installation_keeps_its_identity() {
        let folder = tempfile::tempdir().unwrap();
        let id = installation_id(folder.path()).unwrap();
        assert_eq!(installation_id(folder.path()).unwrap(), id);
        fs::write(folder.path().join("id"), "../evil").unwrap();
        assert_ne!(installation_id(folder.path()).unwrap(), "../evil");
    }
}
