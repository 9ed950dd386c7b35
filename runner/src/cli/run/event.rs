//! The event that a run stands for, with its inputs, and whether its filters let the workflow run.

use std::{fs::File, io::Read, path::Path, process::Command};

use crate::{
    cli::{Failure, pairs},
    expression::{
        coerce::to_text,
        json::from_json,
        value::{Object, Value},
    },
    workflow::{
        github::{Checkout, Event},
        inputs,
        model::Workflow,
        triggers::{Trigger, passes},
    },
};

/// Longest event file.
const MAX_EVENT_BYTES: u64 = 25 * 1024 * 1024;

/// What starts a run.
pub struct Started {
    /// The `github` context.
    pub github: Object,
    /// The `inputs` context.
    pub inputs: Object,
    /// Why the event does not start this workflow, if it does not.
    pub refused: Option<String>,
}

/// What the command line says about the event.
pub struct Asked<'a> {
    /// `--event`.
    pub name: Option<&'a str>,
    /// `--event-file`.
    pub file: Option<&'a Path>,
    /// `--input`.
    pub inputs: &'a [pairs::Argument],
    /// The `vars` context.
    pub vars: &'a Object,
}

/// Makes the event of a run.
pub fn start(workflow: &Workflow, folder: &Path, asked: &Asked<'_>) -> Result<Started, Failure> {
    let given = pairs::parse_all(asked.inputs).map_err(Failure::usage)?;
    let name = event_name(workflow, asked.name, !given.is_empty())?;
    let checkout = Checkout::read(folder);
    let payload = asked.file.map(read_payload).transpose()?;
    let mut event = Event {
        name: name.clone(),
        payload,
    };
    let context = |event: &Event| checkout.context(workflow.name.as_deref(), &workflow.path, event);
    let mut github = context(&event);
    let declared = match name.as_str() {
        "workflow_dispatch" => workflow.dispatch_inputs.as_slice(),
        "workflow_call" => workflow.call_inputs.as_slice(),
        _ => &[],
    };
    let mut given: Vec<(String, Value)> = given
        .into_iter()
        .map(|(name, value)| (name, Value::string(value)))
        .collect();
    if let Some(Value::Object(sent)) = event.payload.as_ref().and_then(|event| event.get("inputs"))
    {
        let sent = sent
            .iter()
            .map(|(name, value)| (name.to_owned(), value.clone()));
        given.splice(0..0, sent);
    }
    let contexts = Object::from_iter([("github", github.clone()), ("vars", asked.vars.clone())]);
    let inputs = inputs::resolve(declared, &given, &contexts).map_err(Failure::usage)?;
    if name == "workflow_dispatch" {
        let texts = inputs.iter().map(|(name, value)| (name, to_text(value)));
        let mut payload = event.payload.take().unwrap_or_else(|| {
            let own = github.get("event").and_then(Value::as_object);
            own.cloned().unwrap_or_default()
        });
        payload.insert("inputs", Object::from_iter(texts));
        event.payload = Some(payload);
        github = context(&event);
    }
    let refused = match asked.name {
        Some(_) => refusal(workflow, &github, folder),
        None => None,
    };
    Ok(Started {
        github,
        inputs,
        refused,
    })
}

/// The event that was asked for, or the one that a person most likely means.
fn event_name(workflow: &Workflow, asked: Option<&str>, inputs: bool) -> Result<String, Failure> {
    let has = |name: &str| {
        workflow
            .triggers
            .iter()
            .any(|trigger| trigger.event == name)
    };
    if let Some(name) = asked {
        if has(name) {
            return Ok(name.to_owned());
        }
        let names: Vec<_> = workflow.triggers.iter().map(|t| t.event.as_str()).collect();
        return Err(Failure::usage(anyhow::anyhow!(
            "{} does not run on `{name}`; its events are {}",
            workflow.path,
            names.join(", ")
        )));
    }
    let order = match inputs {
        true => ["workflow_dispatch", "workflow_call", "push"],
        false => ["push", "workflow_dispatch", "pull_request"],
    };
    let likely = order.into_iter().find(|name| has(name));
    let first = workflow
        .triggers
        .first()
        .map(|trigger| trigger.event.as_str());
    Ok(likely.or(first).unwrap_or("push").to_owned())
}

