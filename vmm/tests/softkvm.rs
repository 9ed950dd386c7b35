//! What `softkvm COMMAND` promises, each with a real emulated machine of its own.
//!
//! A machine takes some seconds to start, so a test asks it as much as belongs together. Where
//! QEMU is missing the tests say so on stderr, which the test harness does not hide, and pass.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, too, fail by panicking"
)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mayfly_vmm::probe::{KvmStatus, probe};
use mayfly_vmm::softkvm::INSIDE_VARIABLE;
use rustix::process::{Pid, Signal, kill_process};

/// One machine at a time: each is as large as the host's CPUs.
static ONE_MACHINE: Mutex<()> = Mutex::new(());

/// Why there can be no machine here.
static SETUP: OnceLock<Option<String>> = OnceLock::new();

/// Waits for the turn of this test; `None` (and a line that says why) where it must be skipped.
fn turn() -> Option<MutexGuard<'static, ()>> {
    let turn = ONE_MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(why) = SETUP.get_or_init(setup_fails) {
        #[expect(
            clippy::explicit_write,
            reason = "the test harness hides what eprintln! prints"
        )]
        writeln!(
            std::io::stderr(),
            "SKIPPED a test of softkvm: {}",
            why.trim()
        )
        .unwrap();
        return None;
    }
    Some(turn)
}

fn setup_fails() -> Option<String> {
    if std::env::var_os(INSIDE_VARIABLE).is_some() {
        return Some("this is the emulated machine already".to_owned());
    }
    let setup = softkvm().arg("--setup").output().unwrap();
    (!setup.status.success()).then(|| text(&setup.stderr))
}

fn softkvm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_softkvm"));
    command.stdin(Stdio::null());
    command
}

/// A small machine; the command follows.
fn machine() -> Command {
    let mut command = softkvm();
    command.args(["--memory", "1G", "--"]);
    command
}

fn shell(script: &str) -> Command {
    let mut command = machine();
    command.args(["sh", "-c", script]);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    assert!(
        status.success(),
        "{status}: {}{}",
        text(&stdout),
        text(&stderr)
    );
    text(&stdout)
}

#[test]
fn the_exit_code_is_that_of_the_command() {
    let Some(_turn) = turn() else { return };
    let code = |command: &mut Command| command.output().unwrap().status.code();
    assert_eq!(code(&mut shell("exit 7")), Some(7));
    assert_eq!(code(&mut shell("kill -KILL $$")), Some(137));
    let missing = machine().arg("/does/not/exist").output().unwrap();
    assert_eq!(missing.status.code(), Some(127));
    assert!(
        text(&missing.stderr).contains("/does/not/exist"),
        "{}",
        text(&missing.stderr)
    );
    assert_eq!(code(machine().arg("/etc/passwd")), Some(126));
}

#[test]
fn a_wrong_command_line_starts_nothing_and_says_what_is_wrong() {
    let wrong = softkvm().args(["--memroy", "1G", "true"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(125));
    assert!(
        text(&wrong.stderr).contains("--memroy"),
        "{}",
        text(&wrong.stderr)
    );
}

#[test]
fn streams_are_apart_and_carry_any_byte_to_the_end() {
    let Some(_turn) = turn() else { return };
    let input: Vec<u8> = (0..8u32 << 20)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let mut child = shell("cat; echo to stderr >&2")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = input.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(
        output.stdout == input,
        "{} of {} bytes came back",
        output.stdout.len(),
        input.len()
    );
    assert_eq!(text(&output.stderr), "to stderr\n");
}

#[test]
fn a_reader_that_goes_away_ends_the_writer() {
    let Some(_turn) = turn() else { return };
    let mut child = machine().arg("yes").stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 4];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    assert_eq!(&first, b"y\ny\n");
    // 128 + SIGPIPE, as a shell has it.
    assert_eq!(wait(&mut child).code(), Some(141));
}

#[test]
fn arguments_environment_and_working_directory_are_passed_as_they_are() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cwd = folder.path().join("a folder with 'quotes'");
    fs::create_dir(&cwd).unwrap();
    let script = r#"pwd; printf '[%s]' "$@"; echo; printf '[%s]' "$ODD" "${GONE-unset}"; umask"#;
    let said = succeed(
        machine()
            .args([
                "sh",
                "-c",
                script,
                "sh",
                "two words",
                "",
                "\"'$HOME\\",
                "line\nfeed",
            ])
            .current_dir(&cwd)
            .env("ODD", " = \"x\" ")
            .env_remove("GONE"),
    );
    let expected = format!(
        "{}\n[two words][][\"'$HOME\\][line\nfeed]\n[ = \"x\" ][unset]{}\n",
        cwd.display(),
        succeed(Command::new("sh").args(["-c", "umask"])).trim()
    );
    assert_eq!(said, expected);
}

