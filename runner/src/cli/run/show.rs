//! `--list`, `--graph` and `--dry-run`: what a run would do, without running it. Each gives a text for a
//! person, or with `json` one object a line.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::{
    expression::value::Object,
    job::request::{JobRequest, StepAction, StepRequest},
    workflow::{
        model::Job,
        plan::{JobOutcome, JobResult, Outcomes, Plan, Prepared},
        template::written,
        token::{TemplateToken, TokenKind},
    },
};

/// The lines of a text.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, line: impl std::fmt::Display) {
        self.0 += &format!("{line}\n");
    }
}

/// The jobs in order, with what each needs.
pub fn list(plan: &Plan, selected: &[String], json: bool) -> String {
    let mut out = Lines::default();
    for job in chosen(plan, selected) {
        if json {
            out.add(json_job(job));
        } else {
            list_job(&mut out, job, "");
        }
    }
    out.0
}

/// A job, and those of the workflow that it calls.
fn list_job(out: &mut Lines, job: &Job, prefix: &str) {
    let needs = match job.needs.as_slice() {
        [] => String::new(),
        needs => format!(" (needs {})", needs.join(", ")),
    };
    out.add(format_args!("{prefix}{}{needs}", job.id));
    let prefix = format!("{prefix}{} / ", job.id);
    for called in called(job) {
        list_job(out, called, &prefix);
    }
}

/// The jobs of the workflow that a job calls.
fn called(job: &Job) -> &[Job] {
    let call = job.call.as_ref().and_then(|call| call.workflow.as_ref());
    call.map_or(&[], |workflow| &workflow.jobs)
}

/// The jobs by stage: those of a stage may run at the same time.
pub fn graph(plan: &Plan, selected: &[String], json: bool) -> String {
    let mut out = Lines::default();
    let stages = stages(chosen(plan, selected));
    for (number, jobs) in stages.iter().enumerate() {
        if json {
            let jobs: Vec<Json> = jobs.iter().map(|job| json_job(job)).collect();
            out.add(json!({"stage": number + 1, "jobs": jobs}));
        } else {
            graph_stage(&mut out, number, jobs, "");
        }
    }
    out.0
}

/// A stage, with the stages of what its jobs call under them.
fn graph_stage(out: &mut Lines, number: usize, jobs: &[&Job], indent: &str) {
    out.add(format_args!("{indent}stage {}", number + 1));
    for job in jobs {
        let arrow = if job.needs.is_empty() { "" } else { " <- " };
        let needs = job.needs.join(", ");
        out.add(format_args!("{indent}  {}{arrow}{needs}", job.id));
        let indent = format!("{indent}    ");
        for (number, jobs) in stages(in_order(called(job))).iter().enumerate() {
            graph_stage(out, number, jobs, &indent);
        }
    }
}

/// Jobs, each after those that it needs, which the check of the file made possible.
fn in_order(jobs: &[Job]) -> impl Iterator<Item = &Job> {
    let mut open: Vec<&Job> = jobs.iter().collect();
    std::iter::from_fn(move || {
        let waits = |job: &&Job| open.iter().any(|other| job.needs.contains(&other.id));
        let next = open.iter().position(|job| !waits(job))?;
        Some(open.remove(next))
    })
}

fn stages<'a>(jobs: impl Iterator<Item = &'a Job>) -> Vec<Vec<&'a Job>> {
    let mut stage_of: BTreeMap<&str, usize> = BTreeMap::new();
    let mut stages: Vec<Vec<&Job>> = Vec::new();
    for job in jobs {
        let before = job
            .needs
            .iter()
            .filter_map(|need| stage_of.get(need.as_str()));
        let stage = before.max().map_or(0, |stage| stage + 1);
        stage_of.insert(&job.id, stage);
        if stages.len() == stage {
            stages.push(Vec::new());
        }
        stages[stage].push(job);
    }
    stages
}

/// What would be run if all that can be known now held: jobs that others need are taken to succeed.
pub fn dry_run(plan: &Plan, selected: &[String], json: bool) -> String {
    let mut out = Lines::default();
    decide(&mut out, plan, selected, json);
    out.0
}

fn decide(out: &mut Lines, plan: &Plan, selected: &[String], json: bool) {
    let mut outcomes = Outcomes::new();
    for job in chosen(plan, selected) {
        let mut result = JobResult::Success;
        let mut show = |decision: &str, why: &str| {
            let name = plan.display_id(&job.id);
            if json {
                out.add(json!({"job": name, "decision": decision, "why": why}));
            } else {
                out.add(format_args!("{name}: {decision} ({why})"));
            }
        };
        match plan.prepare(&job.id, &outcomes, false) {
            Ok(Prepared::Run(prepared)) => {
                for run in &prepared.runs {
                    show_run(out, &run.request, json);
                }
                for called in &prepared.calls {
                    let all: Vec<String> = called.jobs().map(|job| job.id.clone()).collect();
                    decide(out, called, &all, json);
                }
            }
            Ok(Prepared::Skipped) => {
                result = JobResult::Skipped;
                show("skipped", "its condition does not hold");
            }
            // What a needed job hands on is not there before it ran.
            Err(error) if !job.needs.is_empty() => {
                let needs = job.needs.join(", ");
                show("later", &format!("decided when {needs} ended: {error}"));
            }
            Err(error) => show("error", &error.to_string()),
        }
        let outputs = Object::new();
        outcomes.insert(job.id.clone(), JobOutcome { result, outputs });
    }
}

