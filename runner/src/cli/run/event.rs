//! The event that a run stands for, with its inputs, and whether its filters let the workflow run.

use std::{fs, fs::File, io::Read, path::Path};

use super::filters::refusal;
use crate::{
    cli::{Failure, pairs},
    expression::{
        coerce::to_text,
        json::from_json,
        value::{Object, Value},
    },
    workflow::{
        github::{Checkout, Event, unfit},
        inputs,
        model::Workflow,
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
    let payload = asked.file.map(|file| read_payload(file, &name));
    let payload = payload.transpose()?;
    let mut event = Event {
        name: name.clone(),
        payload,
    };
    let path = in_repository(folder, Path::new(&workflow.path));
    let context = |event: &Event| checkout.context(workflow.name.as_deref(), &path, event);
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

/// The path of a workflow file as GitHub names it: from the top of the repository. A file from
/// elsewhere is named as if it lay where workflows do.
fn in_repository(root: &Path, file: &Path) -> String {
    let (Ok(root), Ok(whole)) = (fs::canonicalize(root), fs::canonicalize(file)) else {
        return file.to_string_lossy().into_owned();
    };
    match (whole.strip_prefix(root), whole.file_name()) {
        (Ok(inside), _) => inside.to_string_lossy().into_owned(),
        (Err(_), Some(name)) => format!(".github/workflows/{}", name.to_string_lossy()),
        (Err(_), None) => file.to_string_lossy().into_owned(),
    }
}

fn read_payload(path: &Path, event: &str) -> Result<Object, Failure> {
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
        Ok(Value::Object(object)) => match unfit(event, &object) {
            Some(why) => Err(wrong(why)),
            None => Ok((*object).clone()),
        },
        Ok(_) => Err(wrong("is no object".to_owned())),
        Err(error) => Err(wrong(format!("is no JSON: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::{parse, source::Source};

    fn workflow(on: &str) -> Workflow {
        let text = format!("on: {on}\njobs: {{a: {{runs-on: x, steps: [{{run: a}}]}}}}\n");
        parse(Source::new("ci.yml", text)).unwrap().workflow
    }

    fn started(on: &str, name: Option<&str>, file: Option<&Path>) -> Result<Started, String> {
        let folder = tempfile::tempdir().unwrap();
        let asked = Asked {
            name,
            file,
            inputs: &[],
            vars: &Object::new(),
        };
        start(&workflow(on), folder.path(), &asked).map_err(|failure| failure.cause.to_string())
    }

    #[test]
    fn the_likely_event_is_taken_if_none_is_named() {
        for (on, inputs, name) in [
            ("[pull_request, push]", false, "push"),
            ("[release, pull_request]", false, "pull_request"),
            ("[push, workflow_dispatch]", true, "workflow_dispatch"),
            ("release", false, "release"),
        ] {
            let found = event_name(&workflow(on), None, inputs).ok();
            assert_eq!(found.as_deref(), Some(name), "{on}");
        }
        let error = started("[push, release]", Some("schedule"), None).err();
        assert_eq!(
            error.as_deref(),
            Some("ci.yml does not run on `schedule`; its events are push, release")
        );
    }

    #[test]
    fn inputs_of_the_event_file_have_the_declared_types_and_are_in_the_payload() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("event.json");
        fs::write(&file, r#"{"inputs": {"fast": "true"}}"#).unwrap();
        let on = "{workflow_dispatch: {inputs: {fast: {type: boolean}, level: {default: low}}}}";
        let started = started(on, None, Some(&file)).unwrap();
        assert_eq!(started.inputs.get("fast"), Some(&Value::Bool(true)));
        let sent = started
            .github
            .get("event")
            .and_then(|event| event.get("inputs"));
        let sent = sent.unwrap();
        assert_eq!(sent.get("fast").and_then(Value::as_str), Some("true"));
        assert_eq!(sent.get("level").and_then(Value::as_str), Some("low"));
    }

    #[test]
    fn inputs_of_the_command_line_win_over_those_of_the_file_and_the_rest_of_it_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("event.json");
        fs::write(
            &file,
            r#"{"inputs": {"level": "low"}, "sender": {"id": 7}}"#,
        )
        .unwrap();
        let asked = |name, inputs: &[pairs::Argument]| {
            let on = "{push: null, workflow_dispatch: {inputs: {level: {type: choice, options: [low, high]}}}}";
            let asked = Asked {
                name,
                file: Some(&file),
                inputs,
                vars: &Object::new(),
            };
            let started = start(&workflow(on), folder.path(), &asked);
            started.map_err(|failure| failure.cause.to_string())
        };
        let high: Vec<pairs::Argument> = vec!["level=high".to_owned().into()];
        // Inputs are those of a dispatch: without a name that is the event.
        let started = asked(None, &high).unwrap();
        assert_eq!(
            started.inputs.get("level").map(to_text).as_deref(),
            Some("high")
        );
        let event = started.github.get("event").unwrap();
        let inputs = event.get("inputs").unwrap();
        assert_eq!(inputs.get("level").and_then(Value::as_str), Some("high"));
        let sender = event.get("sender").and_then(|sender| sender.get("id"));
        assert_eq!(sender.map(to_text).as_deref(), Some("7"));
        let max: Vec<pairs::Argument> = vec!["level=max".to_owned().into()];
        let error = asked(Some("workflow_dispatch"), &max).err().unwrap();
        assert!(error.contains("must be one of low, high"), "{error}");
        let error = asked(Some("push"), &high).err().unwrap();
        assert!(error.contains("level"), "{error}");
    }

    #[test]
    fn filters_are_looked_at_only_for_an_event_that_is_named() {
        let on = "{push: {branches: [\"release/**\"]}}";
        let started_by = |name| started(on, name, None).unwrap();
        assert_eq!(started_by(None).refused, None);
        assert!(started_by(Some("push")).refused.is_some());
        let name = started_by(None).github.get("event_name").map(to_text);
        assert_eq!(name.as_deref(), Some("push"));
    }

    #[test]
    fn an_event_file_that_github_would_not_send_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("event.json");
        for (text, part) in [
            ("[]", "is no object"),
            ("{", "is no JSON"),
            (
                r#"{"ref": "main"}"#,
                "`main`, which does not begin with `refs/`",
            ),
            (
                r#"{"repository": {"full_name": "../etc"}}"#,
                "`../etc`, which is no OWNER/NAME",
            ),
        ] {
            fs::write(&file, text).unwrap();
            let error = started("push", None, Some(&file)).err().unwrap();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_event_file_without_end_is_refused() {
        let error = read_payload(Path::new("/dev/zero"), "push").unwrap_err();
        let said = error.cause.to_string();
        assert!(said.contains("has more than 26214400 bytes"), "{said}");
    }

    #[test]
    fn a_workflow_is_named_from_the_top_of_its_repository() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("repository");
        let workflows = root.join(".github/workflows");
        fs::create_dir_all(&workflows).unwrap();
        fs::write(workflows.join("ci.yml"), "").unwrap();
        fs::write(folder.path().join("other.yml"), "").unwrap();
        let absolute = workflows.join("ci.yml");
        let round = root.join(".github/../.github/workflows/ci.yml");
        for path in [absolute, round] {
            assert_eq!(in_repository(&root, &path), ".github/workflows/ci.yml");
        }
        let outside = in_repository(&root, &folder.path().join("other.yml"));
        assert_eq!(outside, ".github/workflows/other.yml");
    }
}