fn read_payload(path: &Path) -> Result<Object, Failure> {
    let wrong = |why: String| {
        Failure::usage(anyhow::anyhow!(
            "the event file {} {why}; give the JSON object that GitHub's webhook sends",
            path.display()
        ))
    };
    let mut text = String::new();
    // One byte more than may be, to tell a file that is too long.
    File::open(path)
        .and_then(|file| file.take(MAX_EVENT_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if text.len() as u64 > MAX_EVENT_BYTES {
        return Err(wrong(format!("has more than {MAX_EVENT_BYTES} bytes")));
    }
    match from_json(&text) {
        Ok(Value::Object(object)) => Ok((*object).clone()),
        Ok(_) => Err(wrong("is no object".to_owned())),
        Err(error) => Err(wrong(format!("is no JSON: {error}"))),
    }
}

/// Why the filters of an event keep a workflow from running.
fn refusal(workflow: &Workflow, github: &Object, folder: &Path) -> Option<String> {
    let text = |key: &str| github.get(key).map(to_text).unwrap_or_default();
    let event = text("event_name");
    let trigger = workflow
        .triggers
        .iter()
        .find(|trigger| trigger.event == event)?;
    let name = match event.as_str() {
        "pull_request" | "pull_request_target" => text("base_ref"),
        _ => text("ref_name"),
    };
    let action = github
        .get("event")
        .and_then(|event| event.get("action"))
        .map(to_text);
    types(trigger, action.as_deref())
        .or_else(|| refs(trigger, text("ref_type") == "tag", &name))
        .or_else(|| paths(trigger, folder))
}

fn types(trigger: &Trigger, action: Option<&str>) -> Option<String> {
    let defaults = ["opened", "synchronize", "reopened"].map(str::to_owned);
    let pull = matches!(
        trigger.event.as_str(),
        "pull_request" | "pull_request_target"
    );
    let wanted = trigger.filter("types").or(pull.then_some(&defaults[..]))?;
    let action = action?;
    let other = !wanted.iter().any(|wanted| wanted == action);
    other.then(|| {
        format!(
            "the activity `{action}` is none of its `types`: {}",
            wanted.join(", ")
        )
    })
}

fn refs(trigger: &Trigger, tag: bool, name: &str) -> Option<String> {
    let (own, other) = if tag {
        ("tags", "branches")
    } else {
        ("branches", "tags")
    };
    let given = |key: &str| {
        trigger.filter(key).is_some() || trigger.filter(&format!("{key}-ignore")).is_some()
    };
    if !given(own) {
        let only = given(other) && trigger.event == "push";
        return only.then(|| format!("`{name}` is none of its {other}, and it names only those"));
    }
    if trigger
        .filter(own)
        .is_some_and(|patterns| !passes(patterns, name))
    {
        return Some(format!("`{name}` matches none of its `{own}`"));
    }
    let ignore = format!("{own}-ignore");
    let ignored = trigger
        .filter(&ignore)
        .is_some_and(|patterns| passes(patterns, name));
    ignored.then(|| format!("`{name}` matches its `{ignore}`"))
}

/// The files of the last commit decide, as those of a push of one commit do.
fn paths(trigger: &Trigger, folder: &Path) -> Option<String> {
    let (wanted, ignored) = (trigger.filter("paths"), trigger.filter("paths-ignore"));
    if wanted.is_none() && ignored.is_none() {
        return None;
    }
    let Some(changed) = changed_files(folder) else {
        eprintln!(
            "mayfly: filters of paths are not looked at: the checkout has no commit before this one"
        );
        return None;
    };
    if wanted.is_some_and(|wanted| !changed.iter().any(|file| passes(wanted, file))) {
        return Some("no file of the last commit matches its `paths`".to_owned());
    }
    let all_ignored =
        ignored.is_some_and(|ignored| changed.iter().all(|file| passes(ignored, file)));
    all_ignored.then(|| "all files of the last commit match its `paths-ignore`".to_owned())
}

fn changed_files(folder: &Path) -> Option<Vec<String>> {
    // Plumbing, which runs no program that the checkout's configuration names.
    let output = Command::new("git")
        .args(["-c", "core.fsmonitor=false", "-C"])
        .arg(folder)
        .args(["diff-tree", "-r", "--name-only", "-z", "HEAD~1", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let files = text.split('\0').filter(|file| !file.is_empty());
    Some(files.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_file_without_end_is_refused() {
        let error = read_payload(Path::new("/dev/zero")).unwrap_err();
        let said = error.cause.to_string();
        assert!(said.contains("has more than 26214400 bytes"), "{said}");
    }
}