#[test]
fn only_the_real_folders_are_written_for_real() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["cwd", "home", "state", "named", "other"] {
        fs::create_dir(path(name)).unwrap();
        fs::write(path(name).join("old"), "before").unwrap();
    }
    let script = "cd .. && for at in cwd home state named other; do
        cat $at/old && echo now > $at/old && mkdir $at/new && echo deep > $at/new/file || exit 1
        done; cat other/new/file; test ! -e /.softkvm";
    let mut command = softkvm();
    command
        .args(["--memory", "1G", "--write"])
        .arg(path("named"))
        .args(["sh", "-c", script]);
    command
        .current_dir(path("cwd"))
        .env("HOME", path("home"))
        .env("MAYFLY_STATE", path("state"));
    // The machine's kernel is in the cache of the real home.
    let home = std::env::var_os("HOME").unwrap();
    command.env("XDG_CACHE_HOME", Path::new(&home).join(".cache"));
    assert_eq!(
        succeed(&mut command),
        format!("{}deep\n", "before".repeat(5))
    );
    for name in ["cwd", "home", "state", "named"] {
        assert_eq!(
            fs::read_to_string(path(name).join("old")).unwrap(),
            "now\n",
            "{name}"
        );
        assert_eq!(
            fs::read_to_string(path(name).join("new/file")).unwrap(),
            "deep\n",
            "{name}"
        );
    }
    assert_eq!(fs::read_to_string(path("other/old")).unwrap(), "before");
    assert!(!path("other/new").exists());
}

#[test]
fn the_machine_has_usable_kvm_loopback_cgroups_and_the_time_of_the_host() {
    let Some(_turn) = turn() else { return };
    let probe = std::env::current_exe().unwrap();
    let script = r#"
        "$0" --ignored --exact --nocapture the_probe_of_another_test || exit 1
        test "$(stat -c %a /dev/kvm)" = 666 || exit 2
        grep -q cpu /sys/fs/cgroup/cgroup.subtree_control || exit 3
        python3 - <<PYTHON || exit 4
import socket
one = socket.socket(); one.bind(("127.0.0.1", 0)); one.listen()
other = socket.create_connection(one.getsockname())
PYTHON
        # An emulated chip as the clock would slow down every guest.
        grep -q tsc /sys/devices/system/clocksource/clocksource0/current_clocksource || exit 5
        echo x > /dev/shm/x && echo x > /tmp/x && tty >&2
        date +%s.%N"#;
    let said = succeed(machine().args(["sh", "-c", script]).arg(probe));
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let there: f64 = said.lines().last().unwrap().parse().unwrap();
    assert!(
        (now.as_secs_f64() - there).abs() < 1.0,
        "{there} there, {} here",
        now.as_secs_f64()
    );
}

#[test]
#[ignore = "another test runs it inside the emulated machine"]
fn the_probe_of_another_test() {
    let start = Instant::now();
    assert_eq!(probe(), KvmStatus::Usable { api_version: 12 });
    println!("probed in {} ms", start.elapsed().as_millis());
}

/// Starts a command that says `ready` and gives its stdout from there on.
fn start_ready(script: &str) -> (Child, ChildStdout) {
    let mut child = shell(script).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut line = [0; 6];
    stdout.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"ready\n");
    (child, stdout)
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("softkvm does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn signals_reach_the_command_and_its_children() {
    let Some(_turn) = turn() else { return };
    let script = "trap 'wait; echo parent; exit 3' TERM
        (trap 'echo child; exit' TERM; echo ready; sleep 1000 & wait) & wait";
    let (mut child, mut stdout) = start_ready(script);
    signal(&child, Signal::TERM);
    let mut said = String::new();
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!(wait(&mut child).code(), Some(3));
    assert_eq!(said, "child\nparent\n");
    let (mut child, _stdout) = start_ready("echo ready; sleep 1000");
    signal(&child, Signal::TERM);
    assert_eq!(wait(&mut child).code(), Some(143));
}

#[test]
fn a_signal_before_the_command_has_started_ends_the_machine() {
    let Some(_turn) = turn() else { return };
    let mut child = machine().arg("true").spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    signal(&child, Signal::INT);
    assert_eq!(wait(&mut child).code(), Some(130));
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
}

/// Numbers of the processes that `parent` has started and that still run.
fn children(parent: u32) -> Vec<u32> {
    let tasks = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    tasks
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect()
}

fn runs(number: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{number}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

#[test]
fn nothing_is_left_even_when_softkvm_is_killed() {
    let Some(_turn) = turn() else { return };
    for end in [Signal::TERM, Signal::KILL] {
        let (mut child, _stdout) = start_ready("echo ready; sleep 1000");
        let machine = children(child.id());
        assert_eq!(machine.len(), 2, "QEMU and virtiofsd");
        signal(&child, end);
        let status = wait(&mut child);
        assert!(
            status.code() == Some(143) || status.signal() == Some(9),
            "{status}"
        );
        let deadline = Instant::now() + Duration::from_secs(5);
        while machine.iter().any(|number| runs(*number)) {
            assert!(Instant::now() < deadline, "{machine:?} after {end:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let sockets = fs::read_dir(std::env::temp_dir()).unwrap();
    let left = sockets.filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("softkvm-")
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn a_terminal_here_is_a_terminal_there() {
    let Some(_turn) = turn() else { return };
    let inner = "test -t 0 && test -t 1 && test -t 2 && stty size && echo yes";
    let line = format!(
        "{} --memory 1G -- sh -c '{inner}'",
        env!("CARGO_BIN_EXE_softkvm")
    );
    // `script` gives its command a terminal.
    let mut command = Command::new("script");
    command.args([
        "-qec",
        &format!("stty rows 40 cols 111; {line}"),
        "/dev/null",
    ]);
    let said = succeed(command.stdin(Stdio::null()));
    assert!(said.contains("40 111\r\nyes\r\n"), "{said:?}");
}
