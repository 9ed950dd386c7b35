//! The action at the root of this repository, its script run on this machine: where there is no sandbox,
//! and with programs that stand for `mayfly`.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use super::manifest::{Manifest, Runs};
use crate::workflow::{parse_action, source::Source};

const ACTION: &str = include_str!("../../../action.yml");

/// The script of its one step.
fn script() -> String {
    let file = parse_action(Source::new("action.yml", ACTION)).unwrap();
    let steps = file.root.get("runs").unwrap().get("steps").unwrap();
    let step = &steps.as_sequence().unwrap()[0];
    step.get("run").unwrap().as_str().unwrap().to_owned()
}

struct Ended {
    output: Output,
    outputs: HashMap<String, String>,
    summary: String,
}

impl Ended {
    fn said(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }
}

/// Runs the script as the runner does, with inputs and perhaps a `mayfly` that does this.
fn run(folder: &Path, inputs: [&str; 3], sandbox: bool, mayfly: Option<&str>) -> Ended {
    let path = |name: &str| folder.join(name);
    for name in ["output", "summary"] {
        fs::write(path(name), "").unwrap();
    }
    let programs = path("programs");
    let _ = fs::remove_dir_all(&programs);
    fs::create_dir(&programs).unwrap();
    if let Some(mayfly) = mayfly {
        let program = programs.join("mayfly");
        fs::write(&program, format!("#!/bin/sh\n{mayfly}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(path("sandbox.json"), "{}").unwrap();
    let file = if sandbox { "sandbox.json" } else { "none.json" };
    let output = Command::new("sh")
        .args(["-e", "-c", &script()])
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", programs.display()))
        .env("MAYFLY_SANDBOX", path(file))
        .env("MAYFLY_INPUT_PINS", inputs[0])
        .env("MAYFLY_INPUT_SANDBOX", inputs[1])
        .env("MAYFLY_INPUT_PATHS", inputs[2])
        .env("RUNNER_TEMP", folder)
        .env("GITHUB_OUTPUT", path("output"))
        .env("GITHUB_STEP_SUMMARY", path("summary"))
        .output()
        .unwrap();
    let outputs = fs::read_to_string(path("output")).unwrap();
    let pair = |line: &str| {
        line.split_once('=')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
    };
    Ended {
        output,
        outputs: outputs.lines().filter_map(pair).collect(),
        summary: fs::read_to_string(path("summary")).unwrap(),
    }
}

#[test]
fn the_root_of_this_repository_is_a_composite_action_with_its_inputs_and_outputs() {
    let manifest = Manifest::parse("action.yml", ACTION).unwrap();
    let names: Vec<_> = manifest
        .inputs
        .iter()
        .map(|input| input.name.as_str())
        .collect();
    assert_eq!(names, ["pins", "require-sandbox", "paths"]);
    let outputs: Vec<_> = manifest
        .outputs
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(outputs, ["ok", "report"]);
    assert!(matches!(manifest.runs, Runs::Composite(_)));
    assert!(
        !script().contains("${{"),
        "values reach a script by its environment only"
    );
}

#[test]
fn outside_of_a_sandbox_it_says_what_is_missing_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (inputs, mayfly, said) in [
        (
            ["check", "false", ""],
            None,
            "no program mayfly on this runner",
        ),
        (
            ["off", "true", ""],
            Some("exit 0"),
            "runs in no sandbox of Mayfly",
        ),
        (["of", "false", ""], Some("exit 0"), "input pins is neither"),
        (
            ["off", "yes", ""],
            Some("exit 0"),
            "input require-sandbox is neither",
        ),
    ] {
        let ended = run(folder, inputs, false, mayfly);
        assert!(!ended.output.status.success());
        let annotation = format!("::error title=Mayfly::{}", "");
        assert!(
            ended.said().contains(&annotation) && ended.said().contains(said),
            "{}",
            ended.said()
        );
        assert!(ended.summary.contains(said), "{}", ended.summary);
        assert_eq!(ended.outputs["ok"], "false");
    }
    let ended = run(folder, ["off", "false", ""], false, None);
    assert!(ended.output.status.success());
    assert_eq!(
        (&*ended.outputs["ok"], &*ended.outputs["report"]),
        ("true", "")
    );
}

#[test]
fn the_program_is_asked_for_what_the_inputs_say() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let shows = "echo \"ran:$*\"; case $1 in sandbox) exit ${ASK:-0};; esac";
    let paths = ".github/workflows/a.yml\nwith space.yml\n";
    let ended = run(folder, ["check", "false", paths], false, Some(shows));
    let report = folder.join("mayfly-pins.json").display().to_string();
    let asked = format!(
        "ran:pin --check --format github --report {report} -- .github/workflows/a.yml with space.yml"
    );
    assert!(ended.said().contains(&asked), "{}", ended.said());
    assert_eq!(
        (&*ended.outputs["ok"], &ended.outputs["report"]),
        ("true", &report)
    );
    let ended = run(folder, ["check", "true", ""], true, Some(shows));
    assert!(
        ended.said().contains("--offline --format github"),
        "{}",
        ended.said()
    );
    assert!(
        ended.summary.contains("answers for this job"),
        "{}",
        ended.summary
    );
    let answer = fs::read_to_string(folder.join("mayfly-sandbox.json")).unwrap();
    assert_eq!(answer, "ran:sandbox ask\n");
    // What fails, fails the step; what a path says is no command.
    let ended = run(
        folder,
        ["check", "false", "$(touch x)`id`"],
        false,
        Some("exit 1"),
    );
    assert_eq!(
        (ended.output.status.success(), &*ended.outputs["ok"]),
        (false, "false")
    );
    let ended = run(folder, ["off", "true", ""], true, Some("exit 1"));
    assert!(
        ended.said().contains("its worker does not answer"),
        "{}",
        ended.said()
    );
}
