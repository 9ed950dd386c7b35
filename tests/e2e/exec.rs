//! `mayfly exec` as a user sees it: streams, exit codes, signals and copies pass through.

use std::{
    fs,
    io::{Read, Write},
    process::{ExitCode, Stdio},
    thread,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use mayfly_tests::{bench, finish, processes, run_group};

fn main() -> ExitCode {
    run_group(vec![
        Trial::test("exit_code_and_streams_pass_through", exit_code_and_streams),
        Trial::test(
            "standard_input_reaches_the_command_byte_for_byte",
            standard_input,
        ),
        Trial::test(
            "a_command_that_is_not_there_is_127_and_named",
            missing_command,
        ),
        Trial::test(
            "environment_and_working_directory_are_the_given_ones",
            environment,
        ),
        Trial::test("files_and_folders_are_copied_in_and_out", copies),
        Trial::test(
            "an_existing_destination_is_refused_before_anything_runs",
            existing_destination,
        ),
        Trial::test(
            "an_interrupt_reaches_the_command_and_its_exit_code_comes_back",
            interrupt,
        ),
        Trial::test(
            "a_command_starts_with_no_signal_blocked_or_ignored",
            signals_as_usual,
        ),
        Trial::test("machine_size_is_what_was_asked_for", machine_size),
        Trial::test(
            "a_gibibyte_of_output_arrives_whole_in_bounded_memory",
            gibibyte,
        ),
    ])
}

fn exec(arguments: &[&str]) -> std::process::Command {
    bench().mayfly([&["exec"], arguments].concat())
}

fn signals_as_usual() -> Result<(), Failed> {
    // No shell: bash ignores SIGQUIT.
    let ended = finish(exec(&[
        "--",
        "grep",
        "-E",
        "Sig(Blk|Ign)",
        "/proc/self/status",
    ]));
    let none = "0".repeat(16);
    assert_eq!(
        ended.expect_code(0).stdout,
        format!("SigBlk:\t{none}\nSigIgn:\t{none}\n")
    );
    Ok(())
}

fn exit_code_and_streams() -> Result<(), Failed> {
    let ended =
        finish(exec(&["--", "sh", "-c", "echo out; echo err >&2; exit 42"])).expect_code(42);
    assert_eq!(ended.stdout, "out\n");
    assert!(ended.stderr.contains("err\n"), "{}", ended.stderr);
    let _ = finish(exec(&["--", "sh", "-c", "kill -KILL $$"])).expect_code(137);
    Ok(())
}

fn standard_input() -> Result<(), Failed> {
    let bytes: Vec<u8> = (0..1 << 20)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut child = exec(&["--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    let sent = bytes.clone();
    let writer = thread::spawn(move || stdin.write_all(&sent));
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| "writer panicked")??;
    assert!(output.status.success());
    assert!(
        output.stdout == bytes,
        "{} of {} bytes came back",
        output.stdout.len(),
        bytes.len()
    );
    Ok(())
}

fn missing_command() -> Result<(), Failed> {
    let ended = finish(exec(&["--", "no-such-command"])).expect_code(127);
    assert!(ended.stderr.contains("no-such-command"), "{}", ended.stderr);
    Ok(())
}

fn environment() -> Result<(), Failed> {
    let ended = finish(exec(&[
        "--env",
        "A=b c",
        "--workdir",
        "/usr",
        "--",
        "sh",
        "-c",
        "echo \"$A\"; pwd; env",
    ]))
    .expect_code(0);
    assert!(ended.stdout.starts_with("b c\n/usr\n"), "{}", ended.stdout);
    assert!(
        !ended.stdout.contains("MAYFLY_STATE"),
        "nothing of the host's environment: {}",
        ended.stdout
    );
    Ok(())
}

fn copies() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let (source, out) = (folder.path().join("source"), folder.path().join("out"));
    fs::create_dir_all(source.join("deep"))?;
    fs::write(source.join("deep/file"), "copied in")?;
    let copy_in = format!("{}:/data/in", source.display());
    let copy_out = format!("/data/in:{}", out.display());
    let script = "cat /data/in/deep/file; echo made here > /data/in/new";
    let ended = finish(exec(&[
        "--copy-in",
        &copy_in,
        "--copy-out",
        &copy_out,
        "--",
        "sh",
        "-c",
        script,
    ]))
    .expect_code(0);
    assert_eq!(ended.stdout, "copied in");
    assert_eq!(fs::read_to_string(out.join("new"))?, "made here\n");
    assert_eq!(fs::read_to_string(out.join("deep/file"))?, "copied in");
    assert!(
        !source.join("new").exists(),
        "the source on the host is untouched"
    );
    Ok(())
}

fn existing_destination() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let copy_out = format!("/etc:{}", folder.path().display());
    let ended = finish(exec(&["--copy-out", &copy_out, "--", "true"])).expect_code(2);
    assert!(ended.stderr.contains("exists"), "{}", ended.stderr);
    Ok(())
}

fn interrupt() -> Result<(), Failed> {
    let mut child = exec(&[
        "--",
        "sh",
        "-c",
        "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done",
    ])
    .stdout(Stdio::piped())
    .spawn()?;
    let mut stdout = child.stdout.take().ok_or("no stdout")?;
    let mut seen = [0; 6];
    stdout.read_exact(&mut seen)?;
    assert_eq!(&seen, b"ready\n");
    let id = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .ok_or("no pid")?;
    rustix::process::kill_process(id, rustix::process::Signal::INT)?;
    let mut rest = String::new();
    stdout.read_to_string(&mut rest)?;
    assert_eq!(rest, "caught\n");
    assert_eq!(child.wait()?.code(), Some(9));
    processes::wait_until_none(Duration::from_secs(10));
    Ok(())
}

fn machine_size() -> Result<(), Failed> {
    let ended = finish(exec(&[
        "--cpus",
        "2",
        "--memory",
        "512M",
        "--",
        "sh",
        "-c",
        "nproc; grep MemTotal /proc/meminfo",
    ]))
    .expect_code(0);
    assert!(ended.stdout.starts_with("2\n"), "{}", ended.stdout);
    let kib: u64 = ended
        .stdout
        .split_whitespace()
        .nth(2)
        .and_then(|n| n.parse().ok())
        .ok_or("no MemTotal")?;
    assert!((400_000..=524_288).contains(&kib), "{kib} KiB");
    Ok(())
}

fn gibibyte() -> Result<(), Failed> {
    const BYTES: u64 = 1 << 30;
    let mut child = exec(&["--", "head", "-c", &BYTES.to_string(), "/dev/zero"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdout = child.stdout.take().ok_or("no stdout")?;
    let (mut buffer, mut total, mut peak) = (vec![0; 1 << 20], 0_u64, 0_u64);
    loop {
        let read = stdout.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        assert!(buffer[..read].iter().all(|&byte| byte == 0));
        total += read as u64;
        if total % (64 << 20) < read as u64 {
            peak = peak.max(processes::resident_kib(child.id()));
        }
    }
    assert_eq!(total, BYTES);
    assert!(child.wait()?.success());
    assert!(peak < 200 * 1024, "mayfly held {peak} KiB");
    Ok(())
}