fn chosen<'a>(plan: &'a Plan, selected: &'a [String]) -> impl Iterator<Item = &'a Job> {
    plan.jobs().filter(|job| selected.contains(&job.id))
}

fn json_job(job: &Job) -> Json {
    let mut shown = json!({
        "id": job.id, "needs": job.needs, "if": job.condition, "matrix": job.strategy.is_some(),
    });
    if let Some(call) = &job.call {
        shown["uses"] = call.uses.as_str().into();
        shown["jobs"] = called(job).iter().map(json_job).collect();
    }
    shown
}

fn show_run(out: &mut Lines, request: &JobRequest, json: bool) {
    let steps = request.steps.iter();
    let steps = steps.map(|step| (step_name(step), step.condition.as_str()));
    if json {
        let steps: Vec<Json> = steps
            .map(|(name, condition)| json!({"name": name, "if": condition}))
            .collect();
        let (job, name) = (request.job_key(), &request.job_display_name);
        out.add(json!({"job": job, "decision": "run", "name": name, "steps": steps}));
        return;
    }
    out.add(format_args!("{}: run", request.job_display_name));
    for (name, condition) in steps {
        match condition {
            "success()" => out.add(format_args!("  - {name}")),
            condition => out.add(format_args!("  - {name} (if {condition})")),
        }
    }
}

/// The name of a step as far as it is known before it runs.
fn step_name(step: &StepRequest) -> String {
    let text = |token: &TemplateToken| match &token.kind {
        TokenKind::String(text) => text.clone(),
        TokenKind::Expression(text) => written(text),
        _ => String::new(),
    };
    if let Some(name) = &step.display_name {
        return text(name);
    }
    let script = || step.inputs.as_ref()?.get("script").map(text);
    let what = match &step.action {
        StepAction::Script => script().unwrap_or_default(),
        StepAction::Repository {
            name,
            reference,
            path,
            ..
        } => {
            let slash = if name.is_empty() || path.is_empty() {
                ""
            } else {
                "/"
            };
            let at = if reference.is_empty() { "" } else { "@" };
            format!("{name}{slash}{path}{at}{reference}")
        }
        StepAction::ContainerRegistry { image } => format!("docker://{image}"),
        StepAction::BackgroundControl {
            control_type,
            step_ids,
        } => format!("{control_type} {}", step_ids.join(", ")),
    };
    format!("Run {}", what.trim().lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::{parse, plan::RunInputs, source::Source};

    const FILE: &str = "on: push
jobs:
  last: {needs: [b, a], if: \"github.ref_name == 'x'\", runs-on: x, steps: [{run: a}]}
  a:
    strategy: {matrix: {n: [1, 2]}}
    runs-on: x
    steps:
      - run: |
          echo one
          echo two
      - {name: \"say ${{ github.ref }}\", if: failure(), run: a}
      - {uses: ./act}
  b: {needs: a, strategy: {matrix: \"${{ fromJSON(needs.a.outputs.m) }}\"}, runs-on: x, steps: [{run: a}]}
  z: {runs-on: x, steps: [{run: a}]}
";

    fn plan() -> (Plan, Vec<String>) {
        let workflow = parse(Source::new("ci.yml", FILE)).unwrap().workflow;
        let plan = Plan::new(workflow, RunInputs::default());
        let selected = ["last", "a", "b"].map(str::to_owned);
        (plan, selected.to_vec())
    }

    /// Values at a pointer of each line of JSON.
    fn values(text: &str, pointer: &str) -> Vec<Json> {
        let value = |line| serde_json::from_str::<Json>(line).unwrap();
        let at = |line| value(line).pointer(pointer).cloned().unwrap_or_default();
        text.lines().map(at).collect()
    }

    #[test]
    fn a_list_has_the_selected_jobs_in_the_order_in_which_they_can_run() {
        let (plan, selected) = plan();
        let text = list(&plan, &selected, false);
        assert_eq!(text, "a\nb (needs a)\nlast (needs b, a)\n");
        let text = list(&plan, &selected, true);
        assert_eq!(values(&text, "/id"), ["a", "b", "last"]);
        assert_eq!(
            values(&text, "/needs/0"),
            [Json::Null, json!("a"), json!("b")]
        );
        assert_eq!(values(&text, "/matrix"), [true, true, false]);
    }

    #[test]
    fn a_graph_puts_each_job_one_stage_after_the_last_that_it_needs() {
        let (plan, selected) = plan();
        let text = graph(&plan, &selected, false);
        let expected = "stage 1\n  a\nstage 2\n  b <- a\nstage 3\n  last <- b, a\n";
        assert_eq!(text, expected);
        let text = graph(&plan, &selected, true);
        assert_eq!(values(&text, "/stage"), [1, 2, 3]);
        assert_eq!(values(&text, "/jobs/0/id"), ["a", "b", "last"]);
    }

    #[test]
    fn a_dry_run_tells_steps_conditions_and_what_is_not_known_yet() {
        let (plan, selected) = plan();
        let text = dry_run(&plan, &selected, false);
        let run =
            "run\n  - Run echo one\n  - say ${{ github.ref }} (if failure())\n  - Run ./act\n";
        let expected = format!("a (1): {run}a (2): {run}b: later (decided when a ended: ");
        assert!(text.starts_with(&expected), "{text}");
        let end = "\nlast: skipped (its condition does not hold)\n";
        assert!(text.ends_with(end), "{text}");
        let text = dry_run(&plan, &selected, true);
        let decisions = ["run", "run", "later", "skipped"];
        assert_eq!(values(&text, "/decision"), decisions);
        assert_eq!(values(&text, "/steps/1/if")[0], "failure()");
    }
}
