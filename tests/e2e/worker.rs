//! `mayfly worker` with real guests, against the strict GitHub on loopback.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use mayfly_tests::{
    bench,
    git_server::git,
    github::{FakeGitHub, FakeJob, Fault, Job},
    processes, run_group,
};
use serde_json::{Value as Json, json};
use tokio::runtime::Runtime;

/// How long a worker may take on a slow machine.
const LIMIT: Duration = Duration::from_secs(240);

fn main() -> ExitCode {
    run_group(vec![
        Trial::test(
            "a_job_of_github_runs_in_a_sandbox_and_its_page_is_whole",
            well,
        ),
        Trial::test("a_step_that_fails_fails_the_job", fails),
        Trial::test("a_cancelled_job_ends_and_says_so", cancelled),
        Trial::test("an_idle_worker_that_is_stopped_leaves_nothing", idle),
        Trial::test("a_configuration_that_is_none_is_refused", refused),
        Trial::test(
            "the_message_captured_from_github_runs_and_completes",
            captured,
        ),
        Trial::test(
            "actions_by_reference_run_from_the_store_as_the_lock_has_them",
            actions,
        ),
        Trial::test(
            "a_worker_that_is_killed_in_any_phase_leaves_nothing",
            killed,
        ),
    ])
}

/// The fake on a runtime of its own, as the tests are not asynchronous.
struct GitHub {
    fake: FakeGitHub,
    _runtime: Runtime,
}

impl GitHub {
    fn start() -> Result<Self, Failed> {
        let runtime = Runtime::new()?;
        let fake = runtime.block_on(FakeGitHub::start())?;
        Ok(Self {
            fake,
            _runtime: runtime,
        })
    }

    /// Queues a job of these scripts, with one secret.
    fn queue(&self, scripts: &[&str]) -> String {
        let script =
            |(index, script): (usize, &&str)| (format!("step {index}"), (*script).to_owned());
        self.fake.queue(&FakeJob {
            name: "build".into(),
            scripts: scripts.iter().enumerate().map(script).collect(),
            secrets: vec![("TOKEN".into(), "hunter2-canary".into())],
        })
    }

    /// Starts a worker.
    fn worker(&self) -> Result<Child, Failed> {
        worker(&self.fake.register("sandbox-1"))
    }
}

fn worker(config: &str) -> Result<Child, Failed> {
    let mut command: Command = bench().mayfly(["worker", "--memory", "512M"]);
    // No configuration of this machine.
    command.env(
        "MAYFLY_CONFIG",
        concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/worker.toml"),
    );
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    child
        .stdin
        .take()
        .ok_or("a pipe")?
        .write_all(config.as_bytes())?;
    Ok(child)
}

