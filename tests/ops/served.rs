//! A running `mayfly serve`: its status, its logs, what the service manager hears of it.
//!
//! It serves the strict GitHub of the tests, on loopback. Where this machine's KVM runs no guests, its pool is
//! not ready, and that is then what has to be told.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixDatagram,
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use mayfly_tests::{IMAGE, bench, github::FakeGitHub};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use tokio::runtime::Runtime;

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("status_tells_how_it_stands_and_only_to_its_user", status),
        Trial::test("its_log_is_json_without_secrets_even_at_trace", log),
        Trial::test(
            "the_service_manager_hears_when_it_serves_and_ends",
            notified,
        ),
    ]
}

/// How long anything here may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A GitHub, and a supervisor that serves it.
pub struct Served {
    _runtime: Runtime,
    /// The GitHub.
    pub github: FakeGitHub,
    /// Where metrics are.
    pub metrics: SocketAddr,
    folder: tempfile::TempDir,
    child: Child,
}

impl Served {
    /// Starts both. `change` adds what a test needs beside the usual.
    pub fn start(change: impl FnOnce(&mut Command, &Path)) -> Result<Self, Failed> {
        let runtime = Runtime::new()?;
        let github = runtime.block_on(FakeGitHub::start())?;
        let folder = tempfile::tempdir()?;
        let metrics = free_address()?;
        let config = folder.path().join("config.toml");
        fs::write(&config, settings(&github, folder.path(), metrics)?)?;
        let state = folder.path().join("state");
        fs::create_dir(&state)?;
        symlink(bench().state.join("images"), state.join("images"))?;

        let mut command = Command::new(bench().programs.join("mayfly"));
        command
            .args(["--kvm", "require", "serve", "--config"])
            .arg(&config)
            .env("MAYFLY_STATE", &state)
            .env_remove("MAYFLY_LOG")
            .stderr(File::create(folder.path().join("log"))?);
        change(&mut command, folder.path());
        let child = command.spawn()?;
        let served = Self {
            _runtime: runtime,
            github,
            metrics,
            folder,
            child,
        };
        served.until("it listens", || TcpStream::connect(metrics).is_ok())?;
        served.until("it has talked to GitHub", || {
            !served.github.requests().is_empty()
        })?;
        Ok(served)
    }

    /// Its state folder.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// What it has logged.
    pub fn log(&self) -> Result<String, Failed> {
        Ok(fs::read_to_string(self.folder.path().join("log"))?)
    }

