//! GitHub's own packages for actions, run as JavaScript actions in real guests: two runs of the
//! workflows in `tests/toolkit/`, on which each package has its checks, and a trial here.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, ExitCode},
    sync::OnceLock,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use mayfly_tests::{Ended, bench, finish_within, repository, run_group};
use serde_json::{Value, json};

/// The actions, and what their bundles are called.
const ACTIONS: [&str; 3] = ["core", "tools", "services"];
/// Files that actions look for.
const DATA: [&str; 4] = ["a.txt", "sub/b.txt", "sub/skip/c.txt", "other.md"];

/// The longer of the runs starts five processes of Node.js, of which each reads a large program.
const LIMIT: Duration = Duration::from_secs(400);

fn main() -> ExitCode {
    let whole = |package: &'static str, lines: &'static [&'static str]| {
        Trial::test(package, move || runs()?.has(lines))
    };
    run_group(vec![
        Trial::test("core", core),
        whole("exec", &["ok: exec: all"]),
        whole("io", &["ok: io: all"]),
        whole("glob", &["ok: glob: all"]),
        whole("tool-cache", &["ok: tool-cache: all"]),
        Trial::test("cache", cache),
        Trial::test("artifact", artifact),
        Trial::test("all_jobs_succeed", all_succeed),
    ])
}

fn core() -> Result<(), Failed> {
    let runs = runs()?;
    runs.has(&[
        "ok: core: all",
        "ok: core later: all",
        "ok: core post: all",
        "made-tool runs",
        "the secret is ***",
        "##[group]A group",
        "inside",
        "##[notice]a note",
        "##[warning]a warning",
        "##[error]Error: an error",
        "##[error]it was to be",
        "core was to fail: failure/success",
    ])?;
    for hidden in ["made-up-token", "a hidden detail"] {
        assert!(!runs.first.stdout.contains(hidden), "{hidden} is shown");
    }
    let notice = runs.event("annotation", |event| event["level"] == "notice")?;
    let place = json!([notice["title"], notice["file"], notice["line"]]);
    assert_eq!(place, json!(["T", "data/a.txt", 2]), "{notice}");
    let summary = runs.event("summary", |_| true)?;
    let expected = "<h2>Report</h2>\n<ul><li>first</li><li>***</li></ul>";
    assert_eq!(summary["markdown"], expected);
    Ok(())
}

fn cache() -> Result<(), Failed> {
    let runs = runs()?;
    runs.has(&["ok: cache: all", "ok: cache again: all", "token: ***"])?;
    // 128 KiB that do not compress, and a small file.
    let mut sizes = runs.lines.iter().filter_map(|line| {
        let size = line.strip_prefix("Cache Size: ~0 MB (")?;
        size.strip_suffix(" B)")?.parse::<u64>().ok()
    });
    assert!(sizes.any(|size| (131_072..160_000).contains(&size)));
    Ok(())
}

fn artifact() -> Result<(), Failed> {
    let runs = runs()?;
    runs.has(&["ok: artifact save: all", "ok: artifact load: all"])?;
    let mut lines = runs.lines.iter();
    let digest = lines.find_map(|line| line.strip_prefix("digest of report: "));
    let names: Vec<&str> = runs.artifacts.keys().map(String::as_str).collect();
    assert_eq!(names, ["report.txt", "report.zip"], "{}", runs.first.stderr);
    assert_eq!(runs.artifacts.get("report.zip").map(String::as_str), digest);
    // printf 'the report' | sha256sum
    assert_eq!(
        runs.artifacts["report.txt"],
        "14e4cce86788499d03144f70ab24ca83d1abe97d55153c71ee1df55c5296c1f9"
    );
    let told = "mayfly: artifact report: ";
    assert!(runs.first.stderr.contains(told), "{}", runs.first.stderr);
    Ok(())
}

fn all_succeed() -> Result<(), Failed> {
    let runs = runs()?;
    for ended in [&runs.first, &runs.again] {
        assert_eq!(ended.code, 0, "{ended:#?}");
    }
    Ok(())
}

