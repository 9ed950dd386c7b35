//! Faults: each ends with a clear message and the right exit code, and leaves no process, file or
//! mount behind.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::{FileExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use mayfly_tests::{Ended, bench, finish, processes, run_group};

fn main() -> ExitCode {
    BEFORE.get_or_init(temporary);
    let mut trials = vec![
        Trial::test("a_killed_vmm_is_named_and_the_command_ends", killed_vmm),
        Trial::test(
            "a_guest_kernel_panic_is_named_and_the_command_ends",
            kernel_panic,
        ),
        Trial::test(
            "an_agent_that_crashes_takes_only_its_own_sandbox_along",
            crashed_agent,
        ),
        Trial::test(
            "memory_exhaustion_kills_the_step_and_not_the_sandbox",
            out_of_memory,
        ),
        Trial::test("a_fork_bomb_is_bounded_and_the_sandbox_goes_on", fork_bomb),
        Trial::test("a_full_guest_disk_is_an_error_of_the_step", full_guest_disk),
        Trial::test(
            "a_step_that_closes_its_streams_and_lives_on_is_waited_for",
            closed_streams,
        ),
        Trial::test(
            "a_background_process_does_not_hold_the_command_up",
            background_process,
        ),
        Trial::test(
            "a_flood_of_output_arrives_whole_and_memory_stays_bounded",
            flood,
        ),
        Trial::test(
            "a_flipped_bit_or_a_missing_end_of_a_snapshot_is_refused",
            damaged_snapshot,
        ),
        Trial::test("a_flipped_bit_in_an_image_is_refused", damaged_image),
        Trial::test("an_interrupt_at_any_moment_leaves_nothing", interrupts),
    ];
    // These mount a small disk and change the mode of /dev/kvm; on the emulated machine tests are
    // root.
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED, counted as ignored: two scenarios that need root");
    }
    trials.extend([
        Trial::test(
            "a_full_disk_while_the_snapshot_is_written_leaves_no_snapshot",
            full_host_disk,
        )
        .with_ignored_flag(!root),
        Trial::test(
            "a_kvm_that_may_not_be_opened_is_named_with_the_next_step",
            forbidden_kvm,
        )
        .with_ignored_flag(!root),
    ]);
    run_group(trials)
}

fn exec(script: &str) -> Command {
    exec_with("512M", script)
}

fn exec_with(memory: &str, script: &str) -> Command {
    bench().mayfly([
        "exec", "--memory", memory, "--cpus", "1", "--", "sh", "-c", script,
    ])
}

/// Starts a command and waits until its guest has said `ready`.
fn started(mut command: Command) -> Result<Child, Failed> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.as_mut().ok_or("no stdout")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    assert_eq!(line, "ready\n");
    Ok(child)
}

