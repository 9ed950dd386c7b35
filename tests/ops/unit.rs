//! The systemd unit: systemd itself finds nothing wrong with it, and little exposed.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use libtest_mimic::{Failed, Trial};
use mayfly_tests::repository;

use crate::{needs, succeeds};

/// The exposure that it may have, in tenths. What is left open is what the VMM's jail and the network need.
const EXPOSURE: &str = "25";

pub fn trials() -> Vec<Trial> {
    vec![
        needs("systemd-analyze", "systemd", "the_unit_is_right", right),
        needs(
            "systemd-analyze",
            "systemd",
            "the_unit_exposes_little",
            exposure,
        ),
    ]
}

/// A root folder in which the unit is installed beside what it refers to.
fn root(root: &Path, unit: &str) -> Result<(), Failed> {
    let units = root.join("usr/lib/systemd/system");
    let programs = root.join("usr/bin");
    fs::create_dir_all(&units)?;
    fs::create_dir_all(&programs)?;
    symlink("usr/bin", root.join("bin"))?;
    for program in ["mayfly", "kill", "sh"] {
        let path = programs.join(program);
        fs::write(&path, "#!/bin/sh\n")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    for target in [
        "network-online",
        "multi-user",
        "sysinit",
        "basic",
        "shutdown",
    ] {
        fs::write(
            units.join(format!("{target}.target")),
            "[Unit]\nDescription=x\n",
        )?;
    }
    fs::write(units.join("mayfly.service"), unit)?;
    Ok(())
}

/// What systemd says of a unit.
fn verdict(unit: &str) -> Result<String, Failed> {
    let folder = tempfile::tempdir()?;
    root(folder.path(), unit)?;
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "mayfly.service"]);
    succeeds(verify.arg(format!("--root={}", folder.path().display())))
}

fn right() -> Result<(), Failed> {
    let unit = fs::read_to_string(repository().join("deploy/systemd/mayfly.service"))?;
    assert_eq!(verdict(&unit)?, "", "systemd has something to say");
    // It would say so if something were wrong.
    let broken = unit.replace("KillMode=process", "KilMode=process");
    assert!(verdict(&broken)?.contains("KilMode"));
    Ok(())
}

fn exposure() -> Result<(), Failed> {
    let unit = repository().join("deploy/systemd/mayfly.service");
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager"]);
    security.arg(format!("--threshold={EXPOSURE}")).arg(unit);
    let said = succeeds(&mut security)?;
    let score = said.lines().find(|line| line.contains("Overall exposure"));
    eprintln!("{}", score.ok_or("no score")?);
    Ok(())
}