/// The two runs.
struct Runs {
    first: Ended,
    again: Ended,
    /// Lines of the logs of both runs.
    lines: Vec<String>,
    /// Names and digests of the files that the first run handed out.
    artifacts: BTreeMap<String, String>,
}

/// Makes the runs once, for all trials.
fn runs() -> Result<&'static Runs, Failed> {
    static RUNS: OnceLock<Result<Runs, String>> = OnceLock::new();
    let runs = RUNS.get_or_init(|| make().map_err(|error| error.to_string()));
    runs.as_ref().map_err(Into::into)
}

fn make() -> Result<Runs, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    checkout(folder.path())?;
    let out = folder.path().join("out");
    let (key, out_text) = (format!("KEY={}", std::process::id()), out.to_str());
    let run = |workflow: &str, arguments: &[&str]| {
        let size = ["--cpus", "1", "--memory", "1G", "--jobs", "1"];
        let mut command = bench().mayfly(["run", workflow, "--json", "--var", &key]);
        command
            .args(size)
            .args(arguments)
            .current_dir(folder.path());
        finish_within(LIMIT, command)
    };
    let first = run("toolkit.yml", &["--artifacts", out_text.ok_or("a path")?]);
    let again = run("again.yml", &[]);
    if !out.is_dir() {
        return Err(format!("nothing was run: {first:#?}").into());
    }
    let mut lines = Vec::new();
    for ended in [&first, &again] {
        lines.extend(events(ended).filter_map(|event| Some(event["line"].as_str()?.to_owned())));
    }
    let artifacts = fs::read_dir(out)?.map(|entry| {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok((name.into_owned(), sha256(&path)?))
    });
    Ok(Runs {
        artifacts: artifacts.collect::<std::io::Result<_>>()?,
        first,
        again,
        lines,
    })
}

fn events(ended: &Ended) -> impl Iterator<Item = Value> {
    let lines = ended.stdout.lines();
    lines.filter_map(|line| serde_json::from_str(line).ok())
}

impl Runs {
    /// Fails unless each of these is a line of a log.
    fn has(&self, lines: &[&str]) -> Result<(), Failed> {
        for line in lines {
            if !self.lines.iter().any(|said| said == line) {
                let all = self.lines.join("\n");
                return Err(format!("no line '{line}' in\n{all}").into());
            }
        }
        Ok(())
    }

    /// The first event of a kind in the first run for which `which` holds.
    fn event(&self, kind: &str, which: impl Fn(&Value) -> bool) -> Result<Value, Failed> {
        let mut events = events(&self.first);
        let found = events.find(|event| event["event"] == kind && which(event));
        found.ok_or_else(|| format!("no such {kind}").into())
    }
}

/// Makes a git checkout of the workflows, the bundled actions, and the data that these look for.
fn checkout(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let toolkit = repository().join("tests/toolkit");
    for workflow in ["toolkit.yml", "again.yml"] {
        fs::copy(toolkit.join(workflow), folder.join(workflow))?;
    }
    for action in ACTIONS {
        let to = folder.join(action);
        fs::create_dir(&to)?;
        fs::copy(
            toolkit.join(action).join("action.yml"),
            to.join("action.yml"),
        )?;
        let bundle = toolkit.join("dist").join(action).join("main.mjs");
        fs::copy(&bundle, to.join("main.mjs")).map_err(|error| {
            let mend = "run `npm ci --prefix tests/toolkit`, which makes it";
            format!("{}: {error}; {mend}", bundle.display())
        })?;
    }
    for file in DATA {
        let path = folder.join("data").join(file);
        fs::create_dir_all(path.parent().ok_or("a folder")?)?;
        fs::write(path, file)?;
    }
    said(
        Command::new("git")
            .args(["init", "-q", "-b", "main"])
            .current_dir(folder),
    )?;
    Ok(())
}

fn sha256(file: &Path) -> std::io::Result<String> {
    let sum = said(Command::new("sha256sum").arg(file))?;
    Ok(sum.split(' ').next().unwrap_or_default().to_owned())
}

fn said(command: &mut Command) -> std::io::Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(std::io::Error::other(format!("{command:?}: {why}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