fn ended(child: Child) -> Result<Ended, Failed> {
    let ended = Ended::from(child.wait_with_output()?);
    nothing_left();
    Ok(ended)
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn drafts(state: &Path) -> Vec<String> {
    let mut names = names_in(&state.join("snapshots"));
    names.retain(|name| name.starts_with(".draft"));
    names
}

/// Mayfly's folders in the temporary folder before the first scenario: others may have left them.
static BEFORE: OnceLock<Vec<String>> = OnceLock::new();

fn temporary() -> Vec<String> {
    let mut folders = names_in(&std::env::temp_dir());
    folders.retain(|name| name.starts_with("mayfly-"));
    folders
}

fn nothing_left() {
    processes::wait_until_none(Duration::from_secs(10));
    let mut folders = temporary();
    folders.retain(|name| !BEFORE.get().is_some_and(|before| before.contains(name)));
    assert!(
        folders.is_empty(),
        "left in the temporary folder: {folders:?}"
    );
    assert!(
        !processes::mounts().contains("mayfly-"),
        "{}",
        processes::mounts()
    );
    assert_eq!(drafts(&bench().state), Vec::<String>::new());
}

fn signal(process: u32, signal: rustix::process::Signal) -> Result<(), Failed> {
    let id = i32::try_from(process)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .ok_or("no pid")?;
    Ok(rustix::process::kill_process(id, signal)?)
}

fn killed_vmm() -> Result<(), Failed> {
    let child = started(exec("echo ready; sleep 600"))?;
    for (id, _) in processes::mayfly_processes() {
        signal(id, rustix::process::Signal::KILL)?;
    }
    let ended = ended(child)?.expect_code(3);
    assert!(
        ended.stderr.contains("killed by signal 9"),
        "{}",
        ended.stderr
    );
    Ok(())
}

fn kernel_panic() -> Result<(), Failed> {
    let child = started(exec(
        "echo ready; sleep 0.2; echo c > /proc/sysrq-trigger; sleep 600",
    ))?;
    let ended = ended(child)?.expect_code(3);
    assert!(
        ended.stderr.contains("the guest panicked"),
        "{}",
        ended.stderr
    );
    Ok(())
}

/// Overwrites the code of PID 1, as root of the guest can, and makes PID 1 run it by becoming its
/// child.
const CRASH_AGENT: &str = r#"echo ready
sleep 0.2
python3 -c '
for line in open("/proc/1/maps"):
    if " r-xp " in line:
        start, end = (int(x, 16) for x in line.split()[0].split("-"))
        with open("/proc/1/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(b"\xcc" * (end - start))
        break
'
(sleep 0.1 &)
sleep 600"#;

fn crashed_agent() -> Result<(), Failed> {
    let mut child = started(exec(CRASH_AGENT))?;
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > Duration::from_secs(120) {
            child.kill()?;
            return Err("a sandbox whose agent crashed was waited for for two minutes".into());
        }
        thread::sleep(Duration::from_millis(100));
    }
    let ended = ended(child)?;
    // A guest that guards PID 1 even from its root passes too: then the write fails, and the
    // script ends by its own code.
    assert!(
        ended.code == 3 && ended.stderr.contains("panicked"),
        "{}: {}",
        ended.code,
        ended.stderr
    );
    Ok(())
}

fn out_of_memory() -> Result<(), Failed> {
    let script = "python3 -c 'held = bytearray(4 << 30)'; echo \"step: $?\"; \
                  tail /dev/zero; echo \"tail: $?\"; echo alive";
    // A small machine: each page that is touched costs an emulated one most of a millisecond.
    let ended = finish(exec_with("256M", script));
    nothing_left();
    // The kernel may kill the shell with the rest of the step; the sandbox must not be lost.
    assert!(
        !ended.stderr.contains("the guest panicked"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.code == 0 && ended.stdout.contains("alive") || ended.code == 137,
        "{ended:?}"
    );
    assert!(
        !ended.stdout.contains("step: 0") && !ended.stdout.contains("tail: 0"),
        "{}",
        ended.stdout
    );
    Ok(())
}

const FORK_BOMB: &str = "on: push
jobs:
  a:
    runs-on: sandbox
    steps:
      - name: Bomb
        continue-on-error: true
        timeout-minutes: 0.2
        shell: bash
        run: |
          bomb() { bomb | bomb & }
          bomb 2>/dev/null
          sleep 600
      - run: echo survived
";

fn fork_bomb() -> Result<(), Failed> {
    let ended = run(FORK_BOMB).expect_code(0);
    assert!(ended.stdout.contains("survived"), "{}", ended.stdout);
    nothing_left();
    Ok(())
}

fn full_guest_disk() -> Result<(), Failed> {
    let script = "fallocate -l 64G /fill; fallocate -l 8G /a; fallocate -l 7G /b; \
                  for n in 1 2 3 4 5 6 7 8 9; do fallocate -l 200M /c$n; done; \
                  head -c 300M /dev/zero > /last; echo \"full: $?\"; df / | tail -1; echo done";
    let ended = finish(exec(script)).expect_code(0);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(
        said.contains("No space left on device") && said.contains("done"),
        "{said}"
    );
    nothing_left();
    Ok(())
}

fn closed_streams() -> Result<(), Failed> {
    let _ = finish(exec("exec >&- 2>&-; sleep 2; exit 5")).expect_code(5);
    nothing_left();
    Ok(())
}

fn background_process() -> Result<(), Failed> {
    let begun = Instant::now();
    let ended = finish(exec("sleep 6000 & echo started")).expect_code(0);
    assert_eq!(ended.stdout, "started\n");
    assert!(begun.elapsed() < Duration::from_secs(600));
    nothing_left();
    Ok(())
}

/// Long lines, so that an emulated machine is not held up by counting them. Three times what may be
/// held; group `exec` sends a whole gibibyte.
const FLOOD: &str = "on: push
jobs:
  a:
    runs-on: sandbox
    steps:
      - run: |
          head -c 1048575 /dev/zero | tr '\\0' x > line
          echo >> line
          for n in $(seq 384); do cat line; done
";

fn flood() -> Result<(), Failed> {
    let folder = checkout(FLOOD)?;
    let mut command = bench().mayfly(["run", "--memory", "512M", "--cpus", "1", "ci.yml"]);
    let mut child = command
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdout = child.stdout.take().ok_or("no stdout")?;
    let (mut buffer, mut count, mut peak) = (vec![0; 1 << 20], 0_u64, 0);
    loop {
        let read = stdout.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        count += buffer[..read].iter().filter(|&&byte| byte == b'x').count() as u64;
        peak = peak.max(processes::resident_kib(child.id()));
    }
    assert!(child.wait()?.success());
    assert!(count >= 384 * 1_048_575, "{count} bytes came");
    assert!(peak < 128 * 1024, "mayfly held {peak} KiB");
    nothing_left();
    Ok(())
}

fn checkout(workflow: &str) -> Result<tempfile::TempDir, Failed> {
    let folder = tempfile::Builder::new().prefix("checkout-").tempdir()?;
    fs::write(folder.path().join("ci.yml"), workflow)?;
    let made = Command::new("git")
        .args(["init", "-q"])
        .current_dir(folder.path())
        .status()?;
    assert!(made.success());
    Ok(folder)
}

fn run(workflow: &str) -> Ended {
    let folder = checkout(workflow).expect("a checkout");
    let mut command = bench().mayfly(["run", "--memory", "512M", "--cpus", "1", "ci.yml"]);
    command.current_dir(folder.path());
    finish(command)
}

/// A state folder of its own with the same images, and a copy of the snapshots if wanted.
fn own_state(snapshots: bool) -> Result<tempfile::TempDir, Failed> {
    let folder = tempfile::Builder::new()
        .prefix("state-")
        .tempdir_in(&bench().state)?;
    symlink(bench().state.join("images"), folder.path().join("images"))?;
    if snapshots {
        let from = bench().state.join("snapshots");
        let mut copy = Command::new("cp");
        copy.args(["-a", "--sparse=always"])
            .arg(from)
            .arg(folder.path());
        assert!(copy.status()?.success());
    }
    Ok(folder)
}

fn with_state(state: &Path, script: &str) -> Command {
    let mut command = exec(script);
    command.env("MAYFLY_STATE", state);
    command
}

fn damaged_snapshot() -> Result<(), Failed> {
    let _ = finish(exec("true")).expect_code(0);
    let cases = [
        ("memory", "flip"),
        ("state", "flip"),
        ("disk", "cut"),
        ("memory", "cut"),
        ("manifest.json", "cut"),
    ];
    for (name, damage) in cases {
        let state = own_state(true)?;
        for snapshot in snapshots_in(state.path())? {
            damage_file(&snapshot.join(name), damage)?;
        }
        let ended = finish(with_state(state.path(), "echo started")).expect_code(3);
        assert!(!ended.stdout.contains("started"));
        let said = ended.stderr;
        assert!(
            said.contains(name) && said.contains("make it again"),
            "{said}"
        );
        nothing_left();
    }
    Ok(())
}

fn snapshots_in(state: &Path) -> Result<Vec<PathBuf>, Failed> {
    let entries = fs::read_dir(state.join("snapshots"))?.flatten();
    Ok(entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect())
}

fn damage_file(path: &Path, how: &str) -> Result<(), Failed> {
    fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    if how == "cut" {
        file.set_len(length / 2)?;
        return Ok(());
    }
    let mut byte = [0];
    file.read_exact_at(&mut byte, length / 2)?;
    file.write_all_at(&[byte[0] ^ 4], length / 2)?;
    Ok(())
}

fn damaged_image() -> Result<(), Failed> {
    let state = own_state(true)?;
    let images = state.path().join("images");
    fs::remove_file(&images)?;
    let from = fs::canonicalize(bench().state.join("images"))?;
    assert!(
        Command::new("cp")
            .args(["-as"])
            .arg(from)
            .arg(&images)
            .status()?
            .success()
    );
    for name in names_in(&images)
        .into_iter()
        .filter(|name| name.starts_with("sha256"))
    {
        let folder = images.join(name);
        // What is written must be this folder's own; the large parts stay links.
        for own in ["initramfs", "manifest.json"] {
            let path = folder.join(own);
            let content = fs::read(&path)?;
            fs::remove_file(&path)?;
            fs::write(&path, content)?;
        }
        damage_file(&folder.join("initramfs"), "flip")?;
    }
    let ended = finish(with_state(state.path(), "echo started")).expect_code(3);
    assert!(!ended.stdout.contains("started"));
    let said = ended.stderr;
    assert!(
        said.contains("initramfs") && said.contains("build it again"),
        "{said}"
    );
    nothing_left();
    Ok(())
}

fn interrupted(mut command: Command, after: Duration) -> Result<(), Failed> {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    thread::sleep(after);
    signal(child.id(), rustix::process::Signal::INT)?;
    let status = child.wait()?;
    assert!(!status.success(), "after {after:?}: {status}");
    nothing_left();
    Ok(())
}

fn interrupts() -> Result<(), Failed> {
    let _ = finish(exec("true")).expect_code(0);
    for milliseconds in [0, 20, 60, 150, 400, 1000, 3000] {
        interrupted(exec("sleep 600"), Duration::from_millis(milliseconds))?;
    }
    // Also while the snapshot is being made.
    let state = own_state(false)?;
    for milliseconds in [500, 2000, 5000] {
        interrupted(
            with_state(state.path(), "sleep 600"),
            Duration::from_millis(milliseconds),
        )?;
        assert_eq!(drafts(state.path()), Vec::<String>::new());
    }
    Ok(())
}

fn full_host_disk() -> Result<(), Failed> {
    let state = own_state(false)?;
    let small = state.path().join("snapshots");
    fs::create_dir(&small)?;
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=4m", "small"])
        .arg(&small);
    assert!(mount.status()?.success());
    let ended = finish(with_state(state.path(), "echo started"));
    let mut left = names_in(&small);
    left.retain(|name| !name.ends_with(".lock"));
    assert!(Command::new("umount").arg(&small).status()?.success());
    let ended = ended.expect_code(3);
    assert!(
        ended.stderr.contains("No space left on device"),
        "{}",
        ended.stderr
    );
    assert!(left.is_empty(), "{left:?}");
    nothing_left();
    Ok(())
}

fn forbidden_kvm() -> Result<(), Failed> {
    let kvm = Path::new("/dev/kvm");
    let mode = fs::metadata(kvm)?.permissions();
    fs::set_permissions(kvm, PermissionsExt::from_mode(0o600))?;
    let folder = tempfile::Builder::new().prefix("nobody-").tempdir()?;
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777))?;
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(bench().programs.join("mayfly"))
        .args(["--kvm=require", "exec", "--", "true"])
        .env("MAYFLY_STATE", folder.path());
    let ended = finish(command);
    fs::set_permissions(kvm, mode)?;
    let ended = ended.expect_code(3);
    assert!(
        ended.stderr.contains("/dev/kvm") && ended.stderr.contains("usermod"),
        "{}",
        ended.stderr
    );
    Ok(())
}
