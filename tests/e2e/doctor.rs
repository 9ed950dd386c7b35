//! `mayfly doctor` as a user sees it: on a machine that can do everything, and on ones that lack
//! something. It runs where KVM is usable (softkvm's machine elsewhere), so that line is seen too.

use std::{
    fs, os::unix::fs::PermissionsExt, os::unix::process::CommandExt, path::Path, process::ExitCode,
};

use libtest_mimic::{Failed, Trial};
use mayfly_tests::{Ended, bench, finish, run_group};
use serde_json::Value;

/// Every line of the report, in the order in which a person would mend them.
const CHECKS: [&str; 10] = [
    "cpu",
    "kvm",
    "emulator",
    "memory",
    "disk",
    "cgroup",
    "programs",
    "tools",
    "images",
    "snapshots",
];

fn main() -> ExitCode {
    run_group(vec![
        Trial::test("a_machine_that_lacks_nothing_fails_no_check", healthy),
        Trial::test("text_and_json_say_the_same", text_and_json),
        Trial::test("missing_tools_are_named_and_only_warned_of", missing_tools),
        Trial::test("programs_that_are_not_beside_it_fail", missing_programs),
        Trial::test("a_state_folder_that_is_a_file_fails", broken_state),
        Trial::test("a_kvm_that_may_not_be_opened_fails", forbidden_kvm),
    ])
}

/// The report of `mayfly doctor --json`, and how the command ended.
fn report(ended: &Ended) -> Result<Vec<Value>, Failed> {
    Ok(serde_json::from_str(&ended.stdout)?)
}

/// The line of that name.
fn line<'a>(checks: &'a [Value], name: &str) -> Result<&'a Value, Failed> {
    let found = checks.iter().find(|check| check["name"] == name);
    found.ok_or_else(|| format!("no line '{name}' in {checks:?}").into())
}

/// Asserts the verdict on one line, and that it has a next step unless it passed.
fn expect(checks: &[Value], name: &str, verdict: &str, words: &str) -> Result<(), Failed> {
    let check = line(checks, name)?;
    let found = check["found"].as_str().unwrap_or_default();
    assert_eq!(check["verdict"], verdict, "{check}");
    assert!(found.contains(words), "{check}");
    let next = check["next"].as_str().unwrap_or_default();
    assert_eq!(next.is_empty(), verdict == "pass", "{check}");
    Ok(())
}

fn healthy() -> Result<(), Failed> {
    let checks = report(&finish(bench().mayfly(["doctor", "--json"])).expect_code(0))?;
    let names: Vec<_> = checks.iter().map(|check| &check["name"]).collect();
    assert_eq!(names, CHECKS);
    expect(&checks, "kvm", "pass", "")?;
    expect(&checks, "emulator", "pass", "not needed")?;
    expect(&checks, "programs", "pass", "mayfly-vmm")?;
    expect(&checks, "images", "pass", "minimal")
}

fn text_and_json() -> Result<(), Failed> {
    let checks = report(&finish(bench().mayfly(["doctor", "--json"])).expect_code(0))?;
    let text = finish(bench().mayfly(["doctor"])).expect_code(0).stdout;
    let mut lines = text.lines();
    for check in &checks {
        let said = lines.next().unwrap_or_default();
        let mut words = said.split_whitespace();
        assert_eq!(words.next(), check["verdict"].as_str(), "{said}");
        assert_eq!(words.next(), check["name"].as_str(), "{said}");
        if let Some(next) = check["next"].as_str() {
            let said = lines.next().unwrap_or_default();
            assert_eq!(said.trim().strip_prefix("-> "), Some(next));
        }
    }
    assert_eq!(lines.next(), None);
    Ok(())
}

fn missing_tools() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("git"), "")?;
    let mut command = bench().mayfly(["doctor", "--json"]);
    command.env("PATH", folder.path());
    let checks = report(&finish(command).expect_code(0))?;
    expect(&checks, "tools", "warn", "npm")?;
    let tools = line(&checks, "tools")?.to_string();
    assert!(!tools.contains("git"), "{tools}");
    Ok(())
}

fn missing_programs() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let alone = folder.path().join("mayfly");
    fs::copy(bench().programs.join("mayfly"), &alone)?;
    let mut command = std::process::Command::new(&alone);
    command
        .args(["doctor", "--json"])
        .env("MAYFLY_STATE", &bench().state);
    let checks = report(&finish(command).expect_code(1))?;
    expect(&checks, "programs", "fail", "mayfly-vmm")
}

fn broken_state() -> Result<(), Failed> {
    let file = tempfile::NamedTempFile::new()?;
    let mut command = bench().mayfly(["doctor", "--json"]);
    command.env("MAYFLY_STATE", file.path());
    let path = file.path().to_string_lossy().into_owned();
    let checks = report(&finish(command).expect_code(1))?;
    expect(&checks, "images", "fail", &path)
}

/// Run as a user who may not open `/dev/kvm`, with what that user needs in a folder of its own.
fn forbidden_kvm() -> Result<(), Failed> {
    let kvm = Path::new("/dev/kvm");
    let mode = fs::metadata(kvm)?.permissions();
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
    for program in ["mayfly", "mayfly-vmm", "mayfly-guest", "softkvm"] {
        fs::copy(bench().programs.join(program), folder.path().join(program))?;
    }
    let mut command = std::process::Command::new(folder.path().join("mayfly"));
    command
        .args(["doctor", "--json"])
        .env("MAYFLY_STATE", folder.path().join("state"))
        .uid(65534)
        .gid(65534);
    fs::set_permissions(kvm, fs::Permissions::from_mode(0o600))?;
    let ended = finish(command);
    fs::set_permissions(kvm, mode)?;
    let checks = report(&ended.expect_code(1))?;
    expect(&checks, "kvm", "fail", "/dev/kvm")?;
    let next = line(&checks, "kvm")?["next"].to_string();
    assert!(next.contains("usermod -aG kvm"), "{next}");
    expect(&checks, "images", "warn", "none")?;
    expect(&checks, "snapshots", "warn", "none")
}
