//! A supervisor process, the GitHub it serves, and what both say.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Failed;
use mayfly::supervisor::{
    state::{StateView, WorkerState},
    status,
};
use mayfly_tests::github::{APP, FakeGitHub, FakeJob};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::roles::{FASTER, MANNER, ROLE};

/// How long anything may take to come about.
const LIMIT: Duration = Duration::from_secs(30);
/// A secret of all jobs.
pub const CANARY: &str = "hunter2-canary-of-a-job";

/// All of it. The supervisor and its workers end with it.
pub struct Rig {
    /// GitHub.
    pub github: FakeGitHub,
    folder: TempDir,
    supervisor: Option<Child>,
    runtime: Runtime,
    manner: Option<&'static str>,
    faster: u32,
}

impl Rig {
    /// GitHub, and a configuration with these lines of a pool; no supervisor yet.
    pub fn new(pool: &str) -> Result<Self, Failed> {
        let runtime = Runtime::new()?;
        let github = runtime.block_on(FakeGitHub::start())?;
        let folder = tempfile::tempdir()?;
        let rig = Self {
            github,
            folder,
            supervisor: None,
            runtime,
            manner: None,
            faster: 20,
        };
        let key = rig.folder.path().join("app.pem");
        fs::write(&key, rig.github.app_key())?;
        fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        rig.configure(pool)?;
        Ok(rig)
    }

    /// Writes another configuration.
    pub fn configure(&self, pool: &str) -> Result<(), Failed> {
        let (base, key) = (self.github.base(), self.folder.path().join("app.pem"));
        let text = format!(
            "[github]\nurl = \"{base}\"\nrepository = \"octo/hello\"\napp_id = {APP}\n\
             private_key_file = \"{}\"\n\
             [serve]\ndrain_timeout = \"2s\"\nconnect_timeout = \"2s\"\n\
             [metrics]\nlisten = \"off\"\n\
             [[pools]]\nname = \"sandbox\"\nimage = \"none\"\n{pool}\n",
            key.display()
        );
        Ok(fs::write(self.config(), text)?)
    }

    /// Workers behave so.
    pub fn manner(&mut self, manner: Option<&'static str>) {
        self.manner = manner;
    }

    /// Waits are shorter by this factor.
    pub fn faster(&mut self, factor: u32) {
        self.faster = factor;
    }

    /// The configuration's file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    fn serve(&self) -> PathBuf {
        self.folder.path().join("serve")
    }

    /// Starts the supervisor.
    pub fn start(&mut self) -> Result<(), Failed> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(self.config())
            .arg(self.serve())
            .env(ROLE, "supervisor")
            .env(FASTER, self.faster.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(manner) = self.manner {
            command.env(MANNER, manner);
        }
        self.supervisor = Some(command.spawn()?);
        self.until("the supervisor answers", |rig| rig.view().is_some())
    }

    /// The supervisor's process.
    pub fn pid(&self) -> u32 {
        self.supervisor.as_ref().map_or(0, Child::id)
    }

    /// Signals the supervisor.
    pub fn signal(&self, signal: Signal) -> Result<(), Failed> {
        Ok(kill_process(pid(self.pid())?, signal)?)
    }

    /// Kills the supervisor as a crash would.
    pub fn crash(&mut self) -> Result<(), Failed> {
        let mut child = self.supervisor.take().ok_or("no supervisor")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits for the supervisor's own end; its exit code.
    pub fn ended(&mut self) -> Result<i32, Failed> {
        let mut child = self.supervisor.take().ok_or("no supervisor")?;
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.code().unwrap_or(-1));
            }
            if Instant::now() > end {
                child.kill()?;
                return Err(format!("the supervisor does not end\n{}", self.log()).into());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the supervisor gently, and makes sure that nothing is left.
    pub fn end(&mut self) -> Result<(), Failed> {
        self.signal(Signal::TERM)?;
        let code = self.ended()?;
        if code != 0 {
            return Err(format!("exit code {code}\n{}", self.log()).into());
        }
        self.nothing_left()
    }

    /// No runner, no record, no process, no word against the protocol.
    pub fn nothing_left(&self) -> Result<(), Failed> {
        let runners = self.github.runners();
        let violations = self.github.violations();
        let mut files = Vec::new();
        for entry in fs::read_dir(self.serve().join("workers"))? {
            files.push(entry?.file_name());
        }
        let workers = self.workers()?;
        if runners.is_empty() && violations.is_empty() && files.is_empty() && workers.is_empty() {
            return Ok(());
        }
        let log = self.log();
        Err(format!("left: runners {runners:?}, files {files:?}, processes {workers:?}, violations {violations:?}\n{log}").into())
    }

    /// Processes of workers of this rig: those whose arguments name its folder.
    pub fn workers(&self) -> Result<Vec<u32>, Failed> {
        let folder = self.serve().join("workers").display().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(process) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let arguments = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&arguments).contains(&folder) {
                found.push(process);
            }
        }
        Ok(found)
    }

    /// What the supervisor knows, if it answers.
    pub fn view(&self) -> Option<StateView> {
        let socket = status::socket_path(&self.serve());
        self.runtime.block_on(status::ask(&socket)).ok()
    }

    /// Workers in a state, by their processes.
    pub fn in_state(&self, state: WorkerState) -> Vec<u32> {
        let workers = self.view().map(|view| view.workers).unwrap_or_default();
        let those = workers.iter().filter(|worker| worker.state == state);
        those.map(|worker| worker.pid).collect()
    }

    /// What the supervisor and its workers logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Waits until something holds.
    pub fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<(), Failed> {
        let end = Instant::now() + LIMIT;
        while !holds(self) {
            if Instant::now() > end {
                let view = self.view();
                return Err(
                    format!("it never came to this: {what}\n{view:#?}\n{}", self.log()).into(),
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Queues a job of this name, which says what it does.
    pub fn queue(&self, name: &str) -> String {
        self.github.queue(&FakeJob {
            name: name.into(),
            scripts: vec![("step".into(), "echo".into())],
            secrets: vec![("TOKEN".into(), CANARY.into())],
        })
    }

    /// Queues so many jobs.
    pub fn queue_many(&self, count: usize, name: &str) -> Vec<String> {
        (0..count).map(|_| self.queue(name)).collect()
    }

    /// What GitHub was told of a job.
    pub fn conclusion(&self, id: &str) -> Json {
        let completed = self.github.job(id).completed;
        completed.map_or(Json::Null, |done| done["conclusion"].clone())
    }

    /// Waits until all jobs ended well.
    pub fn until_succeeded(&self, jobs: &[String]) -> Result<(), Failed> {
        self.until("all jobs succeeded", |rig| {
            jobs.iter()
                .all(|id| rig.conclusion(id) == json!("succeeded"))
        })
    }

    /// Requests to GitHub whose line contains all of these.
    pub fn requests(&self, parts: &[&str]) -> usize {
        let requests = self.github.requests();
        let has = |line: &&String| parts.iter().all(|part| line.contains(part));
        requests.iter().filter(has).count()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(mut supervisor) = self.supervisor.take() {
            let _ = supervisor.kill();
            let _ = supervisor.wait();
        }
        for worker in self.workers().unwrap_or_default() {
            if let Ok(pid) = pid(worker) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// A process's number as signals take it.
pub fn pid(number: u32) -> Result<Pid, Failed> {
    let number = i32::try_from(number)?;
    Ok(Pid::from_raw(number).ok_or("no process")?)
}
