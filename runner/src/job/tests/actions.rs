//! Actions: stages and their order, state, composite actions, actions by reference.

use std::{
    io::{self, Write},
    sync::Arc,
};

use super::*;
use crate::{
    action::{
        bytes::{ActionBytes, ActionSource, SourceError},
        reference::RepositoryReference,
    },
    job::request::StepAction,
};

/// Repositories in memory: `owner/repo@ref`, path, content.
#[derive(Debug)]
pub(super) struct Memory(pub(super) &'static [(&'static str, &'static str, &'static str)]);

#[derive(Debug)]
struct MemoryBytes(Vec<(&'static str, &'static str)>);

impl ActionSource for Memory {
    fn find(&self, reference: &RepositoryReference) -> Result<Arc<dyn ActionBytes>, SourceError> {
        let key = reference.key();
        let files = self.0.iter().filter(|(name, ..)| *name == key.as_str());
        let files: Vec<_> = files.map(|(_, path, content)| (*path, *content)).collect();
        if files.is_empty() {
            return Err(SourceError::Unknown(key.as_str().to_owned()));
        }
        Ok(Arc::new(MemoryBytes(files)))
    }

    fn own(&self) -> Option<Arc<dyn ActionBytes>> {
        let files = self.0.iter().filter(|(name, ..)| *name == "own");
        let files: Vec<_> = files.map(|(_, path, content)| (*path, *content)).collect();
        (!files.is_empty()).then(|| Arc::new(MemoryBytes(files)) as Arc<dyn ActionBytes>)
    }
}

impl ActionBytes for MemoryBytes {
    fn origin(&self) -> String {
        "memory".to_owned()
    }

    fn read(&self, path: &str, _: u64) -> io::Result<Option<Vec<u8>>> {
        let found = self.0.iter().find(|(name, _)| *name == path);
        Ok(found.map(|(_, content)| content.as_bytes().to_vec()))
    }

    fn write_tar(&self, sink: &mut dyn Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(sink);
        for (name, content) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, content.as_bytes())?;
        }
        tar.into_inner().map(|_| ())
    }
}

const NODE: &str = "runs: {using: node20, main: main.js, pre: pre.js, post: post.js}\n";

/// A step that uses an action.
pub(super) fn uses(key: &str, text: &str) -> StepRequest {
    let own = str::to_owned;
    let action = match text.split_once('@') {
        Some((name, reference)) => StepAction::Repository {
            name: own(name),
            reference: own(reference),
            repository_type: own("GitHub"),
            path: String::new(),
        },
        None => StepAction::Repository {
            name: String::new(),
            reference: String::new(),
            repository_type: own(if text.starts_with('$') {
                "SelfRepository"
            } else {
                "self"
            }),
            path: own(text.trim_start_matches("$/")),
        },
    };
    StepRequest {
        action,
        inputs: None,
        ..run(key, "")
    }
}

/// A job whose processes write `state` and `seen` and end with the code that `codes` has for a
/// script; local actions are put into the workspace.
fn job(
    steps: Vec<StepRequest>,
    remote: &'static [(&'static str, &'static str, &'static str)],
    local: &[(&str, &str)],
) -> Job {
    let mut job = Job::new(steps, |_, _, _| Reply::exit(0));
    job.options.actions = Arc::new(Memory(remote));
    for (path, content) in local {
        let work = "/home/runner/work/hello/hello";
        job.sandbox.put(&format!("{work}/{path}"), *content);
    }
    job.sandbox.on_exec(|request, files| {
        if request.argv[0] == "/bin/sh" {
            return Some(Reply::stdout(format!("/usr/bin/{}\n", request.argv[4])).then_exit(0));
        }
        let path = request.argv.last().expect("a script");
        let script = match request.argv[0].contains("node") {
            true => path.rsplit('/').next().unwrap_or_default().to_owned(),
            false => String::from_utf8_lossy(&files.get(path).expect("script").1).into_owned(),
        };
        if script == "main.js" {
            write(request, files, "GITHUB_STATE", "kept=yes\n");
            write(request, files, "GITHUB_OUTPUT", "out=value\n");
        }
        if let Some(name) = script.strip_prefix("output ") {
            write(request, files, "GITHUB_OUTPUT", &format!("{name}\n"));
        }
        if let Some(pair) = script.strip_prefix("env ") {
            write(request, files, "GITHUB_ENV", &format!("{pair}\n"));
        }
        Some(Reply::exit(i32::from(script.contains("fail"))))
    });
    job
}