    /// Waits until a condition holds.
    pub fn until(&self, what: &str, condition: impl Fn() -> bool) -> Result<(), Failed> {
        let end = Instant::now() + LIMIT;
        while !condition() {
            if Instant::now() > end {
                let violations = self.github.violations();
                return Err(format!("never: {what}\n{violations:#?}\n{}", self.log()?).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Tells it to end, and waits for that.
    pub fn end(&mut self) -> Result<ExitStatus, Failed> {
        let pid = i32::try_from(self.child.id())?;
        kill_process(Pid::from_raw(pid).ok_or("no process")?, Signal::TERM)?;
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(format!("it does not end\n{}", self.log()?).into())
    }

    /// What a path of its metrics' listener answers: status and body.
    pub fn get(&self, path: &str) -> Result<(u16, String), Failed> {
        get(self.metrics, path)
    }

    /// `mayfly status` as this user.
    fn status(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(bench().programs.join("mayfly"));
        command.arg("status").args(arguments);
        command.env("MAYFLY_STATE", self.state());
        command
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The configuration, beside a file with the App's key.
fn settings(github: &FakeGitHub, folder: &Path, metrics: SocketAddr) -> io::Result<String> {
    let key = folder.join("app.pem");
    fs::write(&key, github.app_key())?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let (url, key) = (github.base(), key.display());
    Ok(format!(
        "[github]\nurl = \"{url}\"\nrepository = \"octo/hello\"\napp_id = 12345\n\
         private_key_file = \"{key}\"\n[metrics]\nlisten = \"{metrics}\"\n\
         [[pools]]\nname = \"sandbox\"\nimage = \"{IMAGE}\"\ncpus = 1\nmemory = \"512M\"\n\
         capacity = 3\nmin_idle = 1\n"
    ))
}

/// An address that nobody listens on.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// A GET by HTTP/1.0, which has no chunks: status and body.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String), Failed> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no end of the head")?;
    let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

fn status() -> Result<(), Failed> {
    let mut served = Served::start(|_, _| {})?;
    served.until("GitHub has answered", || {
        served
            .get("/readyz")
            .is_ok_and(|(_, said)| !said.contains("github:"))
    })?;
    let output = served.status(&["--json"]).output()?;
    let view: Json = serde_json::from_slice(&output.stdout)?;
    assert_eq!(view["pid"], served.child.id());
    assert_eq!(view["draining"], false);
    assert_eq!(view["github"]["ok"], true);
    assert_eq!(view["pools"][0]["name"], "sandbox");
    assert_eq!(view["pools"][0]["capacity"], 3);

    // Its words and its exit code are those of /readyz.
    let (code, _) = served.get("/readyz")?;
    let output = served.status(&[]).output()?;
    let said = String::from_utf8(output.stdout)?;
    let expected = if code == 200 {
        (0, "ready: ")
    } else {
        (1, "not ready: ")
    };
    assert_eq!(output.status.code(), Some(expected.0), "{said}");
    assert!(said.starts_with(expected.1), "{said}");
    assert!(said.contains("serves http://127.0.0.1"), "{said}");
    assert!(said.contains("sandbox  jit   minimal  3"), "{said}");

    let output = served.status(&["--nonsense"]).output()?;
    assert_eq!(output.status.code(), Some(2));
    stranger(&served)?;

    assert_eq!(served.end()?.code(), Some(0), "{}", served.log()?);
    let output = served.status(&[]).output()?;
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stderr)?;
    assert!(said.contains("no `mayfly serve` runs on"), "{said}");
    assert!(!served.state().join("serve/status.sock").exists());
    Ok(())
}

/// Another user gets no answer, neither where files keep him out nor where they do not.
fn stranger(served: &Served) -> Result<(), Failed> {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tested: another user, because only root can become one");
        return Ok(());
    }
    let program = tempfile::tempdir()?;
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(program.path(), open.clone())?;
    let copy = program.path().join("mayfly");
    fs::copy(bench().programs.join("mayfly"), &copy)?;
    let ask = || {
        let mut command = Command::new(&copy);
        command.args(["status", "--state"]).arg(served.state());
        command.uid(NOBODY).gid(NOBODY).env("HOME", "/nonexistent");
        command.output()
    };
    let serve = served.state().join("serve");
    let output = ask()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("another user's"), "{said}");
    // Now as if the files' modes had been changed by mistake.
    for folder in [served.folder.path(), &served.state(), &serve] {
        fs::set_permissions(folder, open.clone())?;
    }
    let socket = serve.join("status.sock");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    let output = ask()?;
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty());
    assert!(served.log()?.contains("another user asked for the status"));
    Ok(())
}

fn log() -> Result<(), Failed> {
    let mut served = Served::start(|command, _| {
        command.args(["--log-format", "json"]);
        command.env("MAYFLY_LOG", "trace");
    })?;
    served.until("GitHub has answered", || {
        served
            .get("/metrics")
            .is_ok_and(|(_, text)| text.contains("\nmayfly_github_rate_limit_remaining 4"))
    })?;
    assert_eq!(served.end()?.code(), Some(0));
    let log = served.log()?;
    assert!(log.contains("begins to serve"), "{log}");
    for line in log.lines() {
        let line: Json = serde_json::from_str(line)?;
        assert!(
            line["timestamp"].is_string() && line["level"].is_string(),
            "{line}"
        );
    }
    let secrets = served.github.secrets();
    assert!(secrets.len() > 1, "the App's key, and a token");
    for secret in secrets {
        assert!(
            secret.len() > 8 && !log.contains(&secret),
            "{secret} in\n{log}"
        );
    }
    Ok(())
}

fn notified() -> Result<(), Failed> {
    let mut manager = None;
    let mut served = Served::start(|command, folder| {
        let path = folder.join("notify");
        manager = UnixDatagram::bind(&path).ok();
        command.env("NOTIFY_SOCKET", path);
    })?;
    let manager = manager.ok_or("no socket")?;
    manager.set_read_timeout(Some(LIMIT))?;
    let heard = || -> Result<String, Failed> {
        let mut buffer = [0; 1024];
        let length = manager.recv(&mut buffer)?;
        Ok(String::from_utf8(buffer[..length].to_vec())?)
    };
    assert!(heard()?.starts_with("READY=1\n"));
    assert_eq!(served.end()?.code(), Some(0));
    let end = heard()?;
    assert!(end.starts_with("STOPPING=1\n"), "{end}");
    Ok(())
}