/// The end of a worker: its code and what it printed.
fn ended(mut child: Child) -> Result<(i32, String), Failed> {
    let end = Instant::now() + LIMIT;
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            child.kill()?;
            return Err("the worker does not end".into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((output.status.code().unwrap_or(-1), text))
}

fn wait_for(what: &str, condition: impl Fn() -> bool) -> Result<(), Failed> {
    let end = Instant::now() + LIMIT;
    while !condition() {
        if Instant::now() > end {
            return Err(format!("it never came to this: {what}").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The text of a step's log, by the step's number.
fn log(job: &Job, number: u64) -> String {
    let step = job.steps.get(&number);
    let id = step.and_then(|step| step["external_id"].as_str());
    let id = id.unwrap_or_default();
    let blob = job.blobs.get(&format!("log-{id}"));
    blob.map_or_else(String::new, |blob| {
        String::from_utf8_lossy(&blob.bytes).into_owned()
    })
}

fn conclusion(job: &Job) -> Json {
    job.completed
        .as_ref()
        .map_or(Json::Null, |done| done["conclusion"].clone())
}

fn nothing_left(github: &GitHub) {
    assert_eq!(github.fake.violations(), Vec::<String>::new());
    assert!(!github.fake.has_session("sandbox-1"));
    processes::wait_until_none(Duration::from_secs(20));
}

fn well() -> Result<(), Failed> {
    let github = GitHub::start()?;
    let id = github.queue(&[
        "echo kernel $(uname -r); echo \"# Done\" >> $GITHUB_STEP_SUMMARY; echo who=world >> $GITHUB_ENV",
        "echo hello $who; echo hunter2-canary; echo \"::warning file=a.c,line=3::mind this\"",
    ]);
    let (code, said) = ended(github.worker()?)?;
    assert_eq!((code, said.as_str()), (0, "job ended: success\n"));
    let job = github.fake.job(&id);
    assert_eq!(conclusion(&job), json!("succeeded"));
    let names: Vec<&Json> = job.steps.values().map(|step| &step["name"]).collect();
    assert_eq!(names, ["Set up job", "step 0", "step 1", "Complete job"]);
    assert!(log(&job, 2).contains("Z kernel 6."), "{}", log(&job, 2));
    let second = log(&job, 3);
    assert!(
        second.contains("Z hello world\n") && second.contains("Z ***\n"),
        "{second}"
    );
    let whole: Vec<u8> = job
        .blobs
        .values()
        .flat_map(|blob| blob.bytes.clone())
        .collect();
    assert!(
        !String::from_utf8_lossy(&whole).contains("hunter2"),
        "the secret is in a log"
    );
    let summary = job
        .blobs
        .iter()
        .find(|(name, _)| name.starts_with("summary-"));
    assert_eq!(summary.ok_or("a summary")?.1.bytes, b"# Done");
    let done = job.completed.ok_or("a result")?;
    let annotation = &done["stepResults"][2]["annotations"][0];
    assert_eq!(
        (&annotation["message"], &annotation["path"]),
        (&json!("mind this"), &json!("a.c"))
    );
    nothing_left(&github);
    Ok(())
}

fn fails() -> Result<(), Failed> {
    let github = GitHub::start()?;
    let id = github.queue(&["exit 7", "echo never"]);
    let (code, said) = ended(github.worker()?)?;
    assert_eq!((code, said.as_str()), (0, "job ended: failure\n"));
    let job = github.fake.job(&id);
    assert_eq!(conclusion(&job), json!("failed"));
    assert!(
        log(&job, 2).contains("##[error]Process completed with exit code 7."),
        "{}",
        log(&job, 2)
    );
    assert_eq!(
        job.steps[&3]["conclusion"],
        json!(7),
        "the second step is skipped"
    );
    nothing_left(&github);
    Ok(())
}

fn cancelled() -> Result<(), Failed> {
    let github = GitHub::start()?;
    let id = github.queue(&["sleep 600"]);
    let child = github.worker()?;
    wait_for("the step runs", || {
        github.fake.job(&id).steps.contains_key(&2)
    })?;
    github.fake.cancel(&id);
    let (code, said) = ended(child)?;
    assert_eq!((code, said.as_str()), (0, "job ended: cancelled\n"));
    assert_eq!(conclusion(&github.fake.job(&id)), json!("canceled"));
    nothing_left(&github);
    Ok(())
}

fn idle() -> Result<(), Failed> {
    let github = GitHub::start()?;
    let child = github.worker()?;
    wait_for("a session", || github.fake.has_session("sandbox-1"))?;
    let process = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(process, rustix::process::Signal::TERM)?;
    let (code, said) = ended(child)?;
    assert_eq!((code, said.as_str()), (0, "stopped before a job came\n"));
    nothing_left(&github);
    Ok(())
}

fn refused() -> Result<(), Failed> {
    let (code, said) = ended(worker("bm9uc2Vuc2U=")?)?;
    assert_eq!((code, said.as_str()), (2, ""));
    Ok(())
}

/// The real message, with the addresses, tokens and identities of the fake. Where it is not at hand, the
/// fake's own is run, which has its shape.
fn captured() -> Result<(), Failed> {
    let github = GitHub::start()?;
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/data/job_payload.json"
    );
    let real: Option<Json> = fs::read(path)
        .ok()
        .map(|text| serde_json::from_slice(&text))
        .transpose()?;
    if real.is_none() {
        eprintln!("SKIPPED: {path} is not there; a message of the fake runs instead");
    }
    let job = FakeJob {
        name: "probe-test".into(),
        scripts: vec![(
            "probe acquired this job".into(),
            "echo \"acquired at $(date -u)\"".into(),
        )],
        secrets: Vec::new(),
    };
    let id = github.fake.queue_with(&job, |message| {
        let Some(real) = real else { return };
        let own = std::mem::replace(message, real);
        for field in ["plan", "timeline", "jobId"] {
            message[field] = own[field].clone();
        }
        for name in ["launch_endpoint", "results_endpoint", "token"] {
            let name = format!("system.github.{name}");
            message["variables"][&name] = own["variables"][&name].clone();
        }
        message["resources"] = own["resources"].clone();
    });
    let (code, said) = ended(github.worker()?)?;
    assert_eq!((code, said.as_str()), (0, "job ended: success\n"));
    let job = github.fake.job(&id);
    assert_eq!(conclusion(&job), json!("succeeded"));
    let step = &job.message["steps"][0]["id"];
    assert_eq!(&job.steps[&2]["external_id"], step);
    assert_eq!(job.steps[&2]["name"], json!("probe acquired this job"));
    assert!(log(&job, 2).contains("Z acquired at "), "{}", log(&job, 2));
    let first = log(&job, 1);
    assert!(first.contains("Complete job name: probe-test"), "{first}");
    nothing_left(&github);
    Ok(())
}

const TOOL: &str = "\
name: tool
inputs: {who: {default: nobody}}
outputs: {greeting: {description: what was said}}
runs: {using: node24, main: main.js, post: post.js}
";
const MAIN: &str = "\
const fs = require('fs');
console.log(`hello ${process.env.INPUT_WHO} from the tool`);
fs.appendFileSync(process.env.GITHUB_OUTPUT, 'greeting=hi\\n');
fs.appendFileSync(process.env.GITHUB_STATE, 'kept=state of main\\n');
";
const POST: &str = "console.log(`post has the ${process.env.STATE_kept}`);\n";
const OUTER: &str = "\
name: outer
inputs: {who: {required: true}}
outputs: {greeting: {description: g, value: '${{ steps.t.outputs.greeting }}'}}
runs:
  using: composite
  steps:
    - id: t
      uses: octo/tool/act@v2
      with: {who: '${{ inputs.who }}'}
";

/// A repository below a folder with a tag; its commit.
fn repository(
    base: &Path,
    name: &str,
    files: &[(&str, &str)],
    tag: &str,
) -> Result<String, Failed> {
    let folder = base.join(name);
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().ok_or("a folder")?)?;
        fs::write(path, text)?;
    }
    git(&folder, &["init", "-q", "-b", "main"]);
    git(&folder, &["add", "-A"]);
    git(&folder, &["commit", "-q", "-m", "release"]);
    git(&folder, &["tag", tag]);
    Ok(git(&folder, &["rev-parse", "HEAD"]))
}

fn actions() -> Result<(), Failed> {
    let github = GitHub::start()?;
    let folder = tempfile::tempdir()?;
    let base = folder.path();
    let files = [
        ("act/action.yml", TOOL),
        ("act/main.js", MAIN),
        ("act/post.js", POST),
    ];
    let tool = repository(base, "octo/tool", &files, "v2")?;
    let outer = repository(base, "octo/outer", &[("action.yml", OUTER)], "v1")?;
    github.fake.repositories(base);
    let job = FakeJob {
        name: "build".into(),
        scripts: vec![(
            "say".into(),
            "echo the step said ${{ steps.outer.outputs.greeting }}".into(),
        )],
        secrets: vec![("WHO".into(), "hunter2-canary".into())],
    };
    let text = |text: &str| json!({"type": 0, "lit": text});
    let id = github.fake.queue_with(&job, |message| {
        let script = message["steps"][0].take();
        let mut script = script;
        script["inputs"]["map"][0]["Value"] = json!({
            "type": 3, "expr": "format('echo the step said {0}', steps.outer.outputs.greeting)",
        });
        let uses = json!({
            "type": "action", "id": "22222222-0000-4000-8000-000000000001", "name": "outer",
            "contextName": "outer", "condition": "success()", "displayNameToken": null,
            "reference": {"type": "repository", "name": "octo/outer", "ref": "v1",
                          "repositoryType": "GitHub", "path": ""},
            "inputs": {"type": 2, "map": [{"Key": text("who"), "Value": {"type": 3, "expr": "secrets.WHO"}}]},
        });
        message["steps"] = json!([uses, script]);
        message["dependencies"] = json!([
            format!("octo/outer@v1:sha1-{outer}"), format!("octo/tool@v2:sha1-{tool}"),
        ]);
    });
    let (code, said) = ended(github.worker()?)?;
    let job = github.fake.job(&id);
    let all = || {
        (1..=8)
            .map(|number| log(&job, number))
            .collect::<Vec<_>>()
            .join("----\n")
    };
    assert_eq!(
        (code, said.as_str()),
        (0, "job ended: success\n"),
        "{}\n{:?}",
        all(),
        github.fake.violations()
    );
    let shown: Vec<String> = job
        .steps
        .values()
        .map(|step| {
            format!(
                "{} {}",
                step["number"],
                step["name"].as_str().unwrap_or_default()
            )
        })
        .collect();
    let expected = [
        "1 Set up job",
        "2 Run octo/outer@v1",
        "3 say",
        "6 Post Run octo/outer@v1",
        "7 Complete job",
    ];
    assert_eq!(shown, expected);
    let set_up = log(&job, 1);
    for line in [
        "Using locked action versions from the workflow's lockfile".to_owned(),
        format!("Download action repository 'octo/outer@v1' (SHA:{outer})"),
        format!("Download action repository 'octo/tool@v2' (SHA:{tool})"),
    ] {
        assert!(set_up.contains(&line), "{line}: {set_up}");
    }
    assert!(
        log(&job, 2).contains("Z hello *** from the tool\n"),
        "{}",
        all()
    );
    assert!(log(&job, 3).contains("Z the step said hi\n"), "{}", all());
    assert!(
        log(&job, 6).contains("Z post has the state of main\n"),
        "{}",
        all()
    );
    let done = job.completed.as_ref().ok_or("a result")?;
    let step = &done["stepResults"][1];
    assert_eq!(
        (
            &step["action_name"],
            &step["ref"],
            &step["type"],
            &step["external_id"]
        ),
        (
            &json!("octo/outer"),
            &json!("v1"),
            &json!("repository"),
            &job.message["steps"][0]["id"]
        )
    );
    // The live log had lines while the job ran, and no secret.
    let fed = format!("{:?}", job.feed);
    assert!(
        fed.contains("hello *** from the tool") && !fed.contains("hunter2"),
        "{fed}"
    );

    // The same job once more: its tag was moved since, which the lock does not follow.
    fs::write(
        base.join("octo/tool/act/main.js"),
        "console.log('EVIL CODE RAN')",
    )?;
    git(&base.join("octo/tool"), &["commit", "-q", "-am", "evil"]);
    git(&base.join("octo/tool"), &["tag", "-f", "v2"]);
    let message = job.message.clone();
    let id = github.fake.queue_with(
        &FakeJob {
            name: "again".into(),
            scripts: Vec::new(),
            secrets: Vec::new(),
        },
        |own| {
            own["steps"] = message["steps"].clone();
            own["dependencies"] = message["dependencies"].clone();
            own["variables"]["WHO"] = message["variables"]["WHO"].clone();
        },
    );
    let (code, said) = ended(worker(&github.fake.register("sandbox-2"))?)?;
    let job = github.fake.job(&id);
    assert_eq!(
        (code, said.as_str()),
        (0, "job ended: failure\n"),
        "{}",
        log(&job, 1)
    );
    assert!(
        log(&job, 1).contains("moved: `octo/tool@v2`"),
        "{}",
        log(&job, 1)
    );
    let whole: Vec<u8> = job
        .blobs
        .values()
        .flat_map(|blob| blob.bytes.clone())
        .collect();
    assert!(!String::from_utf8_lossy(&whole).contains("EVIL"));
    nothing_left(&github);
    Ok(())
}

/// Files of running sandboxes.
fn run_files() -> Vec<String> {
    let Ok(found) = fs::read_dir(bench().state.join("run")) else {
        return Vec::new();
    };
    let names = found
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn killed() -> Result<(), Failed> {
    let before = run_files();
    for phase in ["listening", "acquired", "a step runs", "reporting"] {
        let github = GitHub::start()?;
        let id = (phase != "listening").then(|| {
            let script = if phase == "reporting" {
                "echo done"
            } else {
                "sleep 600"
            };
            github.queue(&[script])
        });
        if phase == "reporting" {
            github.fake.fault(Fault::status("/blob/", 10_000, 503));
        }
        let mut child = github.worker()?;
        wait_for(phase, || {
            let job = id.as_ref().map(|id| github.fake.job(id));
            match (phase, job) {
                ("listening", _) => github.fake.has_session("sandbox-1"),
                ("acquired", Some(job)) => job.runner.is_some(),
                ("a step runs", Some(job)) => job
                    .steps
                    .get(&2)
                    .is_some_and(|step| step["status"] == json!(3)),
                (_, Some(job)) => job
                    .steps
                    .get(&3)
                    .is_some_and(|step| step["status"] == json!(6)),
                _ => false,
            }
        })?;
        child.kill()?;
        child.wait()?;
        processes::wait_until_none(Duration::from_secs(20));
        assert_eq!(run_files(), before, "{phase}");
        assert_eq!(github.fake.violations(), Vec::<String>::new(), "{phase}");
        if let Some(id) = id {
            // Nobody renews its lock any more: GitHub fails it when that ends.
            assert!(github.fake.job(&id).completed.is_none(), "{phase}");
            github.fake.end_locks();
            assert!(github.fake.job(&id).lost, "{phase}");
        }
    }
    Ok(())
}
