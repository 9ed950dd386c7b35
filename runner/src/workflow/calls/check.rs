//! A call against what the called workflow declares: inputs and secrets, by name, type and need.

use super::super::diagnostic::{Diagnostic, nearest};
use super::super::model::{Call, Workflow, place_of};
use super::super::token::{TemplateToken, TokenKind};
use super::super::triggers::{Input, InputType};

/// What is wrong with a call.
pub(super) fn check(call: &Call, called: &Workflow) -> Vec<Diagnostic> {
    let path = &called.path;
    let mut triggers = called.triggers.iter();
    if !triggers.any(|trigger| trigger.event == "workflow_call") {
        let message = format!("`{path}` cannot be called: its `on` has no `workflow_call`");
        let help = "add `workflow_call:` under its `on:`";
        return vec![Diagnostic::error(place_of(&call.uses), message, help)];
    }
    let mut found = inputs(call, called);
    if call
        .secrets
        .as_ref()
        .and_then(TemplateToken::as_str)
        .is_none()
    {
        found.extend(secrets(call, called));
    }
    found
}

fn inputs(call: &Call, called: &Workflow) -> Vec<Diagnostic> {
    let names: Vec<&str> = called
        .call_inputs
        .iter()
        .map(|input| input.name.as_str())
        .collect();
    let given = entries(call.with.as_ref());
    let mut found = unknown("input", given, &names, called);
    for input in &called.call_inputs {
        match call.with.as_ref().and_then(|with| with.get(&input.name)) {
            Some(value) => found.extend(type_of(input, value)),
            // As at GitHub a default does not help here.
            None if input.required => {
                found.push(missing("input", &input.name, "with", call, called));
            }
            None => {}
        }
    }
    found
}

fn secrets(call: &Call, called: &Workflow) -> Vec<Diagnostic> {
    let names: Vec<&str> = called
        .call_secrets
        .iter()
        .map(|secret| secret.name.as_str())
        .collect();
    let given = entries(call.secrets.as_ref());
    let mut found = unknown("secret", given, &names, called);
    for secret in called.call_secrets.iter().filter(|secret| secret.required) {
        let value = call
            .secrets
            .as_ref()
            .and_then(|secrets| secrets.get(&secret.name));
        if value.is_none() {
            found.push(missing("secret", &secret.name, "secrets", call, called));
        }
    }
    found
}

fn entries(token: Option<&TemplateToken>) -> &[(TemplateToken, TemplateToken)] {
    token
        .and_then(TemplateToken::as_mapping)
        .unwrap_or_default()
}

fn missing(kind: &str, name: &str, key: &str, call: &Call, called: &Workflow) -> Diagnostic {
    let message = format!(
        "the {kind} `{name}` is required by `{}`, and not provided while calling",
        called.path
    );
    let help = format!("add `{name}:` under `{key}:`");
    Diagnostic::error(place_of(&call.uses), message, help)
}

fn unknown(
    kind: &str,
    given: &[(TemplateToken, TemplateToken)],
    names: &[&str],
    called: &Workflow,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (key, _) in given {
        let name = key.as_str().unwrap_or_default();
        if names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            continue;
        }
        let message = format!("the {kind} `{name}` is not defined in `{}`", called.path);
        let help = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("declare it there under `on.workflow_call.{kind}s`, or remove it"),
        };
        found.push(Diagnostic::error(place_of(key), message, help));
    }
    found
}

/// Whether a value that is written out fits; those of expressions are looked at when they are known.
fn type_of(input: &Input, value: &TemplateToken) -> Option<Diagnostic> {
    let fits = match (input.kind, &value.kind) {
        (_, TokenKind::Expression(_)) => true,
        (InputType::Boolean, kind) => matches!(kind, TokenKind::Bool(_)),
        (InputType::Number, kind) => matches!(kind, TokenKind::Number(_)),
        _ => true,
    };
    if fits {
        return None;
    }
    let (expected, help) = match input.kind {
        InputType::Boolean => ("true or false", "write `true` or `false` without quotes"),
        _ => ("a number", "write a number without quotes"),
    };
    let message = format!("the input `{}` must be {expected}", input.name);
    Some(Diagnostic::error(place_of(value), message, help))
}
