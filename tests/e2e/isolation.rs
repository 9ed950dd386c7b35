//! What one sandbox holds is not found in the next, and no two clones are alike.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use libtest_mimic::{Failed, Trial};
use mayfly::sandbox::{Exec, ExecEvent, ExecRequest, Sandbox, microvm::MicroVm};
use mayfly_tests::{guests::Guests, processes, run_group};
use mayfly_vmm::snapshot::directory::Verify;

/// Clones of one snapshot.
const CLONES: usize = 20;

fn main() -> ExitCode {
    run_group(vec![
        Trial::test("a_canary_of_one_sandbox_is_nowhere_in_the_next", canary),
        Trial::test("twenty_clones_share_no_randomness_and_no_name", clones),
    ])
}

/// Leaves the canary in a file, in an environment variable and in the memory of a process that
/// lives on, and says so.
const PLANT: &str = "printf %s \"$CANARY\" > /root/canary; sync; \
    python3 -c 'import os,time; held=os.environ[\"CANARY\"]*1000; print(\"planted\", flush=True); time.sleep(600)' & \
    echo $! > /root/pid; wait";

const LOOK: &str = "ls -a /root; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; ps -e -o pid,args";

fn canary() -> Result<(), Failed> {
    Guests::with(|guests| async move {
        let canary = format!("canary-{}", random_hex()?);
        let first = guests.restore().await?;
        let mut planted = first.exec(shell(PLANT, &[("CANARY", &canary)])).await?;
        wait_for(&mut planted, "planted").await?;
        let (memory, disk) = saved(&first)?;
        assert!(
            // Some of the thousand lie across pages that are not neighbours in physical memory.
            count(&memory, &canary)? >= 900,
            "positive control: the canary is in the first guest's memory"
        );
        assert!(
            count(&disk, &canary)? >= 1,
            "positive control: and on its disk"
        );
        first.end().await;

        let second = guests.restore().await?;
        let seen = output(&second, LOOK).await?;
        assert!(
            !seen.contains(&canary) && !seen.contains("canary"),
            "{seen}"
        );
        let (memory, disk) = saved(&second)?;
        assert_eq!(
            count(&memory, &canary)?,
            0,
            "in the second guest's physical memory"
        );
        assert_eq!(count(&disk, &canary)?, 0, "on the second guest's disk");
        second.end().await;
        processes::wait_until_none(Duration::from_secs(10));
        Ok(())
    })
}

/// Values that must differ, one a line.
const VALUES: &str = "od -An -tx1 -N32 /dev/urandom | tr -d ' \\n'; echo; cat /proc/sys/kernel/random/uuid; \
    cat /proc/sys/kernel/random/boot_id; cat /etc/machine-id; cat /sys/class/net/e*/address; hostname; \
    python3 -c 'import uuid, random; print(uuid.uuid4()); print(random.random())'; mktemp -u";

fn clones() -> Result<(), Failed> {
    Guests::with(|guests| async move {
        let mut sandboxes = Vec::new();
        for _ in 0..CLONES {
            sandboxes.push(guests.restore().await?);
        }
        let mut lines_of = Vec::new();
        for sandbox in &sandboxes {
            let lines: Vec<String> = output(sandbox, VALUES)
                .await?
                .lines()
                .map(str::to_owned)
                .collect();
            assert_eq!(lines.len(), 9, "{lines:?}");
            lines_of.push(lines);
            right_time(sandbox).await?;
        }
        let names = [
            "urandom",
            "uuid",
            "boot_id",
            "machine-id",
            "MAC",
            "hostname",
            "uuid4",
            "random()",
            "mktemp",
        ];
        for (index, name) in names.into_iter().enumerate() {
            let distinct: BTreeSet<_> = lines_of.iter().map(|lines| &lines[index]).collect();
            assert_eq!(distinct.len(), CLONES, "{name} repeats: {distinct:?}");
        }
        for sandbox in sandboxes {
            sandbox.end().await;
        }
        guests
            .template()
            .snapshot
            .verify(Verify::Full, &mut |_| ())?;
        processes::wait_until_none(Duration::from_secs(10));
        Ok(())
    })
}

/// The guest's clock lies between two readings of the host's, give or take a second.
async fn right_time(sandbox: &MicroVm) -> Result<(), Failed> {
    let before = now()?;
    let guest: f64 = output(sandbox, "date +%s.%N").await?.trim().parse()?;
    let after = now()?;
    assert!(
        before - 1.0 <= guest && guest <= after + 1.0,
        "{before} <= {guest} <= {after}"
    );
    Ok(())
}

fn now() -> Result<f64, Failed> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

fn shell(script: &str, env: &[(&str, &str)]) -> ExecRequest {
    let mut all = vec![(
        "PATH".to_owned(),
        "/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
    )];
    all.extend(
        env.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    ExecRequest {
        argv: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
        env: all,
        cwd: "/".to_owned(),
        user: None,
        stdin: false,
    }
}

async fn output(sandbox: &MicroVm, script: &str) -> Result<String, Failed> {
    let mut exec = sandbox.exec(shell(script, &[])).await?;
    let mut bytes = Vec::new();
    while let Some(event) = exec.events.recv().await {
        match event {
            ExecEvent::Stdout(more) | ExecEvent::Stderr(more) => bytes.extend(more),
            ExecEvent::Exited(status) => {
                assert_eq!(
                    status.code(),
                    0,
                    "{script}: {}",
                    String::from_utf8_lossy(&bytes)
                );
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
    }
    Err("the sandbox was lost".into())
}

async fn wait_for(exec: &mut Exec, word: &str) -> Result<(), Failed> {
    let mut seen = String::new();
    while let Some(event) = exec.events.recv().await {
        if let ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) = event {
            seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        if seen.contains(word) {
            return Ok(());
        }
    }
    Err(format!("{word} was never said: {seen}").into())
}

/// The guest's whole physical memory and its private disk, as files.
fn saved(sandbox: &MicroVm) -> Result<(File, File), Failed> {
    let (memory, state, disk) = (
        tempfile::tempfile()?,
        tempfile::tempfile()?,
        tempfile::tempfile()?,
    );
    sandbox.save(&memory, &state, &disk)?;
    Ok((memory, disk))
}

/// How often `needle` stands in a file; holes are skipped.
fn count(file: &File, needle: &str) -> Result<usize, Failed> {
    use rustix::fs::{SeekFrom, seek};
    let mut found = 0;
    let mut position = 0;
    while let Ok(data) = seek(file, SeekFrom::Data(position)) {
        let hole = seek(file, SeekFrom::Hole(data))?;
        seek(file, SeekFrom::Start(data))?;
        let mut bytes = Vec::new();
        let mut reader = file;
        reader.by_ref().take(hole - data).read_to_end(&mut bytes)?;
        found += occurrences(&bytes, needle.as_bytes());
        position = hole;
    }
    Ok(found)
}

fn occurrences(bytes: &[u8], needle: &[u8]) -> usize {
    let first = needle[0];
    let mut found = 0;
    let mut rest = bytes;
    while let Some(index) = rest.iter().position(|&byte| byte == first) {
        rest = &rest[index..];
        if rest.starts_with(needle) {
            found += 1;
        }
        rest = &rest[1..];
    }
    found
}

fn random_hex() -> Result<String, Failed> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
