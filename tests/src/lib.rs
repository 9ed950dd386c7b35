//! What end-to-end scenarios share: the installation under test, a state folder with an image, and
//! the `mayfly` command as a user calls it.
#![forbid(unsafe_code)]

use std::{
    env,
    ffi::OsStr,
    fs::File,
    io::{Read, Seek},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Trial};
use mayfly::config::Installation;
use mayfly_vmm::{probe, softkvm};

pub mod archives;
pub mod checkouts;
pub mod conditions;
pub mod git_server;
pub mod github;
pub mod guests;
pub mod measured;
pub mod memory;
pub mod npm;
pub mod planned;
pub mod processes;
pub mod scenario;
pub mod served;
pub mod spread;

/// Image that the scenarios run in.
pub const IMAGE: &str = "minimal";

/// The programs under test and the state folder that the scenarios share.
#[derive(Debug)]
pub struct Bench {
    /// Folder with `mayfly`, `mayfly-vmm`, `mayfly-guest` and `softkvm`.
    pub programs: PathBuf,
    /// State folder with the image.
    pub state: PathBuf,
}

/// The installation that `tests/run.sh` prepared.
///
/// # Panics
/// When it is not there: these tests need `tests/run.sh` (or its first steps) to have run.
pub fn bench() -> &'static Bench {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    BENCH.get_or_init(|| {
        let root = repository();
        let programs = env::var_os("MAYFLY_PROGRAMS").map_or_else(
            || {
                let target = env::var_os("CARGO_TARGET_DIR")
                    .map_or_else(|| root.join("target"), PathBuf::from);
                target.join("release")
            },
            PathBuf::from,
        );
        let state = env::var_os("MAYFLY_STATE").map_or_else(
            || PathBuf::from(env::var_os("HOME").expect("HOME is set")).join(".cache/mayfly/tests"),
            PathBuf::from,
        );
        assert!(
            programs.join("mayfly").is_file(),
            "{} is missing; run tests/run.sh, or deploy/build.sh first",
            programs.join("mayfly").display()
        );
        Bench { programs, state }
    })
}

impl Bench {
    /// The installation as the library sees it.
    #[must_use]
    pub fn installation(&self) -> Installation {
        Installation::at(self.state.clone(), self.programs.clone())
    }

    /// A `mayfly` command with the shared state folder and no terminal.
    pub fn mayfly<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(self.programs.join("mayfly"));
        command
            .args(arguments)
            .env("MAYFLY_STATE", &self.state)
            .env("MAYFLY_KVM", "require")
            .stdin(Stdio::null());
        command
    }
}

/// Top folder of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
        .to_owned()
}

/// How long a command may take; the longest takes half a minute on two quiet cores.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(240);

/// Runs a command to its end and returns what it said.
///
/// Guests on an emulated machine were seen to hang now and then. A command that does not end is
/// killed and run once more, and so is one whose guest lost its timer; that is said.
///
/// # Panics
/// When it cannot be started, or does not end twice.
pub fn finish(command: Command) -> Ended {
    finish_within(COMMAND_LIMIT, command)
}

/// As [`finish`], for a command that may take longer than most.
///
/// # Panics
/// As [`finish`].
pub fn finish_within(limit: Duration, mut command: Command) -> Ended {
    for attempt in 1..=2 {
        match ended_in_time(limit, &mut command) {
            Some(ended) if attempt == 1 && ended.guest_lost_its_timer() => {
                eprintln!("HUNG, its guest's timer stood still: {command:?}");
            }
            Some(ended) => return ended,
            None => eprintln!("HUNG for {limit:?}, attempt {attempt}: {command:?}"),
        }
    }
    panic!("hung twice: {command:?}");
}

fn ended_in_time(limit: Duration, command: &mut Command) -> Option<Ended> {
    let file = || tempfile::tempfile().expect("a temporary file");
    let (mut stdout, mut stderr) = (file(), file());
    let share = |file: &File| Stdio::from(file.try_clone().expect("a free descriptor"));
    let started = command
        .stdout(share(&stdout))
        .stderr(share(&stderr))
        .spawn();
    let mut child = started.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let deadline = Instant::now() + limit;
    let status = loop {
        match child.try_wait().expect("the child is ours") {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child
                    .kill()
                    .and_then(|()| child.wait())
                    .expect("the child is ours");
                return None;
            }
            None => thread::sleep(Duration::from_millis(10)),
        }
    };
    let said = |file: &mut File| {
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.read_to_end(&mut bytes))
            .expect("our own file");
        bytes
    };
    let (stdout, stderr) = (said(&mut stdout), said(&mut stderr));
    Some(Ended::from(Output {
        status,
        stdout,
        stderr,
    }))
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code, or -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ended {
    /// Whether no sandbox came up because the guest's kernel saw no more timer interrupts: what QEMU
    /// loses now and then in a busy emulated machine.
    fn guest_lost_its_timer(&self) -> bool {
        self.code == 3 && self.stderr.contains("kthread timer wakeup didn't happen")
    }

    /// Asserts the exit code, showing all that was said if it is another.
    ///
    /// # Panics
    /// When the code is another.
    #[must_use]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "stdout:\n{}\nstderr:\n{}",
            self.stdout, self.stderr
        );
        self
    }
}

/// Runs a group of scenarios: here where KVM is usable, else the whole group under softkvm.
///
/// Where neither can be had each scenario counts as ignored and the reason is printed.
#[must_use]
pub fn run_group(trials: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Guests share two or four host CPUs: scenarios that wait on each other's load prove nothing.
    arguments.test_threads.get_or_insert(1);
    if arguments.list {
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    if let Err(why) = ensure_kvm() {
        eprintln!("SKIPPED, counted as ignored: {why}");
        let ignored = trials
            .into_iter()
            .map(|trial| trial.with_ignored_flag(true))
            .collect();
        return libtest_mimic::run(&arguments, ignored).exit_code();
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Returns where KVM is usable; otherwise runs this very process again on the emulated machine.
///
/// # Errors
/// Why there is neither KVM nor an emulated machine.
pub fn ensure_kvm() -> Result<(), String> {
    let status = probe::probe();
    if status.is_usable() {
        return Ok(());
    }
    match softkvm::rerun_under(&status, &[bench().state.clone(), repository()]) {
        Ok(never) => match never {},
        Err(why) => Err(format!("{status}, and no emulated machine: {why}")),
    }
}
