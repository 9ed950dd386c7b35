//! `mayfly serve` with real guests: jobs of four workflows, each in a worker and a sandbox of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::ExitCode,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use mayfly::supervisor::state::{StateView, WorkerState, WorkerView};
use mayfly_tests::{
    bench,
    github::{FakeJob, Job},
    memory, processes, run_group,
    served::{Served, serve_folder, signal},
};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

/// Jobs of each workflow.
const EACH: usize = 5;

fn main() -> ExitCode {
    run_group(vec![
        Trial::test(
            "twenty_jobs_of_four_workflows_leave_results_and_nothing_else",
            twenty,
        ),
        Trial::test(
            "a_killed_worker_takes_its_sandbox_along_and_a_killed_supervisor_nothing",
            killed,
        ),
    ])
}

/// A job's steps, and what is to come of it.
#[derive(Debug, Clone, Copy)]
struct Workflow {
    name: &'static str,
    scripts: &'static [&'static str],
    conclusion: &'static str,
}

const WORKFLOWS: [Workflow; 4] = [
    Workflow {
        name: "build",
        scripts: &[
            "echo version=7.$((20 + 1)) >> $GITHUB_OUTPUT; seq 1 200",
            "echo \"token is CANARY.\"; echo end of build",
        ],
        conclusion: "succeeded",
    },
    Workflow {
        name: "test",
        scripts: &["echo CANARY; exit 3", "echo never"],
        conclusion: "failed",
    },
    Workflow {
        name: "lint",
        scripts: &[
            "echo \"# CANARY found\" >> $GITHUB_STEP_SUMMARY",
            "echo \"::warning file=a.c,line=3::mind CANARY\"",
        ],
        conclusion: "succeeded",
    },
    Workflow {
        name: "deploy",
        scripts: &["echo deploying with CANARY; sleep 600"],
        conclusion: "canceled",
    },
];

/// The secret of a job.
fn canary(workflow: Workflow, number: usize) -> String {
    format!("{}cr3t{number}-canary-{}", "s3", workflow.name)
}

fn queue(served: &Served, workflow: Workflow, number: usize) -> String {
    let canary = canary(workflow, number);
    let script = |(index, script): (usize, &&str)| {
        (format!("step {index}"), script.replace("CANARY", &canary))
    };
    let job = FakeJob {
        name: format!("{} {number}", workflow.name),
        scripts: workflow.scripts.iter().enumerate().map(script).collect(),
        secrets: vec![("TOKEN".into(), canary.clone())],
    };
    served.github.queue_with(&job, |message| {
        if workflow.name == "build" {
            message["steps"][0]["contextName"] = json!("made");
            let text = |text: &str| json!({"type": 0, "file": 1, "line": 5, "col": 7, "lit": text});
            let output = json!({"type": 3, "file": 1, "line": 5, "col": 16, "expr": "steps.made.outputs.version"});
            message["jobOutputs"] = json!({"type": 2, "map": [{"Key": text("version"), "Value": output}]});
        }
    })
}

fn conclusion(job: &Job) -> Json {
    let done = job.completed.as_ref();
    done.map_or(Json::Null, |done| done["conclusion"].clone())
}