/// Names of the records without those around them.
fn names(outcome: &JobOutcome) -> Vec<&str> {
    let steps = &outcome.steps[1..outcome.steps.len() - 1];
    steps.iter().map(|step| step.name.as_str()).collect()
}

/// The last part of what each process ran: the script of node, or the text of a shell's.
fn ran(job: &Job) -> Vec<String> {
    let scripts = job.scripts().into_iter();
    let node = scripts.filter(|exec| exec.argv[0].contains("node"));
    node.map(|exec| {
        let path = exec.argv[1]
            .strip_prefix("/home/runner/work/")
            .unwrap_or_default();
        path.to_owned()
    })
    .collect()
}

#[tokio::test]
async fn pre_comes_before_all_steps_and_post_after_them_last_in_first_out() {
    let steps = vec![
        run("", "first"),
        uses("a", "o/a@v1"),
        uses("b", "./b"),
        uses("c", "o/c@v1"),
    ];
    let remote = &[
        ("o/a@v1", "action.yml", NODE),
        ("o/c@v1", "action.yaml", NODE),
    ];
    let job = job(steps, remote, &[("b/action.yml", NODE)]);
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Success);
    assert_eq!(
        names(&outcome),
        [
            "Pre Run o/a@v1",
            "Pre Run o/c@v1",
            "Run first",
            "Run o/a@v1",
            "Run ./b",
            "Run o/c@v1",
            "Post Run ./b",
            "Post Run o/c@v1",
            "Post Run o/a@v1",
        ]
    );
    let warning = "##[warning]`pre` execution is not supported for local action from './b'";
    assert!(job.reporter.lines(6).contains(&warning.to_owned()));
    let scripts = job.scripts();
    let post = scripts.last().unwrap();
    assert_eq!(post.argv[1], "/home/runner/work/_actions/o/a/v1/post.js");
    assert_eq!(env(post, "STATE_kept"), Some("yes"));
    assert_eq!(env(post, "GITHUB_ACTION_REPOSITORY"), Some("o/a"));
    assert_eq!(env(post, "GITHUB_ACTION_REF"), Some("v1"));
    assert_eq!(env(&scripts[0], "STATE_kept"), None);
    assert_eq!(job.reporter.lines(10), ["Post job cleanup."]);
    let planned = job.reporter.planned.lock().unwrap();
    let planned: Vec<_> = planned
        .iter()
        .map(|step| (step.step, step.id.as_deref(), step.name.as_str()))
        .collect();
    assert_eq!(
        planned,
        [
            (2, None, "Pre Run o/a@v1"),
            (3, None, "Pre Run o/c@v1"),
            (4, Some("id-first"), "Run first"),
            (5, Some("id-"), "Run o/a@v1"),
            (6, Some("id-"), "Run ./b"),
            (7, Some("id-"), "Run o/c@v1"),
        ]
    );
    let origins = job.reporter.origins.lock().unwrap().clone();
    let own = |id: &str| Some(id.to_owned());
    assert_eq!(origins[0], (1, None, None));
    assert_eq!(origins[3], (4, own("id-first"), None));
    assert_eq!(
        origins[7..],
        [
            (8, None, Some(2)),
            (9, None, Some(1)),
            (10, None, Some(0)),
            (11, None, None)
        ]
    );
}

