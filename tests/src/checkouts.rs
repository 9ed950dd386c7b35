//! Runs scenario files: each by `mayfly run` in a git checkout of its own, judged by its header.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};

use crate::{archives, bench, finish_within, repository, scenario::Scenario};

/// The machine of a scenario that does not ask for another one.
const MACHINE: [(&str, &str); 2] = [("--cpus", "1"), ("--memory", "512M")];

/// The scenario files of `tests/workflows/` that are given a container image, or those that are not,
/// as tests that are named like the files. `limit` is for each command.
///
/// # Panics
/// When they cannot be listed, or the header of one cannot be read.
#[must_use]
pub fn trials(with_containers: bool, limit: Duration) -> Vec<Trial> {
    let mut files: Vec<PathBuf> = fs::read_dir(repository().join("tests/workflows"))
        .expect("the folder with the scenarios")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "yml"))
        .collect();
    files.sort();
    let wanted = |file: &PathBuf| match Scenario::read(file) {
        Ok(scenario) => scenario.container_images.is_empty() != with_containers,
        // It fails where it is run.
        Err(_) => !with_containers,
    };
    let trial = |file: PathBuf| {
        let name = file.file_stem().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        Trial::test(name, move || run(&file, limit))
    };
    files.into_iter().filter(wanted).map(trial).collect()
}

/// Runs the scenario of a file in a git checkout of its own and judges it. `limit` is for the command.
///
/// # Errors
/// What is not as the file's header says, or why it could not be run.
pub fn run(file: &Path, limit: Duration) -> Result<(), Failed> {
    let scenario = Scenario::read(file)?;
    let folder = tempfile::tempdir()?;
    let name = file.file_name().ok_or("a file")?;
    checkout(file, folder.path())?;
    let workflow = Path::new(".github/workflows").join(name);
    let mut arguments = vec!["run".to_owned(), workflow.display().to_string()];
    for (flag, value) in MACHINE {
        if !scenario.arguments.iter().any(|given| given == flag) {
            arguments.extend([flag.to_owned(), value.to_owned()]);
        }
    }
    let images = tempfile::tempdir()?;
    for image in &scenario.container_images {
        let archive = images.path().join("busybox.tar");
        archives::busybox(&archive)?;
        let argument = format!("{image}={}", archive.display());
        arguments.extend(["--container-image".to_owned(), argument]);
    }
    if scenario.wants_events() {
        arguments.push("--json".to_owned());
    }
    let mut command = bench().mayfly(arguments.iter().chain(&scenario.arguments));
    command
        .current_dir(folder.path())
        .envs(scenario.env.iter().map(|(name, value)| (name, value)));
    Ok(scenario.judge(&finish_within(limit, command))?)
}

/// Makes the checkout of a scenario: its helper files, the workflow itself, one commit.
fn checkout(file: &Path, folder: &Path) -> Result<(), Failed> {
    let helpers = file.with_extension("d");
    if helpers.is_dir() {
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(helpers.join(".")).arg(folder);
        done(&mut copy)?;
    }
    let workflows = folder.join(".github/workflows");
    fs::create_dir_all(&workflows)?;
    fs::copy(file, workflows.join(file.file_name().ok_or("a file")?))?;
    for arguments in [
        &["init", "-q", "-b", "main"][..],
        &["add", "-A"],
        &[
            "-c",
            "user.name=Ada",
            "-c",
            "user.email=ada@example.org",
            "commit",
            "-q",
            "-m",
            "scenario",
        ],
    ] {
        done(Command::new("git").args(arguments).current_dir(folder))?;
    }
    Ok(())
}

fn done(command: &mut Command) -> Result<(), Failed> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {said}").into())
}