/// All that GitHub has of a job's logs and summaries.
fn words(job: &Job) -> String {
    let bytes: Vec<u8> = job
        .blobs
        .values()
        .flat_map(|blob| blob.bytes.clone())
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn busy(view: &StateView) -> Vec<&WorkerView> {
    let workers = view.workers.iter();
    workers
        .filter(|worker| worker.state == WorkerState::Busy)
        .collect()
}

fn twenty() -> Result<(), Failed> {
    let before = files();
    let mut served = Served::start("capacity = 4\nmin_idle = 1")?;
    let mut jobs = BTreeMap::new();
    for number in 0..EACH {
        for workflow in WORKFLOWS {
            let id = queue(&served, workflow, number);
            jobs.insert(id, (workflow, number));
        }
    }
    // The beginning of all secrets, not as a whole in this program's own files.
    let beginning = format!("{}cr3t", "s3");
    let needles = [beginning.as_str(), "job-token-"];
    let mut seen = Seen::default();
    let done = |served: &Served| {
        jobs.keys()
            .all(|id| served.github.job(id).completed.is_some())
    };
    let end = std::time::Instant::now() + Duration::from_secs(420);
    while !done(&served) {
        if std::time::Instant::now() > end {
            return Err(format!("jobs do not end: {:#?}\n{}", served.view(), served.log()).into());
        }
        seen.look(&served, &needles)?;
        if seen.enough() {
            cancel(&served, &jobs);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    seen.check(&served, &needles)?;
    results(&served, &jobs)?;
    served.until("all jobs are shown and one runner waits", |served| {
        served
            .view()
            .is_some_and(|view| view.recent.len() == jobs.len() && view.workers.len() == 1)
    })?;
    let view = served.view().ok_or("no view")?;
    let workers: BTreeSet<u32> = view.recent.iter().map(|job| job.pid).collect();
    let sandboxes: BTreeSet<u32> = view.recent.iter().filter_map(|job| job.vmm).collect();
    assert_eq!(
        (workers.len(), sandboxes.len()),
        (jobs.len(), jobs.len()),
        "{:#?}",
        view.recent
    );
    assert_eq!(served.end()?, 0);
    nothing_left(&served, &before)
}

/// Deploys are cancelled once they have spoken, but not before all that is to be seen of running jobs was
/// seen.
fn cancel(served: &Served, jobs: &BTreeMap<String, (Workflow, usize)>) {
    for id in jobs
        .iter()
        .filter(|(_, (workflow, _))| workflow.name == "deploy")
        .map(|(id, _)| id)
    {
        let job = served.github.job(id);
        let mut lines = job.feed.values().flat_map(BTreeMap::values);
        // The script's own lines in the log go on.
        let spoke = lines.any(|line| line.ends_with("deploying with ***"));
        if job.completed.is_none() && spoke {
            served.github.cancel(id);
        }
    }
}

fn results(served: &Served, jobs: &BTreeMap<String, (Workflow, usize)>) -> Result<(), Failed> {
    for (id, (workflow, number)) in jobs {
        let job = served.github.job(id);
        assert_eq!(
            conclusion(&job),
            json!(workflow.conclusion),
            "{} {number}",
            workflow.name
        );
        let (words, secret) = (words(&job), canary(*workflow, *number));
        let whole = format!(
            "{words}{:?}{:?}{:?}",
            job.completed, job.steps, job.metadata
        );
        assert!(
            !whole.contains(&secret),
            "{} {number}: its secret is shown",
            workflow.name
        );
        let expected: &[&str] = match workflow.name {
            "build" => &["Z token is ***.\n", "Z end of build\n", "Z 1\n", "Z 200\n"],
            "test" => &["Z ***\n", "##[error]Process completed with exit code 3."],
            "lint" => &["# *** found", "mind ***"],
            _ => &["Z deploying with ***\n"],
        };
        for part in expected {
            assert!(
                words.contains(part),
                "{} {number} lacks {part:?}:\n{words}",
                workflow.name
            );
        }
        let done = job.completed.ok_or("no result")?;
        let version = &done["outputs"]["version"]["value"];
        let is_build = workflow.name == "build";
        assert_eq!(*version, if is_build { json!("7.21") } else { json!(null) });
        if workflow.name == "lint" {
            let message = &done["stepResults"][2]["annotations"][0]["message"];
            assert_eq!(*message, json!("mind ***"));
        }
    }
    assert_eq!(served.github.violations(), Vec::<String>::new());
    Ok(())
}

/// What was seen of memory and cgroups while jobs ran.
#[derive(Debug, Default)]
struct Seen {
    most: usize,
    in_worker: bool,
    in_sandbox: bool,
    groups: usize,
    looks: u32,
}

impl Seen {
    fn look(&mut self, served: &Served, needles: &[&str]) -> Result<(), Failed> {
        let Some(view) = served.view() else {
            return Ok(());
        };
        let busy = busy(&view);
        self.most = self.most.max(busy.len());
        self.groups = self.groups.max(groups().len());
        // Looking takes its time on a slow machine: once is enough.
        if self.in_worker && self.in_sandbox {
            return Ok(());
        }
        let Some(worker) = busy.iter().find(|worker| worker.vmm.is_some()) else {
            return Ok(());
        };
        self.looks += 1;
        // The control: what is looked for can be found where it has to be. Either may be gone by now.
        self.in_worker |= memory::search(worker.pid, needles).is_ok_and(|found| !found.is_empty());
        let vmm = worker.vmm.unwrap_or_default();
        self.in_sandbox |= memory::search(vmm, needles).is_ok_and(|found| !found.is_empty());
        let found = memory::search(served.pid(), needles)?;
        assert!(found.is_empty(), "in the supervisor: {found:?}");
        Ok(())
    }

    fn enough(&self) -> bool {
        self.most >= 2 && self.in_worker && self.in_sandbox
    }

    fn check(&self, served: &Served, needles: &[&str]) -> Result<(), Failed> {
        println!("{self:?}");
        assert!((2..=4).contains(&self.most), "at a time: {self:?}");
        assert!(
            self.in_worker && self.in_sandbox,
            "the control failed: {self:?}"
        );
        let found = memory::search(served.pid(), needles)?;
        assert!(found.is_empty(), "in the supervisor: {found:?}");
        let bounded = self.groups > 0 || served.log().contains("no cgroups of their own");
        assert!(bounded, "neither cgroups nor a word about them");
        Ok(())
    }
}

/// Cgroups of workers.
fn groups() -> Vec<String> {
    let entries = fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| name.starts_with("worker-sandbox-"))
        .collect()
}

/// All files of the state folder, but for the supervisor's lock and identity, and records of what jobs
/// reached, which are meant to stay.
fn files() -> BTreeSet<String> {
    let kept = ["lock", "id"].map(|name| serve_folder().join(name).display().to_string());
    let all = processes::tree(&bench().state)
        .into_iter()
        .map(|(path, _)| path);
    let own =
        [serve_folder(), serve_folder().join("workers")].map(|path| path.display().to_string());
    let records = bench().state.join("egress").display().to_string();
    all.filter(|path| !kept.contains(path) && !own.contains(path) && !path.starts_with(&records))
        .collect()
}

fn nothing_left(served: &Served, before: &BTreeSet<String>) -> Result<(), Failed> {
    assert_eq!(served.github.runners(), vec![], "runners");
    assert_eq!(served.github.violations(), Vec::<String>::new());
    processes::wait_until_none(Duration::from_secs(20));
    assert_eq!(groups(), Vec::<String>::new(), "cgroups");
    let after = files();
    let new: Vec<&String> = after.difference(before).collect();
    assert!(new.is_empty(), "files: {new:?}");
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let arguments = fs::read(std::path::Path::new("/proc").join(&name).join("cmdline"));
        let arguments = arguments.unwrap_or_default();
        let text = String::from_utf8_lossy(&arguments);
        assert!(!text.contains("--notices"), "a worker is left: {text}");
    }
    Ok(())
}

fn killed() -> Result<(), Failed> {
    let before = files();
    let mut served = Served::start("capacity = 3\nmin_idle = 1")?;
    let deploy = WORKFLOWS[3];
    let (lost, kept) = (queue(&served, deploy, 0), queue(&served, deploy, 1));
    let running = |served: &Served, id: &str| served.github.job(id).steps.contains_key(&2);
    served.until("both run", |served| {
        running(served, &lost) && running(served, &kept)
    })?;
    let view = served.view().ok_or("no view")?;
    let worker_of = |view: &StateView, name: &str| {
        let found = view
            .workers
            .iter()
            .find(|w| w.job.as_ref().is_some_and(|job| job.job_name == name));
        found.cloned()
    };
    let victim = worker_of(&view, "deploy 0").ok_or("no worker")?;
    let survivor = worker_of(&view, "deploy 1").ok_or("no worker")?;
    signal(victim.pid, Signal::KILL)?;
    served.until("its sandbox is gone with it", |_| {
        let machines = processes::mayfly_processes();
        machines.iter().all(|(pid, _)| Some(*pid) != victim.vmm)
    })?;
    served.until("it is shown as lost", |served| {
        let recent = served.view().map(|view| view.recent).unwrap_or_default();
        recent.first().is_some_and(|job| job.result == "lost")
    })?;
    // The supervisor is killed: the other job goes on, and ends as a person wants it.
    served.crash()?;
    assert!(
        processes::mayfly_processes()
            .iter()
            .any(|(pid, _)| Some(*pid) == survivor.vmm)
    );
    served.start_again()?;
    served.until("it has found the worker", |served| {
        let view = served.view();
        view.is_some_and(|view| {
            worker_of(&view, "deploy 1").is_some_and(|w| w.adopted && w.pid == survivor.pid)
        })
    })?;
    served.github.cancel(&kept);
    served.until("GitHub knows", |served| {
        conclusion(&served.github.job(&kept)) == json!("canceled")
    })?;
    assert_eq!(conclusion(&served.github.job(&lost)), json!(null));
    // GitHub gives the lost job up by itself; then its runner can be removed.
    let name = &victim.runner_name;
    served.github.remove(name);
    assert_eq!(served.end()?, 0);
    nothing_left(&served, &before)
}