#[tokio::test]
async fn a_post_runs_when_its_main_failed_but_not_when_its_main_was_skipped() {
    let failing = "runs: {using: node20, main: fail.js, post: post.js, post-if: failure()}\n";
    let never = "runs: {using: node24, main: main.js, post: post.js, post-if: success()}\n";
    let steps = vec![
        uses("", "./never"),
        uses("", "./failing"),
        uses("", "./skipped"),
    ];
    let local = [
        ("failing/action.yml", failing),
        ("never/action.yml", never),
        ("skipped/action.yml", NODE),
    ];
    let job = job(steps, &[], &local);
    let outcome = job.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    let post = ["Post Run ./failing", "Post Run ./never"];
    assert_eq!(names(&outcome)[3..], post);
    assert_eq!(outcome.steps[5].conclusion, Conclusion::Skipped);
    assert_eq!(
        ran(&job),
        [
            "hello/hello/never/main.js",
            "hello/hello/failing/fail.js",
            "hello/hello/failing/post.js",
        ]
    );
}

#[tokio::test]
async fn a_composite_action_has_a_scope_of_its_own_and_maps_its_outputs() {
    let outer = "inputs: {who: {default: you}}\noutputs:\n  got: {value: '${{ steps.in.outputs.x }} \
                 ${{ inputs.who }} ${{ steps.mine.outcome }}'}\nruns:\n  using: composite\n  steps:\n\
                 \x20   - {id: in, run: output x=1, shell: bash}\n\
                 \x20   - {run: env LATER=set, shell: bash}\n\
                 \x20   - {uses: o/a@v1, env: {OWN: '${{ env.LATER }}'}}\n";
    let mut step = uses("mine", "./outer");
    step.environment = Some(strings(&[("STEP", "s")]));
    let check = "steps.mine.outputs.got == '1 you ' && !steps.in && env.LATER == 'set'";
    let job = job(
        vec![step, run_if(check, "seen")],
        &[("o/a@v1", "action.yml", NODE)],
        &[("outer/action.yml", outer)],
    );
    let outcome = job.execute().await;
    assert_eq!(
        results(&outcome),
        ["success/success"; 3],
        "{:?}",
        job.reporter.lines(2)
    );
    assert_eq!(
        names(&outcome),
        ["Run ./outer", "Run seen", "Post Run ./outer"]
    );
    let scripts = job.scripts();
    let node = &scripts[2];
    assert_eq!(env(node, "OWN"), Some("set"));
    assert_eq!(env(node, "STEP"), Some("s"));
    let path = "/home/runner/work/hello/hello/outer";
    assert_eq!(env(node, "GITHUB_ACTION_PATH"), Some(path));
    assert_eq!(env(scripts.last().unwrap(), "STATE_kept"), Some("yes"));
}

#[tokio::test]
async fn success_in_a_composite_action_is_about_the_action() {
    let action = "runs:\n  using: composite\n  steps:\n\
                  \x20   - {run: tolerated fail, shell: sh, continue-on-error: true}\n\
                  \x20   - {run: second, shell: sh}\n\
                  \x20   - {run: hard fail, shell: sh}\n\
                  \x20   - {run: never, shell: sh}\n\
                  \x20   - {run: 'cleanup', shell: sh, if: \"failure() && github.action_status == 'failure'\"}\n";
    let step = StepRequest {
        condition: "failure()".to_owned(),
        continue_on_error: Some(token("${{ true }}")),
        ..uses("x", "./x")
    };
    let job = job(
        vec![run("", "job fail"), step],
        &[],
        &[("x/action.yml", action)],
    );
    let outcome = job.execute().await;
    assert_eq!(results(&outcome), ["failure/failure", "failure/success"]);
    let log = job.reporter.lines(3).join("\n");
    for (script, runs) in [("second", true), ("never", false), ("cleanup", true)] {
        assert_eq!(log.contains(&format!("Run {script}")), runs, "{log}");
    }
}

