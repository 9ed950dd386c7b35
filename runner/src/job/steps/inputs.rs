//! Inputs of an action, and the group at the beginning of its log.

use indexmap::IndexMap;

use crate::{
    action::manifest::{Manifest, Runs},
    job::{actions::Action, hash_files, reporter::Reporter, request::StepAction, task::Stage},
    sandbox::Sandbox,
};

use super::{StepError, StepRun};

/// What the step gives, then the defaults of what it does not; names without regard to case.
pub(super) async fn inputs<S: Sandbox, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
    action: &Action,
) -> Result<IndexMap<String, String>, StepError> {
    let manifest = &action.manifest;
    let evaluator = run.context.evaluator(run.env);
    let given = run.task.step.inputs.as_ref();
    let given = given.map(|token| evaluator.strings(token)).transpose()?;
    drop(evaluator);
    let mut inputs = given.unwrap_or_default();
    let mut warnings = Vec::new();
    let known = |name: &str| {
        let mut known = manifest.inputs.iter();
        known.find(|input| input.name.eq_ignore_ascii_case(name))
    };
    let expected = expected(run, manifest);
    let is_expected = |name: &str| {
        let mut names = expected.iter().flatten();
        expected.is_none() || names.any(|known| known.eq_ignore_ascii_case(name))
    };
    let unexpected: Vec<_> = inputs.keys().filter(|name| !is_expected(name)).collect();
    for name in inputs.keys() {
        if let Some(message) = known(name).and_then(|input| input.deprecation.as_deref()) {
            warnings.push(format!(
                "Input '{name}' has been deprecated with message: {message}"
            ));
        }
    }
    if !unexpected.is_empty() {
        warnings.push(format!(
            "Unexpected input(s) '{}', valid inputs are ['{}']",
            unexpected
                .iter()
                .map(|name| name.as_str())
                .collect::<Vec<_>>()
                .join("', '"),
            expected.unwrap_or_default().join("', '")
        ));
    }
    defaults(run, action, &mut inputs).await?;
    for warning in warnings {
        run.output.log.warning(&warning).await;
    }
    Ok(inputs)
}

/// Names of inputs; nothing for a container, which takes any.
fn expected<'m, S, R>(run: &StepRun<'_, '_, S, R>, manifest: &'m Manifest) -> Option<Vec<&'m str>> {
    if let StepAction::ContainerRegistry { .. } = run.task.step.action {
        return None;
    }
    let own: &[&str] = match manifest.runs {
        Runs::Docker(_) => &["entryPoint", "args"],
        Runs::Node(_) | Runs::Composite(_) => &[],
    };
    let names = manifest.inputs.iter().map(|input| input.name.as_str());
    Some(own.iter().copied().chain(names).collect())
}

/// The step's `env` with the action's inputs and what its earlier stages kept.
pub(super) fn environment<S, R>(
    run: &StepRun<'_, '_, S, R>,
    inputs: IndexMap<String, String>,
) -> IndexMap<String, String> {
    let mut env = run.env.clone();
    let state = run.context.states.get(&run.task.id);
    for (name, value) in state.into_iter().flatten() {
        env.insert(format!("STATE_{name}"), value.clone());
    }
    env.extend(inputs.into_iter().map(|(name, value)| {
        let name = name.replace(' ', "_").to_uppercase();
        (format!("INPUT_{name}"), value)
    }));
    env
}

/// Adds the defaults of inputs that are not given; their places are in the manifest.
async fn defaults<S: Sandbox, R: Reporter>(
    run: &StepRun<'_, '_, S, R>,
    action: &Action,
    inputs: &mut IndexMap<String, String>,
) -> Result<(), StepError> {
    let mut context = run.context.clone();
    context.files = action.files.clone();
    let defaults = action.manifest.inputs.iter();
    let mut defaults = defaults.filter_map(|input| input.default.as_ref());
    if defaults.any(hash_files::is_asked_for_by) {
        context.index_workspace(run.shared.sandbox).await;
    }
    let evaluator = context.evaluator(run.env);
    for input in &action.manifest.inputs {
        let given = |name: &String| name.eq_ignore_ascii_case(&input.name);
        if !inputs.keys().any(given) {
            let value = input.default.as_ref().map(|token| evaluator.string(token));
            inputs.insert(input.name.clone(), value.transpose()?.unwrap_or_default());
        }
    }
    Ok(())
}

/// The group at the beginning of the log, as GitHub writes it.
pub(super) async fn print_header<S, R: Reporter>(
    run: &StepRun<'_, '_, S, R>,
    action: &Action,
    inputs: &IndexMap<String, String>,
) {
    let log = &run.output.log;
    if run.task.stage == Stage::Post {
        return log.line("Post job cleanup.").await;
    }
    log.line(&format!("##[group]Run {}", action.name)).await;
    for (title, entries) in [("with:", inputs), ("env:", run.env)] {
        let shown = |(_, value): &(&String, &String)| title == "env:" || !value.is_empty();
        let mut entries = entries.iter().filter(shown).peekable();
        if entries.peek().is_some() {
            log.line(title).await;
        }
        for (name, value) in entries {
            log.line(&format!("  {name}: {value}")).await;
        }
    }
    log.line("##[endgroup]").await;
}
