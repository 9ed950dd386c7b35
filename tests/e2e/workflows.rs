//! The scenario files of `tests/workflows/`: each is run by `mayfly run` in a git checkout of its own
//! and judged by its header, which [`mayfly_tests::scenario`] describes.
//!
//! `cargo test -p mayfly-tests --test workflows -- NAME` runs those whose name holds NAME.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use libtest_mimic::{Failed, Trial};
use mayfly_tests::{archives, bench, finish, repository, run_group, scenario::Scenario};

/// The machine of a scenario that does not ask for another one.
const MACHINE: [(&str, &str); 2] = [("--cpus", "1"), ("--memory", "512M")];

fn main() -> ExitCode {
    let mut files: Vec<PathBuf> = fs::read_dir(repository().join("tests/workflows"))
        .expect("the folder with the scenarios")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "yml"))
        .collect();
    files.sort();
    let trial = |file: PathBuf| {
        let name = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Trial::test(name, move || run(&file))
    };
    run_group(files.into_iter().map(trial).collect())
}

fn run(file: &Path) -> Result<(), Failed> {
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
    Ok(scenario.judge(&finish(command))?)
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
