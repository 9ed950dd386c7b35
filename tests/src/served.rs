//! `mayfly serve` as a person runs it, with real guests, for the strict GitHub on loopback.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use mayfly::supervisor::{state::StateView, status};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    bench,
    github::{APP, FakeGitHub},
};

/// How long anything may take to come about on a slow machine.
const LIMIT: Duration = Duration::from_secs(300);

/// A supervisor and its GitHub. Both end with it.
#[derive(Debug)]
pub struct Served {
    /// GitHub.
    pub github: FakeGitHub,
    folder: TempDir,
    supervisor: Option<Child>,
    runtime: Runtime,
}

impl Served {
    /// Starts both, with these lines of a pool.
    ///
    /// # Errors
    /// If one of them does not start.
    pub fn start(pool: &str) -> io::Result<Self> {
        let runtime = Runtime::new()?;
        let github = runtime.block_on(FakeGitHub::start())?;
        let folder = tempfile::tempdir()?;
        let key = folder.path().join("app.pem");
        fs::write(&key, github.app_key())?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        let text = format!(
            "[github]\nurl = \"{}\"\nrepository = \"octo/hello\"\napp_id = {APP}\n\
             private_key_file = \"{}\"\n[metrics]\nlisten = \"off\"\n\
             [[pools]]\nname = \"sandbox\"\nimage = \"minimal\"\ncpus = 1\nmemory = \"512M\"\n{pool}\n",
            github.base(),
            key.display()
        );
        fs::write(folder.path().join("config.toml"), text)?;
        let mut served = Self {
            github,
            folder,
            supervisor: None,
            runtime,
        };
        served.start_again()?;
        Ok(served)
    }

    /// Starts the supervisor, after it was ended or killed.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_again(&mut self) -> io::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))?;
        let config = self.folder.path().join("config.toml");
        let mut command = bench().mayfly(["serve", "--config"]);
        command.arg(config).stdout(Stdio::null()).stderr(log);
        self.supervisor = Some(command.spawn()?);
        self.until("it answers", |served| served.view().is_some())
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.supervisor.as_ref().map_or(0, Child::id)
    }

    /// Kills it, as a crash would.
    ///
    /// # Errors
    /// If there is none.
    pub fn crash(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.supervisor.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Ends it gently; its exit code.
    ///
    /// # Errors
    /// If it does not end.
    pub fn end(&mut self) -> io::Result<i32> {
        signal(self.pid(), Signal::TERM)?;
        let mut child = self.supervisor.take().ok_or(io::ErrorKind::NotFound)?;
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.code().unwrap_or(-1));
            }
            if Instant::now() > end {
                child.kill()?;
                return Err(io::Error::other(format!("it does not end\n{}", self.log())));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it knows, if it answers.
    #[must_use]
    pub fn view(&self) -> Option<StateView> {
        let socket = status::socket_path(&serve_folder());
        self.runtime.block_on(status::ask(&socket)).ok()
    }

    /// What it and its workers logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Waits until something holds.
    ///
    /// # Errors
    /// If it does not come to that.
    pub fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> io::Result<()> {
        let end = Instant::now() + LIMIT;
        while !holds(self) {
            if Instant::now() > end {
                let view = self.view();
                let log = self.log();
                return Err(io::Error::other(format!(
                    "it never came to this: {what}\n{view:#?}\n{log}"
                )));
            }
            thread::sleep(Duration::from_millis(25));
        }
        Ok(())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        for worker in self.view().map(|view| view.workers).unwrap_or_default() {
            let _ = signal(worker.pid, Signal::KILL);
        }
        let _ = self.crash();
    }
}

/// The supervisor's folder.
#[must_use]
pub fn serve_folder() -> PathBuf {
    bench().installation().serve_folder()
}

/// Signals a process by its number.
///
/// # Errors
/// If there is none.
pub fn signal(process: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    Ok(kill_process(pid.ok_or(io::ErrorKind::NotFound)?, signal)?)
}