#[tokio::test]
async fn secrets_are_not_in_a_composite_action_and_circles_end() {
    let circle = "runs:\n  using: composite\n  steps:\n    - uses: ./x\n";
    let looping = job(vec![uses("", "./x")], &[], &[("x/action.yml", circle)]);
    let outcome = looping.execute().await;
    assert_eq!(outcome.result, Conclusion::Failure);
    let log = looping.reporter.lines(2).join("\n");
    assert!(
        log.contains("Composite action depth exceeded max depth 9"),
        "{log}"
    );
    let remote = &[(
        "o/x@v1",
        "action.yml",
        "runs:\n  using: composite\n  steps:\n    - uses: o/x@v1\n    - uses: o/x@v1\n",
    )];
    let looping = job(vec![uses("", "o/x@v1")], remote, &[]);
    assert_eq!(looping.execute().await.result, Conclusion::Failure);
    let log = looping.reporter.lines(1).join("\n");
    assert!(log.contains("exceeded max depth 9"), "{log}");
    let secret =
        "runs:\n  using: composite\n  steps:\n    - {run: '${{ secrets.S }}', shell: sh}\n";
    let refused = job(vec![uses("", "./s")], &[], &[("s/action.yml", secret)]);
    assert_eq!(refused.execute().await.result, Conclusion::Failure);
    let log = refused.reporter.lines(2).join("\n");
    assert!(log.contains("s/action.yml:4:"), "{log}");
}

#[tokio::test]
async fn an_action_of_the_own_repository_is_that_of_the_file_that_names_it() {
    const INNER: &str = "runs:\n  using: composite\n  steps:\n    - uses: $/in\n";
    let remote = &[
        ("own", "act/action.yml", NODE),
        ("own", "outer/action.yml", INNER),
        (
            "own",
            "in/action.yml",
            "runs: {using: node20, main: mine.js}\n",
        ),
        ("o/c@v1", "action.yml", INNER),
        (
            "o/c@v1",
            "in/action.yml",
            "runs: {using: node20, main: theirs.js}\n",
        ),
    ];
    let steps = vec![uses("", "$/act"), uses("", "$/outer"), uses("", "o/c@v1")];
    let own = job(steps, remote, &[("act/action.yml", "changed by a step")]);
    let outcome = own.execute().await;
    assert_eq!(
        names(&outcome),
        [
            "Pre Run $/act",
            "Run $/act",
            "Run $/outer",
            "Run o/c@v1",
            "Post Run $/act"
        ],
        "{:?}",
        own.reporter.lines(1)
    );
    let at = |path: &str| format!("_actions/octo/hello/HEAD/{path}");
    assert_eq!(
        ran(&own),
        [
            at("act/pre.js"),
            at("act/main.js"),
            at("in/mine.js"),
            "_actions/o/c/v1/in/theirs.js".to_owned(),
            at("act/post.js"),
        ]
    );
    let first = &own.scripts()[0];
    assert_eq!(env(first, "GITHUB_ACTION_REPOSITORY"), Some("octo/hello"));

    let unknown = job(vec![uses("", "$/act")], &[], &[]);
    assert_eq!(unknown.execute().await.result, Conclusion::Failure);
    let out = job(vec![uses("", "$/../act")], remote, &[]);
    assert_eq!(out.execute().await.result, Conclusion::Failure);
    let log = out.reporter.lines(1).join("\n");
    assert!(log.contains("the action $/../act cannot be found"), "{log}");
}

#[tokio::test]
async fn more_stages_than_are_looked_at_are_an_error_that_names_the_action() {
    let steps = "    - {run: a, shell: sh}\n".repeat(1001);
    let manifest = format!("runs:\n  using: composite\n  steps:\n{steps}");
    let manifest: &'static str = manifest.leak();
    let remote = vec![("o/big@v1", "action.yml", manifest)].leak();
    let big = job(vec![uses("", "o/big@v1")], remote, &[]);
    assert_eq!(big.execute().await.result, Conclusion::Failure);
    let log = big.reporter.lines(1).join("\n");
    assert!(log.contains("the action o/big@v1 has, with"), "{log}");
    assert!(big.scripts().is_empty());
}
