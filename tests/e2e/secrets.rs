//! A step's secrets are in the sandbox during that step only, and those of no step never.
//!
//! Root's own look from inside is `tests/projects/secrets/scan.py`; from outside the test stops the
//! VMM while each step holds still, and looks through the guest's memory and private disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use mayfly_tests::{Ended, bench, processes, repository, run_group};
use rustix::process::{Pid, Signal};

/// What a search reads at a time.
const CHUNK: usize = 4 << 20;
/// Of each secret.
const LENGTH: usize = 32;
/// The guest's memory is the only mapping of the VMM that is as large.
const GUEST_MEMORY: u64 = 128 << 20;
/// The one that step 2 uses.
const USED: &str = "TWO";
const NAMES: [&str; 5] = ["ONE", USED, "THREE", "FOUR", "FIVE"];

type Secrets = BTreeMap<&'static str, String>;
/// Name of a secret and kind of place that it was found in.
type Found = BTreeSet<(String, String)>;

fn main() -> ExitCode {
    run_group(vec![Trial::test(
        "only_the_step_that_uses_a_secret_has_it",
        only_its_step,
    )])
}

fn only_its_step() -> Result<(), Failed> {
    let secrets: Secrets = NAMES
        .into_iter()
        .map(|name| Ok((name, random_hex()?)))
        .collect::<Result<_, Failed>>()?;
    let (ended, inside, outside) = run(&secrets)?;
    let said = format!("{}\n{}", ended.stdout, ended.stderr);
    let _ = ended.expect_code(0);
    println!("{said}\nfrom inside: {inside:#?}\nfrom outside: {outside:#?}");
    for step in ["1", "2", "3"] {
        assert!(inside.contains_key(step), "step {step} looked:\n{said}");
        let all = inside[step]
            .iter()
            .chain(outside.get(step).into_iter().flatten());
        for (name, kind) in all {
            assert!(
                step == "2" && name == USED,
                "step {step}: secret {name} was found: {kind}\n{said}"
            );
        }
    }
    // Inside only the beginning of the disk is read; the host finds it on the whole one below.
    for kind in ["memory", "environ", "file", "physical"] {
        let control = (USED.to_owned(), kind.to_owned());
        assert!(
            inside["2"].contains(&control),
            "positive control: step 2 finds its own secret: {kind}\n{said}"
        );
    }
    if let Some(seen) = outside.get("2") {
        for kind in ["guest memory", "guest disk"] {
            let control = (USED.to_owned(), kind.to_owned());
            assert!(
                seen.contains(&control),
                "positive control: the host finds it during step 2: {kind}"
            );
        }
    }
    processes::wait_until_none(Duration::from_secs(10));
    Ok(())
}

type Finds = BTreeMap<String, Found>;

/// Runs the job; what each step found, and what the host found while it held still.
fn run(secrets: &Secrets) -> Result<(Ended, Finds, Finds), Failed> {
    let folder = checkout(secrets)?;
    let mut command = bench().mayfly(["run", "ci.yml", "--cpus", "1", "--memory", "256M"]);
    for (name, value) in secrets {
        command.args(["--secret", name]).env(name, value);
    }
    let mut child = command
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    let (mut said, mut inside, mut outside) = (String::new(), Finds::new(), Finds::new());
    let mut now = Found::new();
    for line in lines {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some(at) = words.iter().position(|&word| word == "FOUND") {
            let word = |index| words.get(at + index).map(ToString::to_string);
            now.extend(word(1).zip(word(2)));
        }
        if let Some(step) = words.last().and_then(|word| word.strip_prefix("HOLD-")) {
            inside.insert(step.to_owned(), std::mem::take(&mut now));
            if let Some(found) = look_from_outside(secrets)? {
                outside.insert(step.to_owned(), found);
            }
        }
        said += &(line + "\n");
    }
    let mut ended = Ended::from(child.wait_with_output()?);
    ended.stdout = said;
    Ok((ended, inside, outside))
}

/// A git checkout with the workflow, the scanner, and the needles in a form that never matches.
fn checkout(secrets: &Secrets) -> Result<tempfile::TempDir, Failed> {
    let folder = tempfile::tempdir()?;
    for name in ["ci.yml", "scan.py"] {
        let from = repository().join("tests/projects/secrets").join(name);
        fs::copy(from, folder.path().join(name))?;
    }
    let hidden: BTreeMap<_, String> = secrets
        .iter()
        .map(|(name, value)| {
            let hex = value.bytes().map(|byte| format!("{:02x}", byte ^ 0xa5));
            (name, hex.collect())
        })
        .collect();
    let needles = folder.path().join("needles.json");
    fs::write(&needles, serde_json::to_string(&hidden)?)?;
    fs::set_permissions(&needles, fs::Permissions::from_mode(0o644))?;
    let git = Command::new("git")
        .args(["init", "-q"])
        .current_dir(folder.path())
        .status()?;
    assert!(git.success());
    Ok(folder)
}

