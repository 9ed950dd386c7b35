//! `--list`, `--graph` and `--dry-run`: what a run would do, without running it.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::{
    expression::value::Object,
    job::request::{JobRequest, StepRequest},
    workflow::{
        model::Job,
        plan::{JobOutcome, JobResult, Outcomes, Plan, Prepared},
        token::{TemplateToken, TokenKind},
    },
};

/// The jobs in order, with what each needs.
pub fn list(plan: &Plan, selected: &[String], json: bool) {
    for job in chosen(plan, selected) {
        if json {
            println!("{}", json_job(job));
        } else {
            list_job(job, "");
        }
    }
}

/// A job, and those of the workflow that it calls.
fn list_job(job: &Job, prefix: &str) {
    let needs = match job.needs.as_slice() {
        [] => String::new(),
        needs => format!(" (needs {})", needs.join(", ")),
    };
    println!("{prefix}{}{needs}", job.id);
    let prefix = format!("{prefix}{} / ", job.id);
    for called in called(job) {
        list_job(called, &prefix);
    }
}

/// The jobs of the workflow that a job calls.
fn called(job: &Job) -> &[Job] {
    let call = job.call.as_ref().and_then(|call| call.workflow.as_ref());
    call.map_or(&[], |workflow| &workflow.jobs)
}

/// The jobs by stage: those of a stage may run at the same time.
pub fn graph(plan: &Plan, selected: &[String], json: bool) {
    let stages = stages(chosen(plan, selected));
    for (number, jobs) in stages.iter().enumerate() {
        if json {
            let jobs: Vec<Json> = jobs.iter().map(|job| json_job(job)).collect();
            println!("{}", json!({"stage": number + 1, "jobs": jobs}));
            continue;
        }
        graph_stage(number, jobs, "");
    }
}

/// A stage, with the stages of what its jobs call under them.
fn graph_stage(number: usize, jobs: &[&Job], indent: &str) {
    println!("{indent}stage {}", number + 1);
    for job in jobs {
        let arrow = if job.needs.is_empty() { "" } else { " <- " };
        println!("{indent}  {}{arrow}{}", job.id, job.needs.join(", "));
        let indent = format!("{indent}    ");
        for (number, jobs) in stages(in_order(called(job))).iter().enumerate() {
            graph_stage(number, jobs, &indent);
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
pub fn dry_run(plan: &Plan, selected: &[String], json: bool) {
    let mut outcomes = Outcomes::new();
    for job in chosen(plan, selected) {
        let mut result = JobResult::Success;
        match plan.prepare(&job.id, &outcomes, false) {
            Ok(Prepared::Run(prepared)) => {
                for run in &prepared.runs {
                    show_run(&run.request, json);
                }
                for called in &prepared.calls {
                    let all: Vec<String> = called.jobs().map(|job| job.id.clone()).collect();
                    dry_run(called, &all, json);
                }
            }
            Ok(Prepared::Skipped) => {
                result = JobResult::Skipped;
                show_decision(
                    &plan.display_id(&job.id),
                    "skipped",
                    "its condition does not hold",
                    json,
                );
            }
            // What a needed job hands on is not there before it ran.
            Err(error) if !job.needs.is_empty() => {
                show_decision(
                    &plan.display_id(&job.id),
                    "later",
                    &format!("decided when {} ended: {error}", job.needs.join(", ")),
                    json,
                );
            }
            Err(error) => {
                show_decision(&plan.display_id(&job.id), "error", &error.to_string(), json);
            }
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

fn show_decision(job: &str, decision: &str, why: &str, json: bool) {
    if json {
        println!("{}", json!({"job": job, "decision": decision, "why": why}));
    } else {
        println!("{job}: {decision} ({why})");
    }
}

fn show_run(request: &JobRequest, json: bool) {
    let steps: Vec<(String, &str)> = request
        .steps
        .iter()
        .map(|step| (step_name(step), step.condition.as_str()))
        .collect();
    if json {
        let steps: Vec<Json> = steps
            .iter()
            .map(|(name, condition)| json!({"name": name, "if": condition}))
            .collect();
        let (job, name) = (request.job_key(), &request.job_display_name);
        println!(
            "{}",
            json!({"job": job, "decision": "run", "name": name, "steps": steps})
        );
        return;
    }
    println!("{}: run", request.job_display_name);
    for (name, condition) in steps {
        match condition {
            "success()" => println!("  - {name}"),
            condition => println!("  - {name} (if {condition})"),
        }
    }
}

/// The name of a step as far as it is known before it runs.
fn step_name(step: &StepRequest) -> String {
    let script = || step.inputs.as_ref().and_then(|inputs| inputs.get("script"));
    let text = |token: &TemplateToken| match &token.kind {
        TokenKind::String(text) => text.clone(),
        TokenKind::Expression(text) => format!("${{{{ {text} }}}}"),
        _ => String::new(),
    };
    if let Some(name) = &step.display_name {
        return text(name);
    }
    let first = script()
        .map(text)
        .unwrap_or_else(|| step.context_name.clone());
    format!("Run {}", first.trim().lines().next().unwrap_or_default())
}
