//! The Debian package: made by cargo-deb, installed on a fresh root, served there by its own user, removed, and
//! nothing is left.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use libtest_mimic::{Failed, Trial};
use mayfly::config::Installation;
use mayfly_tests::{IMAGE, bench, github::FakeGitHub, repository};

use crate::{needs, served::free_address, succeeds};

pub fn trials() -> Vec<Trial> {
    let name = "the_package_installs_serves_and_leaves_nothing";
    let trial = needs("mmdebstrap", "mmdebstrap", name, life);
    if rustix::process::geteuid().is_root() {
        return vec![trial];
    }
    eprintln!("SKIPPED, counted as ignored: {name}: chroot needs root");
    vec![trial.with_ignored_flag(true)]
}

/// Packs the programs under test.
fn package() -> Result<PathBuf, Failed> {
    let target = bench().programs.parent().ok_or("programs of no target")?;
    let output = Command::new(repository().join("deploy/package.sh"))
        .arg("--fast")
        .env("CARGO_TARGET_DIR", target)
        .stderr(Stdio::inherit())
        .output()?;
    let said = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{said}");
    let path = said.lines().next_back().ok_or("no path was printed")?;
    Ok(PathBuf::from(path.trim()))
}

/// A fresh Debian with what the package depends on. Kept, because it takes a minute to make.
fn root(depends: &str) -> Result<PathBuf, Failed> {
    let names = depends
        .split(',')
        .filter_map(|one| one.split_whitespace().next());
    let names: Vec<&str> = names.collect();
    let key = names.join("-");
    let folder = Installation::cache()?.join("package-root");
    let root = folder.join(&key);
    if root.is_dir() {
        return Ok(root);
    }
    eprintln!(
        "a Debian root with {} is made once, in {}",
        names.join(" "),
        folder.display()
    );
    fs::create_dir_all(&folder)?;
    let draft = tempfile::tempdir_in(&folder)?;
    let tree = draft.path().join("root");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"]);
    command.arg(format!("--include={}", names.join(",")));
    succeeds(command.args(["--format=directory", "bookworm"]).arg(&tree))?;
    fs::rename(&tree, &root)?;
    Ok(root)
}

fn life() -> Result<(), Failed> {
    let deb = package()?;
    let mut field = Command::new("dpkg-deb");
    let depends = succeeds(field.arg("--field").arg(&deb).arg("Depends"))?;
    let root = root(&depends)?;
    let folder = tempfile::tempdir()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let github = runtime.block_on(FakeGitHub::start())?;
    let port = free_address()?.port();
    configure(folder.path(), &github, port)?;
    let mut script = Command::new("unshare");
    script.args([
        "--mount-proc",
        "--propagation=private",
        "--pid",
        "--fork",
        "--kill-child",
    ]);
    script
        .arg("bash")
        .arg(repository().join("tests/ops/package.sh"));
    script.arg(&root).arg(&deb).arg(folder.path());
    script
        .arg(bench().state.join("images"))
        .arg(port.to_string());
    let said = succeeds(&mut script);
    let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    let said = said.map_err(|error| format!("{}\n{log}", error.message().unwrap_or_default()))?;
    assert!(said.contains("== end\n"), "{said}\n{log}");
    assert!(
        !github.requests().is_empty(),
        "it never asked GitHub\n{log}"
    );

    let read = |name: &str| fs::read_to_string(folder.path().join(name));
    let (before, after) = (read("before")?, read("after")?);
    let left: Vec<&str> = after
        .lines()
        .filter(|line| !before.lines().any(|b| b == *line))
        .collect();
    let lost: Vec<&str> = before
        .lines()
        .filter(|line| !after.lines().any(|a| a == *line))
        .collect();
    assert!(
        left.is_empty() && lost.is_empty(),
        "left: {left:#?}\nlost: {lost:#?}"
    );
    Ok(())
}

/// The configuration that the service gets.
fn configure(folder: &Path, github: &FakeGitHub, port: u16) -> Result<(), Failed> {
    fs::write(folder.join("app.pem"), github.app_key())?;
    let url = github.base();
    fs::write(
        folder.join("config.toml"),
        format!(
            "[github]\nurl = \"{url}\"\nrepository = \"octo/hello\"\napp_id = 12345\n\
             private_key_file = \"/run/credentials/mayfly.service/secrets_app.pem\"\n\
             [metrics]\nlisten = \"127.0.0.1:{port}\"\n[[pools]]\nname = \"sandbox\"\n\
             image = \"{IMAGE}\"\ncapacity = 1\n"
        ),
    )?;
    Ok(())
}