/// Looks through the memory and the private disk of the one machine that runs, while it is stopped.
///
/// The VMM lets nobody but root look; as another user this half is left out, and that is said.
fn look_from_outside(secrets: &Secrets) -> Result<Option<Found>, Failed> {
    if !rustix::process::geteuid().is_root() {
        println!("NOT LOOKED from outside: only root can read the VMM's memory");
        return Ok(None);
    }
    let machines = processes::mayfly_processes();
    assert_eq!(machines.len(), 1, "{machines:?}");
    let id = machines.first().ok_or("no VMM")?.0;
    let pid = Pid::from_raw(i32::try_from(id)?).ok_or("no pid")?;
    rustix::process::kill_process(pid, Signal::STOP)?;
    let started = Instant::now();
    let memory = guest_memory(id, secrets);
    let disk = private_disks(id, secrets);
    rustix::process::kill_process(pid, Signal::CONT)?;
    println!("looked from outside for {:?}", started.elapsed());
    Ok(Some(memory?.into_iter().chain(disk?).collect()))
}

fn guest_memory(id: u32, secrets: &Secrets) -> Result<Found, Failed> {
    let memory = File::open(format!("/proc/{id}/mem"))?;
    let mut looked = 0;
    let mut found = Found::new();
    for line in fs::read_to_string(format!("/proc/{id}/maps"))?.lines() {
        let range = line
            .split_once(' ')
            .and_then(|(range, _)| range.split_once('-'));
        let (start, end) = range.ok_or("not a line of maps")?;
        let (start, end) = (
            u64::from_str_radix(start, 16)?,
            u64::from_str_radix(end, 16)?,
        );
        if end - start >= GUEST_MEMORY && line.contains(" rw") {
            looked += end - start;
            search(&memory, start, end, "guest memory", secrets, &mut found)?;
        }
    }
    assert!(looked >= GUEST_MEMORY, "the guest's memory was not found");
    Ok(found)
}

/// The files that the VMM has open for writing: its disk is one of them.
fn private_disks(id: u32, secrets: &Secrets) -> Result<Found, Failed> {
    use rustix::fs::{SeekFrom, seek};
    let mut found = Found::new();
    let mut looked = 0;
    for entry in fs::read_dir(format!("/proc/{id}/fd"))? {
        let path = entry?.path();
        let regular = fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.size() > 0);
        let writable = fs::symlink_metadata(&path).is_ok_and(|meta| meta.mode() & 0o200 != 0);
        if !(regular && writable) {
            continue;
        }
        let file = File::open(&path)?;
        let mut position = 0;
        while let Ok(data) = seek(&file, SeekFrom::Data(position)) {
            position = seek(&file, SeekFrom::Hole(data))?;
            looked += position - data;
            search(&file, data, position, "guest disk", secrets, &mut found)?;
        }
    }
    assert!(looked > 0, "the guest's disk was not found");
    Ok(found)
}

fn search(
    file: &File,
    mut start: u64,
    end: u64,
    kind: &str,
    secrets: &Secrets,
    found: &mut Found,
) -> Result<(), Failed> {
    let search = Search::new(secrets);
    let mut buffer = vec![0; CHUNK];
    while start < end {
        let length = usize::try_from(end - start)?.min(CHUNK);
        file.read_exact_at(&mut buffer[..length], start)?;
        let names = search.names_in(&buffer[..length]);
        found.extend(
            names
                .into_iter()
                .map(|name| (name.to_owned(), kind.to_owned())),
        );
        if start + length as u64 == end {
            break;
        }
        // Two pieces share almost a secret's length, so that none lies across their border.
        start += (length - (LENGTH - 1)) as u64;
    }
    Ok(())
}

/// All secrets at once, by the last byte under a window of their length, so that most of the bytes
/// are never looked at: this runs unoptimised on an emulated machine.
struct Search<'a> {
    secrets: &'a Secrets,
    skip: [usize; 256],
}

impl<'a> Search<'a> {
    fn new(secrets: &'a Secrets) -> Self {
        let mut skip = [LENGTH; 256];
        for value in secrets.values() {
            for (index, byte) in value.bytes().take(LENGTH - 1).enumerate() {
                let distance = LENGTH - 1 - index;
                skip[usize::from(byte)] = skip[usize::from(byte)].min(distance);
            }
        }
        Self { secrets, skip }
    }

    fn names_in(&self, bytes: &[u8]) -> BTreeSet<&'static str> {
        let mut names = BTreeSet::new();
        let mut end = LENGTH;
        while end <= bytes.len() {
            let window = &bytes[end - LENGTH..end];
            let last = window[LENGTH - 1];
            if last.is_ascii_hexdigit() {
                let here = self
                    .secrets
                    .iter()
                    .filter(|(_, value)| value.as_bytes() == window);
                names.extend(here.map(|(name, _)| *name));
            }
            end += self.skip[usize::from(last)];
        }
        names
    }
}

fn random_hex() -> Result<String, Failed> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
